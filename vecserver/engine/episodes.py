"""Statistics of episodes, kept where rows are stepped: what ``RecordEpisodeStatistics`` around them would report."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.engine.channel import Lost

__all__ = ["EpisodeStatistics"]

_DECIMALS = 6
"""Of the elapsed time in seconds, as Gymnasium's wrapper rounds it."""


class EpisodeStatistics:
    """The return, length and time of each row's episode, with the arithmetic of Gymnasium's vector wrapper.

    One thing is different: a reset by mask starts the masked rows anew and no others. Gymnasium's wrapper looks for the
    mask in options from which the vector environment below it has removed it, and forgets every row.

    Args:
        first: The shard's first row.
        end: One past its last row.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``.
        lost: What became of the rows, where others had them before: what is not known of an episode is not reported.
    """

    def __init__(self, first: int, end: int, autoreset_mode: str, lost: Lost | None = None) -> None:
        self.first = first
        """Number of the shard's first row in the arena: reports name rows by it."""
        self._size = end - first
        self._same_step = autoreset_mode == "SameStep"
        self._returns = np.zeros(self._size)
        self._lengths = np.zeros(self._size, np.int64)
        self._starts = np.full(self._size, perf_counter())
        over = [] if lost is None else lost.over
        self._over = [row for row, is_over in enumerate(over) if is_over]  # rows whose next step resets, uncounted
        under_way = lost is not None and lost.under_way
        self._unknown = {row for row, is_over in enumerate(over) if under_way and not is_over}
        """Rows whose episode began with another worker."""

    def restart(self, mask: Sequence[bool] | None) -> None:
        """Rows were reset; None for all."""
        reset = range(self._size) if mask is None else [row for row, chosen in enumerate(mask) if chosen]
        self._begin(list(reset))
        self._over = [row for row in self._over if row not in reset]

    def _begin(self, rows: list[int]) -> None:
        self._returns[rows] = 0.0
        self._lengths[rows] = 0
        self._unknown.difference_update(rows)
        self._starts[rows] = perf_counter()

    def step(
        self, rewards: np.ndarray[Any, Any], ended: list[int], faulty: Sequence[int] = ()
    ) -> dict[str, list[Any]] | None:
        """Count a step.

        Args:
            rewards: Of every row of the shard; 0.0 where a row raised.
            ended: Rows of the shard whose episode ended.
            faulty: Rows of the shard that raised; their episodes stay as they are.

        Returns:
            Lists ``rows``, ``r``, ``l`` and ``t`` of the episodes that ended; None where none did.
        """
        self._returns += rewards
        self._lengths += 1
        for row in faulty:
            self._lengths[row] -= 1
        if self._over:
            self._begin([row for row in self._over if row not in faulty])
            self._over = [row for row in self._over if row in faulty]
        if not ended:
            return None
        known = [row for row in ended if row not in self._unknown]
        times = np.round(perf_counter() - self._starts[known], _DECIMALS)
        report = {
            "rows": [self.first + row for row in known],
            "r": self._returns[known].tolist(),
            "l": self._lengths[known].tolist(),
            "t": times.tolist(),
        }
        if self._same_step:
            self._begin(ended)
        else:
            self._over += ended
        return report if known else None
