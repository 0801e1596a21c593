"""Figures of a pool that are more than one number: a histogram of its batches, and its episodes.

Both only grow. What happened between two moments is the later one minus the earlier one, figure by figure.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

import msgspec

__all__ = ["BATCH_BOUNDS_S", "EpisodeFigures", "Histogram"]

BATCH_BOUNDS_S: Final = (
    *(2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2),
    *(5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
)
"""Upper bounds in seconds of what batches are sorted into, from the smallest pool to one that waits for a simulator."""


class Histogram(msgspec.Struct, frozen=True):
    """How often something took how long.

    Attributes:
        bounds: Upper bounds in seconds, ascending; a duration that equals one belongs below it.
        counts: Durations up to each bound and beyond the one before; the last is of those beyond all bounds, so there
            is one more than bounds.
        sum: All durations together, in seconds.
    """

    bounds: list[float] = []
    counts: list[int] = []
    sum: float = 0.0

    @property
    def count(self) -> int:
        """How many durations."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The duration in seconds that a share of all does not exceed; None where there is none.

        Args:
            share: From 0 to 1. Within a bucket durations are taken as spread evenly; beyond all bounds the last one
                stands.
        """
        if not self.count:
            return None
        wanted, below = share * self.count, 0
        for bound, reached, count, lower in zip(
            self.bounds, accumulate(self.counts), self.counts, (0.0, *self.bounds), strict=False
        ):
            if count and reached >= wanted:
                return lower + (bound - lower) * max(0.0, wanted - below) / count
            below = reached
        return self.bounds[-1]

    def minus(self, earlier: Histogram) -> Histogram:
        """What came after ``earlier``, a histogram of the same thing; this one where that had more, of another life."""
        counts = [now - then for now, then in zip(self.counts, earlier.counts, strict=False)]
        if self.bounds != earlier.bounds or min(counts, default=0) < 0:
            return self
        return Histogram(self.bounds, counts, max(0.0, self.sum - earlier.sum))


class EpisodeFigures(msgspec.Struct, frozen=True):
    """Episodes that ended by themselves, by their returns and lengths; one that a reset cut short is none of them.

    Returns are kept as two sums that only grow, so that a rate can be taken of each: the mean return is
    ``(gained - lost) / count``.

    Attributes:
        count: Those in the sums.
        left_out: Those that are not, because their return was no finite number, or beyond 1e15.
        gained: Sum of the returns above zero.
        lost: Sum of the returns below zero, without the sign.
        steps: Sum of the lengths, in steps.
        recent: The last ones, oldest first: seconds ago, return, length. A return may be nil: no finite number.
    """

    count: int = 0
    left_out: int = 0
    gained: float = 0.0
    lost: float = 0.0
    steps: int = 0
    recent: list[tuple[float, float | None, int]] = []

    @property
    def mean_return(self) -> float | None:
        """Of all episodes in the sums; None where there is none."""
        return (self.gained - self.lost) / self.count if self.count else None

    @property
    def mean_length(self) -> float | None:
        """Likewise, in steps."""
        return self.steps / self.count if self.count else None
