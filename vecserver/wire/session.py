"""The rules that make every sequenced request run exactly once, as a table.

A request is known by (lease, epoch, seq). The request s+1 acknowledges the reply of s, so one cached reply is enough.

::

    lease     epoch     seq vs last   state      request  →  verdict
    other, 0  any       any           any        any         FENCED        no driver, or one that lost its lease
    same      other     any           any        any         OTHER_EPOCH   meant for an earlier incarnation
    same      same      last + 1      idle       any         RUN
    same      same      last + 1      running    any         GAP           wait: another request is running
    same      same      last          idle       same        REPLAY        send the cached reply again
    same      same      last          running    same        IN_PROGRESS   say how far it is
    same      same      last          any        other       CONFLICT      one number, two requests
    same      same      < last        any        any         STALE
    same      same      > last + 1    any        any         GAP

A request is the same when its kind and its digest are. One that is refused before anything was done (a bad action, say)
does not use its number: it is never begun.

A driver that was started anew knows the number of its last request and not its bytes. It attaches with ``resume``, by
which its lease is replaced and its numbers go on, and asks for the kept reply by number alone: ``judge_number``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple, Self

from vecserver.wire.errors import (
    EpochMismatch,
    InvalidSpec,
    LeaseLost,
    SequenceConflict,
    SequenceGap,
    SequenceStale,
    StillRunning,
    VecServerError,
)
from vecserver.wire.frames import Header, Kind

__all__ = ["PART_LEASES", "REPLACEMENT_S", "ResumePoint", "Session", "Verdict"]

PART_LEASES: Final = 1 << 48
"""Leases above this figure are those of parts of a split pool: none was or will be a pool's own."""

REPLACEMENT_S: Final = 10.0
"""Seconds beyond a pool's ``step_timeout`` that an answer is waited for: a worker that takes too long is killed then,
and the answer comes when another has made its environments."""


class ResumePoint(NamedTuple):
    """Where a driver was: what the next life of its needs to go on.

    Attributes:
        lease: Its lease.
        epoch: The pool's.
        seq: Number of its last request; 0 before the first.
        pending: Whether that request's answer was not heard.
    """

    lease: int
    epoch: int
    seq: int
    pending: bool

    def __str__(self) -> str:
        return f"{self.lease:x}-{self.epoch:x}-{self.seq:x}{'-pending' if self.pending else ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` wrote.

        Raises:
            InvalidSpec: It is something else.
        """
        lease, *others = text.removesuffix("-pending").split("-")
        try:
            epoch, seq = (int(each, 16) for each in others)
            return cls(int(lease, 16), epoch, seq, text.endswith("-pending"))
        except ValueError:
            raise InvalidSpec(f"{text!r:.80} is no resume token: envs.resume_token gives one", field="resume") from None


class Verdict(Enum):
    """What to do with a sequenced request."""

    RUN = "run"
    REPLAY = "replay"
    IN_PROGRESS = "in_progress"
    STALE = "stale"
    GAP = "gap"
    CONFLICT = "conflict"
    FENCED = "fenced"
    OTHER_EPOCH = "other_epoch"


_OLDER, _LAST, _NEXT, _BEYOND = range(4)
_TABLE: Final[dict[tuple[int, bool, bool], Verdict]] = {
    # (where seq stands, running, same kind and digest as the last request)
    (_NEXT, False, False): Verdict.RUN,
    (_NEXT, False, True): Verdict.RUN,
    (_NEXT, True, False): Verdict.GAP,
    (_NEXT, True, True): Verdict.GAP,
    (_LAST, False, True): Verdict.REPLAY,
    (_LAST, True, True): Verdict.IN_PROGRESS,
    (_LAST, False, False): Verdict.CONFLICT,
    (_LAST, True, False): Verdict.CONFLICT,
    (_OLDER, False, False): Verdict.STALE,
    (_OLDER, False, True): Verdict.STALE,
    (_OLDER, True, False): Verdict.STALE,
    (_OLDER, True, True): Verdict.STALE,
    (_BEYOND, False, False): Verdict.GAP,
    (_BEYOND, False, True): Verdict.GAP,
    (_BEYOND, True, False): Verdict.GAP,
    (_BEYOND, True, True): Verdict.GAP,
}


class Session:
    """The sequence of one pool, or of a part of one: who drives it and which request is the last.

    Not thread-safe: owned by the loop that answers the pool's requests.

    Attributes:
        epoch: The pool's incarnation, a random number above 0.
        lease: The current driver's fencing number; 0 before the first driver. Each new driver's is one higher.
        last: Number of the last request that ran or runs; 0 before the first.
        running: Whether that request is still running.
    """

    def __init__(self, epoch: int, lease: int = 0) -> None:
        self.epoch = epoch
        self.lease = lease
        self.last = 0
        self.running = False
        self.cause = "nobody does"
        """Why any other lease does not drive the pool."""
        self._request = (0, 0)
        self._oldest = lease  # of one driver's lives that follow each other without a request in between

    def grant(self, cause: str = "another does", *, resumed: bool = False) -> int:
        """Give the pool to a new driver: fences off the one before, and numbering starts again.

        A request of the driver before may still be running; the new one's first is refused until it has finished.

        Args:
            cause: Why the driver before has lost its lease, for people.
            resumed: Whether the new driver goes on with the numbers of the one before.
        """
        self.lease += 1
        self.cause = cause
        if not resumed:
            self.last, self._oldest = 0, self.lease
        return self.lease

    def revoke(self, cause: str) -> None:
        """Fence off the driver and let nobody drive.

        Args:
            cause: Why, for people.
        """
        self.grant(cause)

    def check_resumable(self, point: ResumePoint) -> None:
        """Refuse a driver that wants to go on where another life of its was, unless its numbers fit.

        A life that was resumed and has begun nothing since may have ended before it noted its lease: the one before it
        is as good.

        Raises:
            LeaseLost: Another has had the lease since.
            EpochMismatch: The pool was made again since.
            SequenceStale: More than one request was taken since.
            SequenceGap: Its number is ahead of the pool's by more than one.
        """
        at = Header(Kind.RESUME, lease=point.lease, epoch=point.epoch, seq=point.seq)
        if not self._oldest <= point.lease <= self.lease or not point.lease:
            raise self.refusal(Verdict.FENCED, at)
        if point.epoch != self.epoch:
            raise self.refusal(Verdict.OTHER_EPOCH, at)
        if abs(point.seq - self.last) > 1:
            raise self.refusal(Verdict.STALE if point.seq < self.last else Verdict.GAP, at)

    def judge_number(self, header: Header) -> Verdict:
        """Say what to do with a RESUME, which asks for the reply to a request by its number alone; changes nothing."""
        if header.lease != self.lease or not self.lease:
            return Verdict.FENCED
        if header.epoch != self.epoch:
            return Verdict.OTHER_EPOCH
        if header.seq != self.last or not self.last:
            return Verdict.STALE if header.seq <= self.last else Verdict.GAP
        return Verdict.IN_PROGRESS if self.running else Verdict.REPLAY

    @property
    def last_kind(self) -> int:
        """What the last request was for; 0 before the first."""
        return self._request[0] if self.last else 0

    def judge(self, header: Header) -> Verdict:
        """Say what to do with a sequenced request; changes nothing."""
        if header.lease != self.lease or not self.lease:
            return Verdict.FENCED
        if header.epoch != self.epoch:
            return Verdict.OTHER_EPOCH
        distance = header.seq - self.last
        where = _OLDER if distance < 0 else min(distance, 2) + 1
        if where == _LAST and self.last == 0:
            return Verdict.STALE  # numbers begin at 1
        return _TABLE[where, self.running, (header.kind, header.digest) == self._request]

    def is_next(self, header: Header) -> bool:
        """Whether the verdict is RUN: the table's first row, asked for at every step."""
        return (
            header.seq == self.last + 1
            and not self.running
            and header.lease == self.lease != 0
            and header.epoch == self.epoch
        )

    def begin(self, header: Header) -> None:
        """Take a request whose verdict was RUN."""
        self.last, self._oldest = header.seq, self.lease
        self._request = header.kind, header.digest
        self.running = True

    def finish(self) -> None:
        """The request's reply is ready and may be replayed."""
        self.running = False

    def refusal(self, verdict: Verdict, header: Header) -> VecServerError:
        """The error for a verdict that is not RUN, REPLAY or IN_PROGRESS."""
        seq, last = header.seq, self.last
        if verdict is Verdict.FENCED:
            return self.lease_lost(header.lease)
        if verdict is Verdict.OTHER_EPOCH:
            return EpochMismatch(
                "the pool was made again since this request was numbered: attach again", epoch=self.epoch
            )
        if verdict is Verdict.STALE:
            return SequenceStale(f"request {seq} was acknowledged already; the last is {last}", seq=seq, last=last)
        if verdict is Verdict.CONFLICT:
            return SequenceConflict(f"request {seq} came with other bytes before: number new requests upwards", seq=seq)
        if self.running and seq == last + 1:
            return StillRunning(f"request {seq} cannot run before another has finished: send it again later", seq=seq)
        return SequenceGap(f"request {seq} cannot run: the last is {last}, the next is {last + 1}", seq=seq, last=last)

    def lease_lost(self, lease: int) -> LeaseLost:
        """The error for a lease that does not drive the pool, or not any more."""
        return LeaseLost(
            f"lease {lease} does not drive this pool: {self.cause}; attach again to drive it", lease=self.lease
        )
