"""Processes that are stopped or killed while a batch is under way: an outcome with a name, in time, and nothing lost."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import numpy as np
import pytest

import vecserver_client as vs
from tests.chaos.oracle_environment import OracleVectorEnv
from vecserver.wire.errors import DeadlineExceeded, PoolLost, ServerUnreachable

ROWS = 4
ACTIONS = np.arange(ROWS) % 5


@pytest.fixture(params=["tcp", pytest.param("ipc", marks=pytest.mark.slow)])
def envs(request, server, make_pool):
    """Drives a pool that was reset."""
    with closing(vs.attach(server.url, make_pool(ROWS)["pool"], transport=request.param)) as envs:
        envs.reset(seed=1)
        yield envs


def test_a_host_that_stands_still_leaves_the_step_pending(control, envs):
    """Each wait ends at its deadline; when it goes on the step's result is there, and was taken once."""
    oracle = OracleVectorEnv(ROWS)
    oracle.reset(seed=1)
    host = control.get_pool(envs.pool)["host_pid"]
    os.kill(host, signal.SIGSTOP)
    try:
        envs.step_async(ACTIONS)
        began = time.monotonic()
        with pytest.raises((DeadlineExceeded, ServerUnreachable)):
            envs.step_wait(timeout=0.3)
        assert time.monotonic() - began < 30.0  # and the server was asked about the pool, which asks the host
        assert envs.pending_call == "step"
    finally:
        os.kill(host, signal.SIGCONT)
    np.testing.assert_array_equal(envs.step_wait(timeout=20.0)[0], oracle.step(ACTIONS)[0])
    np.testing.assert_array_equal(envs.step(ACTIONS)[0], oracle.step(ACTIONS)[0])
    assert envs.stats().batches == 2


def test_a_host_that_is_killed_in_a_step_is_named(control, envs):
    """Long before the step's deadline; nothing is pending any more."""
    host = control.get_pool(envs.pool)["host_pid"]
    os.kill(host, signal.SIGSTOP)
    envs.step_async(ACTIONS)
    os.kill(host, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(PoolLost, match="SIGKILL"):
        envs.step_wait(timeout=60.0)
    assert time.monotonic() - began < 30.0
    assert envs.pending_call is None


def test_a_server_that_stands_still_keeps_nobody_from_stepping(server, envs):
    """Batches do not pass through it."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        for _ in range(20):
            envs.step(ACTIONS)
    finally:
        os.kill(server.pid, signal.SIGCONT)
