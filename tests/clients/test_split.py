"""A split environment: its parts step beside each other, and nothing is swapped, doubled, lost or left waiting."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode, VectorEnv

import vecserver_client as vs
from tests.clients.wires import Relay
from tests.contract.compare import assert_same, assert_same_batch, run_both
from tests.contract.vector_contract import make_oracle
from tests.environments import env_id
from tests.pools.processes import Watched
from tests.sampling import by_turns, in_turn, of_which
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvFault,
    InvalidAction,
    InvalidSpec,
    LeaseLost,
    LocalError,
    PoolBroken,
    PoolLost,
    PoolSplit,
    TransportUnavailable,
    VecServerError,
    WorkerDied,
)
from vecserver_client import factory, link, local_link, shm, vector_env

COUNT = env_id("Count-v0")
NEXT_STEP = AutoresetMode.NEXT_STEP
FORMS = ("local", "tcp", "shm")
in_every_form = by_turns("form", FORMS)
"""By default in this process and in shared memory; over tcp a part has a contract, and tests of its own."""

Maker = Callable[..., Any]


@pytest.fixture
def make(server) -> Iterator[Maker]:
    """Makes environments of any form; they are closed after the test."""
    with ExitStack() as stack:

        def make_one(form: str, name: str = COUNT, num_envs: int = 5, *, workers: int = 2, **options: Any) -> Any:
            if form == "local":
                envs: Any = vs.LocalVectorEnv(name, num_envs, workers=workers, **options)
            else:
                envs = vs.make_vec(name, num_envs, url=server.url, transport=form, workers=workers, **options)
                assert envs.transport == form
            stack.callback(envs.close, terminate=True)
            return envs

        yield make_one


def actions_of(envs: VectorEnv, number: int) -> np.ndarray:
    """Other actions for every row and every number."""
    return (np.arange(envs.num_envs) * 2 + number) % 5


def restart(part: VectorEnv, oracle: VectorEnv, batch: tuple[Any, ...]) -> None:
    """Where nobody else resets, the caller does."""
    over = batch[2] | batch[3]
    if part.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
        pair = [envs.reset(options={"reset_mask": over.copy()}) for envs in (part, oracle)]
        assert_same(*pair, "reset by mask")


@in_turn("mode, form", list(AutoresetMode), FORMS)
def test_parts_that_step_in_any_order_equal_an_oracle_each(make, form, mode):
    """However their steps are interleaved, each row shows its own seed, episode, step and actions."""
    rng = np.random.default_rng(7)
    parts = make(form, num_envs=5, workers=3, autoreset_mode=mode).split(3)
    assert [part.rows for part in parts] == [range(1), range(1, 3), range(3, 5)]
    with ExitStack() as stack:
        oracles = [
            stack.enter_context(closing(make_oracle(COUNT, part.num_envs, autoreset_mode=mode))) for part in parts
        ]
        for seed, (part, oracle) in enumerate(zip(parts, oracles, strict=True)):
            assert_same(part.reset(seed=100 * seed), oracle.reset(seed=100 * seed), f"reset of part {seed}")
        begun: dict[int, np.ndarray] = {}
        for number in range(60):
            which = int(rng.integers(len(parts)))
            part, oracle = parts[which], oracles[which]
            if which in begun:
                expected = oracle.step(begun.pop(which))
                assert_same_batch(part.step_wait(), expected, f"step {number} of part {which}")
                restart(part, oracle, expected)
            else:
                begun[which] = actions_of(part, number)
                part.step_async(begun[which])
        for which in begun:
            parts[which].step_wait()


@in_turn("mode, form", list(AutoresetMode), FORMS)
def test_what_is_known_of_the_rows_goes_along(make, form, mode):
    """Split and joined between any two steps: one row's due reset, its episode and its observation stay its own."""
    envs = make(form, num_envs=5, autoreset_mode=mode, episode_statistics=False)
    with closing(make_oracle(COUNT, 5, autoreset_mode=mode)) as oracle:
        assert_same(envs.reset(seed=3), oracle.reset(seed=3), "reset")
        for number in range(24):
            actions = actions_of(oracle, number)
            expected = oracle.step(actions)
            if number % 4 < 2:
                got = envs.step(actions)[:4]
            else:
                parts = envs.split(2)
                for part in parts:
                    part.step_async(actions[part.rows.start : part.rows.stop])
                got = tuple(map(np.concatenate, zip(*(part.step_wait()[:4] for part in parts), strict=True)))
                envs.join()
            assert_same(got, expected[:4], f"step {number}")
            restart(envs, oracle, expected)
        mask = np.array([False, True, False, True, False])
        pair = [each.reset(seed=9, options={"reset_mask": mask.copy()}) for each in (envs, oracle)]
        assert_same(*pair, "rows that a reset leaves out")


@in_every_form
def test_to_split_and_to_join_waits_for_nothing(make, form):
    """Both are a command to the workers: whoever splits between two rollouts does not notice it."""
    envs = make(form, num_envs=4)
    envs.reset(seed=0)
    began = monotonic()
    for _ in range(10):
        for part in envs.split(2):
            part.step(part.action_space.sample())
        envs.join()
    assert monotonic() - began < 9.0  # a round of the host's loop that nothing wakes takes a second


@in_every_form
def test_a_reset_by_mask_reaches_past_a_split(make, form):
    """A row that ended and was not reset is reset by the part's first step; one that was reset takes its action."""
    envs = make(form, num_envs=4, length=2)
    with closing(make_oracle(COUNT, 4, length=2)) as oracle:
        for each in (envs, oracle):
            each.reset(seed=0)
            for number in range(2):
                batch = each.step(actions_of(each, number))
            assert (batch[2] | batch[3]).all()
            each.reset(options={"reset_mask": np.array([True, False, True, False])})
        parts = envs.split()
        wrong = np.array([1, 9, 1, 9])  # rows 1 and 3 are reset: their actions mean nothing
        got = [part.step(wrong[part.rows.start : part.rows.stop]) for part in parts]
        expected = oracle.step(np.array([1, 0, 1, 0]))
        assert_same(np.concatenate([batch[0] for batch in got]), expected[0], "observations")
        envs.join()
        with pytest.raises(InvalidAction, match="row 1"):
            envs.step(wrong)  # by now each has an episode


def test_statistics_of_episodes_go_along(make):
    """Return and length of an episode that began before the split, in the numbers of the part's rows."""
    envs = make("tcp", num_envs=4, length=4, episode_statistics=True, info="episode")
    envs.reset(seed=1)
    total = envs.step(actions_of(envs, 0))[1].copy()
    parts = envs.split()
    for number in range(1, 4):
        batches = [part.step(actions_of(envs, number)[part.rows.start : part.rows.stop]) for part in parts]
        total += np.concatenate([batch[1] for batch in batches])
    assert all(batch[4]["_episode"].all() for batch in batches)
    assert np.concatenate([batch[4]["episode"]["l"] for batch in batches]).tolist() == [4] * 4
    np.testing.assert_allclose(np.concatenate([batch[4]["episode"]["r"] for batch in batches]), total)


def test_the_pools_counters_count_its_parts(make):
    """Batches, steps, episodes and resets, while it is split and afterwards."""
    envs = make("tcp", num_envs=4, length=3)
    envs.reset(seed=0)
    envs.step(actions_of(envs, 0))
    for part in envs.split():
        part.reset(seed=5)
        part.step(actions_of(part, 0))
    envs.join()
    stats = envs.stats()
    assert (stats.batches, stats.env_steps, stats.resets, stats.episodes) == (3, 8, 3, 0)
    for number in range(2):
        envs.step(actions_of(envs, number))
    assert envs.stats().episodes == 4


@in_every_form
def test_the_whole_refuses_while_it_is_split(make, form):
    """It names the way back; nothing is done."""
    envs = make(form)
    envs.reset(seed=0)
    first, second = envs.split(2)
    for refused in (
        lambda: envs.step(actions_of(envs, 0)),
        lambda: envs.reset(seed=1),
        lambda: envs.call("add", 1),
        lambda: envs.render(),
        lambda: envs.split(2),
    ):
        with pytest.raises(PoolSplit, match="`join` first"):
            refused()
    for part in (first, second):
        with pytest.raises(LocalError, match="a part cannot be split"):
            part.split(1)
        with pytest.raises(LocalError, match="a part cannot be split"):
            part.send(actions_of(part, 0))
    envs.join()
    envs.join()  # it is whole: nothing to do
    assert first.closed
    assert second.closed
    with pytest.raises(ClosedEnvironmentError):
        first.step(actions_of(first, 0))
    assert envs.step(actions_of(envs, 0))[0][:, 2].tolist() == [1.0] * 5


@in_turn("form, count", FORMS, [0, 3])
def test_there_are_as_many_parts_as_workers_at_most(make, form, count):
    """The refusal says what to do, and the pool goes on."""
    envs = make(form)
    envs.reset(seed=0)
    with pytest.raises(InvalidSpec, match=f"{count} parts of a pool with 2 workers.*`workers`"):
        envs.split(count)
    assert envs.step(actions_of(envs, 0))[0][:, 2].tolist() == [1.0] * 5


@in_every_form
def test_a_part_that_was_not_waited_for_cannot_be_joined(make, form):
    """Its result would be lost; once it is there, all is as before."""
    envs = make(form)
    envs.reset(seed=0)
    part = envs.split()[1]
    part.step_async(actions_of(part, 0))
    with pytest.raises(
        AlreadyPendingCallError, match="`join` while a call to `step` is pending in the part of rows 2 to 4"
    ):
        envs.join()
    part.step_wait()
    envs.join()
    assert envs.step(actions_of(envs, 0))[0][:, 2].tolist() == [1.0, 1.0, 2.0, 2.0, 2.0]


@in_every_form
def test_other_rows_than_a_parts_own_are_not_reached(make, form):
    """Calls, attributes, frames and masks count a part's rows from 0."""
    envs = make(form, num_envs=5, render_mode="rgb_array")
    envs.reset(seed=10)
    first, second = envs.split()
    assert second.call("add", 1) == (13, 14, 15)
    assert second.call_rows([1], "add", 0) == (13,)
    second.set_attr("tag", [1.0, 2.0, 3.0])
    assert first.get_attr("tag") == (0.0, 0.0)
    assert len(second.render()) == 3
    assert_same(second.render([0])[0], second.render()[0], "frame")
    with pytest.raises(InvalidSpec, match="row 3 of a pool with 3 rows"):
        second.call_rows([3], "add", 0)
    observations = second.reset(options={"reset_mask": np.array([False, True, False])})[0]
    assert observations[:, 1].tolist() == [0.0, 1.0, 0.0]
    envs.join()
    assert envs.get_attr("tag") == (0.0, 0.0, 1.0, 2.0, 3.0)


@in_every_form
def test_an_error_in_one_part_is_that_parts(make, form):
    """It names the part's row; the other part's step is what it would have been, and both go on."""
    envs = make(form, env_id("Raise-v0"), 4, seed=3, at=2)
    envs.reset(seed=0)
    first, second = envs.split()
    for part in (first, second):
        part.step(actions_of(part, 0))
    second.step_async(actions_of(second, 1))
    assert first.step(actions_of(first, 1))[0][:, 2].tolist() == [2.0, 2.0]
    with pytest.raises(EnvFault) as caught:
        second.step_wait()
    assert caught.value.row == 1
    second.reset(seed=7)
    assert second.step(actions_of(second, 0))[0][:, 2].tolist() == [1.0, 1.0]


@in_every_form
def test_a_worker_that_dies_for_good_is_named_to_every_part(make, form):
    """The part that was stepping hears of it at once, and so does the other, in the middle of its own step or at the next."""
    envs = make(form, env_id("Kill-v0"), 4, seed=2, restart_budget=0)
    envs.reset(seed=0)
    first, second = envs.split()
    second.step_async(actions_of(second, 0))
    began = monotonic()
    with pytest.raises(WorkerDied, match="worker 1"):
        second.step_wait()
    with pytest.raises((WorkerDied, PoolBroken), match="worker 1"):
        first.step(actions_of(first, 0))
    envs.join()
    with pytest.raises(PoolBroken, match="worker 1"):
        envs.step(actions_of(envs, 0))
    envs.close()
    assert monotonic() - began < 30.0  # a step may take sixty


@of_which("form", ["tcp", "shm"], 0)
def test_a_host_that_dies_is_named_to_every_part(make, form, tmp_path):
    """Also to those that wait for a step."""
    envs = make(form, env_id("Slow-v0"), 4, gate=str(tmp_path / "gate"), seed=2)
    envs.reset(seed=0)
    first, second = envs.split()
    second.step_async(actions_of(second, 0))
    host = parent_of(envs._pool_link.stats(10.0).worker_pids[0])
    with Watched(host) as watched:
        watched.signal(host, signal.SIGKILL)
        assert watched.running() == []
    for part, ask in ((second, second.step_wait), (first, lambda: first.step(actions_of(first, 0)))):
        with pytest.raises(PoolLost):
            ask()
        assert part.pending_call is None


def parent_of(pid: int) -> int:
    """The process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@of_which("form", ["tcp", "shm"], 1)
def test_who_takes_the_pool_ends_its_parts(make, server, form):
    """Their leases are fenced off, in the middle of a step too; the new driver has a whole pool, with every row's step."""
    envs = make(form, num_envs=4)
    envs.reset(seed=0)
    first, second = envs.split()
    first.step(actions_of(first, 0))
    second.step_async(actions_of(second, 0))
    with closing(vs.attach(server.url, envs.pool, transport="ipc", force=True)) as other:
        assert other.step(actions_of(other, 0))[0][:, 2].tolist() == [2.0] * 4
        for ask in (lambda: first.step(actions_of(first, 0)), lambda: first.call("add", 1), first.render):
            with pytest.raises(LeaseLost):
                ask()
        with suppress(LeaseLost):  # its step was taken before the pool was: its answer may have been on its way
            assert second.step_wait()[0][:, 2].tolist() == [1.0, 1.0]
        with pytest.raises(LeaseLost):
            second.step(actions_of(second, 0))
        with pytest.raises(LeaseLost):
            envs.join()
        assert other.step(actions_of(other, 0))[0][:, 2].tolist() == [3.0] * 4


@of_which("form", ["tcp", "shm"], 1)
def test_a_pool_that_is_given_back_split_is_whole_for_the_next(make, server, form):
    """Closing gives back the parts with it."""
    envs = make(form, num_envs=4)
    with closing(vs.attach(server.url, envs.pool, transport=form, force=True)) as one:
        one.reset(seed=0)
        for part in one.split():
            part.step(actions_of(part, 0))
    with closing(vs.attach(server.url, envs.pool, transport=form)) as other:
        assert other.step(actions_of(other, 0))[0][:, 2].tolist() == [2.0] * 4


def test_parts_in_shm_are_driven_directly(make):
    """Each has its own loan, and the whole has one again afterwards."""
    envs = make("shm", num_envs=4)
    envs.reset(seed=0)
    for part in envs.split():
        assert part._link._drive is not None
        part.step(actions_of(part, 0))
        assert part._link._drive.driver.seq == 1
    envs.join()
    envs.step(actions_of(envs, 0))
    assert envs._link._drive.driver.seq == 1


def test_answers_that_were_cut_off_are_the_same_when_asked_again(make, server, monkeypatch):
    """Each part's connection breaks many times, in the middle of messages: every result is the oracle's, once."""
    relays: list[Relay] = []
    real = factory.reachable_endpoint

    def through_relay(*arguments: Any) -> str:
        relays.append(Relay(real(*arguments), iter([*[1 << 40], *(int(n) for n in patience)])))
        return relays[-1].endpoint

    patience = np.random.default_rng(5).integers(600, 4000, 60)
    monkeypatch.setattr(factory, "reachable_endpoint", through_relay)
    try:
        envs = make("tcp", num_envs=5)
        parts = envs.split()
        with ExitStack() as stack:
            oracles = [stack.enter_context(closing(make_oracle(COUNT, part.num_envs))) for part in parts]
            for part, oracle in zip(parts, oracles, strict=True):
                assert_same(part.reset(seed=1), oracle.reset(seed=1), "reset")
            for number in range(40):
                for part in parts:
                    part.step_async(actions_of(part, number))
                for part, oracle in zip(parts, oracles, strict=True):
                    assert_same_batch(part.step_wait(), oracle.step(actions_of(oracle, number)), f"step {number}")
        assert relays[0].cuts >= 10
        envs.close()
    finally:
        for relay in relays:
            relay.close()


@pytest.mark.filterwarnings("ignore:.*giving it up")
@in_turn("form, order", FORMS, [[order] for order in itertools.permutations(range(3))])
def test_a_part_may_be_closed_before_the_whole_and_after_it(make, form, order):
    """A pending step is given up or waited for; closing returns in any order."""
    envs = make(form, num_envs=4)
    envs.reset(seed=0)
    parts = envs.split()
    parts[0].step_async(actions_of(parts[0], 0))
    for which in order[0]:
        [envs, *parts][which].close(terminate=True)
    assert parts[0].closed
    assert parts[1].closed


def test_a_part_keeps_the_whole(make, server):
    """Who drops the whole and steps its parts loses nothing; with the last part the pool goes."""
    envs = vs.make_vec(COUNT, 4, url=server.url, workers=2)
    pool = envs.pool
    first, second = envs.split()
    whole = weakref.ref(envs)
    del envs
    gc.collect()
    first.reset(seed=0)
    second.reset(seed=0)
    assert first.step(actions_of(first, 0))[0][:, 2].tolist() == [1.0, 1.0]
    del first, second
    gc.collect()
    assert whole() is None
    with vs.ControlClient(server.url) as control, pytest.raises(VecServerError, match=pool):
        control.get_pool(pool)


@in_every_form
def test_an_interrupted_step_of_a_part_is_still_pending(make, form, tmp_path):
    """Its result comes with the next wait; the other part is not concerned."""
    gate = tmp_path / "gate"
    envs = make(form, env_id("Slow-v0"), 4, gate=str(gate), seed=2)
    envs.reset(seed=0)
    first, second = envs.split()
    second.step_async(actions_of(second, 0))
    before = signal.signal(signal.SIGALRM, _interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            second.step_wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert first.step(actions_of(first, 0))[0][:, 2].tolist() == [1.0, 1.0]
    gate.touch()
    assert second.step_wait()[0][:, 2].tolist() == [1.0, 1.0]
    assert second.step(actions_of(second, 0))[0][:, 2].tolist() == [2.0, 2.0]


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


@in_turn("form, moment", FORMS, ["sent", "answered", "linked"])
def test_a_split_that_was_interrupted_can_be_joined(make, form, moment, monkeypatch):
    """Before the answer, before the parts have links, or before they are handed out: the rows are then as they were."""
    envs = make(form, num_envs=4)
    envs.reset(seed=5)
    before = envs.step(actions_of(envs, 0))
    where, name = {
        "sent": (local_link.ArenaLink if form == "local" else link.PoolLink, "finish"),
        "answered": (link, "LinkToPart"),
        "linked": (vector_env.ArenaVectorEnv, "_make_part"),
    }[moment]
    if moment == "answered":
        for module in (link, shm, local_link):
            monkeypatch.setattr(module, name, lambda *_: _interrupt(0, None))
    else:
        monkeypatch.setattr(where, name, lambda *_: _interrupt(0, None))
    with pytest.raises(KeyboardInterrupt):
        envs.split(2)
    monkeypatch.undo()
    gc.collect()
    envs.join()
    assert_same(envs.step(actions_of(envs, 1))[0][:, 2], before[0][:, 2] + 1, "one step further")
    assert [part.num_envs for part in envs.split(2)] == [2, 2]


def test_a_part_says_how_it_is_stepped(make, monkeypatch):
    """As the whole is; over ipc where its arena cannot be had."""
    for form in FORMS:
        assert [part.transport for part in make(form, num_envs=4).split(2)] == [form] * 2

    def refuse(*_: Any) -> None:
        raise TransportUnavailable("no loan")

    envs = make("shm", num_envs=4)
    monkeypatch.setattr(envs._link, "_borrow", refuse)
    parts = envs.split(2)
    assert [part.transport for part in parts] == ["ipc", "ipc"]
    parts[1].reset(seed=1)
    parts[1].step(actions_of(parts[1], 0))


def test_the_memory_of_parts_goes_with_them(make):
    """When they are joined, and not when the collector comes by."""
    envs = make("local", num_envs=4)
    envs.reset(seed=1)

    def arenas() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:vecserver-local")

    gc.collect()
    before = arenas()
    gc.disable()
    try:
        parts = envs.split(2)
        for part in parts:
            part.step(actions_of(part, 0))
        assert arenas() == before + 2
        del part, parts
        envs.join()
        assert arenas() == before
    finally:
        gc.enable()


@in_every_form
def test_rows_come_as_they_are_ready(make, form, tmp_path):
    """A worker that takes its time keeps nobody waiting; its rows come when it is done, once."""
    gate = tmp_path / "gate"
    envs = make(form, env_id("Slow-v0"), 6, workers=3, gate=str(gate), seed=2)
    envs.reset(seed=0)
    envs.send(actions_of(envs, 0))
    batch = envs.recv(min_rows=4)
    assert sorted(batch[4]["env_id"].tolist()) == [0, 1, 4, 5]
    assert batch[4]["env_id"].dtype == np.int32
    assert_same(batch[0][:, 0].astype(np.int32), batch[4]["env_id"], "each row's own observation")
    with pytest.raises(DeadlineExceeded):
        envs.recv(timeout=0.05)
    rows = np.array([4, 5])
    envs.send(np.array([1, 1]), rows)
    assert envs.recv(2)[4]["env_id"].tolist() == [4, 5]
    with pytest.raises(InvalidSpec, match="min_rows is 3, and 2 rows are to be received"):
        envs.recv(3)
    gate.touch()
    batch = envs.recv()
    assert (batch[4]["env_id"].tolist(), batch[0][:, 2].tolist()) == ([2, 3], [1.0, 1.0])
    with pytest.raises(NoAsyncCallError):
        envs.recv()
    envs.join()
    assert envs.step(actions_of(envs, 0))[0][:, 2].tolist() == [2.0, 2.0, 2.0, 2.0, 3.0, 3.0]


@in_turn("form, name", ["tcp", "local", "shm"], ["Text-v0", "Nested-v0", "Count-v0"])
def test_every_row_that_is_received_equals_the_oracles(make, form, name):
    """Observations, rewards, flags and infos, row by row, whatever came together."""
    if form == "shm" and name == "Text-v0":
        pytest.skip("its actions have no fixed size: such a pool is not lent")
    rng = np.random.default_rng(2)
    envs = make(form, env_id(name), 6, workers=3)
    envs.infos_by_row = True
    with ExitStack() as stack:
        oracles = [stack.enter_context(closing(make_oracle(env_id(name), 2))) for _ in range(3)]
        envs.reset(seed=0)
        for number, oracle in enumerate(oracles):
            oracle.reset(seed=2 * number)
        sent = {}
        for shard in range(3):
            sent[shard] = oracles[shard].action_space.sample()
            envs.send(sent[shard], [2 * shard, 2 * shard + 1])
        for _ in range(40):
            observations, rewards, terminated, truncated, infos = envs.recv(int(rng.integers(1, 7)))
            came = [info.pop("env_id") for info in infos]
            for at, row in enumerate(came[::2]):
                shard, pair = row // 2, slice(2 * at, 2 * at + 2)
                expected = oracles[shard].step(sent.pop(shard))
                assert_same(_rows(observations, pair), expected[0], "observations")
                assert_same((rewards[pair], terminated[pair], truncated[pair]), tuple(expected[1:4]), "the rest")
                sent[shard] = oracles[shard].action_space.sample()
                envs.send(sent[shard], came[pair])
        envs.recv(6)


def _rows(value: Any, rows: slice) -> Any:
    if isinstance(value, dict):
        return {key: _rows(part, rows) for key, part in value.items()}
    if isinstance(value, tuple) and isinstance(value[0], np.ndarray):
        return tuple(_rows(part, rows) for part in value)
    return value[rows]


def test_infos_of_several_workers_are_one(make):
    """Keys that only some rows have are masked, as Gymnasium does in one batch."""
    envs = make("local", num_envs=4)
    envs.reset(seed=0)
    with closing(make_oracle(COUNT, 4)) as oracle:
        oracle.reset(seed=0)
        for number in range(12):
            envs.send(actions_of(envs, number))
            infos = envs.recv(4)[4]
            rows = infos.pop("env_id")
            expected = oracle.step(actions_of(oracle, number))[4]
            assert infos.keys() == expected.keys()
            order = np.argsort(rows)
            for key in expected:
                if key.startswith("_"):
                    assert_same(infos[key][order], expected[key], key)
                elif not isinstance(expected[key], dict):
                    shown = expected[f"_{key}"]
                    assert_same(infos[key][order][shown], expected[key][shown], key)


def test_rows_that_do_not_go_together_are_refused(make):
    """Nothing is stepped, and the right ones can be sent."""
    envs = make("local", num_envs=4)
    envs.reset(seed=0)
    for rows, count in (
        *[([0], 1), ([1, 0], 2), ([0, 1, 0, 1], 4), ([0, 2], 2), ([9, 10], 2), ([0, 1], 3), (None, 2)],
    ):
        with pytest.raises(InvalidAction, match="nothing was stepped"):
            envs.send(np.zeros(count, np.int64), rows)
        with pytest.raises(NoAsyncCallError):
            envs.recv()
    envs.send(np.zeros(4, np.int64))
    with pytest.raises(AlreadyPendingCallError):
        envs.send(np.zeros(2, np.int64), [0, 1])
    assert envs.recv(4)[0][:, 2].tolist() == [1.0] * 4


@in_every_form
def test_a_value_outside_the_space_names_its_worker(make, form):
    """Its rows are not stepped and can be sent again; those of the others are received."""
    envs = make(form, num_envs=4)
    envs.reset(seed=0)
    refused, rows = None, []
    try:
        envs.send(np.array([0, 0, 0, 7]))
    except InvalidAction as error:
        refused = error
    while envs.pending_rows:
        try:
            rows += envs.recv()[4]["env_id"].tolist()
        except InvalidAction as error:
            refused = error
    assert refused is not None
    assert refused.details["part_rows"] == [2, 3]
    assert rows == [0, 1]
    envs.send(np.array([0, 0]), [2, 3])
    assert envs.recv(2)[0][:, 2].tolist() == [1.0, 1.0]


@in_every_form
def test_a_fault_of_one_worker_loses_no_result_of_another(make, form):
    """It is raised once; what else arrived is received afterwards."""
    envs = make(form, env_id("Raise-v0"), 4, seed=0)
    envs.reset(seed=0)
    envs.send(actions_of(envs, 0))
    faults, rows = 0, []
    while len(rows) < 2 or not faults:
        try:
            rows += envs.recv()[4]["env_id"].tolist()
        except EnvFault as fault:
            faults += 1
            assert (fault.row, fault.details["part_rows"]) == (0, [0, 1])
            assert "row 0 of the whole" in fault.__notes__[0]
    assert (faults, rows) == (1, [2, 3])
    with pytest.raises(NoAsyncCallError):
        envs.recv()


def test_an_answer_that_was_lost_is_asked_for_while_others_are_waited_for(make, monkeypatch):
    """No row is lost or stepped twice when connections break under ``recv``."""
    relays: list[Relay] = []
    real = factory.reachable_endpoint

    def through_relay(*arguments: Any) -> str:
        relays.append(Relay(real(*arguments), iter([*[1 << 40], *(int(n) for n in patience)])))
        return relays[-1].endpoint

    patience = np.random.default_rng(6).integers(600, 4000, 60)
    monkeypatch.setattr(factory, "reachable_endpoint", through_relay)
    try:
        envs = make("tcp", num_envs=4, length=1000, with_infos=False)
        envs.reset(seed=0)
        envs.send(np.zeros(4, np.int64))
        count = np.zeros(4)
        for _ in range(80):
            batch = envs.recv()
            rows = batch[4]["env_id"]
            count[rows] += 1
            assert_same(batch[0][:, 2], count[rows], "steps")
            envs.send(np.zeros(len(rows), np.int64), rows)
        assert relays[0].cuts >= 5
        envs.recv(4)
        envs.close()
    finally:
        for relay in relays:
            relay.close()


@pytest.mark.filterwarnings("ignore:.*giving it up")
def test_waiting_for_several_takes_no_processor_time(make, tmp_path):
    """The caller sleeps until a descriptor is readable; and what it gives up nobody waits for when it closes."""
    gate = tmp_path / "gate"
    for form in FORMS:
        envs = make(form, env_id("Slow-v0"), 4, gate=str(gate))
        envs.reset(seed=0)
        envs.send(actions_of(envs, 0))
        before = sum(os.times()[:2])
        with pytest.raises(DeadlineExceeded):
            envs.recv(timeout=0.6)
        assert sum(os.times()[:2]) - before < 0.3
        began = monotonic()
        envs.close(terminate=True)
        assert monotonic() - began < 9.0  # the server gives environments ten seconds to end


def test_split_into_one_is_a_part_of_all_rows(make):
    """Also where Gymnasium's own vector environment runs in the one worker."""
    for engine in ("envs", "sync"):
        part = make("tcp", num_envs=3, workers=1, engine=engine).split(1)[0]
        with closing(make_oracle(COUNT, 3)) as oracle:
            run_both(part, oracle, 12)
