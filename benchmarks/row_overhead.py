"""What a row costs in the worker's loop beyond its environment: engine and bare calls, in turns in one process."""

from __future__ import annotations

import gc
import os
import statistics
from contextlib import ExitStack
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.plan import ArenaPlan
from vecserver.arena.views import ArenaViews
from vecserver.engine.base import ResetCommand, Shard
from vecserver.engine.envs import EnvsEngine
from vecserver.wire.actions import ActionFormat
from vecserver.wire.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Arena", "row_overhead_us"]


class Arena:
    """The arena of one worker, without the worker."""

    def __init__(self, env: gymnasium.Env[Any, Any], rows: int) -> None:
        self.layout = Layout.of(env.observation_space, rows)
        self.actions = ActionFormat(env.action_space, rows)
        plan = ArenaPlan.of(self.layout, self.actions, ((0, rows),))
        self.fd = create("benchmark")
        size_and_seal(self.fd, plan.size)
        self.views = ArenaViews(plan, self.layout, map_memory(self.fd, plan.size))
        self.shard = Shard(
            0,
            rows,
            self.views.slots,
            self.actions,
            self.views.actions,
            self.views.codes,
            self.views.worker_lines[0],
            self.views.tallies[0],
        )


def row_overhead_us(env_id: str = "CartPole-v1", rows: int = 32, batches: int = 2000) -> float:
    """Microseconds a row: the median of the differences between neighbours.

    Both sides step the same environments from the same seeds with the same actions, and reset a row in the step after
    its end, so that what is left is the engine's own: its actions, its writes, its loop.

    Args:
        env_id: A registered id.
        rows: Of a shard: as many as a worker of two has of 64.
        batches: Of either side.
    """
    with ExitStack() as stack:
        envs = [gymnasium.make(env_id) for _ in range(rows)]
        for env in envs:
            stack.callback(env.close)
        arena = Arena(envs[0], rows)
        stack.callback(os.close, arena.fd)
        engine = EnvsEngine(lambda _row: gymnasium.make(env_id), (0, rows), "NextStep")
        stack.callback(engine.close)
        engine.bind(arena.shard)
        engine.reset(0, ResetCommand([*range(rows)], None, None))
        for row, env in enumerate(envs):
            env.reset(seed=row)
        bare = _BareCalls(envs)
        space = batch_space(envs[0].action_space, rows)
        space.seed(1)
        drawn = [space.sample() for _ in range(128)]
        gc.collect()
        gc.freeze()  # as workers do
        stack.callback(gc.unfreeze)
        differences = []
        for number in range(batches):
            actions = drawn[number % len(drawn)]
            arena.actions.store(arena.actions.coerce(actions), arena.views.actions, arena.views.codes)
            taken = list(actions)
            began = perf_counter_ns()
            engine.step(number % 3)
            between = perf_counter_ns()
            bare(taken)
            differences.append((between - began) - (perf_counter_ns() - between))
            engine.settle()  # as a worker does when nobody waits for it
        assert np.array_equal(bare.over, engine._done), "the two sides went different ways"  # noqa: SLF001
        return statistics.median(differences) / rows / 1e3


class _BareCalls:
    """The environments' own calls and nothing else."""

    def __init__(self, envs: list[gymnasium.Env[Any, Any]]) -> None:
        self._calls: list[tuple[Callable[..., Any], Callable[..., Any]]] = [(env.step, env.reset) for env in envs]
        self.over = [False] * len(envs)

    def __call__(self, actions: list[Any]) -> None:
        over = self.over
        for row, (step, reset) in enumerate(self._calls):
            if over[row]:
                reset()
                over[row] = False
            else:
                _, _, terminated, truncated, _ = step(actions[row])
                over[row] = terminated or truncated
