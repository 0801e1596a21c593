"""``make_vec`` and ``attach`` find a server, a pool and a transport, or say what is wrong."""

from __future__ import annotations

import gc
import socket

import numpy as np
import pytest

import vecserver_client as vs
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvCreationFailed,
    InvalidSpec,
    LeaseHeld,
    PoolLost,
    PoolStopping,
    ServerUnreachable,
    TransportUnavailable,
    UnknownEnv,
    UnknownPool,
)
from vecserver_client.verdicts import check_not_lost, verdict_on_pool
from vecserver_client.ways import reachable_endpoint


@pytest.fixture
def control(server):
    with vs.ControlClient(server.url) as client:
        yield client


def test_auto_takes_the_arena_on_the_same_machine(server):
    """The first transport that works is used and named."""
    with vs.make_vec("CartPole-v1", 2, url=server.url) as envs:
        assert envs.transport == "shm"


def test_the_environment_variable_names_the_server(server, monkeypatch, control):
    """$VECSERVER_URL stands in for the argument."""
    monkeypatch.setenv("VECSERVER_URL", server.url)
    with vs.make_vec("CartPole-v1", 2) as envs:
        assert envs.pool in [pool["pool"] for pool in control.list_pools()]


def test_a_private_server_ends_with_its_environment():
    """Without an address a server is started, and gone after close."""
    envs = vs.make_vec("CartPole-v1", 3)
    observations, _ = envs.reset(seed=1)
    assert observations.shape == (3, 4)
    envs.close()


def test_closing_removes_the_pool_that_was_made(server, control):
    """A pool that make_vec made does not outlive its environment."""
    with vs.make_vec("CartPole-v1", 2, url=server.url) as envs:
        pool = envs.pool
    with pytest.raises(UnknownPool):
        control.get_pool(pool)


def test_a_forgotten_environment_removes_its_pool(server, control):
    """Collecting it is closing it."""
    envs = vs.make_vec("CartPole-v1", 2, url=server.url)
    pool = envs.pool
    del envs
    gc.collect()
    with pytest.raises(UnknownPool):
        control.get_pool(pool)


def test_attach_drives_an_existing_pool_and_leaves_it(server, control):
    """The pool, and its episodes, go on after the driver left."""
    pool = control.create_pool(env_id="CartPole-v1", num_envs=2, name="lasting")["pool"]
    with vs.attach(server.url, pool) as envs:
        envs.reset(seed=3)
        first, *_ = envs.step(np.array([0, 1]))
    with vs.attach(server.url, pool, transport="tcp") as envs:
        second, *_ = envs.step(np.array([0, 1]))
    assert not np.array_equal(first, second)
    control.delete_pool(pool)


def test_one_driver_at_a_time_unless_forced(server, control):
    """A second driver is refused by name; with force it takes over, and the first is told."""
    pool = control.create_pool(env_id="CartPole-v1", num_envs=2)["pool"]
    with vs.attach(server.url, pool) as first:
        first.reset(seed=1)
        with pytest.raises(LeaseHeld, match="drives this pool"):
            vs.attach(server.url, pool)
        with vs.attach(server.url, pool, force=True) as second:
            second.reset(seed=1)
            with pytest.raises(vs.errors.LeaseLost, match="attach again"):
                first.step(np.array([0, 1]))
    control.delete_pool(pool)


def test_nobody_at_the_address():
    """A refused connection says which address and what starts a server."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServerUnreachable, match="vecserver serve"):
            vs.make_vec("CartPole-v1", 2, url=url)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"env_id": "CartPole-v9"}, UnknownEnv, "CartPole-v1"),
        ({"num_envs": 0}, InvalidSpec, "num_envs"),
        ({"num_envs": -3}, InvalidSpec, "num_envs"),
        ({"engine": "warp"}, InvalidSpec, "engine"),
        ({"autoreset_mode": "Sometimes"}, InvalidSpec, "autoreset_mode"),
        ({"workers": 9}, InvalidSpec, "workers"),
        ({"gravity_of_mars": 3}, EnvCreationFailed, "gravity_of_mars"),
        ({"transport": "pigeon"}, TransportUnavailable, "pigeon"),
    ],
)
def test_a_wrong_option_is_named(server, arguments, error, text):
    """The error's type and text say which option, and nothing is left."""
    with pytest.raises(error, match=text):
        vs.make_vec(**{"env_id": "CartPole-v1", "num_envs": 2, "url": server.url, **arguments})


def test_a_pool_whose_host_died_is_lost_not_silent(server, control):
    """The driver learns within seconds that the pool is gone."""
    import os
    import signal

    envs = vs.make_vec("CartPole-v1", 2, url=server.url, step_timeout=30.0)
    envs.reset(seed=1)
    host = control.get_pool(envs.pool)["host_pid"]
    os.kill(host, signal.SIGKILL)
    with pytest.raises(PoolLost, match="SIGKILL|signal 9"):
        while True:  # in the arena a step may still end well: the workers outlive their host by a moment
            envs.step(np.array([0, 1]))
    envs.close()


@pytest.mark.parametrize(
    ("name", "endpoint", "url", "expected"),
    [
        ("tcp", "tcp://127.0.0.1:5", "http://127.0.0.1:8000", "tcp://127.0.0.1:5"),
        ("tcp", "tcp://127.0.0.1:5", "http://localhost:8000", "tcp://127.0.0.1:5"),
        ("tcp", "tcp://0.0.0.0:5", "http://gpu1:8000", "tcp://gpu1:5"),
        ("tcp", "tcp://10.0.0.7:5", "http://gpu1:8000", "tcp://gpu1:5"),
        ("tcp", "tcp://[::]:5", "http://[fe80::1]:8000", "tcp://[fe80::1]:5"),
    ],
)
def test_the_endpoint_is_the_one_this_machine_reaches(name, endpoint, url, expected):
    """A wildcard or a far address becomes the server's name as it was given."""
    assert reachable_endpoint(name, {name: endpoint}, url) == expected


@pytest.mark.parametrize(
    ("name", "endpoints", "url"),
    [
        ("tcp", {"tcp": "tcp://127.0.0.1:5"}, "http://gpu1:8000"),
        ("ipc", {"ipc": "ipc:///tmp/nothing-here.sock"}, "http://127.0.0.1:8000"),
        ("ipc", {"ipc": "ipc:///tmp/nothing-here.sock"}, "http://gpu1:8000"),
        ("ipc", {}, "http://127.0.0.1:8000"),
        ("shm", {"shm": "shm:///tmp/nothing-here.shm"}, "http://127.0.0.1:8000"),
        ("shm", {"shm": "shm:///tmp/nothing-here.shm"}, "http://gpu1:8000"),
    ],
)
def test_an_endpoint_that_cannot_be_reached_is_said_so(name, endpoints, url):
    """The reason is in the error, so that `auto` can list them."""
    with pytest.raises(TransportUnavailable):
        reachable_endpoint(name, endpoints, url)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"state": "lost", "reason": "killed", "epoch": "1", "last_loss": ""}, "killed"),
        (
            {"state": "ready", "reason": "", "epoch": "2", "last_loss": "The host was killed"},
            "attach again. The host was",
        ),
        ({"state": "lost", "reason": "killed again", "epoch": "2", "last_loss": "killed"}, "killed again"),
        (PoolStopping("the server is shutting down"), "shutting down"),
        ({"state": "ready", "reason": "", "epoch": "1", "last_loss": ""}, None),
        ({"state": "silent", "reason": "", "epoch": "1", "last_loss": ""}, None),
        (DeadlineExceeded("busy"), None),
    ],
)
def test_what_the_server_says_of_a_silent_pool(answer, words):
    """It is lost when it has no host or another incarnation, and when its server ends; else the trouble is elsewhere."""
    verdict = verdict_on_pool(answer, "p", "1", "http://127.0.0.1:8000")
    assert (verdict is None) == (words is None)
    if words:
        assert isinstance(verdict, PoolLost)
        assert words in verdict.message


def test_a_pool_without_a_host_is_not_attached_to():
    """Its reason comes at once: there is nothing to look for."""
    with pytest.raises(PoolLost, match="pool p is lost: not installed; it is made again in 1 s"):
        check_not_lost({"pool": "p", "state": "lost", "reason": "not installed; it is made again in 1 s"})


def test_a_private_server_keeps_no_pools():
    """It ends with this program, and a pool that it was asked to keep would too."""
    with pytest.raises(InvalidSpec, match="vecserver serve"):
        vs.make_vec("CartPole-v1", 1, durable=True)
