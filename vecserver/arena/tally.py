"""What one worker has counted: a block of the arena that it alone writes, and everybody who maps the arena can read.

::

    words 0 … 7     busy · batches · episodes in the sums · left out · steps · gained · lost · latency
                    (gained and lost are float64, times are in nanoseconds)
    words 8 … 28    how many batches took how long, by ``BATCH_BOUNDS_S``
    word 29         entries ever written to the ring
    word 30         infos that were left out
    words 32 …      ring of the last episodes: moment, return, length (float64 each)

A worker writes them once it has told that its batch is finished: to count delays nobody. So for some microseconds a
reader may see the figures of the batch before. Every word is whole; two words may be of neighbouring moments.
"""

from __future__ import annotations

from bisect import bisect_left
from math import isfinite
from typing import Any, Final

import numpy as np

from vecserver.wire.figures import BATCH_BOUNDS_S

__all__ = ["TALLY_SIZE", "Tally"]

_ENTRIES: Final = 64
"""Episodes that the ring holds: enough to draw, and read at a glance."""

_BUSY, _BATCHES, _COUNT, _LEFT_OUT, _STEPS, _GAINED, _LOST, _LATENCY, _BUCKETS = range(9)
_WRITTEN: Final = 29
assert _BUCKETS + len(BATCH_BOUNDS_S) + 1 == _WRITTEN
_DROPPED: Final = 30
_RING: Final = 32
_RING_END: Final = _RING + 3 * _ENTRIES

TALLY_SIZE: Final = 8 * _RING_END
"""Bytes of a tally: a multiple of 64."""

_BOUNDS_NS: Final = [round(bound * 1e9) for bound in BATCH_BOUNDS_S]

_LARGEST_RETURN: Final = 1e15
"""A return beyond it is left out of the sums: a float64 that has taken it knows nothing of ordinary ones any more."""

_LONGEST_NS: Final = 10**15
"""A batch that seems to take longer was stamped by a driver with another clock."""


class Tally:
    """One worker's figures. Its worker writes them and keeps the sums in hand; others make a Tally to read.

    Args:
        memory: ``TALLY_SIZE`` bytes; may hold figures already, which are gone on from.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._words = memory.cast("Q")
        self._numbers = memory.cast("d")
        self._load()

    def _load(self) -> None:
        words = self._words
        self._busy_ns, self._batches, self._latency_ns = words[_BUSY], words[_BATCHES], words[_LATENCY]
        self._count, self._left_out, self._steps, self._gained, self._lost = self.sums
        self._written = words[_WRITTEN]

    def worked(self, ns: int) -> None:
        """Count a batch that this worker was busy with for so many nanoseconds."""
        words = self._words
        self._busy_ns = words[_BUSY] = self._busy_ns + ns
        self._batches = words[_BATCHES] = self._batches + 1

    def ended_batch(self, since_ns: int, now_ns: int) -> None:
        """Count a batch that this worker was the last to finish.

        Args:
            since_ns: When it was ordered, as the driver says.
            now_ns: When it was finished.
        """
        words, took = self._words, now_ns - since_ns
        if not 0 <= took <= _LONGEST_NS:
            took = 0
        words[_BUCKETS + bisect_left(_BOUNDS_NS, took)] += 1
        self._latency_ns = words[_LATENCY] = self._latency_ns + took

    def ended_episode(self, at: float, gained: float, length: int) -> None:
        """Count an episode.

        Args:
            at: Now, as ``time.perf_counter`` says.
            gained: Its return, which may be any float.
            length: Its steps.
        """
        words, numbers, written = self._words, self._numbers, self._written
        if 0.0 <= gained <= _LARGEST_RETURN:
            self._gained = numbers[_GAINED] = self._gained + gained
        elif -_LARGEST_RETURN <= gained < 0.0:
            self._lost = numbers[_LOST] = self._lost - gained
        else:
            self._left_out = words[_LEFT_OUT] = self._left_out + 1
            self._count -= 1
            self._steps -= length
        self._count = words[_COUNT] = self._count + 1
        self._steps = words[_STEPS] = self._steps + length
        entry = _RING + 3 * (written % _ENTRIES)
        numbers[entry] = at
        numbers[entry + 1] = gained
        numbers[entry + 2] = length
        self._written = words[_WRITTEN] = written + 1

    def dropped_infos(self, count: int) -> None:
        """Count values of infos that were left out, for their size or because they cannot travel."""
        self._words[_DROPPED] += count

    def go_on_from(self, other: Tally) -> None:
        """Take over the figures that this worker has in another arena."""
        self._memory[:] = other._memory
        self._load()

    @property
    def busy_s(self) -> float:
        """Seconds in which batches were stepped."""
        return self._words[_BUSY] / 1e9

    @property
    def batches(self) -> int:
        """Batches that were stepped."""
        return self._words[_BATCHES]

    @property
    def infos_dropped(self) -> int:
        """Values of infos that were left out."""
        return self._words[_DROPPED]

    @property
    def latency_counts(self) -> list[int]:
        """How many batches that this worker was the last to finish took how long, by ``BATCH_BOUNDS_S``."""
        return self._words[_BUCKETS:_WRITTEN].tolist()

    @property
    def latency_s(self) -> float:
        """Seconds of these batches together."""
        return self._words[_LATENCY] / 1e9

    @property
    def sums(self) -> tuple[int, int, int, float, float]:
        """Episodes in the sums, episodes left out, their steps, returns gained, returns lost."""
        words, numbers = self._words, self._numbers
        return words[_COUNT], words[_LEFT_OUT], words[_STEPS], numbers[_GAINED], numbers[_LOST]

    def recent(self) -> list[tuple[float, float | None, int]]:
        """The last episodes in any order: moment, return or None where it was no finite number, length."""
        filled = min(self._words[_WRITTEN], _ENTRIES)
        ring: np.ndarray[Any, Any] = np.frombuffer(self._memory, np.float64)[_RING:].reshape(_ENTRIES, 3)[:filled]
        return [(at, gained if isfinite(gained) else None, int(length)) for at, gained, length in ring.tolist()]
