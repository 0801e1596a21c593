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
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from vecserver.wire.errors import (
    EpochMismatch,
    LeaseLost,
    SequenceConflict,
    SequenceGap,
    SequenceStale,
    StillRunning,
    VecServerError,
)

if TYPE_CHECKING:
    from vecserver.wire.frames import Header

__all__ = ["PART_LEASES", "REPLACEMENT_S", "Session", "Verdict"]

PART_LEASES: Final = 1 << 48
"""Leases above this figure are those of parts of a split pool: none was or will be a pool's own."""

REPLACEMENT_S: Final = 10.0
"""Seconds beyond a pool's ``step_timeout`` that an answer is waited for: a worker that takes too long is killed then,
and the answer comes when another has made its environments."""


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
        self._request = (0, 0)

    def grant(self) -> int:
        """Give the pool to a new driver: fences off the one before, and numbering starts again.

        A request of the driver before may still be running; the new one's first is refused until it has finished.
        """
        self.lease += 1
        self.last = 0
        return self.lease

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
        self.last = header.seq
        self._request = header.kind, header.digest
        self.running = True

    def finish(self) -> None:
        """The request's reply is ready and may be replayed."""
        self.running = False

    def refusal(self, verdict: Verdict, header: Header) -> VecServerError:
        """The error for a verdict that is not RUN, REPLAY or IN_PROGRESS."""
        seq, last = header.seq, self.last
        if verdict is Verdict.FENCED:
            other = f"lease {self.lease} does" if self.lease else "nobody does"
            return LeaseLost(f"lease {header.lease} does not drive this pool ({other}): attach again", lease=self.lease)
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
