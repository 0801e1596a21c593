"""Environments for pools that rebuild rows: all that an episode is comes from the generator and the actions.

A process that has not imported the module names them ``tests.replay_environments:replay/Drawn-v0``, which
``replayed("Drawn-v0")`` spells.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tests.environments import CountBoxEnv, CountEnv, Float64ActionEnv, NestedEnv, TextEnv


def replayed(name: str) -> str:
    """The id by which a process that has not imported this module can make ``name``."""
    return f"tests.replay_environments:replay/{name}"


class _Drawn(CountEnv):
    """In the place of the seed it has a number that its generator draws; episodes have no number."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        gym.Env.reset(self, seed=seed)
        self.identity, self.episode, self.hash, self.tag = int(self.np_random.integers(1000)), -1, 0, 0.0
        return super().reset(options=options)

    def step(self, action: Any):
        observation, reward, *rest = super().step(action)
        return observation, float(reward + self.np_random.standard_normal()), *rest


class DrawnEnv(_Drawn):
    """``Count``, drawn."""


class DrawnBoxEnv(_Drawn, CountBoxEnv):
    """``CountBox``, drawn."""


class DrawnNestedEnv(_Drawn, NestedEnv):
    """``Nested``, drawn."""


class DrawnFloatEnv(_Drawn, Float64ActionEnv):
    """``Float64Action``, drawn: the dtype of an action shows."""


class DrawnTextEnv(_Drawn, TextEnv):
    """``Text``, drawn, with actions of a fixed size."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = spaces.Discrete(5)


class DyingEnv(_Drawn):
    """Ends its process in a step with the action 4, a reset or ``touch``, as long as the file ``mark`` is there.

    Args:
        mark: A file; not there while the pool is made.
        where: ``step``, ``reset`` or ``touch``.
        how: ``kill``, or ``hang``.
        once: Whether the mark is taken away first.
        **kwargs: As for ``CountEnv``.
    """

    def __init__(self, *, mark: str, where: str = "step", how: str = "kill", once: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._mark, self._where, self._how, self._once = Path(mark), where, how, once

    def _come_to(self, where: str) -> None:
        if where != self._where or not self._mark.exists():
            return
        if self._once:
            self._mark.unlink()
        if self._how == "hang":
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGKILL)

    def step(self, action: Any):
        if action == 4:
            self._come_to("step")
        return super().step(action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        result = super().reset(seed=seed, options=options)
        self._come_to("reset")
        return result

    def touch(self) -> int:
        """A method in which it may end."""
        self._come_to("touch")
        return self.identity


class CarefulEnv(_Drawn):
    """Raises at the action 4 as long as the file ``mark`` is there."""

    def __init__(self, *, mark: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._mark = Path(mark)

    def step(self, action: Any):
        if action == 4 and self._mark.exists():
            raise ValueError("not this one")
        return super().step(action)


class FickleEnv(_Drawn):
    """Shows numbers that nobody can know.

    Args:
        where: ``observation``, ``reward``, ``info``, or ``process``: the same for all rows of a process.
        **kwargs: As for ``CountEnv``.
    """

    def __init__(self, *, where: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._where = where

    def step(self, action: Any):
        if self._where == "observation" and self.steps == 1:
            self.tag = float(int(os.urandom(6).hex(), 16))
        observation, reward, terminated, truncated, info = super().step(action)
        if self._where == "reward":
            reward = float(int(os.urandom(6).hex(), 16))
        if self._where == "info":
            info = {**info, "luck": os.urandom(8)}
        return observation, reward, terminated, truncated, info

    def observe(self) -> Any:
        if self._where == "process":
            self.tag = float(os.getpid())
        return super().observe()


class OtherGeneratorEnv(_Drawn):
    """Draws with a generator of another kind."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            self.np_random = np.random.Generator(np.random.MT19937(seed))
        return super().reset(options=options)


ENVIRONMENTS: dict[str, type[CountEnv]] = {
    "Drawn-v0": DrawnEnv,
    "DrawnBox-v0": DrawnBoxEnv,
    "DrawnNested-v0": DrawnNestedEnv,
    "DrawnFloat-v0": DrawnFloatEnv,
    "DrawnText-v0": DrawnTextEnv,
    "Dying-v0": DyingEnv,
    "Careful-v0": CarefulEnv,
    "Fickle-v0": FickleEnv,
    "OtherGenerator-v0": OtherGeneratorEnv,
}

for _name, _cls in ENVIRONMENTS.items():
    if f"replay/{_name}" not in gym.registry:
        gym.register(f"replay/{_name}", f"{__name__}:{_cls.__name__}", disable_env_checker=True)
