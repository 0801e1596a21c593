"""Where a worker stands: its part of an arena, and who gives it commands there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vecserver.arena.memory import map_memory
from vecserver.arena.plan import ArenaPlan
from vecserver.arena.views import ArenaViews, WorkerLine
from vecserver.engine.base import Shard
from vecserver.wire.actions import ActionFormat
from vecserver.wire.frames import MAX_EXT
from vecserver.wire.layout import Layout

if TYPE_CHECKING:
    from vecserver.arena.doorbell import FinishLine
    from vecserver.engine.base import ActionArea, EngineInfo

__all__ = ["Driver", "Place"]


class Driver:
    """One who gives this worker commands: a host, or a driver in another process.

    Args:
        line: Where its commands are.
        area: Where its actions are.
        finish: Where they are finished.
        done_word: The word of the worker's line that follows its commands.
        words: The worker's line in the driver's arena.
        side: The worker's side area there.
    """

    __slots__ = ("area", "done_word", "finish", "kept", "line", "seen", "side", "words")

    def __init__(
        self,
        line: memoryview,
        area: ActionArea,
        finish: FinishLine,
        done_word: int,
        words: memoryview,
        side: memoryview,
    ) -> None:
        self.line = line
        self.area = area
        self.finish = finish
        self.done_word = done_word
        self.words = words
        self.side = side
        self.seen = 0
        self.kept = b""


class Place:
    """This worker's part of an arena: the pool's own, or that of a part of a pool that is split.

    Args:
        spaces: Of the environments: a row's observations and actions.
        shards: The rows of every worker of the arena.
        index: Which of them is this one.
        layout_hash: Of the arena's slots.
        memory_fd: The arena's memory.
        finish: Its finish line.
        bounded: Whether all workers' infos have to fit into a message together.
    """

    def __init__(
        self,
        spaces: EngineInfo,
        shards: tuple[tuple[int, int], ...],
        index: int,
        layout_hash: int,
        memory_fd: int,
        finish: FinishLine,
        *,
        bounded: bool,
    ) -> None:
        rows = shards[-1][1]
        layout = Layout.of(spaces.observation_space, rows)
        self.actions = ActionFormat(spaces.action_space, rows)
        plan = ArenaPlan.of(layout, self.actions, shards)
        views = ArenaViews(plan, layout, map_memory(memory_fd, plan.size))
        views.verify(layout_hash)
        self.index, self.workers = index, len(shards)
        self.line = views.worker_lines[index]
        self.side = views.sides[index]
        self.tally = views.tallies[index]
        first, end = shards[index]
        self.rows = slice(first, end)
        share = MAX_EXT / 2 / len(shards) if bounded else math.inf  # the other half is for observations in it
        self.shard = Shard(
            first, end, views.slots, self.actions, views.actions, views.codes, self.line, self.tally, share
        )
        self.host = self.driver(views.driver_lines[index], self.shard.area, finish, WorkerLine.DONE)

    def driver(self, line: memoryview, area: ActionArea, finish: FinishLine, done_word: int) -> Driver:
        """One who gives commands in this arena."""
        return Driver(line, area, finish, done_word, self.line, self.side)

    def take_over(self, other: Place) -> int:
        """Show in the last slot here what the other arena's last slot shows; returns the slot."""
        slot = self.line[WorkerLine.SLOT]
        mine, last = self.shard.slots[slot], other.shard.slots[other.line[WorkerLine.SLOT]]
        for leaf, shown in zip((*mine.observations, *mine[1:]), (*last.observations, *last[1:]), strict=True):
            leaf[...] = shown
        for counter in (WorkerLine.STEPS, WorkerLine.EPISODES):
            self.line[counter] = other.line[counter]
        self.tally.go_on_from(other.tally)
        return slot
