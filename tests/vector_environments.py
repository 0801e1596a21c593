"""Vector environments of their own, with the oddities that such have; importing the module registers them.

A process that has not imported it names them ``tests.vector_environments:vectest/Tally-v0``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

TALLY = "tests.vector_environments:vectest/Tally-v0"
DEEP_TALLY = "tests.vector_environments:vectest/DeepTally-v0"


class TallyVectorEnv(VectorEnv):
    """Four float32 a row: a random number of its episode, the episode, the step in it, the last action.

    All rows share one generator. Episodes last 2 to 6 steps, and end terminated and truncated in turn.

    Args:
        num_envs: Rows.
        autoreset_mode: Any.
        seeds: ``one`` number, a ``list``, or an ``array`` with a seed for each row that is reset.
        masks: Whether a reset looks at its mask.
        insists: Whether an action outside its space raises even in a row that is reset.
        breaks: At this step it ...
        how: ``raises``, gives wrong ``observations`` or ``rewards``, or four parts (``short``).
        reward_dtype: Of the rewards.
    """

    def __init__(
        self,
        num_envs: int,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        *,
        seeds: str = "one",
        masks: bool = True,
        insists: bool = True,
        breaks: int = 0,
        how: str = "raises",
        reward_dtype: str = "float32",
        render_mode: str | None = None,
    ) -> None:
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {"autoreset_mode": autoreset_mode, "render_modes": ["rgb_array"]}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.single_action_space = spaces.Discrete(5, start=2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._mode, self._seeds, self._masks, self._insists = autoreset_mode, seeds, masks, insists
        self._breaks, self._how, self._reward_dtype = breaks, how, reward_dtype
        self._number = 0
        self._over = np.zeros(num_envs, np.bool_)
        self._rows = np.zeros((num_envs, 4), np.float32)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        mask = (options or {}).get("reset_mask")
        if mask is None or not self._masks:
            mask = np.ones(self.num_envs, np.bool_)
        self._seed(seed, int(mask.sum()))
        if seed is not None:
            self._rows[mask, 1] = 0
        self._begin(mask)
        self._over &= ~mask
        return self._rows.copy(), {"begun": mask.copy()}

    def _seed(self, seed: Any, count: int) -> None:
        if self._seeds == "one" or seed is None or isinstance(seed, int):
            super().reset(seed=seed)
            return
        kind = list if self._seeds == "list" else np.ndarray
        if not isinstance(seed, kind) or (kind is np.ndarray and len(seed) != count):
            raise TypeError("Unsupported seed type")
        super().reset(seed=sum(number or 0 for number in map(int, [one or 0 for one in seed])))

    def _begin(self, rows: np.ndarray) -> None:
        self._rows[rows, 0] = self.np_random.uniform(size=int(rows.sum()))
        self._rows[rows, 1] += 1
        self._rows[rows, 2:] = 0

    def step(self, actions: Any) -> Any:
        assert actions.dtype == np.int64, actions.dtype
        if self._insists:
            assert self.action_space.contains(actions), actions
        self._number += 1
        if self._number == self._breaks and self._how == "raises":
            raise RuntimeError("broken on purpose")
        waiting = self._over if self._mode is AutoresetMode.NEXT_STEP else np.zeros(self.num_envs, np.bool_)
        stepping = ~waiting
        self._rows[stepping, 2] += 1
        self._rows[stepping, 3] = actions[stepping]
        self._begin(waiting)
        over = stepping & (self._rows[:, 2] >= 2 + (np.arange(self.num_envs) + self._rows[:, 1]) % 5)
        terminated, rewards = over & (self._rows[:, 1] % 2 == 0), (self._rows[:, 3] / 3).astype(self._reward_dtype)
        infos = {"step": self._rows[:, 2].copy(), "odd": self._rows[:, 1] * 2, "_odd": self._rows[:, 1] % 2 == 1}
        self._over = over
        if self._mode is AutoresetMode.SAME_STEP and over.any():
            infos["final_obs"], infos["_final_obs"] = self._rows.copy(), over.copy()
            infos["final_info"] = {"step": self._rows[:, 2].copy(), "_step": over.copy()}
            infos["_final_info"] = over.copy()
            self._begin(over)
        results = [self._rows.copy(), rewards, terminated, over & ~terminated, infos]
        if self._number == self._breaks:
            place = {"observations": 0, "rewards": 1}.get(self._how)
            results = results[:4] if place is None else [*results[:place], results[place][:-1], *results[place + 1 :]]
        return tuple(results)

    def render(self) -> Any:
        return [np.full((2, 2, 3), row, np.uint8) for row in range(self.num_envs)]


class ModelessVectorEnv(TallyVectorEnv):
    """Does not take an autoreset mode, nor say which it has."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.metadata = {}


class DeepTallyVectorEnv(TallyVectorEnv):
    """Has a Dict of observations, and calls."""

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        super().__init__(num_envs, **kwargs)
        self.single_observation_space = spaces.Dict({"all": self.single_observation_space, "step": spaces.Discrete(9)})
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.tags = [0.0] * num_envs

    def reset(self, **kwargs: Any) -> Any:
        rows, infos = super().reset(**kwargs)
        return self._deep(rows), infos

    def step(self, actions: Any) -> Any:
        rows, *others = super().step(actions)
        return self._deep(rows), *others

    def _deep(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"all": rows, "step": rows[:, 2].astype(np.int64)}

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        if name == "fail":
            raise ValueError("failed on purpose")
        return tuple(self.tags) if name == "tags" else tuple((name, *args, row) for row in range(self.num_envs))

    def set_attr(self, name: str, values: list[Any]) -> None:
        setattr(self, name, values)


for _name, _class in (("Tally", TallyVectorEnv), ("Modeless", ModelessVectorEnv), ("DeepTally", DeepTallyVectorEnv)):
    if f"vectest/{_name}-v0" not in gym.registry:
        gym.register(f"vectest/{_name}-v0", vector_entry_point=f"{__name__}:{_class.__name__}")
