"""The rules of one driver's conversation with a pool: numbering, waiting, asking again. No I/O.

A request keeps its number until its answer is here. When nothing comes for a while the same bytes go out again on a
fresh connection: the pool answers with the cached reply, or says how far it is, and never runs a request twice.

What takes more than one message is an ``Exchange``: a generator that yields what is to be done next, a ``Deed``, and is
sent what came of it, or thrown what went wrong. ``Connection`` does the deeds by blocking calls, and
``aio.connection.AsyncConnection`` from an event loop.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Generator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from vecserver.wire import messages
from vecserver.wire.errors import (
    DeadlineExceeded,
    LocalError,
    MessageTooLarge,
    PoolLost,
    PoolStopping,
    ServerUnreachable,
    UnknownPool,
)
from vecserver.wire.frames import MAX_EXT, Flag, Header, Kind, digest_of
from vecserver.wire.session import ResumePoint

if TYPE_CHECKING:
    from vecserver.wire.frames import Buffer
    from vecserver_client.transport import Frames

__all__ = [
    "CHECK_S",
    "FIRST_RETRY_S",
    "LAST_RETRY_S",
    "CheckPool",
    "Conversation",
    "Deed",
    "Exchange",
    "Pause",
    "Pending",
    "Receive",
    "Reopen",
    "Send",
]

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 10.0
"""Silence after which a request is sent again: doubled each time up to this figure, with a little chance in it."""

CHECK_S: Final = 2.0
"""What it may take to ask the server about a pool that is silent: with less time than that it is not asked, for it may
be silent too, and a short wait is not to become a long one."""

_LEAST_RETRY_S: Final = 0.1
"""The first time it is shorter where batches are quick: four times their usual spread beyond the usual, and this."""

_PAUSE_S: Final = 0.2
"""Before a connection that was lost twice is made a third time."""

_TAKEN_UP: Final = frozenset({Kind.STEP, Kind.RESET, Kind.CALL})
"""Requests of a former life whose answers are asked for: parts end with it."""

_TAGS: Final = itertools.count(random.getrandbits(31))  # no secret
"""Of requests without a number. They rise in all of a program: two connections of one driver may follow each other."""

_MOMENT_S: Final = 0.001
"""What is left of a wait when it is over: timers are not exact."""


class Send(NamedTuple):
    """Send a message within so many seconds; raises ServerUnreachable where nobody takes it."""

    header: bytes
    ext: bytes
    body: Buffer
    timeout: float


class Receive(NamedTuple):
    """Wait so many seconds for a message; None where none came, or where the connection was lost, which is noted."""

    timeout: float


class Reopen(NamedTuple):
    """Let go of the connection: the next message goes out on a fresh one."""


class CheckPool(NamedTuple):
    """Ask the server about the pool; raises PoolLost or UnknownPool where it is known to be gone."""


class Pause(NamedTuple):
    """Wait."""

    seconds: float


Deed = Send | Receive | Reopen | CheckPool | Pause
Exchange = Generator[Deed, "Frames | None", "Frames"]


@dataclass(slots=True)
class Pending:
    """A sequenced request that was sent and not answered."""

    kind: Kind
    header: bytes
    ext: bytes
    body: Buffer
    seq: int
    began: float
    progress: messages.InProgress | None = None
    said: float = 0.0
    repeats: int = 0
    losses: int = 0
    unheard: int = 0  # repeats in a row that brought no word, over all waits


class Conversation:
    """What both connections know of their pool, and how they go on when an answer does not come at once.

    Args:
        name: Who drives, for people and for the pool: the same name may attach again.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lease = 0
        self._gone = False  # whether nobody is left to give the lease back to
        self._epoch = 0
        self._seq = 0
        self._pending: Pending | None = None
        self._lost = False  # the connection was, and the pool was not asked for since
        self._moved = False  # a part of a message came since the last look
        self._usual, self._spread = 0.0, math.inf  # seconds that batches take, and by how much they differ
        self._tag = 0  # of the last request without a number

    @property
    def pending(self) -> bool:
        """Whether a request waits for its answer."""
        return self._pending is not None

    @property
    def lease(self) -> int:
        """The right to drive the pool; 0 without it."""
        return self._lease

    @property
    def standing(self) -> tuple[int, int, int]:
        """Lease, epoch, and the number of the last request."""
        return self._lease, self._epoch, self._seq

    @property
    def point(self) -> ResumePoint:
        """Where another life of this driver would go on."""
        return ResumePoint(self._lease, self._epoch, self._seq, self._pending is not None)

    @property
    def pending_kind(self) -> Kind | None:
        """What the request that waits for its answer is for; None where there is none."""
        return None if self._pending is None else self._pending.kind

    def _attach_request(self, *, force: bool, resume: ResumePoint | None) -> bytes:
        point: messages.ResumeFrom | msgspec.UnsetType = msgspec.UNSET
        if resume is not None:
            point = messages.ResumeFrom(resume.lease, resume.epoch, resume.seq)
        return messages.encode(messages.Attach(force=force, client=self._name, resume=point))

    def _attached(self, ext: bytes, resume: ResumePoint | None) -> messages.Attached:
        attached = messages.decode(ext, messages.Attached)
        self._lease, self._epoch, self._seq = attached.lease, attached.epoch, attached.last_seq
        self._gone = False
        if resume is not None:
            self._take_up(attached, resume)
        return attached

    def _take_up(self, attached: messages.Attached, point: ResumePoint) -> None:
        """Wait for the answer to the former life's last request, where that life has not heard it."""
        seq, kind = attached.last_seq, attached.last_kind
        unheard = seq > point.seq or (seq == point.seq and point.pending)
        if unheard and kind in _TAKEN_UP:
            # its bytes are not known any more: its answer is asked for by its number
            header = Header(Kind.RESUME, lease=self._lease, epoch=self._epoch, seq=seq).pack()
            self._pending = Pending(Kind(kind), header, b"", b"", seq, monotonic())

    def _note(self, kind: Kind, ext: bytes, body: Buffer, base: int | None = None) -> Pending:
        """Give a request its number, before it is sent: whatever interrupts the sending, it is asked for again."""
        if self._pending is not None:
            raise LocalError(f"request {self._pending.seq} was not answered yet: wait for it first")
        seq = self._seq + 1
        body = bytes(body)  # kept until the answer is here; the caller may change its own
        pending = Pending(kind, self._header(kind, ext, body, seq, base), ext, body, seq, monotonic())
        self._seq, self._pending = seq, pending
        return pending

    def _forget(self) -> None:
        """Nothing of the request was done: its number is free again."""
        self._seq, self._pending = self._seq - 1, None

    def _asking(self, kind: Kind, ext: bytes, timeout: float) -> Exchange:
        """Send a request without a number and wait for its answer."""
        deadline = monotonic() + timeout
        self._tag = next(_TAGS)
        tag, header = self._tag, self._header(kind, ext, b"", 0)
        yield Send(header, ext, b"", timeout)
        pause, patience = 0.0, FIRST_RETRY_S
        while (remaining := deadline - monotonic()) > _MOMENT_S:
            frames = yield Receive(min(remaining, patience))
            if frames is None:
                if self._lost:
                    yield from self._get_over_loss(min(remaining, pause))
                    pause = _PAUSE_S
                elif self._has_moved():
                    continue
                elif patience > FIRST_RETRY_S:
                    yield Reopen()
                patience = _longer(patience)
                yield Send(header, ext, b"", max(0.0, deadline - monotonic()))
                continue
            answer = frames[0]
            if answer.seq or answer.digest not in (tag, 0):  # 0: of a host that does not repeat tags
                continue
            if answer.kind == Kind.ERROR:
                raise messages.decode_error(frames[1])
            if answer.kind == kind:
                return frames
        yield Reopen()  # a late answer must not be taken for the answer to the next request of this kind
        yield CheckPool()
        raise DeadlineExceeded(f"no answer to {kind.name} within {timeout:g} s")

    def _waiting(self, pending: Pending, frames: Frames | None, deadline: float, timeout: float) -> Exchange:
        """Wait for an answer that did not come at once: ask again and again under the same number."""
        patience = self._first_patience()
        while True:
            if frames is not None:
                pending.unheard = 0
                if self._concerns(frames[0], frames[1], pending):
                    if (
                        pending.progress is not None or not pending.repeats
                    ):  # else it answers nobody knows which of them
                        self._note_time(monotonic() - deadline + timeout)
                    return self._settle(frames)
            else:
                remaining = deadline - monotonic()
                if remaining <= _MOMENT_S:
                    raise self._late(pending, timeout)
                if self._lost or not self._has_moved():
                    try:
                        yield from self._asking_again(pending, deadline, doubtful=pending.unheard > 0)
                    except ServerUnreachable as error:  # to the very end
                        raise self._late(pending, timeout) from error
                    pending.unheard += 1
                    patience = _longer(patience)
            frames = yield Receive(max(0.0, min(deadline - monotonic(), patience)))

    def _first_patience(self) -> float:
        """Seconds of silence after which a request is sent again the first time."""
        return min(FIRST_RETRY_S, self._usual + 4 * self._spread + _LEAST_RETRY_S)

    def _note_time(self, seconds: float) -> None:
        """Learn from how long an answer took, where that was its own time and not that of a repeat."""
        if self._spread == math.inf:  # the first
            self._usual, self._spread = seconds, seconds / 2
            return
        off = seconds - self._usual
        self._usual += off / 8
        self._spread += (abs(off) - self._spread) / 4

    def _has_moved(self) -> bool:
        """Whether a part of a message came since this was asked last: then nothing is lost, only slow."""
        moved, self._moved = self._moved, False
        return moved

    def _asking_again(
        self, pending: Pending, deadline: float, *, doubtful: bool
    ) -> Generator[Deed, Frames | None, None]:
        remaining = deadline - monotonic()
        try:
            pending.repeats += 1
            if self._lost:
                pending.losses += 1
                yield from self._get_over_loss(min(remaining, _PAUSE_S) if doubtful else 0.0)
            elif doubtful:  # the first repeat goes out on the same connection: most batches are only slow
                if remaining > CHECK_S:
                    yield CheckPool()
                yield Reopen()
            pending.repeats += 1
            yield Send(pending.header, pending.ext, pending.body, max(0.0, deadline - monotonic()))
        except (PoolLost, UnknownPool):
            self._pending, self._gone = None, True  # nobody is left to answer it
            raise

    def _get_over_loss(self, pause: float) -> Generator[Deed, Frames | None, None]:
        """Ask whether the pool was lost with the connection, and give it a moment if this is not the first time."""
        self._lost = False
        yield CheckPool()
        yield Pause(pause)

    def _note_end(self, error: BaseException) -> None:
        """Give up the pending request where a transport itself has said that nobody is left to answer it."""
        if isinstance(error, PoolLost | PoolStopping | UnknownPool):
            self._pending, self._gone = None, True

    @staticmethod
    def _concerns(header: Header, ext: bytes, pending: Pending) -> bool:
        """Whether this message is the answer, and not a late one to an earlier request or a report of progress."""
        if header.seq != pending.seq:
            return False
        if header.kind == Kind.IN_PROGRESS:
            pending.progress, pending.said = messages.decode(ext, messages.InProgress), monotonic()
            return False
        return header.kind in (pending.kind, Kind.ERROR)

    def _settle(self, frames: Frames) -> Frames:
        header, ext, _ = frames
        self._pending = None
        if header.kind == Kind.ERROR:
            if header.flags & Flag.REFUSED:
                self._seq -= 1  # nothing was done: the number is free
            raise messages.decode_error(ext)
        return frames

    @staticmethod
    def _late(pending: Pending, timeout: float) -> DeadlineExceeded:
        now, progress = monotonic(), pending.progress
        what = (
            f"no answer to {pending.kind.name} {pending.seq} within {timeout:g} s, {now - pending.began:.1f} s after it"
        )
        again = f"was sent, and {pending.repeats} times again" if pending.repeats else "was sent"
        lost = f" (the connection was lost {pending.losses} times)" if pending.losses else ""
        if progress is not None:
            return DeadlineExceeded(
                f"{what} {again}{lost}: {now - pending.said:.1f} s ago the pool said that it {progress}; wait for it "
                "again, or close",
                rows=list(progress.slowest_rows),
            )
        if not pending.repeats:
            silence = f"the pool was not asked yet how far it is, which is done after {FIRST_RETRY_S:g} s"
        else:
            silence = "the pool has said nothing: it stands still, or the network does not carry its answers"
        return DeadlineExceeded(f"{what} {again}{lost}: {silence}")

    def _header(self, kind: Kind, ext: Buffer, body: Buffer, seq: int, base: int | None = None) -> bytes:
        if len(ext) > MAX_EXT:  # the pool would cut the connection without a word
            raise MessageTooLarge(f"{len(ext)} bytes of arguments; a message takes {MAX_EXT}", limit=MAX_EXT)
        return Header(
            kind=kind,
            flags=0 if base is None else Flag.FRAMES,
            lease=self._lease,
            epoch=self._epoch,
            seq=seq,
            t_steps=1 if kind is Kind.STEP else 0,
            digest=digest_of(ext, body) if seq else self._tag,
            body_length=len(body),
            clock=base or 0,
        ).pack()


def _longer(patience: float) -> float:
    """How long to wait the next time: others whose pool was out of reach as well come back at other moments."""
    return min(2 * patience, LAST_RETRY_S) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
