"""``Count`` as trainers take environments: with observations that are no nested dicts or tuples, or with statistics."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tests.environments import CountEnv


class FlatDictEnv(CountEnv):
    """A vector, an image and a number under their names; counts how often it was asked for a goal."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = 0
        self.observation_space = spaces.Dict(
            vector=spaces.Box(-np.inf, np.inf, (6,), np.float64),
            image=spaces.Box(0, 255, (2, 2, 3), np.uint8),
            number=spaces.Discrete(11),
        )

    def observe(self) -> Any:
        image = np.full((2, 2, 3), (self.identity * 16 + self.steps) % 256, np.uint8)
        return {"vector": super().observe(), "image": image, "number": np.int64(self.hash % 11)}

    def goal(self, factor: int = 1, *, plus: int = 0) -> int:
        """A number of this row, and one more call of it."""
        self.asked += 1
        return self.identity * factor + plus


class FlatTupleEnv(FlatDictEnv):
    """The same as a tuple."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observation_space = spaces.Tuple(tuple(self.observation_space.spaces.values()))

    def observe(self) -> Any:
        return tuple(super().observe().values())


def recorded(**kwargs: Any) -> gym.Env:
    """``Count`` with statistics of its episodes, as CleanRL's ``make_env`` makes environments."""
    return gym.wrappers.RecordEpisodeStatistics(CountEnv(**kwargs))


for _name, _make in (("FlatDict", FlatDictEnv), ("FlatTuple", FlatTupleEnv), ("Recorded", recorded)):
    if f"vectest/{_name}-v0" not in gym.registry:
        gym.register(f"vectest/{_name}-v0", _make, disable_env_checker=True)
