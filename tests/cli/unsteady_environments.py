"""Environments that a verification has to say something about: not deterministic, loud, with infos that cannot travel.

Importing the module registers them under ``vectest/``; ``tests.cli.unsteady_environments:vectest/Id-v0`` names them.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import gymnasium as gym

from tests.environments import CountEnv


class HashedEnv(CountEnv):
    """From step 2 on, ``tag`` depends on Python's seed of hashes, which every process draws anew."""

    def observe(self) -> Any:
        self.tag = float(hash("which process is this?")) if self.steps >= 2 else 0.0
        return super().observe()


class ClockEnv(CountEnv):
    """The reward of step 3 is the time of day."""

    def step(self, action: Any):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, time.time() if self.steps == 3 else reward, terminated, truncated, info


class GlobalEnv(CountEnv):
    """Draws from the generator of the whole process, which no reset seeds."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "luck": random.random()}


class LockedEnv(CountEnv):
    """Its infos hold a lock, and a lock in a dict."""

    def describe(self, action: Any) -> dict[str, Any]:
        return {
            **super().describe(action),
            "lock": threading.Lock(),
            "deep": {"lock": threading.Lock(), "n": self.steps},
        }


class MissingEnv(CountEnv):
    """Needs a package that is not installed."""

    def __init__(self, **kwargs: Any) -> None:
        raise gym.error.DependencyNotInstalled("no such\npackage")


class GrowingEnv(CountEnv):
    """Each one made in a process has a larger observation than the one before."""

    made = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        GrowingEnv.made += 1
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (GrowingEnv.made,))


class LoudEnv(CountEnv):
    """Writes to stdout and stderr, as native libraries do."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        os.write(1, b"loud on stdout\n")
        os.write(2, b"loud on stderr\n")
        return super().reset(seed=seed, options=options)


class OddEnv(CountEnv):
    """Cannot be reset with an odd seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None and seed % 2:
            raise OSError("no odd ones")
        return super().reset(seed=seed, options=options)


ENVIRONMENTS: dict[str, type[CountEnv]] = {
    "Hashed-v0": HashedEnv,
    "Clock-v0": ClockEnv,
    "Global-v0": GlobalEnv,
    "Locked-v0": LockedEnv,
    "Missing-v0": MissingEnv,
    "Growing-v0": GrowingEnv,
    "Loud-v0": LoudEnv,
    "Odd-v0": OddEnv,
}

for _name, _cls in ENVIRONMENTS.items():
    if f"vectest/{_name}" not in gym.registry:
        gym.register(f"vectest/{_name}", f"{__name__}:{_cls.__name__}", disable_env_checker=True)
