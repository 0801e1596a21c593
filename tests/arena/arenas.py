"""Arenas of any shape in this process, over a real sealed memory."""

from __future__ import annotations

import mmap
import os

from gymnasium import spaces

from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.plan import ArenaPlan, even_shards
from vecserver.arena.views import ArenaViews
from vecserver.wire.actions import ActionFormat
from vecserver.wire.layout import Layout


class Arena:
    """One arena; ``memory`` is its mapping, to be compared byte by byte."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, shards) -> None:
        self.layout = Layout.of(observation_space, shards[-1][1])
        self.actions = ActionFormat(action_space, shards[-1][1])
        self.plan = ArenaPlan.of(self.layout, self.actions, shards)
        self.fd = create("vecserver-test")
        size_and_seal(self.fd, self.plan.size)
        self.memory: mmap.mmap = map_memory(self.fd, self.plan.size)
        self.views = ArenaViews(self.plan, self.layout, self.memory)
        self.views.stamp(self.layout.hash)

    @classmethod
    def small(cls, num_envs: int = 4, workers: int = 2) -> Arena:
        """Rows of three numbers, with two actions to choose from."""
        return cls(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), even_shards(num_envs, workers))

    def close(self) -> None:
        os.close(self.fd)
        # A mapping keeps a descriptor of its own until the last view of it is gone, and pytest keeps this object
        vars(self).clear()
