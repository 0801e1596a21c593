"""What to do with each message: pure, no sockets. Frames come in, replies come out; the host runs the commands.

At most one command runs. A request that needs the host while one runs waits in a short queue, except that the driver's
own repeated request is told at once how far it is.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from vecserver.dataplane.counts import Counts, Moment
from vecserver.dataplane.requests import SEQUENCED, Queue, Reply, Request, Running
from vecserver.dataplane.tenancy import Tenancy
from vecserver.wire import messages
from vecserver.wire.errors import (
    EpochMismatch,
    InternalError,
    LeaseLost,
    MalformedMessage,
    MessageTooLarge,
    PoolBroken,
    SequenceConflict,
    SequenceGap,
    SequenceStale,
    Unauthorized,
    VecServerError,
)
from vecserver.wire.frames import FRAME_COUNT, HEADER_SIZE, Buffer, Flag, Header, Kind, digest_of, split
from vecserver.wire.session import ResumePoint, Session, Verdict
from vecserver.wire.stacks import FEATURE, Given

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.dataplane.ports import PoolPort
    from vecserver.pools.host import Outcome
    from vecserver.wire.messages import Stats
    from vecserver.wire.stacks import StackFormat

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)
_EMPTY: Final = b""


_NUMBER_IS_WRONG: Final = (EpochMismatch, LeaseLost, SequenceConflict, SequenceGap, SequenceStale)
"""Refusals of a request's number itself: it is not free for another request."""

# as plain numbers: the members of an enum are looked up at every use
_STEP: Final = int(Kind.STEP)
_ANSWER: Final = int(Flag.ANSWER)
_FRAMES: Final = int(Flag.FRAMES)
_WITH_SLOT: Final = frozenset({_STEP, int(Kind.RESET)})
_WITH_KEPT: Final = frozenset({_STEP, int(Kind.RESET), int(Kind.CALL)})
"""Kinds whose answer is worth something to a driver that was started anew, and whose ext has values."""

_MAX_PLAIN_EXT: Final = 1 << 20
"""Bytes of the ext of a request without values of environments: what is in it is decoded at once, and may wait."""

_NOBODY: Final = b"\0nobody"
"""The peer of what the host asks itself: its router knows no such one."""


class Dispatcher:
    """Answers the messages of one pool. One thread owns it: the loop that owns the sockets.

    Args:
        host: The pool.
        epoch: The pool's incarnation.
        clock_ns: Monotonic clock in nanoseconds.
        stats: Makes the answer to PING.
        stacks: How slots are packed for drivers that ask for it; None where observations are no stacks.
    """

    def __init__(
        self,
        host: PoolPort,
        epoch: int,
        clock_ns: Callable[[], int],
        stats: Callable[[Counts, Moment], Stats],
        stacks: StackFormat | None = None,
    ) -> None:
        self.counts = Counts()
        self._given = None if stacks is None else Given(stacks)
        self._host = host
        self._clock_ns = clock_ns
        self._stats = stats
        self._session = Session(epoch)
        self._tenancy = Tenancy(self._session, host.info.lease_ttl, clock_ns)
        self._running: Running | None = None
        self._waiting = Queue()
        self._slowest = (0, 0, 0)  # the request that runs, the row it is at, and when it was first seen there
        self._cached: tuple[Header, bytes, bytes | memoryview] | None = None
        self._handlers: dict[int, Callable[[Request], Reply | None]] = {
            Kind.HELLO: self._hello,
            Kind.ATTACH: self._attach,
            Kind.STEP: self._sequenced,
            Kind.RESET: self._sequenced,
            Kind.CALL: self._sequenced,
            Kind.RENDER: self._render,
            Kind.PING: self._ping,
            Kind.DETACH: self._detach,
            Kind.RESUME: self._resume,
        }

    @property
    def running(self) -> bool:
        """Whether a command runs, whose end must be told with ``finished``."""
        return self._running is not None

    @property
    def waits(self) -> bool:
        """Whether requests wait for the arena; ``resume`` looks at them again."""
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        """How many do."""
        return len(self._waiting)

    def drives(self, lease: int, epoch: int) -> bool:
        """Whether a lease is that of the present driver."""
        return bool(self._tenancy.driver) and (lease, epoch) == (self._session.lease, self._session.epoch)

    def lease_lost(self, lease: int) -> LeaseLost:
        """Why a lease does not drive the pool."""
        return self._session.lease_lost(lease)

    @property
    def driver_key(self) -> bytes:
        """The key that the lease is bound to; empty where there is none."""
        return self._tenancy.key

    def message(self, peer: bytes, frames: Sequence[Buffer], key: bytes | None = b"") -> Reply | None:
        """Take one message; the reply is None when it comes later, from ``finished`` or ``resume``.

        Args:
            peer: Whom to answer.
            frames: What came.
            key: The key that the peer has proved to have; None where its key may come in no more.
        """
        reply = self._outcast(peer, frames) if key is None else self._message(peer, frames, key)
        if self._running is None:
            self._host.lending.release()
        return reply

    def _outcast(self, peer: bytes, frames: Sequence[Buffer]) -> Reply:
        """Refuse one whose key was forgotten while its connection was open."""
        self.counts.refuse(Unauthorized.code)
        error = Unauthorized("your key was not heard of for long, and is forgotten: ask the server for access again")
        return self._error(peer, _salvage(frames), error)

    def _message(self, peer: bytes, frames: Sequence[Buffer], key: bytes) -> Reply | None:
        self.counts.received_bytes += sum(map(len, frames))
        if self._running is None and key == self._tenancy.key:
            header = self._next_step(frames)
            if header is not None:
                return self._step(peer, header, frames)
        return self._at_length(peer, frames, key)

    def _at_length(self, peer: bytes, frames: Sequence[Buffer], key: bytes) -> Reply | None:
        try:
            header, ext, body = split(frames, self._host.info.max_request, self._host.max_ext)
            if len(ext) > _MAX_PLAIN_EXT and header.kind not in _WITH_KEPT:
                limit = _MAX_PLAIN_EXT
                raise MessageTooLarge(f"an ext of {len(ext)} bytes; this kind has {limit} at most", limit=limit)
        except VecServerError as error:
            self.counts.refuse(error.code)
            return self._error(peer, _salvage(frames), error)
        self.counts.requests[header.kind] += 1
        return self._handle(Request(peer, header, ext, body, self._clock_ns(), key))

    def _next_step(self, frames: Sequence[Buffer]) -> Header | None:
        """The header of the driver's next STEP, which nearly every message is, if that is what this message is.

        Decides nothing by itself: what is not whole and in order goes the long way, and is judged there.
        """
        if len(frames) != FRAME_COUNT or self._host.broken is not None:
            return None
        head, ext, body = frames
        try:
            header = Header.unpack(head)
        except VecServerError:
            return None
        fits = len(ext) <= self._host.max_ext and len(body) == header.body_length <= self._host.info.max_request
        if not fits or header.kind != _STEP or not self._session.is_next(header):
            return None
        return header if digest_of(ext, body) == header.digest and self._host.lending.claim() else None

    def _step(self, peer: bytes, header: Header, frames: Sequence[Buffer]) -> Reply | None:
        self._tenancy.seen_ns = now = self._clock_ns()
        self.counts.requests[_STEP] += 1
        try:
            self._host.begin_step(frames[1], frames[2])
        except VecServerError as error:
            self.counts.refuse(error.code)
            return self._error(peer, header, error)
        except Exception as error:  # noqa: BLE001 - as in _handle
            return self._defect(peer, header, error)
        self._session.begin(header)
        self._running = Running(peer, header, now)
        return None

    def _handle(self, request: Request) -> Reply | None:
        if self._is_of_driver(request):
            self._tenancy.seen_ns = self._clock_ns()  # any message of the driver renews its lease
        try:
            self._tenancy.check_key(request.header.lease, request.key)
            return self._handlers.get(request.header.kind, _refuse_answer)(request)
        except VecServerError as error:
            self.counts.refuse(error.code)
            return self._error(request.peer, request.header, error)
        except Exception as error:  # noqa: BLE001 - a defect here must reach the client, not end the pool
            return self._defect(request.peer, request.header, error)

    def _is_of_driver(self, request: Request) -> bool:
        header, session = request.header, self._session
        return header.lease == session.lease and header.epoch == session.epoch and request.key == self._tenancy.key

    def _hello(self, request: Request) -> Reply:
        messages.decode(request.ext, messages.Hello)
        return self._answer(request, messages.encode(messages.HelloReply("vecserver", self._host.info.pool)))

    def _attach(self, request: Request) -> Reply | None:
        attach = messages.decode(request.ext, messages.Attach)
        session, lease = self._session, 0
        if attach.drive:
            if not self._tenancy.was_given_to(attach, request.header.digest, request.key):
                self._check_free(attach, request)
                if self._running is not None and not (attach.resume and self._running.header.kind in _WITH_KEPT):
                    self._wait(request)
                    return None
                self._give(attach, request)
            lease = session.lease
        features = [] if self._given is None else [FEATURE]
        last, kind = session.last, session.last_kind
        attached = messages.Attached(self._host.info, lease, session.epoch, last, features, kind)
        return self._answer(request, messages.encode(attached))

    def _check_free(self, attach: messages.Attach, request: Request) -> None:
        if self._tenancy.is_past(attach, request.header.digest):
            raise self._session.lease_lost(0)
        if attach.resume:
            point = attach.resume
            self._session.check_resumable(ResumePoint(point.lease, point.epoch, point.seq, pending=False))
        else:
            self._tenancy.check_free(attach, self._idle_s(), request.key)

    def _give(self, attach: messages.Attach, request: Request) -> None:
        """Make a client the driver."""
        self._host.lending.recall()
        self._tenancy.give(attach, request.header.digest, self._idle_s(), request.key)
        _log.info("a driver has attached", extra={"lease": self._session.lease, "driver": self._tenancy.driver})
        if self._given is not None:
            self._given.forget()
        if not attach.resume:
            self._cached = None
        elif self._running is not None:  # its answer is for one that has none to unpack it against
            header = self._running.header
            self._running = self._running._replace(header=header._replace(flags=header.flags & ~_FRAMES))

    @property
    def _is_alive(self) -> bool:
        """Whether the driver gives a sign of life besides messages: its request runs, or it has the arena."""
        return self._session.running or self._host.lending.lent

    def _idle_s(self) -> float:
        """Seconds since the driver was heard of; none while it is known to live."""
        return 0.0 if self._is_alive else self._tenancy.silence_s

    @property
    def lease_left_s(self) -> float:
        """Seconds until the driver's lease ends by its silence, where that has a consequence; asked now and then."""
        if self._host.info.lease_expiry == "keep" or not self._tenancy.driver:
            return math.inf
        return self._tenancy.left_s(alive=self._is_alive)

    def expire(self) -> list[Reply]:
        """End the driver's lease, and reset the rows where that is what an expiry does; the replies that are due.

        With ``destroy`` it is the caller who ends the pool.
        """
        driver = self._tenancy.driver
        _log.warning("%s was silent for %g s: its lease has ended", driver, self._host.info.lease_ttl)
        self._host.lending.recall()
        self._tenancy.end(f"that of {driver} has ended after {self._host.info.lease_ttl:g} s of silence")
        if self._host.info.lease_expiry == "reset":
            self._waiting.appendleft(Request(_NOBODY, Header(Kind.RESET), _EMPTY, _EMPTY))
        return self.resume()

    def _sequenced(self, request: Request) -> Reply | None:
        header = request.header
        if digest_of(request.ext, request.body) != header.digest:
            raise MalformedMessage("ext and body do not have the digest that the header gives")
        verdict = Verdict.RUN if request.peer == _NOBODY else self._session.judge(header)
        if verdict is Verdict.RUN:
            self._prepare(request)
            if not self._is_free():  # for an observer, a lent turn or a chore
                return self._wait(request)
            return self._begin(request)
        if verdict is Verdict.REPLAY:
            return self._replay(request.peer)
        if verdict is Verdict.IN_PROGRESS:
            return self._in_progress(request)
        raise self._session.refusal(verdict, header)

    def _resume(self, request: Request) -> Reply | None:
        """Give the kept answer to one who does not know the request's bytes any more."""
        verdict = self._session.judge_number(request.header)
        if verdict is Verdict.IN_PROGRESS:
            return self._in_progress(request)
        if verdict is not Verdict.REPLAY:
            raise self._session.refusal(verdict, request.header)
        reply = self._replay(request.peer)
        header = Header.unpack(reply.header)
        if header.flags & _FRAMES:
            body = self._host.slot_body(header.slot)
            header = header._replace(flags=header.flags & ~_FRAMES, body_length=len(body))
            reply = reply._replace(header=header.pack(), body=body)
        return reply

    def _prepare(self, request: Request) -> None:
        """Look at a request that is the next one, before it may have to wait."""

    def _begin(self, request: Request) -> Reply | None:
        kind = request.header.kind
        if kind == Kind.RESET and self._host.broken is not None:
            self._revive()
        self._check_whole()
        if kind == Kind.STEP:
            self._host.begin_step(request.ext, request.body)
        elif kind == Kind.RESET:
            reset = messages.decode(request.ext, messages.Reset)
            messages.check_values(reset)
            self._host.begin_reset(reset)
        else:
            call = messages.decode(request.ext, messages.Call)
            messages.check_values(call)
            self._host.begin_call(call)
        self._begun(request)
        return None

    def _revive(self) -> None:
        """Have the workers of a broken pool made again, where they are all of one crew."""

    def _begun(self, request: Request) -> None:
        now = self._clock_ns()
        self._running = Running(request.peer, request.header, now, now - request.came_ns)
        self._session.begin(request.header)

    @property
    def unfit(self) -> PoolBroken | None:
        """What to tell a driver of a pool that cannot step any more; None while it can."""
        if self._host.broken is None:
            return None
        reason = self._host.broken.message
        return PoolBroken(
            f"the pool cannot step any more: {reason}; reset it, which has its workers made again, or delete it",
            reason=reason,
        )

    def _check_whole(self) -> None:
        if (unfit := self.unfit) is not None:
            raise unfit

    def _replay(self, peer: bytes) -> Reply:
        assert self._cached is not None
        header, ext, body = self._cached
        self.counts.replayed += 1
        self.counts.sent_bytes += HEADER_SIZE + len(ext) + len(body)
        return Reply(peer, header._replace(flags=header.flags | Flag.REPLAYED).pack(), ext, body)

    def _in_progress(self, request: Request) -> Reply:
        assert self._running is not None
        # The driver asks again, perhaps from a fresh socket: that is where it listens now
        self._running = self._running._replace(peer=request.peer)
        self.counts.in_progress += 1
        elapsed = (self._clock_ns() - self._running.since_ns) / 1e9
        return self._progress(request, elapsed, self._running.waited_ns)

    def _progress(self, request: Request, elapsed: float, waited_ns: int) -> Reply:
        now, rows = self._clock_ns(), self._host.progress()
        if self._slowest[:2] != (request.header.seq, rows[0]):
            self._slowest = (request.header.seq, rows[0], now)
        progress = messages.InProgress(elapsed, rows, waited_ns / 1e9, min(elapsed, (now - self._slowest[2]) / 1e9))
        return self._reply(request.peer, request.header, Kind.IN_PROGRESS, messages.encode(progress))

    def _is_free(self) -> bool:
        """Whether the host can begin a command now; it then has the arena."""
        return self._running is None and self._host.lending.claim()

    def _render(self, request: Request) -> Reply | None:
        rows = messages.decode(request.ext, messages.Render).rows
        if not self._is_free():
            self._wait(request)
            return None
        self._check_whole()
        self._host.begin_render(rows)
        self._running = Running(request.peer, request.header, self._clock_ns())
        return None

    def _ping(self, request: Request) -> Reply:
        driver = self._tenancy.driver
        idle_s = self._idle_s() if driver else 0.0
        moment = Moment(self._session.lease, driver, idle_s, self.waiting, self._host.lending.lent)
        return self._answer(request, messages.encode(self._stats(self.counts, moment)))

    def _detach(self, request: Request) -> Reply:
        if self._tenancy.driver and self._is_of_driver(request):
            _log.info("the driver has detached", extra={"lease": request.header.lease, "driver": self._tenancy.driver})
            self._tenancy.end(f"{self._tenancy.driver} has given it back")
            self._host.lending.recall()
        return self._answer(request, _EMPTY)

    def _wait(self, request: Request) -> Reply | None:
        since_ns = self._waiting.put(request)
        if since_ns is None or not request.header.seq:
            return None
        return self._progress(request, 0.0, self._clock_ns() - since_ns)

    def finished(self, outcome: Outcome) -> list[Reply]:
        """The command that ran has ended: its reply, and those to what had waited for it."""
        running = self._running
        assert running is not None
        self._running = None
        return [self._finish(running, outcome), *self.resume()]

    def resume(self) -> list[Reply]:
        """The arena is to be had again: the replies to what had waited for it."""
        replies = []
        while self._waiting and self._is_free():
            reply = self._handle(self._waiting.popleft())
            if reply is not None:
                replies.append(reply)
        if self._running is None:
            self._host.lending.release()
        return replies

    def _finish(self, running: Running, outcome: Outcome) -> Reply:
        header = running.header
        kind, flags, status, ext, slot = header.kind, _ANSWER, 0, outcome.ext, 0
        contents: bytes | memoryview = _EMPTY
        if outcome.error is not None:
            kind, status, ext = Kind.ERROR, outcome.error.number, messages.encode_error(outcome.error)
        elif header.kind in _WITH_SLOT:
            slot, contents = outcome.slot, self._host.slot_body(outcome.slot)
            if header.flags & _FRAMES and self._given is not None:
                packed = self._given.pack(header.seq, header.clock, contents)
                if packed is not None:
                    flags, contents = flags | _FRAMES, packed
        answer = Header(
            kind=kind,
            flags=flags,
            status=status,
            slot=slot,
            rows=self._host.info.num_envs,
            lease=header.lease,
            epoch=self._session.epoch,
            seq=header.seq,
            t_steps=1 if header.kind == _STEP else 0,
            digest=0 if header.seq else header.digest,
            body_length=len(contents),
            clock=self._clock_ns(),
        )
        if header.kind in SEQUENCED:
            self._session.finish()
            self._tenancy.seen_ns = self._clock_ns()
            self._cached = (answer, ext, contents)
        self.counts.sent_bytes += HEADER_SIZE + len(ext) + len(contents)
        return Reply(running.peer, answer.pack(), ext, contents)

    def _answer(self, request: Request, ext: bytes) -> Reply:
        return self._reply(request.peer, request.header, request.header.kind, ext)

    def _reply(
        self, peer: bytes, header: Header, kind: int, ext: bytes, *, flags: int = Flag.ANSWER, status: int = 0
    ) -> Reply:
        answer = Header(
            kind=kind,
            flags=flags,
            status=status,
            lease=header.lease,
            epoch=self._session.epoch,
            seq=header.seq,
            digest=0 if header.seq else header.digest,
            clock=self._clock_ns(),
        )
        self.counts.sent_bytes += HEADER_SIZE + len(ext)
        return Reply(peer, answer.pack(), ext, _EMPTY)

    def _defect(self, peer: bytes, header: Header, error: Exception) -> Reply:
        about = {"lease": header.lease, "seq": header.seq}
        _log.exception("a request of kind %d failed", header.kind, extra=about)
        return self._error(peer, header, InternalError(f"a defect of the server: {error!r}"))

    def _error(self, peer: bytes, header: Header, error: VecServerError) -> Reply:
        about = {"lease": header.lease, "seq": header.seq, "code": error.code}
        _log.debug("a request of kind %d is refused: %s", header.kind, error.message, extra=about)
        flags = Flag.ANSWER if isinstance(error, _NUMBER_IS_WRONG) else Flag.ANSWER | Flag.REFUSED
        return self._reply(peer, header, Kind.ERROR, messages.encode_error(error), flags=flags, status=error.number)


def _refuse_answer(request: Request) -> Reply | None:
    raise MalformedMessage(f"{Kind(request.header.kind).name} is an answer, not a request")


def _salvage(frames: Sequence[Buffer]) -> Header:
    """The header of a refused message, so that its sender can match the error; an empty one if there is none."""
    try:
        return Header.unpack(frames[0])
    except (VecServerError, IndexError):
        return Header(Kind.ERROR)
