"""OpenEnv's own clients, each release in an environment of its own: ``make openenv-check`` makes those."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import vecserver_client as vs
from tests.test_serve import server
from vecserver_client.credentials import choose

pytestmark = pytest.mark.openenv

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("0.1.1", "0.2.1", "0.3.0", "0.10.0")
ACTIONS = {
    "CartPole-v1": 1,
    "Pendulum-v1": [0.5],
    "Acrobot-v1": [2],
    "MountainCar-v0": 0,
    "LunarLander-v3": [1],
    "BipedalWalker-v3": [0.1, -0.2, 0.3, -0.4],
    "CarRacing-v3": [0.0, 0.5, 0.0],
}
PATIENCE_S = 60


@pytest.fixture(params=ACTIONS)
def played(request):
    """An environment and the address of a server that plays it for whoever names none."""
    with server("--openenv-env", request.param, "--log-level", "warning") as running:
        yield request.param, running.url


def run(version: str, *command: str) -> str:
    binaries = ROOT / f".venv-openenv-{version}" / "bin"
    assert binaries.is_dir(), "`make openenv-check` installs it"
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [binaries / command[0], *command[1:]], capture_output=True, text=True, timeout=PATIENCE_S, env=bare
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_their_client_plays(played, version):
    """Reset, five steps, state and close give what Gymnasium gives, with exact counts."""
    env_id, url = played
    action = ACTIONS[env_id]
    found = json.loads(run(version, "python", str(ROOT / "tests/openenv/their_client.py"), url, json.dumps(action)))
    assert found["by"] == ("by_http" if version == "0.1.1" else "by_websocket")
    assert (found["state"]["step_count"], found["last"]["episode_length"]) == (5, 5)
    assert found["state"]["env_id"] == env_id
    assert all(isinstance(reward, float) for reward in found["rewards"])
    assert found["done"] == [False] * 5
    if version != "0.1.1":  # it cannot seed
        assert found["state"]["episode_id"] == "theirs"
        assert found["rewards"] == pytest.approx(expected_rewards(env_id, action), abs=0)


def expected_rewards(env_id, action):
    """What the environment itself gives for the same seed and actions."""
    env = gymnasium.make(env_id)
    env.reset(seed=7)
    taken = (
        action[0] if isinstance(action, list) and isinstance(env.action_space, gymnasium.spaces.Discrete) else action
    )
    if isinstance(env.action_space, gymnasium.spaces.Box):
        taken = np.array(action, env.action_space.dtype)
    rewards = [float(env.step(taken)[1]) for _ in range(5)]
    env.close()
    return rewards


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != "0.1.1"])
def test_their_client_plays_a_pool(version):
    """Unmodified: lists of actions in, lists of rewards and flags out, equal to Gymnasium's vector environment."""
    actions = [1, 0, 1]
    with server("--log-level", "warning") as running, vs.ControlClient(running.url) as control:
        pool = control.create_pool(env_id="CartPole-v1", num_envs=3)["pool"]
        # no release since 0.2 has another way that they all share: the websockets package sends it as a header
        url = f"{running.url.replace('//', f'//:{choose(running.url, None)[1]}@')}/vec/{pool}"
        found = json.loads(
            run(version, "python", str(ROOT / "tests/openenv/their_client.py"), url, json.dumps(actions))
        )
    assert (found["state"]["step_count"], found["state"]["episode_id"]) == (5, "theirs")
    assert (found["done"], found["rewards"]) == ([[False] * 3] * 5, [[1.0] * 3] * 5)
    envs = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync")
    first, _ = envs.reset(seed=7)
    last = [envs.step(np.array(actions))[0] for _ in range(5)][-1]
    envs.close()
    assert np.array_equal(np.array(found["first"]["state"], np.float32), first)
    assert np.array_equal(np.array(found["last"]["state"], np.float32), last)


def test_validation_passes():
    """`openenv validate --url` finds nothing wrong, six times."""
    with server("--log-level", "warning") as running:
        said = run("0.10.0", "openenv", "validate", "--url", running.url)
    assert said.count("PASS ") == 6
    assert "FAIL" not in said
