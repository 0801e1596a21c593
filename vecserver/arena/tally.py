"""What one worker has counted: a block of the arena that it alone writes, and everybody who maps the arena can read.

::

    words 0 … 7     busy · batches · episodes in the sums · left out · steps · gained · lost · latency
                    (the last three float64)
    words 8 … 28    how many batches took how long, by ``BATCH_BOUNDS_S``
    word 29         entries ever written to the ring
    words 32 …      ring of the last episodes: moment, return, length (float64 each)

A reader sees every word whole, and words of neighbouring moments beside each other.
"""

from __future__ import annotations

from bisect import bisect_left
from math import isfinite
from struct import Struct
from typing import Any, Final

import numpy as np

from vecserver.wire.figures import BATCH_BOUNDS_S

__all__ = ["TALLY_SIZE", "Tally"]

_SUMS: Final = Struct("=QQQdd")
_ENTRY: Final = Struct("=ddd")
_ENTRIES: Final = 64
"""Episodes that the ring holds: enough to draw, and read at a glance."""

_BUSY, _BATCHES, _EPISODES, _LATENCY, _COUNTS = 0, 1, 2, 7, 8
_WRITTEN: Final = 29
_RING: Final = 32
_BUCKETS: Final = len(BATCH_BOUNDS_S) + 1
assert _COUNTS + _BUCKETS == _WRITTEN

TALLY_SIZE: Final = 8 * _RING + _ENTRY.size * _ENTRIES
"""Bytes of a tally: a multiple of 64."""

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
        self._busy_ns, self._batches = self._words[_BUSY], self._words[_BATCHES]
        self._count, self._left_out, self._steps, self._gained, self._lost = _SUMS.unpack_from(
            self._memory, 8 * _EPISODES
        )
        self._written = self._words[_WRITTEN]

    def worked(self, ns: int) -> None:
        """Count a batch that this worker was busy with for so many nanoseconds."""
        self._busy_ns += ns
        self._batches += 1
        self._words[_BUSY] = self._busy_ns
        self._words[_BATCHES] = self._batches

    def ended_batch(self, since_ns: int, now_ns: int) -> None:
        """Count a batch that this worker was the last to finish.

        Args:
            since_ns: When it was ordered, as the driver says.
            now_ns: When it was finished.
        """
        took = min(max(now_ns - since_ns, 0), _LONGEST_NS) / 1e9
        self._words[_COUNTS + bisect_left(BATCH_BOUNDS_S, took)] += 1
        self._numbers[_LATENCY] += took

    def ended_episode(self, at: float, gained: float, length: int) -> None:
        """Count an episode.

        Args:
            at: Now, as ``time.perf_counter`` says.
            gained: Its return, which may be any float.
            length: Its steps.
        """
        if -_LARGEST_RETURN <= gained <= _LARGEST_RETURN:
            self._count += 1
            self._steps += length
            if gained > 0:
                self._gained += gained
            else:
                self._lost -= gained
        else:
            self._left_out += 1
        _SUMS.pack_into(self._memory, 8 * _EPISODES, self._count, self._left_out, self._steps, self._gained, self._lost)
        entry = 8 * _RING + _ENTRY.size * (self._written % _ENTRIES)
        _ENTRY.pack_into(self._memory, entry, at, gained, length)
        self._written += 1
        self._words[_WRITTEN] = self._written

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
    def latency_counts(self) -> list[int]:
        """How many batches that this worker was the last to finish took how long, by ``BATCH_BOUNDS_S``."""
        return self._words[_COUNTS : _COUNTS + _BUCKETS].tolist()

    @property
    def latency_s(self) -> float:
        """Seconds of these batches together."""
        return self._numbers[_LATENCY]

    @property
    def sums(self) -> tuple[int, int, int, float, float]:
        """Episodes in the sums, episodes left out, steps, returns gained, returns lost."""
        count, left_out, steps, gained, lost = _SUMS.unpack_from(self._memory, 8 * _EPISODES)
        return count, left_out, steps, gained, lost

    def recent(self) -> list[tuple[float, float | None, int]]:
        """The last episodes in any order: moment, return or None where it was no finite number, length."""
        filled = min(self._words[_WRITTEN], _ENTRIES)
        ring: np.ndarray[Any, Any] = np.frombuffer(self._memory, np.float64)[_RING:].reshape(_ENTRIES, 3)[:filled]
        return [(at, gained if isfinite(gained) else None, int(length)) for at, gained, length in ring.tolist()]
