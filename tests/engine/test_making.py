"""Environments and engines by name."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import pytest

from tests.environments import env_id
from vecserver.engine.make import EnvMaker
from vecserver.engine.table import WHOLE_POOL, make_engine, resolve
from vecserver.pools.spec import ENGINES


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "auto"])
def test_every_engine_of_a_spec_can_be_made(name):
    """Each name that a pool may ask for stands for an engine."""
    assert resolve(name) == name
    if name != "async":
        engine = make_engine(name, EnvMaker("CartPole-v1", {}, None), (0, 2), "NextStep")
        assert engine.info.action_space == gym.spaces.Discrete(2)
        engine.close()


def test_auto_is_an_engine_of_its_own_rows():
    """What stands for ``auto`` can be spread over workers."""
    assert resolve("auto") in ENGINES
    assert resolve("auto") not in WHOLE_POOL


def test_an_environment_is_made_as_gymnasium_makes_it():
    """Arguments and the render mode reach ``gymnasium.make``, and its wrappers are there."""
    env = EnvMaker(env_id("Count-v0"), {"length": 7}, "rgb_array")()
    assert (env.render_mode, env.unwrapped._length) == ("rgb_array", 7)
    assert isinstance(EnvMaker("CartPole-v1", {}, None)(), type(gym.make("CartPole-v1")))


class BlindEnv(gym.Env):
    """Knows no render mode, not even in its constructor."""

    observation_space = action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        pass


def test_a_maker_without_a_render_mode_passes_none_on():
    """An environment that knows no render mode can be made."""
    gym.register("vectest/Blind-v0", BlindEnv, disable_env_checker=True)
    try:
        assert isinstance(EnvMaker("vectest/Blind-v0", {}, None)().unwrapped, BlindEnv)
    finally:
        del gym.registry["vectest/Blind-v0"]


def test_an_engine_is_loaded_when_it_is_needed():
    """A worker of separate environments does not load Gymnasium's vector engines."""
    code = "import sys, vecserver.engine.worker; print('vecserver.engine.gymnasium' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "False\n"
