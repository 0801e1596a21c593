"""Pools on real host processes: made, listed, stepped, reset, deleted, refused."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tests.contract.compare import assert_same, assert_same_batch
from tests.contract.vector_contract import make_oracle
from tests.environments import FAULT_MESSAGE, env_id
from tests.pools.odd_environments import odd
from tests.pools.processes import Watched, wait_for
from vecserver.pools import conversations
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire.errors import (
    CapExceeded,
    DeadlineExceeded,
    EnvCreationFailed,
    EnvFault,
    HostStartFailed,
    InvalidAction,
    InvalidSpec,
    PoolStopping,
    UnknownEnv,
    UnknownPool,
    Unportable,
    UnsupportedSpace,
    VecServerError,
    WorkerDied,
)

COUNT = env_id("Count-v0")
LONG_S = 30.0


def count(num_envs: int = 3, **options) -> PoolSpec:
    return PoolSpec(**{"env_id": COUNT, "num_envs": num_envs, "workers": 1} | options)


# One pool's life


def test_a_pool_steps_as_gymnasium_does(registry, pool):
    """Resets and steps through the registry are the oracle's to the bit, over all workers and in every structure."""
    view = pool(PoolSpec(env_id=env_id("Nested-v0"), num_envs=5, workers=2, autoreset_mode="SameStep"))
    oracle = make_oracle(env_id("Nested-v0"), 5, autoreset_mode=AutoresetMode.SAME_STEP)
    for seed in (3, [4, None, 5, None, 6], None):
        batch = registry.reset(view.pool, seed=seed)
        assert (batch.rewards, batch.terminated, batch.truncated) == (None, None, None)
        assert_same((batch.observations, batch.infos), oracle.reset(seed=seed), "reset")
        for _ in range(6):
            actions = oracle.action_space.sample()
            batch = registry.step(view.pool, actions)
            got = (batch.observations, batch.rewards, batch.terminated, batch.truncated, batch.infos)
            assert_same_batch(got, oracle.step(actions), "step")
    oracle.close()


def test_a_view_shows_what_a_pool_is_and_did(registry, pool):
    """Description, addresses, processes and counters come with ``create``, ``get`` and ``list``."""
    spec = count(4, workers=2, render_mode="rgb_array", lease_ttl=7.0)
    view = pool(spec, "shown")
    assert (view.pool, view.spec, view.state, view.reason) == ("shown", spec, "ready", "")
    assert (view.info.pool, view.info.num_envs, view.info.workers, view.info.engine) == ("shown", 4, 2, "envs")
    assert (view.info.render_mode, view.info.lease_ttl) == ("rgb_array", 7.0)
    assert view.info.metadata == {"render_modes": ["rgb_array"], "render_fps": 30}
    assert view.endpoints.keys() == {"tcp", "ipc", "shm"}
    assert view.epoch > 0
    assert 0 < view.creation_s < LONG_S
    assert abs(view.created - time.time()) < LONG_S
    registry.reset("shown", seed=1)
    for actions in ([0, 1, 2, 3], [3, 2, 1, 0]):
        registry.step("shown", actions)
    with pytest.raises(InvalidAction):
        registry.step("shown", [9, 9, 9, 9])
    view = registry.get("shown")
    stats = view.stats
    assert (stats.state, stats.batches, stats.env_steps, stats.resets, stats.refused) == ("ready", 2, 8, 1, 1)
    assert len(stats.worker_pids) == len(stats.rss_bytes) == 2
    assert min(*stats.rss_bytes, stats.host_rss_bytes) > 1 << 20
    assert (stats.arena_bytes, stats.driver) == (view.arena_bytes, "")
    assert [each.pool for each in registry.list()] == ["shown"]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_counters_leave_autoreset_steps_out(registry, pool, mode):
    """Rows that reset themselves instead of stepping are no steps; ends of episodes are counted once."""
    view = pool(count(2, env_kwargs={"length": 1}, autoreset_mode=mode))
    registry.reset(view.pool, seed=1)
    for _ in range(4 if mode != "Disabled" else 1):
        registry.step(view.pool, [0, 0])
    stats = registry.get(view.pool).stats
    expected = {"NextStep": (4, 4, 4), "SameStep": (4, 8, 8), "Disabled": (1, 2, 2)}[mode]
    assert (stats.batches, stats.env_steps, stats.episodes) == expected


def test_a_deleted_pool_is_gone(registry):
    """Its processes have ended when ``delete`` returns, its name is free and its socket is removed."""
    view = registry.create(count(), "short-lived")
    with Watched(view.host_pid, *view.stats.worker_pids) as processes:
        registry.delete("short-lived")
        assert not processes.running(0)
    assert not Path(view.endpoints["ipc"].removeprefix("ipc://")).exists()
    for call in (registry.get, registry.delete, registry.reset):
        with pytest.raises(UnknownPool, match="'short-lived'"):
            call("short-lived")
    again = registry.create(count(), "short-lived")
    assert again.epoch != view.epoch
    registry.delete("short-lived")


def test_an_unknown_pool_comes_with_the_known_ones(registry, pool):
    """The error lists what there is."""
    pool(count(), "known")
    with pytest.raises(UnknownPool, match="there are known") as caught:
        registry.step("unknown", [0])
    assert caught.value.details == {"pool": "unknown"}


def test_some_rows_may_be_reset(registry, pool):
    """A mask resets its rows, and options reach them."""
    view = pool(count(3))
    registry.reset(view.pool, seed=5)
    registry.step(view.pool, [1, 1, 1])
    batch = registry.reset(view.pool, seed=[7, 8, 9], mask=[False, True, False], options={"mark": 1})
    assert batch.observations[:, [0, 2]].tolist() == [[5, 1], [8, 0], [7, 1]]
    assert batch.infos["options"].tolist() == [None, "[('mark', 1)]", None]


# What is refused


def test_a_reset_that_does_not_fit_is_refused(registry, pool):
    """As many seeds and as long a mask as rows, and seeds of at most 64 bits; the pool is not touched."""
    view = pool(count(3))
    for request, error, text in (
        ({"seed": [1]}, InvalidSpec, "seeds has 1 entries for 3 rows"),
        ({"mask": [True, False]}, InvalidSpec, "mask has 2 entries for 3 rows"),
        ({"seed": 2**64 - 1}, Unportable, "Reset"),
        ({"seed": [2**70, 1, 2]}, Unportable, "Reset"),
        ({"options": {"lock": object()}}, Unportable, "lock"),
    ):
        with pytest.raises(error, match=text):
            registry.reset(view.pool, **request)
    assert registry.get(view.pool).stats.resets == 0
    registry.reset(view.pool, seed=1)


def test_an_error_in_an_environment_leaves_the_pool_whole(registry, pool):
    """The caller of a step gets row, type and traceback; after a reset the pool steps on."""
    view = pool(PoolSpec(env_id=env_id("Raise-v0"), num_envs=3, workers=2, env_kwargs={"at": 2, "seed": 12}))
    registry.reset(view.pool, seed=10)
    registry.step(view.pool, [0, 0, 0])
    with pytest.raises(EnvFault, match=f"row 2 raised ValueError: {FAULT_MESSAGE}") as caught:
        registry.step(view.pool, [0, 0, 0])
    assert (caught.value.row, caught.value.type) == (2, "ValueError")
    assert "environments.py" in caught.value.traceback
    registry.reset(view.pool, seed=20)
    assert registry.step(view.pool, [0, 0, 0]).observations[:, 2].tolist() == [1, 1, 1]
    assert registry.get(view.pool).state == "ready"


def test_a_name_is_given_once(registry, pool):
    """A second pool of the same name is refused, and the first is not touched."""
    pool(count(), "only")
    with pytest.raises(InvalidSpec, match="'only' exists"):
        registry.create(count(), "only")
    assert registry.get("only").state == "ready"


@pytest.mark.parametrize(
    ("spec", "name", "error"),
    [
        (count(0), None, InvalidSpec),
        (PoolSpec(env_id="NoSuch-v0", num_envs=1), None, UnknownEnv),
        (count(1), "../escape", InvalidSpec),
    ],
    ids=["option", "environment", "name"],
)
def test_a_wrong_spec_starts_no_process(make_registry, spec, name, error):
    """What can be refused at once is, whatever the host command would be."""
    with pytest.raises(error):
        make_registry(host_command=("/no/such/program",)).create(spec, name)


def test_pools_are_capped(make_registry):
    """One pool too many is refused with the cap's name, until one is deleted."""
    registry = make_registry(caps=Caps(max_pools=1))
    first = registry.create(count())
    with pytest.raises(CapExceeded, match="max_pools is 1") as caught:
        registry.create(count())
    assert caught.value.details == {"cap": "max_pools", "limit": 1}
    registry.delete(first.pool)
    registry.create(count())


def test_an_arena_is_capped(make_registry):
    """A pool with too much shared memory is refused with the cap's name and both sizes."""
    registry = make_registry(caps=Caps(max_arena_bytes=1 << 20))
    with pytest.raises(CapExceeded, match="max_arena_bytes") as caught:
        registry.create(PoolSpec(env_id=env_id("Big-v0"), num_envs=4, workers=1))
    details = caught.value.details
    assert (details["cap"], details["limit"]) == ("max_arena_bytes", 1 << 20)
    assert details["asked"] > 4 * 3 * 210 * 160 * 3


def test_workers_are_chosen_within_their_cap(make_registry):
    """Where none are asked for, there are no more workers than cores, rows and the cap allow."""
    registry = make_registry(caps=Caps(max_workers=1))
    assert registry.create(count(3, workers=None)).info.workers == 1


def test_many_threads_may_create_at_once(registry, pool):
    """Each gets a pool of its own, and each pool answers."""
    with ThreadPoolExecutor(3) as threads:
        views = [*threads.map(lambda _: pool(count(2)), range(3))]
    assert len({view.pool for view in views}) == 3
    for seed, view in enumerate(views):
        assert registry.reset(view.pool, seed=seed).observations[:, 0].tolist() == [seed, seed + 1]


def test_one_name_is_given_to_one_of_many_threads(registry, pool):
    """Of those who ask for the same name at once, one gets it and the others are told."""

    def ask(_: int) -> str:
        try:
            return pool(count(1), "contested").pool
        except InvalidSpec:
            return ""

    with ThreadPoolExecutor(3) as threads:
        assert sorted(threads.map(ask, range(3))) == ["", "", "contested"]


def test_two_threads_may_ask_one_pool(registry, pool):
    """Steps of two threads run one after the other, or one of them is told who drives; none is lost or doubled."""
    view = pool(count(2, env_kwargs={"length": 10_000}))
    registry.reset(view.pool, seed=0)

    def step(_: int) -> int:
        done = 0
        for _ in range(20):
            try:
                registry.step(view.pool, [1, 1])
            except VecServerError as error:
                assert error.code == "lease_held"
            else:
                done += 1
        return done

    with ThreadPoolExecutor(2) as threads:
        done = sum(threads.map(step, range(2)))
    assert done > 0
    assert registry.step(view.pool, [0, 0]).observations[:, 2].tolist() == [done + 1] * 2


# Pools that cannot be made


@pytest.mark.parametrize("kind", ["unpicklable", "systemexit"])
def test_an_environment_that_cannot_be_made_says_why(registry, kind):
    """The error has the environment's own message and its row, and nothing is left of the pool."""
    with pytest.raises(EnvCreationFailed, match=rf"row 0 could not be made.*{FAULT_MESSAGE}") as caught:
        registry.create(PoolSpec(env_id=env_id("Raise-v0"), num_envs=2, env_kwargs={"where": "init", "kind": kind}))
    assert caught.value.row == 0
    assert "environments.py" in caught.value.traceback
    assert registry.list() == []


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (count(2, env_kwargs={"colour": "red"}), "colour"),
        (PoolSpec(env_id="no.such.module:Thing-v0", num_envs=1), "no.such.module"),
        (PoolSpec(env_id="tests.environments:vectest/Nothing-v0", num_envs=1), "Nothing"),
    ],
    ids=["unknown argument", "unknown module", "unknown id in a module"],
)
def test_a_pool_that_gymnasium_cannot_make_has_its_message(registry, spec, text):
    """What ``gymnasium.make`` says comes out in words."""
    with pytest.raises(EnvCreationFailed, match=text):
        registry.create(spec)


def test_a_space_that_no_pool_takes_is_named(registry):
    """A long double is not the same number everywhere."""
    with pytest.raises(UnsupportedSpace, match="use float64"):
        registry.create(PoolSpec(env_id=odd("LongDouble-v0"), num_envs=1))


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_with_different_spaces_are_refused(registry, tmp_path, workers):
    """Within a worker or between two: one pool has one space."""
    spec = PoolSpec(
        env_id=odd("Different-v0"), num_envs=2, workers=workers, env_kwargs={"first": str(tmp_path / "first")}
    )
    with pytest.raises((EnvCreationFailed, InvalidSpec), match="observation_space of row 1"):
        registry.create(spec)


def test_a_worker_that_dies_while_it_starts_is_named(registry):
    """The error says which rows and which signal."""
    with pytest.raises(WorkerDied, match=r"rows 0 to 1.*SIGKILL") as caught:
        registry.create(PoolSpec(env_id=odd("DeadOnArrival-v0"), num_envs=2, workers=1))
    assert caught.value.details == {"shard": 0, "rows": [0, 1], "exitcode": -9}


def test_environments_that_are_not_made_in_time_are_given_up(make_registry, tmp_path):
    """The caller waits for the time to start and the grace, and nothing is left."""
    registry = make_registry(start_timeout=3.0, grace=0.1)  # in which a busy machine begins to make them
    began = tmp_path / "began"
    with pytest.raises(HostStartFailed, match="rows 0 to 0 were not made in time"):
        registry.create(PoolSpec(env_id=odd("Stuck-v0"), num_envs=1, env_kwargs={"began": str(began)}))
    assert began.exists()


def test_a_host_that_is_no_host_is_named(make_registry):
    """The end of the process comes with its status and what it printed."""
    command = ("/bin/sh", "-c", "echo something is wrong >&2; exit 3")
    with pytest.raises(HostStartFailed, match=r"left with exit code 3; the end of its log:\nsomething is wrong"):
        make_registry(host_command=command).create(count())


def test_a_host_that_runs_out_of_descriptors_is_an_answer(make_registry):
    """The caller is told what the system refused, not where in the host."""
    command = ("/bin/sh", "-c", 'ulimit -n 40; exec "$0" -m vecserver.dataplane "$1"', sys.executable)
    with pytest.raises(HostStartFailed, match="could not make its pool: .*Too many open files"):
        make_registry(host_command=command).create(PoolSpec(env_id=COUNT, num_envs=20, workers=20))


def test_a_program_that_does_not_exist_leaves_nothing(make_registry):
    """A host that cannot even be started frees its name."""
    registry = make_registry(host_command=("/no/such/program",))
    for _ in range(2):
        with pytest.raises(HostStartFailed, match="no/such/program"):
            registry.create(count(), "again")


# The end


def test_close_ends_all_pools_and_refuses_new_ones(make_registry):
    """Afterwards there is none, none can be made, and closing again does nothing."""
    registry = make_registry()
    views = [registry.create(count(1)) for _ in range(2)]
    with Watched(*(view.host_pid for view in views), *views[0].stats.worker_pids) as processes:
        registry.close()
        assert not processes.running(0)
    assert registry.closing
    assert registry.list() == []
    with pytest.raises(PoolStopping):
        registry.create(count(1))
    with pytest.raises(PoolStopping):
        registry.step(views[0].pool, [0])
    registry.close()


def test_a_pool_that_is_being_made_is_given_up_at_close(make_registry, tmp_path):
    """Whoever waits for it is told that the server stops, and its processes end."""
    registry = make_registry(grace=0.2)
    began = tmp_path / "began"
    spec = PoolSpec(env_id=odd("Stuck-v0"), num_envs=2, workers=2, env_kwargs={"began": str(began)})
    with ThreadPoolExecutor(1) as thread:
        creation = thread.submit(registry.create, spec)
        wait_for(began.exists)
        registry.close()
        with pytest.raises(PoolStopping):
            creation.result(LONG_S)


def test_a_step_under_way_at_close_ends(make_registry, tmp_path):
    """A batch in flight is finished and answered, or its caller is told that the server stops."""
    registry = make_registry()
    gate, began = tmp_path / "gate", tmp_path / "began"
    held = {"gate": str(gate), "began": str(began)}
    view = registry.create(PoolSpec(env_id=odd("Held-v0"), num_envs=1, env_kwargs=held))
    registry.reset(view.pool, seed=4)
    with ThreadPoolExecutor(2) as threads:
        step = threads.submit(registry.step, view.pool, [1])
        wait_for(began.exists)
        closing = threads.submit(registry.close)
        wait_for(lambda: not registry.list())
        gate.touch()
        closing.result(LONG_S)
        with suppress(PoolStopping):
            assert step.result(LONG_S).observations.tolist() == [[4, 0, 1, 1, 2, 0]]


def test_a_batch_that_takes_too_long_is_reported_and_goes_on(registry, pool, tmp_path, monkeypatch):
    """The caller is told that no batch came in time; the pool finishes it and serves the next caller."""
    monkeypatch.setattr(conversations, "REPLACEMENT_S", -59.5)
    gate = tmp_path / "gate"
    spec = PoolSpec(env_id=env_id("Slow-v0"), num_envs=1, env_kwargs={"gate": str(gate), "at": 1, "length": 50})
    view = pool(spec)
    registry.reset(view.pool, seed=4)
    with pytest.raises(DeadlineExceeded, match="STEP within 0.5 s"):
        registry.step(view.pool, [1])
    assert registry.get(view.pool).state == "ready"
    monkeypatch.undo()
    gate.touch()
    assert registry.step(view.pool, [1]).observations[0, 2] == 2


def test_large_infos_come_through(registry, pool):
    """Infos that are larger than their place in the arena take another way and arrive whole."""
    view = pool(PoolSpec(env_id=odd("Verbose-v0"), num_envs=3, workers=2, env_kwargs={"size": 1_000_000}))
    registry.reset(view.pool, seed=10)
    for steps in (1, 2):
        blobs = registry.step(view.pool, [0, 0, 0]).infos["blob"]
        assert_same(blobs, np.repeat(np.uint8([10, 11, 12]) + np.uint8(steps), 1_000_000).reshape(3, -1), "blobs")
