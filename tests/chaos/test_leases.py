"""Leases of real pools: kept by a trainer that computes, ended by one that died, taken by an operator, taken up again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest

import vecserver_client as vs
from tests.chaos.oracle_environment import OracleVectorEnv
from tests.sampling import in_turn, of_which
from vecserver.wire.errors import (
    InvalidSpec,
    LeaseHeld,
    LeaseLost,
    PoolLost,
    SequenceStale,
    TransportUnavailable,
    UnknownPool,
)
from vecserver_client import aio

ROWS = 4
LONG_S = 30.0
PROGRAM = """
import sys
import numpy as np
import vecserver_client as vs
url, pool, transport, when = sys.argv[1:]
envs = vs.attach(url, pool, transport=transport)
envs.reset(seed=3)
for batch in range(5):
    envs.step(np.full(envs.num_envs, batch % 5))
token = envs.resume_token if transport != "shm" else ""
if when == "pending":
    envs.step_async(np.full(envs.num_envs, 4))
print(token, flush=True)
sys.stdin.read()
"""


def until(holds: Callable[[], bool], seconds: float = LONG_S) -> float:
    """Asks until it holds; the seconds that took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + seconds
        threading.Event().wait(0.01)
    return time.monotonic() - began


@pytest.fixture
def start(server):
    """Starts a program that drives a pool, and gives it with its token once it has stepped."""
    started = []

    def run(pool: str, transport: str, when: str = "answered") -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, server.url, pool, transport, when],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield run
    for process in started:
        with process:
            process.kill()


def gone(control, pool: dict) -> bool:
    return pool["pool"] not in [each["pool"] for each in control.list_pools()]


@of_which("client", ["sync", "asyncio"], 0)
def test_a_trainer_that_computes_keeps_its_pool(server, control, make_pool, client):
    """For longer than its lease lasts; the thread that sees to it ends with the environment."""
    pool = make_pool(ROWS, lease_ttl=1.5, lease_expiry="destroy")["pool"]

    def computes(renewals: int = 3) -> None:
        """Nothing of the pool, while somebody renews its lease; three times take as long as it lasts."""
        idle_s = [0.0]

        def renewed() -> bool:
            idle_s.append(control.get_pool(pool)["stats"]["idle_s"])
            return idle_s[-1] < idle_s[-2]

        for _ in range(renewals):
            until(renewed)
        with pytest.raises(LeaseHeld):
            vs.attach(server.url, pool, transport="tcp")

    async def from_a_loop() -> None:
        async with await aio.attach(server.url, pool, transport="tcp") as envs:
            computes(1)  # before its first request, too
            await envs.reset(seed=1)
            computes()  # in the loop's own thread
            await envs.step(np.zeros(ROWS, np.int64))

    if client == "asyncio":
        asyncio.run(from_a_loop())
        return
    with closing(vs.attach(server.url, pool, transport="tcp")) as envs:
        computes(1)  # before its first request, too
        envs.reset(seed=1)
        computes()
        envs.step(np.zeros(ROWS, np.int64))


@pytest.mark.parametrize("limit_s", [LONG_S, pytest.param(2.0, marks=pytest.mark.slow)])
@in_turn("transport, number", ["tcp", "ipc"], [signal.SIGKILL, signal.SIGSTOP])
def test_a_pool_whose_driver_is_gone_is_destroyed_in_time(control, make_pool, start, transport, number, limit_s):
    """Within its time to live and a second: no process, no pool, and the name is free."""
    ttl = 0.5
    pool = make_pool(ROWS, lease_ttl=ttl, lease_expiry="destroy", name="mine")
    process, _ = start(pool["pool"], transport)
    process.send_signal(number)
    assert until(lambda: gone(control, pool)) < limit_s  # half a second for the list
    with pytest.raises(UnknownPool):
        control.get_pool("mine")
    make_pool(ROWS, name="mine")


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_a_pool_whose_driver_is_gone_is_reset(server, control, make_pool, start, transport):
    """The next driver finds it so, and the one that comes back is told why it has lost it."""
    pool = make_pool(ROWS, lease_ttl=0.5, lease_expiry="reset")
    process, token = start(pool["pool"], transport)
    process.kill()
    until(lambda: control.get_pool(pool["pool"])["stats"]["resets"] == 2)
    assert control.get_pool(pool["pool"])["stats"]["driver"] == ""
    if token:
        with pytest.raises(LeaseLost, match=r"ended after 0\.5 s of silence"):
            vs.attach(server.url, pool["pool"], transport=transport, resume=token)
    with closing(vs.attach(server.url, pool["pool"], transport=transport)) as envs:
        envs.step(np.zeros(ROWS, np.int64))


def test_an_operator_takes_a_pool_and_its_driver_is_told(server, control, make_pool):
    """By force, and under a name; whoever has the answer may drive with it."""
    pool = make_pool(ROWS)["pool"]
    with closing(vs.attach(server.url, pool, transport="tcp")) as envs:
        envs.reset(seed=3)
        with pytest.raises(LeaseHeld):
            control.take_lease(pool, "ann")
        taken = control.take_lease(pool, "ann", force=True)
        assert "pid" in taken["before"]
        with pytest.raises(LeaseLost, match="ann has taken it by force"):
            envs.step(np.zeros(ROWS, np.int64))
        assert control.get_pool(pool)["stats"]["batches"] == 0
        with closing(vs.attach(server.url, pool, transport="tcp", resume=taken["resume"])) as mine:
            assert mine.pending_call is None
            mine.step(np.zeros(ROWS, np.int64))


def test_over_shm_too_an_operator_takes_a_pool(server, control, make_pool):
    """The arena is recalled, and the driver told by whom."""
    pool = make_pool(ROWS)["pool"]
    with closing(vs.attach(server.url, pool, transport="shm")) as envs:
        envs.reset(seed=3)
        envs.step(np.zeros(ROWS, np.int64))
        control.take_lease(pool, "ann", force=True)
        with pytest.raises(LeaseLost, match="ann has taken it by force"):
            envs.step(np.zeros(ROWS, np.int64))


@in_turn("transport, client, when", ["tcp", "ipc"], ["sync", "asyncio"], ["answered", "pending", "pending"])
def test_a_trainer_that_was_killed_goes_on_where_it_was(server, control, make_pool, start, transport, when, client):
    """What it had begun and not heard is pending in its next life; nothing is lost or stepped twice."""
    pool = make_pool(ROWS)["pool"]
    oracle = OracleVectorEnv(ROWS)
    oracle.reset(seed=3)
    for batch in range(5):
        oracle.step(np.full(ROWS, batch % 5))
    process, token = start(pool, transport, when)
    process.kill()
    zeros = np.zeros(ROWS, np.int64)

    async def from_a_loop() -> None:
        async with await aio.attach(server.url, pool, transport=transport, resume=token) as envs:
            assert envs.pending_call == ("step" if when == "pending" else None)
            if envs.pending_call:
                np.testing.assert_array_equal((await envs.step_wait())[0], oracle.step(np.full(ROWS, 4))[0])
            np.testing.assert_array_equal((await envs.step(zeros))[0], oracle.step(zeros)[0])

    if client == "asyncio":
        asyncio.run(from_a_loop())
    else:
        with closing(vs.attach(server.url, pool, transport=transport, resume=token)) as envs:
            assert envs.pending_call == ("step" if when == "pending" else None)
            if envs.pending_call:
                np.testing.assert_array_equal(envs.step_wait()[0], oracle.step(np.full(ROWS, 4))[0])
            np.testing.assert_array_equal(envs.step(zeros)[0], oracle.step(zeros)[0])
    assert control.get_pool(pool)["stats"]["batches"] == 6 + (when == "pending")


def test_a_token_that_does_not_fit_is_refused(server, make_pool):
    """Too old, another's by now, no token at all, or of steps that have no numbers."""
    pool = make_pool(ROWS)["pool"]
    zeros = np.zeros(ROWS, np.int64)
    with closing(vs.attach(server.url, pool, transport="tcp")) as envs:
        old = envs.resume_token
        envs.reset(seed=3)
        envs.step(zeros)
        envs.step(zeros)
        with pytest.raises(SequenceStale, match="the last is 3"):
            vs.attach(server.url, pool, transport="tcp", resume=old)
        with pytest.raises(InvalidSpec, match="no resume token"):
            vs.attach(server.url, pool, transport="tcp", resume="yesterday")
        with pytest.raises(TransportUnavailable, match="no numbers"):
            vs.attach(server.url, pool, transport="shm", resume=envs.resume_token)
        token = envs.resume_token
        envs.step(zeros)  # none of them has taken anything
    with pytest.raises(LeaseLost, match="given it back"):
        vs.attach(server.url, pool, transport="tcp", resume=token)
    over_shm = closing(vs.attach(server.url, pool, transport="shm"))
    with over_shm as envs, pytest.raises(TransportUnavailable, match="no numbers"):
        _ = envs.resume_token


def test_a_driver_of_a_deleted_pool_is_told(server, control, make_pool):
    """Its pool is unknown, or lost: it does not wait for the end of its time."""
    pool = make_pool(ROWS)["pool"]
    with closing(vs.attach(server.url, pool, transport="tcp")) as envs:
        envs.reset(seed=3)
        control.delete_pool(pool)
        with pytest.raises((UnknownPool, PoolLost)):
            envs.step(np.zeros(ROWS, np.int64))
