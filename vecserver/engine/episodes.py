"""Statistics of episodes, kept where rows are stepped: what ``RecordEpisodeStatistics`` around them would report.

They are kept in every pool, for its figures, and sent to the driver that asked for them. Where it did not, they are
worked out when the step's end has been told: nobody waits for them.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vecserver.arena.tally import Tally
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
        self._first = first  # number of the shard's first row in the arena: reports name rows by it
        self._size = end - first
        self._same_step = autoreset_mode == "SameStep"
        self._returns = np.zeros(self._size)
        self._steps = 0  # of the shard
        self._before = [0] * self._size  # what they were before each row's episode
        self._starts = [perf_counter()] * self._size
        over = [] if lost is None else lost.over
        self._over = [row for row, is_over in enumerate(over) if is_over]  # rows whose next step resets, uncounted
        under_way = lost is not None and lost.under_way
        self._unknown = {row for row, is_over in enumerate(over) if under_way and not is_over}
        """Rows whose episode began with another worker."""
        self._noted: tuple[np.ndarray[Any, Any], list[int], Sequence[int]] | None = None

    def bind(self, first: int, tally: Tally) -> None:
        """Go on in an arena where the shard begins with another row; its episodes are counted in ``tally``."""
        self._first, self._tally = first, tally

    def restart(self, mask: Sequence[bool] | None) -> None:
        """Rows were reset; None for all."""
        self.settle()
        reset = range(self._size) if mask is None else [row for row, chosen in enumerate(mask) if chosen]
        self._begin(reset)
        self._over = [row for row in self._over if row not in reset]

    def go_on(self, row: int, gained: float, length: int, began: float, *, is_over: bool) -> None:
        """Take up a row's episode as it was with another worker.

        Args:
            row: Of the shard.
            gained: Its return so far.
            length: Its steps so far.
            began: When it began.
            is_over: Whether it has ended, and was counted.
        """
        self._returns[row], self._before[row], self._starts[row] = gained, self._steps - length, began
        self._unknown.discard(row)
        self._over = [each for each in self._over if each != row] + [row] * is_over

    def _begin(self, rows: Iterable[int]) -> None:
        now, steps, before, starts, returns = perf_counter(), self._steps, self._before, self._starts, self._returns
        for row in rows:
            returns[row] = 0.0
            before[row] = steps
            starts[row] = now
        if self._unknown:
            self._unknown.difference_update(rows)

    def step(
        self, rewards: np.ndarray[Any, Any], ended: list[int], faulty: Sequence[int] = (), *, report: bool = False
    ) -> dict[str, list[Any]] | None:
        """Take note of a step.

        Args:
            rewards: Of every row of the shard, 0.0 where a row raised; they stay as they are until it is settled.
            ended: Rows of the shard whose episode ended.
            faulty: Rows of the shard that raised; their episodes stay as they are.
            report: Whether the episodes that ended are reported; it is settled at once then.

        Returns:
            Lists ``rows``, ``r``, ``l`` and ``t`` of the episodes that ended; None where none did, or no report is due.
        """
        if self._noted is not None:
            self.settle()
        self._noted = (rewards, ended, faulty)
        return self.settle(report=True) if report else None

    def settle(self, *, report: bool = False) -> dict[str, list[Any]] | None:
        """Count the step that was noted last, if that has not been done; returns its report, where one is due."""
        if self._noted is None:
            return None
        (rewards, ended, faulty), self._noted = self._noted, None
        try:  # noqa: SIM105 - a context manager costs more than the addition
            self._returns += rewards
        except (RuntimeWarning, FloatingPointError):
            pass  # infinity less infinity where the environment made numpy strict: the sums are written all the same
        self._steps += 1
        for row in faulty:
            self._before[row] += 1
        over = self._over
        if over:
            self._begin([row for row in over if row not in faulty] if faulty else over)
            self._over = [row for row in over if row in faulty] if faulty else []
        if not ended:
            return None
        known = [row for row in ended if row not in self._unknown] if self._unknown else ended
        found = self._report(known) if report and known else None
        self._count(known)
        if self._same_step:
            self._begin(ended)
        else:
            self._over += ended
        return found

    def _report(self, ended: list[int]) -> dict[str, list[Any]]:
        times = np.round(perf_counter() - np.array([self._starts[row] for row in ended]), _DECIMALS)
        return {
            "rows": [self._first + row for row in ended],
            "r": self._returns[ended].tolist(),
            "l": [self._steps - self._before[row] for row in ended],
            "t": times.tolist(),
        }

    def _count(self, ended: list[int]) -> None:
        now, steps, before, returns = perf_counter(), self._steps, self._before, self._returns
        ended_episode = self._tally.ended_episode
        for row in ended:
            length = steps - before[row]
            if length:  # else it had ended before, and was stepped on without a reset: mode Disabled
                ended_episode(now, returns.item(row), length)
