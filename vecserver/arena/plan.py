"""Where everything lies in an arena: sizes and offsets, computed before any memory exists.

::

    page 0        magic · version · layout hash · workers · slots
    worker ×W     two 64-byte lines: what the driver writes, what the worker writes
    tally ×W      what the worker has counted, see ``tally``
    codes         the dtype code of each action leaf
    actions       the action area of ``wire.actions``
    slot ×K       one slot of ``wire.layout`` each, page-aligned
    side ×W       payloads too varied for a slot: infos, faults, results of calls
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vecserver.arena.tally import TALLY_SIZE

if TYPE_CHECKING:
    from vecserver.wire.actions import ActionFormat
    from vecserver.wire.layout import Layout

__all__ = ["SLOTS", "ArenaPlan", "even_shards"]

SLOTS: Final = 3
"""A reply may be on its way while the next batch is written; a third keeps the one before it readable."""

_PAGE: Final = 4096
_LINE: Final = 64
_SIDE_BASE: Final = 64 << 10
_SIDE_PER_ROW: Final = 1 << 10
"""Room for typical infos: untouched pages of a memfd cost nothing; what does not fit goes over the worker's socket."""


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def even_shards(num_envs: int, workers: int) -> tuple[tuple[int, int], ...]:
    """Split rows into contiguous shards whose sizes differ by one at most: ``(first, end)`` a worker."""
    return tuple((num_envs * i // workers, num_envs * (i + 1) // workers) for i in range(workers))


@dataclass(frozen=True, slots=True)
class ArenaPlan:
    """Offsets and sizes in bytes of one arena's parts.

    Attributes:
        shards: ``(first row, end row)`` of each worker.
        side_sizes: Size of each worker's side area.
        size: The whole arena.
    """

    shards: tuple[tuple[int, int], ...]
    lines: int
    tallies: int
    codes: int
    code_count: int
    actions: int
    actions_size: int
    slots: int
    slot_count: int
    slot_stride: int
    sides: tuple[int, ...]
    side_sizes: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, layout: Layout, actions: ActionFormat, shards: tuple[tuple[int, int], ...]) -> ArenaPlan:
        """Plan the arena of a pool.

        Args:
            layout: The slot's layout.
            actions: The action format; its rows are the layout's.
            shards: ``(first row, end row)`` of each worker, together all rows.
        """
        row_bytes = layout.slot_size // layout.num_envs
        lines = _PAGE
        tallies = lines + 2 * _LINE * len(shards)
        codes = tallies + TALLY_SIZE * len(shards)
        actions_at = _round_up(codes + actions.leaf_count, _LINE)
        slots = _round_up(actions_at + actions.area_size, _PAGE)
        stride = _round_up(layout.slot_size, _PAGE)
        offset = slots + SLOTS * stride
        sides, side_sizes = [], []
        for first, end in shards:
            # a finished row's last observation travels here too
            size = _round_up(_SIDE_BASE + (end - first) * (_SIDE_PER_ROW + row_bytes), _PAGE)
            sides.append(offset)
            side_sizes.append(size)
            offset += size
        return cls(
            shards=shards,
            lines=lines,
            tallies=tallies,
            codes=codes,
            code_count=actions.leaf_count,
            actions=actions_at,
            actions_size=actions.area_size,
            slots=slots,
            slot_count=SLOTS,
            slot_stride=stride,
            sides=tuple(sides),
            side_sizes=tuple(side_sizes),
            size=offset,
        )

    def driver_line(self, worker: int) -> int:
        """Offset of the line that the driver writes for one worker."""
        return self.lines + 2 * _LINE * worker

    def worker_line(self, worker: int) -> int:
        """Offset of the line that this worker writes."""
        return self.lines + 2 * _LINE * worker + _LINE
