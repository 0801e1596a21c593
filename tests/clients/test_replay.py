"""Rows of a worker that dies are rebuilt and go on to the bit, where that was asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

import vecserver_client as vs
from tests.clients.twins import DRAWN, ROWS, Twins, outlive
from tests.contract.compare import assert_same, assert_same_batch
from tests.contract.vector_contract import in_every_mode, make_oracle
from tests.pools.processes import wait_for
from tests.replay_environments import DrawnEnv, FickleEnv, replayed
from tests.sampling import of_which
from vecserver.wire.errors import EnvFault, InvalidSpec, WorkerDied
from vecserver_client import LocalVectorEnv

FORMS = ("tcp", "ipc", "shm", "ws", "local")


@pytest.fixture
def make(server) -> Iterator[Callable[..., VectorEnv]]:
    """Makes pools that replay, in every form, closed after the test."""
    with ExitStack() as stack:

        def make_one(form: str, name: str = DRAWN, **options: Any) -> VectorEnv:
            options = {"workers": 3, "on_failure": "replay", "restart_budget": None, **options}
            if form == "local":
                envs: VectorEnv = LocalVectorEnv(name, ROWS, **options)
            else:
                envs = vs.make_vec(name, ROWS, url=server.url, transport=form, **options)
                assert envs.transport == form
            stack.callback(envs.close, terminate=True)
            return envs

        yield make_one


@pytest.fixture
def pids(server) -> Callable[[VectorEnv], list[int]]:
    """The workers of a pool, also in the middle of a step."""

    def of(envs: VectorEnv) -> list[int]:
        if isinstance(envs, LocalVectorEnv):
            return envs._link._host.worker_pids
        with vs.ControlClient(server.url) as control:
            return control.get_pool(envs.pool)["stats"]["worker_pids"]

    return of


@pytest.fixture
def kill(pids) -> Callable[[VectorEnv, int], None]:
    """Kills a worker of a pool, by its number, as if memory had run out."""
    return lambda envs, worker: os.kill(pids(envs)[worker], signal.SIGKILL)


@of_which(
    "form, mode",
    [
        ("tcp", "NextStep"),
        ("ipc", "SameStep"),
        ("shm", "Disabled"),
        ("shm", "SameStep"),
        ("shm", "NextStep"),
        ("ws", "Disabled"),
        ("local", "NextStep"),
    ],
    0,
    2,
    3,
    6,
)
def test_nobody_hears_of_a_killed_worker(make, kill, form, mode):
    """Observations, rewards, flags and infos are those of an undisturbed run, to the bit."""
    envs = make(form, autoreset_mode=mode)
    with closing(Twins(envs)) as twins:
        outlive(twins, 2 if form == "local" else 5, kill)


@pytest.mark.slow
@in_every_mode
@pytest.mark.parametrize("form", FORMS)
def test_nobody_hears_of_many_killed_workers(make, kill, form, mode):
    """The same for longer."""
    with closing(Twins(make(form, autoreset_mode=mode))) as twins:
        outlive(twins, 10 if form == "local" else 40, kill)


@of_which(
    "name, mode",
    [
        (name, mode)
        for name in ("CartPole-v1", "LunarLander-v3", *map(replayed, ("DrawnBox-v0", "DrawnNested-v0", "DrawnText-v0")))
        for mode in ("NextStep", "SameStep", "Disabled")
    ],
    0,
    11,
    13,
)
def test_every_kind_of_environment_goes_on(make, kill, name, mode):
    """Nested observations and actions, physics, and observations without a fixed size."""
    with closing(Twins(make("tcp", name, autoreset_mode=mode), name)) as twins:
        for _ in range(70):
            twins.step()
        outlive(twins, 3, kill)


def test_actions_keep_the_dtype_in_which_they_were_sent(make, kill):
    """Also where it changes from batch to batch."""
    name = replayed("DrawnFloat-v0")
    with closing(Twins(make("shm", name, length=20), name, length=20)) as twins:
        for number in range(9):
            twins.step(np.full((ROWS, 1), number / 11, (np.float64, np.float32, np.float16)[number % 3]))
        kill(twins.envs, 1)
        for _ in range(15):
            twins.step()


@of_which("form, mode", [(form, mode) for form in FORMS for mode in ("NextStep", "SameStep")], 5)
def test_resets_of_some_rows_are_part_of_it(make, kill, form, mode):
    """With seeds and without, of rows in the middle of an episode."""
    with closing(Twins(make(form, autoreset_mode=mode))) as twins:
        for number in range(12):
            mask = np.arange(ROWS) % 3 == number % 3
            seeds = [number * 7 + row if row % 2 else None for row in range(ROWS)]
            twins.reset(seed=seeds if number % 2 else None, options={"reset_mask": mask})
            if number % 4 == 1:
                kill(twins.envs, number % 3)
            twins.step()
            if number % 4 == 2:
                kill(twins.envs, number % 3)
        twins.reset()
        kill(twins.envs, 2)
        for _ in range(12):
            twins.step()


@of_which("form", FORMS, 2)
def test_all_workers_may_end_at_once_and_again(make, kill, pids, form):
    """Also while nobody steps, and before another has done anything."""
    with closing(Twins(make(form))) as twins:
        for _ in range(3):
            for _ in range(4):
                twins.step()
            for _ in range(2):
                before = pids(twins.envs)
                for worker in range(3):
                    kill(twins.envs, worker)
                if form != "local":  # where nobody looks between two calls
                    wait_for(lambda before=before: not set(before) & set(pids(twins.envs)))
        for _ in range(12):
            twins.step()


@of_which("form, mode", [(form, mode) for form in FORMS for mode in ("SameStep", "NextStep")], 4)
def test_parts_go_on_too(make, kill, form, mode):
    """Where rows are in the arena of a part when their worker ends, and after they have come home."""
    with closing(Twins(make(form, autoreset_mode=mode))) as twins:
        for number in range(3):
            twins.step()
            parts = twins.envs.split(3)
            for turn in range(5):
                actions = twins.oracle.action_space.sample()
                if turn == 2:
                    kill(twins.envs, number)
                shown = [part.step(actions[2 * i : 2 * i + 2]) for i, part in enumerate(parts)]
                expected = twins.oracle.step(actions)
                for i in range(4):
                    assert_same(np.concatenate([batch[i] for batch in shown]), expected[i], f"turn {turn}")
            twins.envs.join()
            kill(twins.envs, number)
        for _ in range(12):
            twins.step()


def test_http_steps_go_on_too(server, kill):
    """A batch that was asked for over HTTP is completed by another worker."""
    with vs.ControlClient(server.url) as control, closing(make_oracle(DRAWN, ROWS)) as oracle:
        pool = control.create_pool(env_id=DRAWN, num_envs=ROWS, workers=3, on_failure="replay")["pool"]
        control.reset_pool(pool, seed=3)
        oracle.reset(seed=3)
        for number in range(12):
            if number % 3 == 2:
                os.kill(control.get_pool(pool)["stats"]["worker_pids"][number % 2], signal.SIGKILL)
            actions = [(number + row) % 5 for row in range(ROWS)]
            answer, expected = control.step_pool(pool, actions), oracle.step(np.array(actions))
            assert answer["observations"] == expected[0].tolist()
            assert answer["rewards"] == expected[1].tolist()
        control.delete_pool(pool)


# What a worker ends in


@of_which(
    "form, where, how",
    [(form, *end) for form in FORMS for end in (("step", "kill"), ("reset", "kill"), ("step", "hang"))],
    0,
    7,
)
def test_the_command_under_way_is_completed(make, tmp_path, form, where, how):
    """A step or a reset, whether the worker was killed in it or hung."""
    mark = tmp_path / "mark"
    options = {"mark": str(mark), "where": where, "how": how, "length": 9}
    name = replayed("Dying-v0")
    with closing(Twins(make(form, name, step_timeout=1.0, **options), name, **options)) as twins:
        twins.oracle.action_space.seed(1)
        for _ in range(5):
            twins.step()
        batch = np.array([0, 1, 2, 4, 0, 1])

        def reset() -> None:
            given = {"options": {"reset_mask": np.arange(ROWS) == 2}}
            shown = twins.envs.reset(**given)
            assert not mark.exists()
            assert_same(shown, twins.oracle.reset(**given), "reset")

        mark.touch()
        if where == "reset":
            reset()
        else:
            twins.envs.step_async(batch)
            shown = twins.envs.step_wait()
            assert not mark.exists()
            assert_same_batch(shown, twins.oracle.step(batch), "the step")
        for _ in range(12):
            twins.step()


@of_which("form", FORMS, 2)
def test_an_action_that_kills_again_ends_the_episode(make, tmp_path, form):
    """Of the rows of its worker, with the cause; the others go on, and so do these."""
    mark = tmp_path / "mark"
    envs = make(form, replayed("Dying-v0"), mark=str(mark), once=False, length=30)
    with closing(make_oracle(DRAWN, ROWS, length=30)) as oracle:
        envs.reset(seed=1)
        oracle.reset(seed=1)
        mark.touch()
        envs.step(np.zeros(ROWS, int))
        oracle.step(np.zeros(ROWS, int))
        actions = np.array([0, 0, 0, 4, 0, 0])
        observations, _, _, truncated, infos = envs.step(actions)
        expected = oracle.step(actions)
        assert truncated.tolist() == [False, False, True, True, False, False]
        assert "SIGKILL; it was not rebuilt: two workers ended in the same command" in infos["env_failure"][2]
        others = [0, 1, 4, 5]
        assert_same(observations[others], expected[0][others], "the others")
        for _ in range(3):
            assert not envs.step(np.zeros(ROWS, int))[3].any()


def test_a_call_in_which_a_worker_ends_is_not_run_twice(make, tmp_path):
    """It raises; the rows that were called end, and no others."""
    mark = tmp_path / "mark"
    envs = make("tcp", replayed("Dying-v0"), mark=str(mark), where="touch")
    envs.reset(seed=1)
    mark.touch()
    with pytest.raises(WorkerDied, match="SIGKILL"):
        envs.call("touch")
    infos = envs.step(np.zeros(ROWS, int))[4]
    assert "a method of it was called" in infos["env_failure"][infos["_env_failure"].argmax()]


# What cannot be rebuilt


def killed(envs: VectorEnv, kill: Callable[[VectorEnv, int], None]) -> list[str | None]:
    """The causes that rows tell after the worker of rows 2 and 3 was killed."""
    kill(envs, 1)
    for _ in range(2):
        infos = envs.step(np.zeros(ROWS, int))[4]
        if "env_failure" in infos:
            return list(infos["env_failure"])
    return [None] * ROWS


def test_a_row_with_options_or_changes_ends(make, kill):
    """With the reason; its neighbour goes on. A reset without options, or a new environment, can be rebuilt again."""
    envs = make("tcp", length=1000)
    envs.reset(seed=1)
    envs.reset(options={"size": 3, "reset_mask": np.arange(ROWS) == 2})
    assert envs.get_attr("tag") == (0.0,) * ROWS
    envs.step(np.zeros(ROWS, int))
    causes = killed(envs, kill)
    assert causes[3] is None
    assert "its episode began with options" in causes[2]
    envs.step(np.zeros(ROWS, int))
    assert killed(envs, kill) == [None] * ROWS
    envs.set_attr("tag", [0.0, 0.0, 0.0, 5.0, 0.0, 0.0])
    envs.reset(seed=1)
    assert "a method of it was called, or an attribute set" in killed(envs, kill)[3]
    envs.reset(seed=1)
    assert killed(envs, kill) == [None] * ROWS
    envs.call("add", 1)
    assert "a method of it was called" in killed(envs, kill)[2]


def test_an_episode_longer_than_the_record_ends(make, kill):
    """The record holds as many steps as episodes may have; in Disabled they may have more."""
    wrappers = [{"id": "TimeLimit", "kwargs": {"max_episode_steps": 3}}]
    envs = make("tcp", length=100, wrappers=wrappers, autoreset_mode="Disabled")
    envs.reset(seed=1)
    for number in range(6):
        envs.step(np.zeros(ROWS, int))
        if number == 2:
            assert killed(envs, kill) == [None] * ROWS
    kill(envs, 1)
    wait_for(lambda: envs.stats().restarts == {"killed": 2})
    with pytest.raises(EnvFault, match="row 2 raised ResetNeeded"):  # it was over, and is in a new environment
        envs.step(np.zeros(ROWS, int))
    envs.reset(options={"reset_mask": np.arange(ROWS) > 1})
    assert killed(envs, kill) == [None] * ROWS


def test_a_row_that_raised_ends(make, kill, tmp_path):
    """Nobody knows how far its environment has come."""
    mark = tmp_path / "mark"
    envs = make("tcp", replayed("Careful-v0"), mark=str(mark), length=30)
    envs.reset(seed=1)
    mark.touch()
    with pytest.raises(EnvFault, match="not this one"):
        envs.step(np.array([0, 0, 4, 0, 0, 0]))
    causes = killed(envs, kill)
    assert "it raised in this episode" in causes[2]
    assert causes[3] is None


def test_a_row_that_shows_something_else_ends(make, kill):
    """The number of a process is none that another shows: no check in one process finds that."""
    envs = make("tcp", replayed("Fickle-v0"), where="process", length=30)
    envs.reset(seed=1)
    envs.step(np.zeros(ROWS, int))
    causes = killed(envs, kill)
    assert "rebuilt, it did not show what it had shown before" in causes[2]
    assert causes[0] is None


@pytest.mark.parametrize("form", ["tcp", "local"])
def test_an_environment_that_draws_from_elsewhere_is_refused(make, form):
    """When the pool is made; the sentence says what to do."""
    with pytest.raises(InvalidSpec, match=r"the observation of a copy .* at step 2.*on_failure='truncate'") as caught:
        make(form, replayed("Fickle-v0"), where="observation")
    assert caught.value.details["field"] == "on_failure"


def test_a_programs_own_rows_are_each_tried(kill):
    """Of every worker the first, as they may be of different kinds; they go on like any others."""
    luck = partial(FickleEnv, where="reward")
    with pytest.raises(InvalidSpec, match="the reward of a copy"):
        LocalVectorEnv([DrawnEnv, DrawnEnv, luck, luck], workers=2, on_failure="replay")
    with (
        closing(LocalVectorEnv([DrawnEnv] * ROWS, workers=3, on_failure="replay")) as envs,
        closing(Twins(envs)) as twins,
    ):
        outlive(twins, 1, kill)


def test_the_record_counts_as_memory_of_the_pool(make):
    """8 bytes for each number of an action and each step that is kept, and a page or so a worker."""
    bare = make("tcp", "CartPole-v1", on_failure="truncate").stats().arena_bytes
    kept = make("tcp", "CartPole-v1").stats().arena_bytes
    assert ROWS * 500 * 8 < kept - bare < ROWS * 500 * 8 + 3 * 16384
