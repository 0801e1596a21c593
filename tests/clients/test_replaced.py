"""Workers that die or hang are replaced: their rows are truncated and begin anew, the others never hear of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from time import monotonic
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate

import vecserver_client as vs
from tests.clients.surviving import COUNT, SOON_S, Rows, actions_of, survive
from tests.contract.compare import assert_same, assert_same_batch
from tests.contract.vector_contract import in_every_mode, make_oracle
from tests.environments import env_id
from tests.pools.odd_environments import odd
from tests.pools.processes import wait_for
from tests.sampling import of_which
from tests.vector_environments import TALLY
from vecserver.wire.errors import EnvFault, InvalidSpec, PoolBroken, WorkerDied
from vecserver_client import LocalVectorEnv

FORMS = ("tcp", "ipc", "shm", "local")
in_every_form = of_which("form", FORMS, 2)
here_and_elsewhere = of_which("form", FORMS, 2, 3)
"""For what is done elsewhere in this process: a worker that takes another's place is an interpreter of its own."""


_LONG = [pytest.param(form, 300, marks=pytest.mark.slow) for form in FORMS]


@pytest.fixture
def make(server) -> Iterator[Callable[..., VectorEnv]]:
    """Makes pools in every form, closed after the test."""
    with ExitStack() as stack:

        def make_one(form: str, name: str = COUNT, num_envs: int = 6, **options: Any) -> VectorEnv:
            options = {"workers": 3, "autoreset_mode": "NextStep", **options}
            if form == "local":
                envs: VectorEnv = LocalVectorEnv(name, num_envs, **options)
            else:
                envs = vs.make_vec(name, num_envs, url=server.url, transport=form, **options)
                assert envs.transport == form
            stack.callback(envs.close, terminate=True)
            return envs

        yield make_one


@pytest.fixture
def stats(server) -> Callable[[VectorEnv], dict[str, Any]]:
    """A pool's counters, also in the middle of a step."""

    def of(envs: VectorEnv) -> dict[str, Any]:
        if isinstance(envs, LocalVectorEnv):
            host = envs._link._host
            return {"worker_pids": host.worker_pids, "restarts": dict(host.restarts)}
        with vs.ControlClient(server.url) as control:
            return control.get_pool(envs.pool)["stats"]

    return of


@pytest.fixture
def kill(stats) -> Callable[..., int]:
    """Kills a worker of a pool, by its number, as if memory had run out."""

    def one(envs: VectorEnv, worker: int, number: int = signal.SIGKILL) -> int:
        pid = stats(envs)["worker_pids"][worker]
        os.kill(pid, number)
        return pid

    return one


def report(form: str, times: list[float]) -> None:
    """Say how long a batch had to wait for another worker."""
    p50, p99, worst = (round(figure * 1e3) for figure in (np.median(times), np.quantile(times, 0.99), max(times)))
    sys.stdout.write(f"{form}: {len(times)} kills, recovery p50 {p50} ms, p99 {p99} ms, worst {worst} ms\n")


@pytest.mark.parametrize(
    ("form", "mode"),
    [("tcp", "NextStep"), ("ipc", "SameStep"), ("shm", "Disabled"), ("shm", "NextStep"), ("local", "SameStep")],
)
def test_only_the_rows_of_a_killed_worker_hear_of_it(make, kill, stats, form, mode):
    """They come back truncated and begin anew; every other row is the undisturbed run's to the bit."""
    envs = make(form, autoreset_mode=mode)
    report(form, survive(envs, 4, kill))
    assert stats(envs)["restarts"] == {"killed": 4}


@pytest.mark.slow
@in_every_mode
@pytest.mark.parametrize("form", FORMS)
def test_no_batch_is_lost_in_three_hundred_kills(make, kill, form, mode):
    """The same, 25 times in each form and mode; within a second each, beside the environments' construction."""
    times = survive(make(form, autoreset_mode=mode, restart_budget=None), 25, kill)
    report(form, times)
    assert np.quantile(times, 0.99) < (3.0 if form == "local" else 1.5)  # an interpreter of its own; a copy


# How a worker ends, and when


@in_every_form
def test_a_worker_that_hangs_is_killed_at_the_deadline(make, stats, form):
    """The step returns soon after it, with the cause; the others' rows are whole."""
    envs = make(form, env_id("Hang-v0"), at=2, seed=53, step_timeout=1.0)
    with closing(make_oracle(COUNT, 6)) as oracle:
        assert_same(envs.reset(seed=50), oracle.reset(seed=50), "reset")
        assert_same_batch(envs.step(np.ones(6, int)), oracle.step(np.ones(6, int)), "step 1")
        began = monotonic()
        observations, _, _, truncated, infos = envs.step(np.ones(6, int))
        assert monotonic() - began < SOON_S
        assert truncated.tolist() == infos["_env_failure"].tolist() == [False, False, True, True, False, False]
        assert "took longer than 1 s (step_timeout)" in infos["env_failure"][3]
        assert_same(observations[[0, 1, 4, 5]], oracle.step(np.ones(6, int))[0][[0, 1, 4, 5]], "the others")
    assert envs.step(np.ones(6, int))[0][2:4, 1:3].tolist() == [[0, 0]] * 2
    assert stats(envs)["restarts"] == {"hung": 1}


@of_which("form, how", [(form, how) for form in FORMS for how in ("hang", "kill")], 4, 7)
def test_a_reset_in_which_a_worker_ends_is_run_again(make, stats, tmp_path, form, how):
    """Nobody hears of it: the rows are new either way. One outside the mask has lost its episode all the same."""
    options = {"mark": str(tmp_path / "mark"), "where": "reset", "how": how, "seed": 73}
    envs = make(form, odd("Dying-v0"), step_timeout=1.0, **options)
    with closing(make_oracle(COUNT, 6)) as oracle:
        assert_same(envs.reset(seed=50), oracle.reset(seed=50), "reset")
        assert_same(envs.step(np.ones(6, int)), oracle.step(np.ones(6, int)), "step")
        mask = np.array([True, False, False, True, False, True])
        again = {"seed": list(range(70, 76)), "options": {"reset_mask": mask}}
        assert_same(envs.reset(**again), oracle.reset(**again), "masked reset")
        observations, _, _, truncated, infos = envs.step(np.ones(6, int))
        expected = oracle.step(np.ones(6, int))
    assert truncated.tolist() == infos["_env_failure"].tolist() == [False, False, True, False, False, False]
    others = [0, 1, 3, 4, 5]
    assert_same(observations[others], expected[0][others], "the others")
    assert stats(envs)["restarts"] == {"killed" if how == "kill" else "hung": 1}


@here_and_elsewhere
def test_a_call_in_which_a_worker_ends_is_not_run_twice(make, tmp_path, form):
    """It ends with what became of the worker; the rows are lost in the next step, and can be called again."""
    envs = make(form, odd("Dying-v0"), mark=str(tmp_path / "mark"), where="touch", seed=53)
    envs.reset(seed=50)
    with pytest.raises(WorkerDied, match=r"worker 1 \(rows 2 to 3, pid \d+\) was killed by SIGKILL") as caught:
        envs.call("touch")
    assert caught.value.details == {"shard": 1, "rows": [2, 3], "exitcode": -9}
    assert envs.call("touch")[0] == 50
    assert envs.step(np.ones(6, int))[3].tolist() == [False, False, True, True, False, False]


@in_every_form
def test_a_death_is_raised_where_that_is_wanted(make, kill, form):
    """Once; then the pool can be reset and goes on, or stepped on, with the rows truncated."""
    envs = make(form, on_failure="raise")
    envs.reset(seed=50)
    envs.step(np.ones(6, int))
    for goes_on in (False, True):
        kill(envs, 2)
        with pytest.raises(WorkerDied, match=r"rows 4 to 5.*SIGKILL"):
            for _ in range(2):  # the worker may have done the first before it died
                envs.step(np.ones(6, int))
        if goes_on:
            assert envs.step(np.ones(6, int))[3].tolist()[4:] == [True, True]
        else:
            with closing(make_oracle(COUNT, 6)) as oracle:
                assert_same(envs.reset(seed=60), oracle.reset(seed=60), "reset")
                assert_same_batch(envs.step(np.ones(6, int)), oracle.step(np.ones(6, int)), "step")


@here_and_elsewhere
def test_a_pool_that_is_out_of_budget_is_broken_until_its_reset(make, kill, stats, server, form):
    """It says why; a reset has all its workers made again, and a new budget."""
    envs = make(form, restart_budget=1)
    envs.reset(seed=50)
    old = stats(envs)["worker_pids"]
    kill(envs, 0)
    wait_for(lambda: envs.step(np.ones(6, int))[3][0])
    kill(envs, 1)
    with pytest.raises((WorkerDied, PoolBroken), match=r"SIGKILL.*restart_budget is 1, and 1 workers were replaced"):
        for _ in range(2):
            envs.step(np.ones(6, int))
    with pytest.raises(PoolBroken, match="reset"):
        envs.step(np.ones(6, int))
    if form != "local":
        with vs.ControlClient(server.url) as control:
            view = control.get_pool(envs.pool)
        assert view["state"] == "broken"
        assert "restart_budget is 1" in view["reason"]
    with closing(make_oracle(COUNT, 6)) as oracle:
        assert_same(envs.reset(seed=60), oracle.reset(seed=60), "reset")
        for number in range(12):
            actions = actions_of(envs, number)
            assert_same_batch(envs.step(actions), oracle.step(actions), f"step {number}")
    assert not set(old) & set(stats(envs)["worker_pids"])


@pytest.mark.parametrize("parts", [1, 3])
def test_who_attaches_to_a_broken_pool_can_reset_it(make, kill, server, parts):
    """Over the next transport where its arena is not lent, also where it was split when it broke."""
    with vs.ControlClient(server.url) as control:
        pool = control.create_pool(env_id=COUNT, num_envs=6, workers=3, restart_budget=0)["pool"]
        with vs.attach(server.url, pool, transport="tcp") as envs:
            envs.reset(seed=1)
            part = envs.split(parts)[0] if parts > 1 else envs
            kill(envs, 0)
            with pytest.raises((WorkerDied, PoolBroken)):
                for _ in range(2):
                    part.step(np.ones(part.num_envs, int))
        with vs.attach(server.url, pool) as envs:
            assert envs.transport == "ipc"
            envs.reset(seed=1)
            assert envs.step(np.ones(6, int))[0].shape[0] == 6
        control.delete_pool(pool)


@in_every_form
def test_a_pool_that_broke_while_it_was_split_is_joined_and_reset(make, kill, form):
    """Its driver need not attach again: joined, it says why it is broken, and a reset makes it whole."""
    envs = make(form, restart_budget=0)
    envs.reset(seed=1)
    parts = envs.split(3)
    kill(envs, 0)
    with pytest.raises((WorkerDied, PoolBroken)):
        for _ in range(2):
            parts[0].step(np.ones(parts[0].num_envs, int))
    envs.join()
    with pytest.raises(PoolBroken, match="reset"):
        envs.step(np.ones(6, int))
    with closing(make_oracle(COUNT, 6)) as oracle:
        assert_same(envs.reset(seed=60), oracle.reset(seed=60), "reset")
        for number in range(6):
            actions = actions_of(envs, number)
            assert_same_batch(envs.step(actions), oracle.step(actions), f"step {number}")
    assert len(envs.split(3)) == 3


@of_which("form", ["tcp", "local"], 0)
def test_environments_that_cannot_be_made_again_break_the_pool(make, kill, tmp_path, form):
    """Each attempt counts; the environment's own words are the reason."""
    mark = tmp_path / "mark"
    envs = make(form, odd("Fragile-v0"), mark=str(mark), restart_budget=3)
    envs.reset(seed=50)
    mark.touch()
    kill(envs, 1)
    with pytest.raises((EnvFault, PoolBroken), match=r"ValueError: no more of them.*restart_budget is 3"):
        for _ in range(2):
            envs.step(np.ones(6, int))
    mark.unlink()
    assert envs.reset(seed=50)[0][:, 0].tolist() == list(range(50, 56))


@pytest.mark.parametrize(("how", "text"), [("exit", "left with exit code 3"), ("segfault", "was killed by SIGSEGV")])
def test_every_end_of_a_process_is_named(make, tmp_path, how, text):
    """Also an exit that an environment asks for."""
    envs = make("tcp", odd("Dying-v0"), mark=str(tmp_path / "mark"), where="step", how=how, seed=53)
    envs.reset(seed=50)
    infos = envs.step(np.ones(6, int))[4]
    assert text in infos["env_failure"][2]
    assert envs.stats().restarts == {"exited" if how == "exit" else "killed": 1}


@in_every_form
def test_all_workers_may_die_at_once(make, kill, stats, form):
    """Every row is lost, and none of them is anything else afterwards but new."""
    envs = make(form)
    with closing(Rows(envs, 50, envs.reset(seed=50))) as rows:
        rows.step(np.ones(6, int))
        rows.dying = set(range(6))
        for worker in range(3):
            kill(envs, worker)
        while rows.dying:
            rows.step(np.ones(6, int))
        for number in range(12):
            rows.step(actions_of(envs, number))
    assert stats(envs)["restarts"] == {"killed": 3}


@in_every_form
def test_a_worker_is_replaced_while_nobody_steps(make, kill, stats, form):
    """And one that dies before the first reset has nothing to lose."""
    envs = make(form)
    kill(envs, 0)
    with closing(make_oracle(COUNT, 6)) as oracle:
        assert_same(envs.reset(seed=50), oracle.reset(seed=50), "reset")
        assert_same_batch(envs.step(np.ones(6, int)), oracle.step(np.ones(6, int)), "step")
    if form != "local":  # where nobody looks between two calls
        pid = kill(envs, 1)
        wait_for(lambda: stats(envs)["restarts"] == {"killed": 2})
        assert pid not in stats(envs)["worker_pids"]


# Whose arena, and what is in it


@of_which("form, mode", [("tcp", "SameStep"), ("shm", "NextStep"), ("local", "Disabled")], 1, 2)
def test_a_part_goes_on_like_a_whole(make, kill, form, mode):
    """The other parts never hear of it, and the whole has the new rows when it is joined."""
    envs = make(form, autoreset_mode=mode)
    envs.reset(seed=50)
    parts = envs.split(3)
    with ExitStack() as stack:
        each = [
            stack.enter_context(closing(Rows(part, 10 * i, part.reset(seed=10 * i)))) for i, part in enumerate(parts)
        ]
        for number in range(8):
            each[number % 3].step(actions_of(parts[0], number))
        each[1].dying = {0, 1}
        kill(envs, 1)
        while each[1].dying:
            for rows, part in zip(each, parts, strict=True):
                rows.step(actions_of(part, 1))
        for number in range(8):
            each[1].step(actions_of(parts[1], number))
    envs.join()
    kill(envs, 0)
    wait_for(lambda: envs.step(np.ones(6, int))[3][0])


@pytest.mark.parametrize(("form", "rounds"), [("shm", 4), ("local", 3), *_LONG])
def test_a_worker_may_die_on_its_way(make, stats, form, rounds):
    """While it goes to a part, comes home, or takes note of a loan: the command is finished by another."""
    envs = make(form, restart_budget=None, length=10**6, with_infos=False)
    envs.reset(seed=50)
    rng = np.random.default_rng(rounds)
    stop = threading.Event()

    def kill_now_and_then() -> None:
        while not stop.wait(float(rng.uniform(0.005, 0.06 if form != "local" else 0.8))):
            with suppress(ProcessLookupError):
                os.kill(stats(envs)["worker_pids"][int(rng.integers(3))], signal.SIGKILL)

    with ThreadPoolExecutor(1) as thread:
        killing = thread.submit(kill_now_and_then)
        try:
            for _ in range(rounds):
                for part in envs.split(3):
                    for _ in range(10):
                        part.step(np.ones(2, int))
                envs.join()
                for _ in range(10):
                    observations = envs.step(np.ones(6, int))[0]
        finally:
            stop.set()
            killing.result(SOON_S)
    wait_for(lambda: envs.step(np.ones(6, int))[0][:, 2].min() > observations[:, 2].max() + 5)


@pytest.mark.parametrize("info", ["none", "episode", ["steps"]])
def test_the_cause_is_told_whatever_infos_are_sent(make, kill, info):
    """It is not an environment's."""
    envs = make("tcp", info=info)
    envs.reset(seed=50)
    kill(envs, 1)
    for _ in range(2):
        infos = envs.step(np.ones(6, int))[4]
        if "env_failure" in infos:
            break
    assert "SIGKILL" in infos["env_failure"][2]
    assert infos["_env_failure"].tolist() == [False, False, True, True, False, False]


@of_which(
    "form, name", [(form, f"{name}-v0") for name in ("Nested", "Graph", "Text") for form in ("tcp", "local")], 0, 3, 4
)
def test_the_last_observation_is_whatever_it_was(make, kill, form, name):
    """Nested, and beside the slot, where it is known from the worker's last words."""
    envs = make(form, env_id(name), autoreset_mode="SameStep", num_envs=3)
    envs.action_space.seed(1)
    last, _ = envs.reset(seed=50)
    row = list(iterate(envs.observation_space, last))[1]
    kill(envs, 1)
    for _ in range(3):
        batch = envs.step(envs.action_space.sample())
        if "env_failure" in batch[4]:
            break
        row = list(iterate(envs.observation_space, batch[0]))[1]
    assert_same(batch[4]["final_obs"][1], row, "final observation")


@of_which(
    "engine, mode", [("async", "NextStep"), ("async", "SameStep"), ("sync", "NextStep"), ("sync", "Disabled")], 1, 3
)
def test_an_engine_of_gymnasiums_goes_on_too(make, kill, engine, mode):
    """All its rows are one worker's."""
    envs = make("tcp", engine=engine, workers=1, autoreset_mode=mode)
    with closing(Rows(envs, 50, envs.reset(seed=50))) as rows:
        for number in range(5):
            rows.step(actions_of(envs, number))
        rows.dying = set(range(6))
        kill(envs, 0)
        while rows.dying:
            rows.step(np.ones(6, int))
        for number in range(8):
            rows.step(actions_of(envs, number))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_an_episode_that_was_lost_has_no_statistics(make, kill, mode):
    """What its worker knew is gone with it; the next episode of the row is reported as ever."""
    envs = make("tcp", autoreset_mode=mode, episode_statistics=True, length=4)
    envs.reset(seed=50)
    envs.step(np.ones(6, int))
    kill(envs, 1)
    told = []
    for _ in range(12):
        *_, infos = envs.step(np.ones(6, int))
        if "env_failure" in infos:
            assert not infos.get("_episode", np.zeros(6, bool))[2:4].any()
        elif "_episode" in infos and infos["_episode"][2]:
            told.append(infos["episode"]["l"][2])
    assert told
    assert set(told) == {4}


@in_every_mode
def test_a_native_engine_goes_on_too(make, kill, mode):
    """Its rows have one life: all of a worker's are lost, and begin anew together; the other worker's go on."""
    envs = make("tcp", TALLY, engine="native", workers=2, autoreset_mode=mode, num_envs=4)
    actions = np.full(4, 3)
    last, _ = envs.reset(seed=5)
    kill(envs, 1)
    for _ in range(3):
        observations, rewards, _, truncated, infos = envs.step(actions)
        if "env_failure" in infos:
            break
        last = observations
    lost = [False, False, True, True]
    assert truncated[2:].all()
    assert infos["_env_failure"].tolist() == lost
    assert rewards[2:].tolist() == [0, 0]
    if mode is AutoresetMode.SAME_STEP:
        assert np.array_equal(np.stack(infos["final_obs"][2:]), last[2:])
    else:
        assert np.array_equal(observations[2:], last[2:])
        if mode is AutoresetMode.DISABLED:
            observations, _ = envs.reset(options={"reset_mask": np.array(lost)})
        else:
            observations, rewards, *_ = envs.step(actions)
            assert rewards[2:].tolist() == [0, 0]
    assert observations[2:, 1:3].tolist() == [[1, 0]] * 2
    assert envs.step(actions)[0][2:, 2].tolist() == [1, 1]


def test_the_same_death_leads_to_the_same_run(make, tmp_path):
    """Where a worker ends at the same step of a run with the same seeds; the rows of one have seeds of their own."""
    runs = []
    for _ in range(2):
        envs = make("tcp", env_id("Kill-v0"), seed=53, at=3)
        observations = [envs.reset(seed=50)[0], *(envs.step(np.ones(6, int))[0] for _ in range(8))]
        envs.close()
        runs.append(np.array(observations))
    assert_same(runs[0], runs[1], "runs")
    assert len(set(runs[0][-1][:, 0])) == 6


@pytest.mark.parametrize("options", [{"on_failure": "ignore"}, {"restart_budget": -1}, {"restart_budget": 2.5}])
@pytest.mark.parametrize("form", ["tcp", "local"])
def test_options_out_of_range_are_refused(make, form, options):
    """By name."""
    with pytest.raises(InvalidSpec, match=next(iter(options))) as caught:
        make(form, **options)
    assert caught.value.details["field"] == next(iter(options))
