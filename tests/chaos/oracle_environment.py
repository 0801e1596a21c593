"""A vector environment in which a batch that is lost, doubled, swapped or stale shows, cheap enough for millions of steps.

A process that has not imported it names it ``tests.chaos.oracle_environment:vectest/Oracle-v0``, or ``ORACLE``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

ORACLE = "tests.chaos.oracle_environment:vectest/Oracle-v0"
FIELDS = 4
ROW, EPISODE, STEP, HASH = range(FIELDS)
HASH_RANGE = 2**31


class OracleVectorEnv(VectorEnv):
    """Four int64 a row: the row's seed, the episode, the step in it, a running hash of all the row's actions.

    An episode lasts 3 to 9 steps, depending on row and episode, and ends terminated and truncated in turn; the next
    step of the row begins another. The hash goes on over episodes, so that what went wrong once shows for ever.

    Args:
        num_envs: Rows.
        padding: Further numbers in each observation, all equal to the hash: for messages of a size.
    """

    def __init__(self, num_envs: int, padding: int = 0) -> None:
        self.num_envs, self.render_mode = num_envs, None
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = spaces.Box(-1, HASH_RANGE, (FIELDS + padding,), np.int64)
        self.single_action_space = spaces.Discrete(5)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rows = np.zeros((num_envs, FIELDS), np.int64)
        self._padding = padding
        self._over = np.zeros(num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            seeds = np.asarray(seed if isinstance(seed, list) else range(seed, seed + self.num_envs), np.int64)
            self._rows[:] = 0
            self._rows[:, ROW] = seeds
        else:
            self._rows[:, EPISODE] += 1
            self._rows[:, STEP] = 0
        self._over[:] = False
        return self._observe(), {}

    def step(self, actions: Any) -> Any:
        rows, fresh = self._rows, self._over
        stepped = ~fresh
        rows[fresh, EPISODE] += 1
        rows[fresh, STEP] = 0
        rows[stepped, STEP] += 1
        rows[stepped, HASH] = (rows[stepped, HASH] * 31 + actions[stepped] + 1) % HASH_RANGE
        lengths = 3 + (rows[:, ROW] * 5 + rows[:, EPISODE] * 3) % 7
        self._over = over = stepped & (rows[:, STEP] >= lengths)
        terminated = over & ((rows[:, ROW] + rows[:, EPISODE]) % 2 == 0)
        rewards = np.where(stepped, rows[:, HASH] % 1000 / 8, 0.0)
        return self._observe(), rewards, terminated, over & ~terminated, {}

    def _observe(self) -> np.ndarray:
        if not self._padding:
            return self._rows.copy()
        return np.concatenate([self._rows, np.repeat(self._rows[:, HASH:], self._padding, 1)], 1)


gym.register("vectest/Oracle-v0", vector_entry_point=OracleVectorEnv)
