"""A pool that replays beside Gymnasium's own vector environment: nothing that becomes of its workers may show."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from tests.clients.surviving import waste
from tests.contract.compare import assert_same, assert_same_batch
from tests.contract.vector_contract import make_oracle
from tests.replay_environments import replayed

DRAWN = replayed("Drawn-v0")
ROWS = 6


class Twins:
    """A pool beside Gymnasium's vector environment, compared to the bit in everything that is done.

    Args:
        envs: The pool.
        name: Of the environment.
        seed: Of the first reset.
        **kwargs: Of the environment.
    """

    def __init__(self, envs: VectorEnv, name: str = DRAWN, seed: int = 50, **kwargs: Any) -> None:
        self.envs, self.mode = envs, envs.metadata["autoreset_mode"]
        self.oracle = make_oracle(name, ROWS, autoreset_mode=self.mode, **kwargs)
        self.number, self.over = 0, np.zeros(ROWS, np.bool_)
        self.oracle.action_space.seed(seed)
        self.reset(seed=seed)

    def close(self) -> None:
        """Close the oracle."""
        self.oracle.close()

    def reset(self, **given: Any) -> None:
        """Reset both."""
        assert_same(self.envs.reset(**given), self.oracle.reset(**given), f"reset before step {self.number}")

    def step(self, actions: Any = None, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Step both, and reset what is over by mask where nobody else does."""
        actions = self.oracle.action_space.sample() if actions is None else actions
        self.number += 1
        self.envs.step_async(actions)
        meanwhile()
        batch = self.envs.step_wait()
        expected = self.oracle.step(actions)
        assert_same_batch(batch, expected, f"step {self.number}")
        over = expected[2] | expected[3]
        if self.mode is AutoresetMode.DISABLED and over.any():
            self.reset(options={"reset_mask": over})
        return batch


def outlive(twins: Twins, kills: int, kill: Callable[[VectorEnv, int], None]) -> list[float]:
    """Kills workers at random moments of random steps, of which nothing may show; returns what these steps took."""
    rng = np.random.default_rng(kills)
    times = []
    for _ in range(kills):
        for _ in range(int(rng.integers(0, 12))):
            twins.step()
        worker, moment = int(rng.integers(3)), int(rng.integers(3))

        def strike(worker: int = worker, moment: int = moment) -> None:
            if moment == 1:
                waste(rng)
            kill(twins.envs, worker)

        began = monotonic()
        if moment == 0:
            kill(twins.envs, worker)
        twins.step(meanwhile=strike if moment else lambda: None)
        twins.step()  # it may have done the one before
        times.append(monotonic() - began)
    for _ in range(12):
        twins.step()
    return times
