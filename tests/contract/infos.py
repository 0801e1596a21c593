"""What the tests of infos share: comparison with the order of keys, and the oracles of the options that choose infos."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

from tests.contract.compare import assert_same
from tests.contract.vector_contract import NEXT_STEP


def assert_same_infos(got: dict[Any, Any], expected: dict[Any, Any], path: str) -> None:
    """Asserts that infos are the same to the bit, and so is the order of their keys, on every level."""
    assert_same(got, expected, path)
    assert list(got) == list(expected), f"{path}: {list(got)}, expected {list(expected)}"
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same_infos(got[key], value, f"{path}[{key!r}]")


class OnlyKeys(gym.Wrapper):
    """An environment that gives some keys of its infos and no others."""

    def __init__(self, env: gym.Env, keys: list[str]) -> None:
        super().__init__(env)
        self._keys = keys

    def _part(self, info: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in info.items() if key in self._keys}

    def reset(self, **kwargs: Any):
        observation, info = self.env.reset(**kwargs)
        return observation, self._part(info)

    def step(self, action: Any):
        *result, info = self.env.step(action)
        return *result, self._part(info)


def make_filtered(
    env_id: str, num_envs: int, keys: list[str], *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs: Any
) -> SyncVectorEnv:
    """The oracle of ``info=keys``: Gymnasium's merge of environments that give these keys only."""

    def make() -> gym.Env:
        return OnlyKeys(gym.make(env_id, **env_kwargs), keys)

    return SyncVectorEnv([make] * num_envs, autoreset_mode=autoreset_mode)


class KeepsOptions(VectorWrapper):
    """Hands a copy of the options on, so that a wrapper around it finds the mask that Gymnasium takes out of them."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None):
        return self.env.reset(seed=seed, options=None if options is None else dict(options))


def mask_of(infos: dict[str, Any], num_envs: int) -> list[bool]:
    """The rows whose episode ended, by the statistics."""
    return infos["_episode"].tolist() if "_episode" in infos else [False] * num_envs


__all__ = ["KeepsOptions", "OnlyKeys", "assert_same_infos", "make_filtered", "mask_of"]
