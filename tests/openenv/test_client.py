"""``vecserver_client.openenv``: the calls of OpenEnv's ``gym_env``, word for word."""

from __future__ import annotations

import numpy as np
import pytest

from tests.openenv.served import HARMFUL
from vecserver.wire.errors import (
    CapExceeded,
    DeadlineExceeded,
    InvalidAction,
    ResetNeeded,
    ServerUnreachable,
    SessionLost,
    TransportUnavailable,
    UnknownEnv,
    VecServerError,
)
from vecserver_client.openenv import GymAction, GymEnvironment

SEVEN = (
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "LunarLander-v3",
    "BipedalWalker-v3",
    "CarRacing-v3",
)


@pytest.mark.parametrize("env_id", SEVEN)
def test_the_loop_of_their_readme(server, env_id):
    """The same lines play each of the seven environments, the address included."""
    port = server.url.rpartition(":")[2]
    env = GymEnvironment(base_url=f"http://0.0.0.0:{port}", env_id=env_id)
    result = env.reset()
    assert result.observation.state
    assert result.observation.legal_actions
    for step in range(1, 6):
        action = 1
        result = env.step(GymAction(action=[action]))
        assert isinstance(result.reward, float)
        assert result.observation.episode_length == step
        if result.done:
            break
    state = env.state()
    assert (state.env_id, state.step_count) == (env_id, step)
    env.close()


def test_the_server_chooses_the_environment(server):
    """Where the client names none; seeds and names of episodes reach it, and arrays are actions."""
    with GymEnvironment(base_url=server.url) as env:
        first = env.reset(seed=4, episode_id="four")
        assert env.reset(seed=4).observation.state == first.observation.state
        assert env.state().seed == 4
        assert env.step(GymAction(np.array([0]), metadata={"why": "so"})).observation.metadata["info"] == {}


def test_errors_are_those_of_the_server(server):
    """By class, with their details; the session goes on."""
    with GymEnvironment(base_url=server.url) as env:
        with pytest.raises(ResetNeeded):
            env.step(GymAction(0))
        env.reset()
        with pytest.raises(InvalidAction) as refused:
            env.step(GymAction(9))
        assert refused.value.details["space"] == "Discrete(2)"
        with pytest.raises(UnknownEnv):
            env.reset(env_id="No-v0")
        with pytest.raises(TypeError):
            env.step(GymAction(object()))
        assert env.step(GymAction(0)).observation.episode_length == 1


def test_a_lost_session_is_told_and_replaced(server):
    """The next reset connects anew."""
    with GymEnvironment(base_url=server.url) as env:
        env.reset(env_id=f"{HARMFUL}Leaving-v0")
        with pytest.raises(SessionLost, match="exit code 3"):
            env.step(GymAction(0))
        assert env.reset().observation.episode_length == 0


def test_a_silent_environment(server):
    """An answer that does not come is a deadline; it is not taken for the next one's."""
    env = GymEnvironment(base_url=server.url, request_timeout_s=0.3)
    env.reset(env_id=f"{HARMFUL}Harmful-v0")
    env.reset(env_id=f"{HARMFUL}Stuck-v0")
    with pytest.raises(DeadlineExceeded):
        env.step(GymAction(0))
    assert env.state().step_count == 0
    env.close()
    server.pass_time(200.0)
    server.wait_for(0)


def test_too_many(server):
    """The refusal is the first call's."""
    envs = [GymEnvironment(base_url=server.url) for _ in range(9)]
    for env in envs[:8]:
        env.state()
    with pytest.raises(CapExceeded):
        envs[8].state()
    for env in envs:
        env.close()
    server.wait_for(0)


def test_addresses(unused_port):
    """What is none is refused at once, what nobody is at with the first call."""
    for url in ("localhost:8000", "ftp://localhost", ""):
        with pytest.raises(TransportUnavailable):
            GymEnvironment(base_url=url)
    env = GymEnvironment(base_url=f"http://127.0.0.1:{unused_port}/prefix/")
    with pytest.raises(ServerUnreachable, match="/prefix/ws"):
        env.reset()
    env.close()
    assert issubclass(ServerUnreachable, VecServerError)


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
