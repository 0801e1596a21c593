"""The dispatch of a pool that may be split: which part a message is for, and how a pool is split and made whole.

Each part has a dispatcher, and so a session, a running command and a kept answer of its own; the rules are the pool's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from vecserver.dataplane.dispatch import Dispatcher
from vecserver.dataplane.ports import PoolPort
from vecserver.dataplane.requests import Queue
from vecserver.dataplane.tenancy import Tenancy
from vecserver.pools.crew import Outcome
from vecserver.wire import messages
from vecserver.wire.errors import LeaseLost, MalformedMessage, PoolSplit, VecServerError
from vecserver.wire.frames import Header, Kind
from vecserver.wire.session import PART_LEASES, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from vecserver.dataplane.counts import Counts, Moment
    from vecserver.dataplane.requests import Reply, Request, Running
    from vecserver.wire.frames import Buffer
    from vecserver.wire.messages import Stats
    from vecserver.wire.stacks import StackFormat

__all__ = ["Desk", "PoolDispatcher"]

_WHEN_BROKEN: Final = (Kind.RESET, Kind.JOIN)
"""What a broken pool with parts takes: both end the parts, and a reset makes it well."""
_OF_THE_WHOLE: Final = (Kind.ATTACH, Kind.SPLIT, Kind.JOIN)


class PartPort(PoolPort, Protocol):
    """What the dispatch needs of a part."""

    @property
    def rows(self) -> tuple[int, int]:
        """First and end row in the pool."""


class SplitPort(PoolPort, Protocol):
    """What the dispatch needs of a host whose pool may be split."""

    @property
    def parts(self) -> Sequence[PartPort]:
        """What it is split into; nothing where it is whole."""

    def begin_split(self, count: int) -> None:
        """Begin to split it, or refuse."""

    def joining(self) -> Generator[None, None, None]:
        """The chore that makes it whole."""

    def abandon_parts(self) -> None:
        """Make a broken pool whole, without its workers' doing."""

    def revive(self) -> None:
        """Have all workers of a broken pool made again: its rows are reset next."""


class Desk(NamedTuple):
    """One part: who steps it here, and what is answered to whom."""

    host: PartPort
    dispatcher: _PartDispatcher

    @property
    def busy(self) -> bool:
        """Whether its workers are wanted there still."""
        return self.dispatcher.running or self.host.lending.lent or self.host.lending.busy


class _PartDispatcher(Dispatcher):
    """Answers the messages of a part's driver: all but what concerns the whole pool."""

    def __init__(
        self,
        part: PartPort,
        session: Session,
        driver: Tenancy,
        clock_ns: Callable[[], int],
        stats: Callable[[Counts, Moment], Stats],
        counts: Counts,
    ) -> None:
        super().__init__(part, session.epoch, clock_ns, stats)
        self.counts = counts  # of the whole pool
        self._session = session
        self._tenancy = Tenancy(session, part.info.lease_ttl, clock_ns, driver.driver, driver.key)
        for kind in _OF_THE_WHOLE:
            self._handlers[kind] = _refuse_of_the_whole

    @property
    def idle_s(self) -> float:
        """Seconds since its driver was heard of."""
        return self._idle_s()

    def pass_on(self, request: Request) -> Reply | None:
        """Take a request that came to the pool, in the numbers of the part's rows."""
        reply = self._handle(request)
        if self._running is None:
            self._host.lending.release()
        return reply


class PoolDispatcher(Dispatcher):
    """As ``Dispatcher``, for a pool that its driver may split.

    Attributes:
        desks: Those of the parts, by their leases and in the order of their rows; also of parts that have ended and
            still run a command.
    """

    _host: SplitPort

    def __init__(
        self,
        host: SplitPort,
        epoch: int,
        clock_ns: Callable[[], int],
        stats: Callable[[Counts, Moment], Stats],
        stacks: StackFormat | None = None,
    ) -> None:
        super().__init__(host, epoch, clock_ns, stats, stacks)
        self.desks: dict[int, Desk] = {}
        self._ended = False  # no message reaches the parts any more
        self._parts_made = 0
        self._handlers[Kind.SPLIT] = self._handlers[Kind.JOIN] = self._sequenced

    @property
    def drivers(self) -> list[Dispatcher]:
        """The dispatchers of the parts, in their order, where they can be driven now."""
        return [] if self._ended else [desk.dispatcher for desk in self.desks.values()]

    def message(self, peer: bytes, frames: Sequence[Buffer], key: bytes | None = b"") -> Reply | None:
        """Take one message; the reply is None when it comes later."""
        if not self._host.parts or key is None:
            return super().message(peer, frames, key)
        desk = self._addressed(frames)
        if desk is not None:
            return desk.dispatcher.message(peer, frames, key)
        self.counts.received_bytes += sum(map(len, frames))
        reply = self._at_length(peer, frames, key)
        if self._running is None:
            self._host.lending.release()
        return reply

    def _addressed(self, frames: Sequence[Buffer]) -> Desk | None:
        """The desk of the part that a message is for; decides nothing else by itself."""
        if self._ended or not frames:
            return None
        try:
            return self.desks.get(Header.unpack(frames[0]).lease)
        except VecServerError:
            return None

    def _attach(self, request: Request) -> Reply | None:
        if self._host.parts and self._host.broken is None:
            attach = messages.decode(request.ext, messages.Attach)
            if attach.drive and not self._tenancy.was_given_to(attach, request.header.digest, request.key):
                self._check_free(attach, request)
                self._end_parts()
                self._wait(request)  # until the pool is whole
                return None
        return super()._attach(request)

    def _detach(self, request: Request) -> Reply:
        if self._is_of_driver(request):
            self._end_parts()
        return super()._detach(request)

    @property
    def waiting(self) -> int:
        """How many requests wait, of the pool and of its parts."""
        return super().waiting + sum(desk.dispatcher.waiting for desk in self.desks.values())

    def _idle_s(self) -> float:
        return min([super()._idle_s(), *(desk.dispatcher.idle_s for desk in self.desks.values())])

    @property
    def lease_left_s(self) -> float:
        """As a whole pool's; a sign of life of any part counts."""
        left = super().lease_left_s
        if not self.desks or left == math.inf:
            return left
        return max([left, *(self._host.info.lease_ttl - desk.dispatcher.idle_s for desk in self.desks.values())])

    def expire(self) -> list[Reply]:
        """End the driver's lease, and its parts with it."""
        self._end_parts()
        return super().expire()

    def _prepare(self, request: Request) -> None:
        kind = request.header.kind
        if self._host.parts and self._host.broken is not None:
            if kind not in _WHEN_BROKEN:
                self._check_whole()
        elif kind == Kind.JOIN:
            self._end_parts()
        elif self._host.parts:
            raise PoolSplit(f"the pool is split into {len(self._host.parts)} parts: step these, or join it first")
        elif kind == Kind.SPLIT:
            self._host.lending.recall()

    def _is_free(self) -> bool:
        return (not self._host.parts or self._host.broken is not None) and super()._is_free()

    def _begin(self, request: Request) -> Reply | None:
        if request.header.kind == Kind.SPLIT:
            self._check_whole()
            self._host.begin_split(messages.decode(request.ext, messages.Split).parts)
            self._begun(request)
            return None
        if request.header.kind == Kind.JOIN:  # it is whole by now, or broken
            if self._host.parts:
                self._forget_parts()
                self._host.abandon_parts()
            self._begun(request)
            running, self._running = self._running, None
            assert running is not None
            return self._finish(running, Outcome(0, b""))
        return super()._begin(request)

    def _revive(self) -> None:
        self._forget_parts()
        self._host.revive()

    def _forget_parts(self) -> None:
        self._ended = False
        self.desks.clear()

    def _finish(self, running: Running, outcome: Outcome) -> Reply:
        if running.header.kind == Kind.SPLIT and outcome.error is None:
            outcome = outcome._replace(ext=self._open_desks())
        return super()._finish(running, outcome)

    def _open_desks(self) -> bytes:
        """Give each part a lease; returns the ext that says so."""
        described = []
        for part in self._host.parts:
            self._parts_made += 1
            lease = PART_LEASES + self._parts_made
            session = Session(self._session.epoch, lease)
            dispatcher = _PartDispatcher(part, session, self._tenancy, self._clock_ns, self._stats, self.counts)
            self.desks[lease] = Desk(part, dispatcher)
            described.append(messages.Part(part.info, lease, part.rows[0]))
        self._ended = False
        return messages.encode(messages.SplitReply(described))

    def _end_parts(self) -> None:
        """Take no more messages for the parts: what runs there ends, and then the pool is made whole."""
        if not self._ended and self.desks:
            self._ended = True
            for desk in self.desks.values():
                desk.host.lending.recall()

    @property
    def busy(self) -> bool:
        """Whether a command runs, of the pool or of a part."""
        return self.running or any(desk.dispatcher.running for desk in self.desks.values())

    def resume(self) -> list[Reply]:
        """As of any dispatcher; whoever waited while the pool was being split is looked at as if it came now."""
        replies: list[Reply] = []
        if self.desks and not self._ended:
            waiting, self._waiting = self._waiting, Queue()
            replies = [reply for request in waiting if (reply := self._handle(request)) is not None]
        return [*replies, *super().resume()]

    def settle(self) -> None:
        """Make the pool whole once its parts have ended and nothing runs in them; called now and then."""
        if self._ended and not any(desk.busy for desk in self.desks.values()):
            self._forget_parts()
            self._host.lending.add(self._host.joining())

    def _render(self, request: Request) -> Reply | None:
        if request.header.lease >= PART_LEASES:
            raise LeaseLost(f"lease {request.header.lease} was that of a part of this pool, which is no more")
        if not self._host.parts:
            return super()._render(request)
        rows = messages.decode(request.ext, messages.Render).rows
        for desk in () if self._ended else self.desks.values():
            first, end = desk.host.rows
            if rows and all(first <= row < end for row in rows):
                ext = messages.encode(messages.Render([row - first for row in rows]))
                return desk.dispatcher.pass_on(request._replace(ext=ext))
        raise PoolSplit("the pool is split: rows of one part can be rendered at a time")


def _refuse_of_the_whole(request: Request) -> Reply | None:
    raise MalformedMessage(f"{Kind(request.header.kind).name} with the lease of a part: it concerns the whole pool")
