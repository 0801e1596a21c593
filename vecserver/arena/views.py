"""The arena as objects: words, slots and side areas over one mapped memory. Views are built once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vecserver.arena.tally import TALLY_SIZE, Tally

if TYPE_CHECKING:
    import mmap

    from vecserver.arena.plan import ArenaPlan
    from vecserver.wire.layout import Layout, SlotViews

__all__ = ["MESSAGE", "RECALLS", "STEP", "WANTED", "ArenaViews", "DriverLine", "Status", "WorkerLine"]

_MAGIC: Final = 0x414E455241534556  # b"VESARENA", little-endian
_VERSION: Final = 1
_LINE_WORDS: Final = 8

STEP: Final = 1
"""Opcode: step the shard with the actions in the arena."""
MESSAGE: Final = 2
"""Opcode: read a message from the worker's socket and do what it says."""

WANTED: Final = 5
"""Word of the head, behind the identity: whether the host waits for its turn while the arena is lent."""

RECALLS: Final = 6
"""Word of the head: how often the arena was had back from a driver in another process."""


class Status:
    """How a worker finished a command."""

    OK: Final = 0
    FAULT: Final = 1
    """The side area holds faults instead of infos."""


class DriverLine:
    """The line that the driver writes for one worker: eight 64-bit words."""

    SEQ: Final = 0
    OPCODE: Final = 1
    SLOT: Final = 2
    SINCE: Final = 3
    """When a step was ordered, by the monotonic clock in nanoseconds; 0 for another command."""


class WorkerLine:
    """The line that one worker writes: eight 64-bit words."""

    DONE: Final = 0
    STATUS: Final = 1
    SIDE_LENGTH: Final = 2
    """Bytes of the payload; one longer than the side area comes over the worker's socket; a borrower fetches it."""
    ROW: Final = 3
    """The row being stepped now, for reports of a slow batch."""
    STEPS: Final = 4
    """Environment steps since the worker started, autoreset steps left out."""
    EPISODES: Final = 5
    """Episodes that ended since the worker started."""
    LENT_DONE: Final = 6
    """As DONE, for the commands of a driver in another process; 0 when it gets the arena."""
    SLOT: Final = 7
    """The slot that this worker wrote last."""


class ArenaViews:
    """Every part of one arena, mapped.

    Args:
        plan: Where the parts lie.
        layout: What a slot holds.
        memory: The mapped memory; it must outlive the views.
    """

    def __init__(self, plan: ArenaPlan, layout: Layout, memory: mmap.mmap) -> None:
        self.plan = plan
        self._memory = memory
        self._all = memoryview(memory)
        self.head = self._words(0, 8)
        self.driver_lines = [self._words(plan.driver_line(i), _LINE_WORDS) for i in range(len(plan.shards))]
        self.worker_lines = [self._words(plan.worker_line(i), _LINE_WORDS) for i in range(len(plan.shards))]
        self.tallies = [
            Tally(self._all[at : at + TALLY_SIZE])
            for at in range(plan.tallies, plan.tallies + TALLY_SIZE * len(plan.shards), TALLY_SIZE)
        ]
        self.codes = self._all[plan.codes : plan.codes + plan.code_count]
        self.actions = self._all[plan.actions : plan.actions + plan.actions_size]
        bases = [plan.slots + i * plan.slot_stride for i in range(plan.slot_count)]
        self.slots: list[SlotViews] = [layout.views(memory, base) for base in bases]
        self.slot_bytes = [self._all[base : base + layout.slot_size] for base in bases]
        self.sides = [self._all[at : at + size] for at, size in zip(plan.sides, plan.side_sizes, strict=True)]

    def _words(self, offset: int, count: int) -> memoryview:
        return self._all[offset : offset + 8 * count].cast("Q")

    def stamp(self, layout_hash: int) -> None:
        """Write what identifies the arena into page 0."""
        identity: list[Any] = [_MAGIC, _VERSION, layout_hash, len(self.plan.shards), self.plan.slot_count]
        for i, value in enumerate(identity):
            self.head[i] = value

    def verify(self, layout_hash: int) -> None:
        """Check that the memory is the arena that was planned.

        Raises:
            ValueError: It is another one, or was planned from another layout.
        """
        if list(self.head[:3]) != [_MAGIC, _VERSION, layout_hash]:
            raise ValueError("the mapped memory is not the arena of this layout")
