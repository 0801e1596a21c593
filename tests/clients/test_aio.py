"""Pools driven from an event loop: the same numbers, sessions and errors, and what only tasks can do to a call."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager, closing

import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode

import vecserver_client as vs
from tests.clients.looped import LoopedVectorEnv
from tests.clients.wires import Relay
from tests.contract.compare import assert_same, assert_same_batch, run_both
from tests.contract.vector_contract import make_oracle
from tests.environments import FAULT_MESSAGE, env_id
from tests.info_environments import ODD_INFOS, OddInfosEnv
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvCreationFailed,
    EnvFault,
    InvalidAction,
    LeaseHeld,
    LeaseLost,
    LocalError,
    PoolLost,
    ServerUnreachable,
    TransportUnavailable,
    UnknownEnv,
    UnknownPool,
)
from vecserver_client import aio

COUNT = env_id("Count-v0")
SLOW = env_id("Slow-v0")
ZEROS = np.zeros(3, np.int64)
SOON_S = 0.2
AT_ONCE_S = 25.0
"""With the making of a pool, on a machine with more to do than cores; a server waits longer for a step."""


def in_a_loop(test):
    """Runs a test in a loop of its own, in which it leaves no task."""

    async def checked(*args, **kwargs) -> None:
        await test(*args, **kwargs)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    @functools.wraps(test)
    def run(*args, **kwargs) -> None:
        asyncio.run(checked(*args, **kwargs))

    return run


@pytest.fixture
def control(server):
    with vs.ControlClient(server.url) as client:
        yield client


@pytest.fixture
def oracle():
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(closing(make_oracle(*args, **kwargs)))


@pytest.fixture
def gated(server, tmp_path):
    """Makes an environment whose second step waits until a file is made, reset and stepped once; and the file."""

    @asynccontextmanager
    async def make(name="gate", **options):
        gate = tmp_path / name
        kwargs = {"gate": str(gate), "at": 2, "seed": 9}
        async with await aio.make_vec(SLOW, 3, url=server.url, workers=1, **kwargs, **options) as envs:
            await envs.reset(seed=8)
            await envs.step(np.array([1, 2, 3]))
            yield envs, gate

    return make


def counted(observations) -> list[list[int]]:
    """Number and action of each row's last step."""
    return observations[:, 2:4].tolist()


# The same numbers


@pytest.mark.parametrize(
    ("name", "mode", "transport"),
    [
        (COUNT, AutoresetMode.NEXT_STEP, "ipc"),
        (env_id("Nested-v0"), AutoresetMode.SAME_STEP, "tcp"),
        (env_id("Mixed-v0"), AutoresetMode.NEXT_STEP, "tcp"),
        ("CartPole-v1", AutoresetMode.DISABLED, "ipc"),
    ],
    ids=["count", "nested", "mixed", "cartpole"],
)
def test_results_equal_the_oracles(server, oracle, name, mode, transport):
    """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
    with closing(LoopedVectorEnv(name, 5, url=server.url, transport=transport, autoreset_mode=mode)) as subject:
        assert subject.envs.transport == transport
        assert run_both(subject, oracle(name, 5, autoreset_mode=mode), 40, seed=100) > 0


def test_calls_of_every_kind_equal_the_other_clients(server):
    """Attributes, calls of some rows, frames, infos by row: what ``RemoteVectorEnv`` gives for the same pool's kind."""

    def tried(envs, run):
        envs.infos_by_row = True
        results = [run(envs.reset(seed=[5, None, 7])), run(envs.set_attr("tag", 2.5, rows=[1]))]
        results += [run(envs.get_attr("tag")), run(envs.call("add", 2, b=3)), run(envs.call_rows([0, 2], "add", 1))]
        results += [run(envs.render()), run(envs.render([2, 0])), run(envs.step(np.array([0, 1, 2])))]
        return results[1:], envs.metadata, envs.observation_space, envs.action_space, envs.spec, envs.render_mode

    options = {"url": server.url, "workers": 1, "render_mode": "rgb_array"}
    with closing(LoopedVectorEnv(COUNT, 3, **options)) as subject, vs.make_vec(COUNT, 3, **options) as other:
        assert_same(tried(subject.envs, subject._run), tried(other, lambda result: result), "results")
        assert (subject._run(subject.envs.stats()).batches, other.stats().batches) == (1, 1)


@in_a_loop
async def test_options_are_those_of_the_other_make_vec(server):
    """They reach the pool, and what is none of them reaches the environments."""
    async with await aio.make_vec(
        COUNT, 2, url=server.url, workers=1, autoreset_mode=AutoresetMode.SAME_STEP, episode_statistics=True, length=1
    ) as envs:
        assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        await envs.reset(seed=1)
        for _ in range(20):
            if "episode" in (await envs.step(ZEROS[:2]))[4]:
                return
    raise AssertionError("no episode ended")


# Cancellation


@in_a_loop
async def test_a_cancelled_step_is_pending_and_its_result_comes_later(gated, oracle):
    """Nothing else is begun before, and nothing is stepped twice."""
    expected = oracle(COUNT, 3)
    expected.reset(seed=8)
    expected.step(np.array([1, 2, 3]))
    async with gated() as (envs, gate):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await envs.step(np.array([3, 2, 1]))
        for call in (envs.step(ZEROS), envs.reset(), envs.call("add", 1), envs.set_attr("tag", 1.0), envs.stats()):
            with pytest.raises(AlreadyPendingCallError, match="`step` is pending: `step_wait` first"):
                await call
        with pytest.raises(NoAsyncCallError):
            await envs.reset_wait()
        with pytest.raises(DeadlineExceeded):
            await envs.step_wait(timeout=0.01)
        gate.touch()
        assert_same_batch(await envs.step_wait(), expected.step(np.array([3, 2, 1])), "the cancelled step")
        assert_same_batch(await envs.step(ZEROS), expected.step(ZEROS), "the step after")
        with pytest.raises(NoAsyncCallError):
            await envs.step_wait()
        assert (await envs.stats()).batches == 3


@in_a_loop
async def test_a_step_may_be_cancelled_at_any_moment(server, oracle):
    """After any number of turns of the loop, on a connection that is there or has to be made: each is stepped once."""
    rng, actions = random.Random(4), np.random.default_rng(4)
    expected = oracle(COUNT, 3)
    cancelled = 0
    async with await aio.make_vec(COUNT, 3, url=server.url, workers=1, transport="tcp") as envs:
        assert_same(await envs.reset(seed=3), expected.reset(seed=3), "reset")
        for number in range(120):
            batch = actions.integers(0, 5, 3)
            if rng.random() < 0.3:
                envs._connection._reopen()
            step = asyncio.create_task(envs.step(batch))
            for _ in range(rng.randrange(1, 12)):
                await asyncio.sleep(0)
            step.cancel()
            try:
                result = await step
            except asyncio.CancelledError:
                cancelled += 1
                result = await envs.step_wait()
            assert_same_batch(result, expected.step(batch), f"step {number}")
        assert (await envs.stats()).batches == 120
    assert cancelled > 30


@in_a_loop
async def test_calls_without_a_number_may_be_cancelled_too(gated):
    """Their late answers are not taken for those of the next ones."""
    async with gated(render_mode="rgb_array") as (envs, gate):
        gate.touch()
        frames = await envs.render()
        for row in (0, 1, 2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await envs.render([row])
            await asyncio.sleep(0.02)  # in which its answer would come
            assert_same(await envs.render([(row + 1) % 3]), (frames[(row + 1) % 3],))


@in_a_loop
async def test_other_cancelled_calls_are_pending_too(server):
    """Resets, calls and attributes, each with its own wait."""
    async with await aio.make_vec(COUNT, 3, url=server.url, workers=1) as envs:
        await envs.reset(seed=1)
        for call, wait, result in (
            (envs.set_attr("tag", [1.0, 2.0, 3.0]), envs.call_wait, ()),
            (envs.get_attr("tag"), envs.call_wait, (1.0, 2.0, 3.0)),
            (envs.call_rows([0, 2], "add", 1), envs.call_wait, (await envs.call_rows([0, 2], "add", 1))),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await call
            assert_same(await wait(), result)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await envs.reset(seed=5)
        assert_same(await envs.reset_wait(), await envs.reset(seed=5))


@in_a_loop
async def test_a_cancelled_make_vec_leaves_no_pool(server, control):
    """Whenever it is cancelled."""
    cancelled = 0
    for turns in (1, 5, 20, 60, 120):
        making = asyncio.create_task(aio.make_vec(COUNT, 2, url=server.url, workers=1))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        making.cancel()
        try:
            await (await making).close()
        except asyncio.CancelledError:
            cancelled += 1
    assert cancelled >= 2  # a machine may make a pool in twenty turns
    assert await asyncio.to_thread(control.list_pools) == []


# Several at once


@in_a_loop
async def test_pools_are_driven_side_by_side(gated, server, oracle):
    """While one waits the others step, and each gets its own numbers."""

    async def drive(envs, seed):
        actions = np.random.default_rng(seed)
        batches = [await envs.reset(seed=seed)]
        batches += [await envs.step(actions.integers(0, 5, 3)) for _ in range(30)]
        return batches

    async with gated() as (slow, gate):
        stuck = asyncio.create_task(slow.step(ZEROS))
        async with (
            await aio.make_vec(COUNT, 3, url=server.url, workers=1) as one,
            await aio.make_vec(COUNT, 3, url=server.url, workers=1, transport="tcp") as two,
        ):
            for seed, batches in enumerate(await asyncio.gather(drive(one, 0), drive(two, 1))):
                expected, actions = oracle(COUNT, 3), np.random.default_rng(seed)
                assert_same(batches[0], expected.reset(seed=seed), "reset")
                for number, batch in enumerate(batches[1:]):
                    assert_same_batch(batch, expected.step(actions.integers(0, 5, 3)), f"step {number}")
        assert not stuck.done()
        gate.touch()
        assert counted((await stuck)[0]) == [[2, 0]] * 3


@in_a_loop
async def test_two_tasks_in_one_environment_are_refused(gated):
    """By Gymnasium's own error, and the first one's result is not lost."""
    async with gated() as (envs, gate):
        first = asyncio.create_task(envs.step(ZEROS))
        await asyncio.sleep(0)
        for call in (envs.step(ZEROS), envs.step_wait(), envs.stats(), envs.reset()):
            with pytest.raises(AlreadyPendingCallError, match="while another task is in `step`"):
                await call
        gate.touch()
        assert counted((await first)[0]) == [[2, 0]] * 3


def test_another_loop_is_refused(server):
    """The connection belongs to the loop that it was made in."""
    with asyncio.Runner() as runner:
        envs = runner.run(aio.make_vec(COUNT, 2, url=server.url, workers=1))
        with pytest.raises(LocalError, match="in another event loop"):
            asyncio.run(envs.step(ZEROS[:2]))
        runner.run(envs.close())


# What goes wrong


@in_a_loop
async def test_what_the_pool_refuses_has_used_no_number(server):
    """An action outside its space is named, and the next step is the next one."""
    async with await aio.make_vec(COUNT, 3, url=server.url, workers=1) as envs:
        await envs.reset(seed=1)
        for actions in (np.array([0, 5, 1]), np.zeros(4, np.int64)):
            with pytest.raises(InvalidAction):
                await envs.step(actions)
        assert counted((await envs.step(np.array([1, 2, 3])))[0]) == [[1, 1], [1, 2], [1, 3]]


@in_a_loop
async def test_an_environments_exception_is_raised_as_what_it_was(server):
    """In a step, a call and a frame; the pool goes on."""
    for where in ("step", "call", "render"):
        async with await aio.make_vec(
            env_id("Raise-v0"), 3, url=server.url, workers=1, where=where, at=1, seed=11, render_mode="rgb_array"
        ) as envs:
            await envs.reset(seed=10)
            if where != "step":
                await envs.step(ZEROS)
            calls = {"step": lambda: envs.step(ZEROS), "call": lambda: envs.call("touch"), "render": envs.render}
            with pytest.raises(ValueError, match=rf"row 1.*{FAULT_MESSAGE}") as caught:
                await calls[where]()
            assert isinstance(caught.value, EnvFault)
            await envs.reset(seed=0)
            await envs.step(ZEROS)


@in_a_loop
async def test_infos_that_cannot_travel_are_named_once(server):
    """As a warning, and in ``dropped_infos``."""
    async with await aio.make_vec(ODD_INFOS, 3, url=server.url, workers=1, case="not_travelling", length=9) as envs:
        with pytest.warns(UserWarning, match="cannot travel"):
            await envs.reset(seed=OddInfosEnv.BASE)
        assert envs.dropped_infos["in.set"] == "builtins.set"
        await envs.step(ZEROS)


@in_a_loop
async def test_a_connection_cut_anywhere_loses_and_doubles_nothing(server, oracle, monkeypatch):
    """In a greeting, in a request, in an answer: every batch is the oracle's, and was stepped once."""
    rng, actions = random.Random(5), np.random.default_rng(5)
    patience = [20_000] + [rng.choice([1, 40, 64, 100, 160, 200, 300, 700, 1500, 4000]) for _ in range(25)]
    expected = oracle(COUNT, 3)
    with ExitStack() as stack:
        relays = []

        def relayed(name, endpoints, url):
            relays.append(stack.enter_context(closing(Relay(endpoints["tcp"], iter(patience)))))
            return relays[-1].endpoint

        monkeypatch.setattr(aio.factory, "reachable_endpoint", relayed)
        async with await aio.make_vec(COUNT, 3, url=server.url, transport="tcp", workers=2) as envs:
            assert_same(await envs.reset(seed=3), expected.reset(seed=3), "reset")
            batches = 0
            while relays[0].cuts < 15 or batches < 60:
                batch = actions.integers(0, 5, 3)
                assert_same_batch(await envs.step(batch), expected.step(batch), f"step {batches}")
                batches += 1
            assert (await envs.stats()).batches == batches


@in_a_loop
async def test_a_host_that_is_killed_in_a_step_is_a_lost_pool(gated, control):
    """The connection's end says so: nobody waits for a time limit, and the pool can be closed."""
    async with gated() as (envs, _):
        stuck = asyncio.create_task(envs.step(ZEROS))
        await asyncio.sleep(0)
        os.kill((await asyncio.to_thread(control.get_pool, envs.pool))["host_pid"], signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(PoolLost):
            await stuck
        with pytest.raises(PoolLost):
            await envs.step(ZEROS)
        assert time.monotonic() - began < envs.step_timeout / 2


@in_a_loop
async def test_drivers_are_told_from_each_other(server, control):
    """One at a time unless forced, and closing gives the pool back without removing it."""
    pool = (await asyncio.to_thread(control.create_pool, env_id=COUNT, num_envs=3))["pool"]
    async with await aio.attach(server.url, pool) as first:
        await first.reset(seed=1)
        with pytest.raises(LeaseHeld, match="drives this pool"):
            await aio.attach(server.url, pool)
        async with await aio.attach(server.url, pool, force=True) as second:
            await second.reset(seed=1)
            with pytest.raises(LeaseLost, match="attach again"):
                await first.step(ZEROS)
    async with await aio.attach(server.url, pool, transport="tcp") as third:
        assert counted((await third.step(ZEROS))[0]) == [[1, 0]] * 3
    await asyncio.to_thread(control.delete_pool, pool)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"env_id": "CartPole-v9"}, UnknownEnv, "CartPole-v1"),
        ({"gravity_of_mars": 3}, EnvCreationFailed, "gravity_of_mars"),
        ({"transport": "shm"}, TransportUnavailable, "no transport of an event loop: auto, ipc, tcp"),
        ({"url": "http://127.0.0.1:1"}, ServerUnreachable, "vecserver serve"),
        ({"url": "ftp://there"}, TransportUnavailable, "no HTTP address"),
    ],
)
@in_a_loop
async def test_a_pool_that_cannot_be_made_is_named(server, options, error, text):
    """By the errors of the other ``make_vec``."""
    with pytest.raises(error, match=text):
        await aio.make_vec(**{"env_id": "CartPole-v1", "num_envs": 2, "url": server.url, **options})


@in_a_loop
async def test_a_pool_that_is_not_there_is_named(server):
    """At the attach."""
    with pytest.raises(UnknownPool):
        await aio.attach(server.url, "p-none")


# The end


@in_a_loop
async def test_closing_removes_the_pool_and_may_be_repeated(server, control):
    """What was made for the environment ends with it, and every call says so."""
    async with await aio.make_vec(COUNT, 3, url=server.url, workers=1) as envs:
        await envs.reset(seed=1)
        await envs.close()
    await envs.close()
    with pytest.raises(UnknownPool):
        await asyncio.to_thread(control.get_pool, envs.pool)
    for call in (envs.step(ZEROS), envs.step_wait(), envs.reset(), envs.stats(), envs.render()):
        with pytest.raises(ClosedEnvironmentError, match="of `AsyncRemoteVectorEnv`"):
            await call
    assert envs.closed


@in_a_loop
async def test_closing_waits_for_what_is_pending(gated, control):
    """With a warning first; its result is dropped."""
    async with gated() as (envs, gate):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await envs.step(ZEROS)
        with pytest.warns(UserWarning, match="`step` is pending: waiting for it first"):
            closing_it = asyncio.create_task(envs.close())
            await asyncio.sleep(SOON_S)
        assert not closing_it.done()
        with pytest.raises(AlreadyPendingCallError, match="while another task is in `close`"):
            await envs.step_wait()
        gate.touch()
        await closing_it
        assert envs.closed


@in_a_loop
async def test_closing_gives_up_what_is_pending_when_told_to(gated, control):
    """Nobody waits for the step, the server neither."""
    began = time.monotonic()
    async with gated() as (envs, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await envs.step(ZEROS)
        with pytest.warns(UserWarning, match="`step` is pending: giving it up"):
            await envs.close(terminate=True)
        with pytest.raises(UnknownPool):
            await asyncio.to_thread(control.get_pool, envs.pool)
    assert time.monotonic() - began < AT_ONCE_S


@in_a_loop
async def test_closing_lets_another_tasks_call_end(gated):
    """The task gets its result."""
    async with gated() as (envs, gate):
        stuck = asyncio.create_task(envs.step(ZEROS))
        await asyncio.sleep(SOON_S)
        closing_it = asyncio.create_task(envs.close())
        await asyncio.sleep(0)
        gate.touch()
        assert counted((await stuck)[0]) == [[2, 0]] * 3
        await closing_it
        assert envs.closed


@pytest.mark.parametrize("how", [{"terminate": True}, {"timeout": SOON_S}], ids=["told to", "too late"])
@in_a_loop
async def test_closing_cuts_off_another_tasks_call(gated, how):
    """The task is told, and nobody waits for the step."""
    began = time.monotonic()
    async with gated() as (envs, _):
        stuck = asyncio.create_task(envs.step(ZEROS))
        await asyncio.sleep(0.01)
        with pytest.warns(UserWarning, match="`step` is pending: giving it up"):
            await envs.close(**how)
        with pytest.raises(LocalError, match="was closed"):
            await stuck
        assert envs.closed
    assert time.monotonic() - began < AT_ONCE_S


@in_a_loop
async def test_a_program_that_fails_does_not_wait(gated):
    """Its own error leaves the block, without a warning, and what another task waits for is cut off."""

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        async with gated() as (envs, _):
            stuck = asyncio.create_task(envs.step(ZEROS))
            await asyncio.sleep(0.01)
            raise ZeroDivisionError
    with pytest.raises(LocalError, match="was closed"):
        await stuck
    assert time.monotonic() - began < AT_ONCE_S


def test_a_forgotten_environment_removes_its_pool(server, control):
    """Collecting it is closing it, while its loop runs and afterwards."""

    async def forget(*, collect: bool):
        envs = await aio.make_vec(COUNT, 3, url=server.url, workers=1)
        await envs.reset(seed=1)
        pool = envs.pool
        if not collect:
            return pool, envs
        del envs
        gc.collect()
        await asyncio.sleep(0)
        return pool, None

    for collect in (True, False):
        pool, envs = asyncio.run(forget(collect=collect))
        if envs is not None:
            with pytest.warns(ResourceWarning, match="unclosed"):  # of asyncio's, which could not close it any more
                del envs
                gc.collect()
        with pytest.raises(UnknownPool):
            control.get_pool(pool)


@in_a_loop
async def test_a_private_server_ends_with_its_environment(monkeypatch):
    """Without an address one is started, and the loop is not blocked meanwhile."""
    monkeypatch.delenv("VECSERVER_URL", raising=False)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    async with await aio.make_vec("CartPole-v1", 3) as envs:
        assert (await envs.reset(seed=1))[0].shape == (3, 4)
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    assert turns > 20


@in_a_loop
async def test_a_private_server_ends_when_its_start_is_cancelled(monkeypatch):
    """As soon as it has started."""
    monkeypatch.delenv("VECSERVER_URL", raising=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON_S):
            await aio.make_vec("CartPole-v1", 3)


def test_the_client_loads_no_event_loop():
    """``import vecserver_client`` is for everybody; ``aio`` is loaded by whoever names it."""
    code = "import sys, vecserver_client; print({'asyncio', 'vecserver_client.aio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
