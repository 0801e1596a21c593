"""What ``docs/trainers.md`` shows is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.wrappers.vector import DictInfoToList

from vecserver_client import LocalServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
AS_INSTALLED = f"import site; site.addsitedir({str(ROOT / 'clients')!r})\n"
"""Has Python read the ``.pth`` file, as it does at its start where vecserver is installed."""


@pytest.fixture(scope="module")
def server():
    with closing(LocalServer()) as running:
        yield running


def run(server, trainer):
    """Runs a program of the page against the server, and gives back what it prints."""
    environment = {**os.environ, "VECSERVER_URL": server.url}
    code = AS_INSTALLED + PROGRAMS[trainer]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_program_is_run_here():
    """A trainer that is added gets a test."""
    assert set(PROGRAMS) == {
        "A loop over Gymnasium",
        "Two halves",
        "Uneven environments",
        "CleanRL",
        "Stable-Baselines3",
        "gymnasium.make_vec",
        "RLlib",
    }
    assert PAGE.count("```python\n") == len(PROGRAMS)


@pytest.mark.parametrize(
    "trainer", ["A loop over Gymnasium", "Two halves", "Uneven environments", "gymnasium.make_vec"]
)
def test_the_program_runs(server, trainer):
    """In a process of its own."""
    run(server, trainer)


def test_the_loop_of_cleanrl_prints_its_returns(server):
    """Random actions end an episode of CartPole within a few dozen steps."""
    assert len(re.findall(r"^global_step=\d+, episodic_return=\d+", run(server, "CleanRL"), re.MULTILINE)) >= 8


@pytest.mark.sb3
def test_the_program_of_stable_baselines3_runs(server):
    """PPO takes its steps."""
    run(server, "Stable-Baselines3")


class Config:
    """Keeps what a program of RLlib configures."""

    def __init__(self):
        self.options = {}

    def environment(self, env, *, env_config):
        self.options |= {"env": env, "env_config": env_config}
        return self

    def env_runners(self, **options):
        self.options |= options
        return self


def test_the_configuration_of_rllib_makes_a_pool(server, monkeypatch):
    """The call that its env runner makes with it: the id, the number of environments, the mode and ``env_config``."""
    for name in ("ray", "ray.rllib", "ray.rllib.algorithms", "ray.rllib.algorithms.ppo"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["ray.rllib.algorithms.ppo"].PPOConfig = Config
    monkeypatch.setenv("VECSERVER_URL", server.url)
    program = {}
    exec(PROGRAMS["RLlib"], program)
    options = program["config"].options
    made = gym.make_vec(
        options["env"],
        num_envs=options["num_envs_per_env_runner"],
        vectorization_mode=gym.VectorizeMode(options["gym_env_vectorize_mode"]),
        **options["env_config"],
    )
    with closing(DictInfoToList(made)) as envs:
        observations, infos = envs.reset(seed=1)
        assert observations.shape == (8, 4)
        assert infos == [{}] * 8
        assert envs.step(envs.action_space.sample())[1].tolist() == [1.0] * 8
