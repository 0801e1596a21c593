"""``LocalVectorEnv`` beyond the contract: callables, objects, workers that live and die with the program."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import types
import warnings
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from time import monotonic

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tests.environments import UnpicklableError, env_id
from tests.pools.odd_environments import odd
from tests.pools.processes import Watched
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvCreationFailed,
    EnvFault,
    InvalidSpec,
    LocalError,
    PoolBroken,
    Unportable,
    WorkerDied,
)
from vecserver_client import LocalVectorEnv

COUNT = env_id("Count-v0")
LONG_S = 30.0
ZEROS = np.zeros(3, np.int64)


@pytest.fixture
def opened():
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(closing(LocalVectorEnv(*args, **kwargs)))


def make_count(**kwargs):
    return partial(gym.make, COUNT, **kwargs)


def env_class(**members):
    """A class that no other process can import: it is made here, as one of a program's main module is."""

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}

    spaces = {"observation_space": gym.spaces.Box(-1, 1, (2,)), "action_space": gym.spaces.Discrete(3)}
    return type("Made", (gym.Env,), {"__module__": "__main__", "reset": reset, "step": step, **spaces, **members})


# Callables


def test_each_callable_makes_its_row(opened):
    """Closures differ from row to row, over the borders of workers."""
    envs = opened([lambda length=length: gym.make(COUNT, length=length) for length in (2, 3, 4, 5, 6)], workers=2)
    envs.reset(seed=0)
    ends = [envs.step(np.zeros(5, np.int64)) for _ in range(6)]
    over = np.array([terminated | truncated for _, _, terminated, truncated, _ in ends])
    assert over.argmax(axis=0).tolist() == [1, 2, 3, 4, 5]


def test_a_class_of_the_main_module_can_be_stepped(opened):
    """What no worker can import travels as it is."""
    envs = opened([env_class(step=lambda self, action: (np.ones(2, np.float32), 2.5, False, False, {}))] * 3)
    envs.reset()
    observations, rewards, *_ = envs.step(ZEROS)
    assert observations.tolist() == [[1.0, 1.0]] * 3
    assert rewards.tolist() == [2.5] * 3


def test_what_the_program_registered_is_known_to_its_workers(opened):
    """An id that this program alone knows can be made, by its id and in a callable."""
    gym.register("vectest/Here-v0", env_class(), disable_env_checker=True)
    try:
        for make in (partial(opened, "vectest/Here-v0", 3), partial(opened, [lambda: gym.make("vectest/Here-v0")] * 3)):
            assert make().reset()[0].shape == (3, 2)
    finally:
        del gym.registry["vectest/Here-v0"]


def test_a_callable_that_cannot_be_pickled_is_refused():
    """The error says which argument it is about."""
    lock = threading.Lock()
    with pytest.raises(Unportable, match="env_fns"):
        LocalVectorEnv([lambda: lock] * 3)


def test_a_module_that_a_worker_cannot_import_is_named():
    """The import's own error arrives."""
    module = types.ModuleType("only_in_this_process")
    exec("def make(): pass", vars(module))
    sys.modules[module.__name__] = module
    try:
        with pytest.raises(ModuleNotFoundError, match="only_in_this_process") as caught:
            LocalVectorEnv([module.make])
    finally:
        del sys.modules[module.__name__]
    assert isinstance(caught.value, EnvCreationFailed)


def test_callables_over_differing_spaces_are_refused():
    """As Gymnasium does with a RuntimeError, within a worker and between two."""
    other = env_class(observation_space=gym.spaces.Box(-1, 1, (3,)))
    for rows in ([env_class(), other], [env_class(), env_class(), other]):
        for workers in (1, 2):
            with pytest.raises(RuntimeError, match="observation_space of row"):
                LocalVectorEnv(rows, workers=workers)


def bounded(high, size=2):
    return env_class(observation_space=gym.spaces.Box(-1, high, (size,)))


def test_rows_may_differ_in_their_bounds(opened):
    """The batched space has every row's bounds, the single one those of the first."""
    envs = opened([bounded(high) for high in (1, 2, 3)], observation_mode="different", workers=2)
    assert envs.single_observation_space == gym.spaces.Box(-1, 1, (2,))
    assert envs.observation_space.high[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert envs.reset()[0].shape == (3, 2)


def test_spaces_may_be_given(opened):
    """Those are shown, as long as rows fit into them."""
    batched, single = gym.spaces.Box(-9, 9, (2, 2)), gym.spaces.Box(-9, 9, (2,))
    envs = opened([bounded(1), bounded(2)], observation_mode=(batched, single))
    assert (envs.observation_space, envs.single_observation_space) == (batched, single)
    for given in (gym.spaces.Box(-9, 9, (3,)), gym.spaces.Discrete(2)):
        with pytest.raises(RuntimeError, match="observation space"):
            LocalVectorEnv([bounded(1)] * 2, observation_mode=(batched, given))


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_of_another_shape_are_refused_in_any_mode(workers):
    """As Gymnasium does with a RuntimeError."""
    with pytest.raises(RuntimeError, match="row 1"):
        LocalVectorEnv([bounded(1), bounded(1, size=3)], observation_mode="different", workers=workers)


def test_a_space_of_the_programs_own_is_its_own(opened):
    """It is shown as the object it is, and its observations and actions may be anything that can be pickled."""

    class Slices(gym.spaces.Space):
        def contains(self, x):
            return x.start is None

        def __eq__(self, other):
            return type(other).__name__ == "Slices"

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        return slice(0), {}

    def step(self, action):
        return slice(action.stop + 1), 0.0, False, False, {}

    spaces = {"observation_space": Slices(), "action_space": Slices()}
    envs = opened([env_class(reset=reset, step=step, **spaces)] * 3, workers=2)
    assert isinstance(envs.single_observation_space, Slices)
    assert envs.reset()[0] == (slice(0),) * 3
    assert envs.step((slice(1), slice(2), slice(3)))[0] == (slice(2), slice(3), slice(4))


# Objects


def test_spaces_and_metadata_are_the_environments_own(opened):
    """Generators of spaces go on from where the first row's stand, and metadata may hold anything."""

    def make():
        env = env_class(metadata={"render_modes": [], "odd": {1: slice(2)}})()
        env.action_space = gym.spaces.Discrete(1000, seed=7)
        return env

    envs = opened([make] * 3)
    assert envs.metadata["odd"] == {1: slice(2)}
    assert envs.single_action_space.sample() == gym.spaces.Discrete(1000, seed=7).sample()


def test_any_object_travels(opened):
    """Infos, options, arguments, results and attributes may be of any class that can be pickled."""

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        return np.zeros(2, np.float32), {"options": options, "kind": slice(1, 2)}

    envs = opened([env_class(reset=reset, same=lambda self, value: value, kept=None)] * 3, workers=2)
    infos = envs.reset(options={"a": complex, "b": 1j})[1]
    assert infos["kind"].tolist() == [slice(1, 2)] * 3
    assert infos["options"]["a"].tolist() == [complex] * 3
    assert envs.call("same", value=slice(3)) == (slice(3),) * 3
    envs.set_attr("kept", [slice(1), slice(2), slice(3)])
    assert envs.get_attr("kept") == (slice(1), slice(2), slice(3))
    assert all(isinstance(each, np.random.Generator) for each in envs.np_random)


def test_an_info_that_cannot_be_pickled_is_left_out_and_named(opened):
    """The others of the same dict arrive; a call whose result cannot be pickled names its row."""

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {"lock": threading.Lock(), "slice": slice(5), "n": 3}

    envs = opened([env_class(step=step, lock=lambda self: threading.Lock())] * 2)
    envs.reset()
    with pytest.warns(UserWarning, match="'lock'"):
        infos = envs.step(np.zeros(2, np.int64))[4]
    assert sorted(infos) == ["_n", "_slice", "n", "slice"]
    assert "lock" in envs.dropped_infos
    with pytest.raises(TypeError, match="row 0"):
        envs.call("lock")


class _Clash(Exception):
    """An exception that wants two arguments, and has attributes."""

    def __init__(self, code, detail):
        super().__init__(f"{detail}: {code}")
        self.code = code


def raising(make_error):
    def step(self, action):
        raise make_error()

    return env_class(step=step)


def test_an_exception_of_the_program_is_caught_as_itself(opened):
    """Its very class, whatever its constructor wants, with its attributes, and all that a fault says."""

    class OwnError(_Clash):
        pass

    envs = opened([raising(lambda: OwnError(7, "seven"))] * 3)
    envs.reset()
    with pytest.raises(OwnError, match="row 0 raised OwnError: seven: 7") as caught:
        envs.step(ZEROS)
    assert isinstance(caught.value, EnvFault)
    assert (caught.value.code, caught.value.row, caught.value.type) == (7, 0, "OwnError")
    assert "OwnError" in caught.value.traceback
    assert all("original" not in fault for fault in caught.value.faults)


def test_an_exception_with_something_unpicklable_is_caught_as_itself(opened):
    """Its class travels where it cannot."""
    envs = opened(env_id("Raise-v0"), 3, kind="unpicklable")
    envs.reset(seed=0)
    with pytest.raises(UnpicklableError, match="row 0"):
        envs.step(ZEROS)


def test_an_exception_whose_class_cannot_be_pickled_is_a_fault_all_the_same(opened):
    """The words about it arrive."""

    def make_error():
        lock = threading.Lock()
        return type("Stuck", (ValueError,), {"lock": lock})("stuck here")

    envs = opened([raising(make_error)] * 3)
    envs.reset()
    with pytest.raises(EnvFault, match="Stuck: stuck here"):
        envs.step(ZEROS)


def test_the_exception_of_a_constructor_is_caught_as_itself():
    """Nothing is left of the workers."""

    class OwnError(_Clash):
        pass

    def make():
        raise OwnError(1, "no")

    with pytest.raises(OwnError, match="row 0") as caught:
        LocalVectorEnv([make] * 2)
    assert isinstance(caught.value, EnvCreationFailed)


def test_what_environments_print_is_the_programs(opened, capfd):
    """It goes where the program's own words go."""

    def step(self, action):
        os.write(1, b"stepping\n")
        return np.zeros(2, np.float32), 0.0, False, False, {}

    envs = opened([env_class(step=step)])
    envs.reset()
    envs.step(np.zeros(1, np.int64))
    assert "stepping" in capfd.readouterr().out


# Arguments


def test_gymnasiums_arguments_are_taken(opened):
    """What means nothing here changes nothing."""
    makers = [make_count()] * 3
    envs = opened(makers, shared_memory=False, copy=True, context="spawn", daemon=False, worker=None)
    assert envs.reset(seed=4)[0][:, 0].tolist() == [4.0, 5.0, 6.0]
    assert opened(makers, autoreset_mode="SameStep").metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (([make_count()],), {"worker": print}, TypeError, "worker"),
        (([make_count()],), {"render_mode": "rgb_array"}, TypeError, "render_mode"),
        (([make_count()],), {"length": 3}, TypeError, "length"),
        (([make_count()], 2), {}, TypeError, "num_envs is 2"),
        (([make_count(), 3],), {}, TypeError, r"env_fns\[1\] is a int"),
        (([],), {}, InvalidSpec, "num_envs is 0"),
        ((COUNT,), {}, TypeError, "num_envs"),
        (("NoSuchEnvironment-v0", 2), {}, gym.error.NameNotFound, "NoSuchEnvironment"),
        (([make_count()],), {"workers": 2}, InvalidSpec, "workers"),
        (([make_count()],), {"engine": "none"}, InvalidSpec, "engine"),
        (([make_count()],), {"autoreset_mode": "Sometimes"}, ValueError, "Sometimes"),
        (([make_count()],), {"observation_mode": "sometimes"}, ValueError, "sometimes"),
        (([make_count()],), {"observation_mode": (1, 2)}, TypeError, "observation_mode"),
        (([make_count()],), {"max_concurrency": 0}, ValueError, "max_concurrency"),
        (([make_count()],), {"step_timeout": 0}, InvalidSpec, "step_timeout"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, options, error, text):
    """Before any process is started, with the argument's name."""
    with pytest.raises(error, match=text):
        LocalVectorEnv(*arguments, **options)


def test_no_more_environments_run_at_once_than_asked_for(opened):
    """``max_concurrency`` bounds the workers."""
    pids = [env_class(pid=lambda self: os.getpid())] * 4
    assert len(set(opened(pids, max_concurrency=1).call("pid"))) == 1
    assert len(set(opened(pids, workers=3).call("pid"))) == 3


@pytest.mark.parametrize("engine", ["sync", "async"])
def test_gymnasiums_engines_run_callables(opened, engine):
    """The callables of the program are theirs too, and its exceptions."""

    class OwnError(_Clash):
        pass

    envs = opened([raising(lambda: OwnError(7, "seven"))] * 2, engine=engine)
    assert envs.reset()[0].shape == (2, 2)
    with pytest.raises(OwnError, match="seven"):
        envs.step(np.zeros(2, np.int64))


def test_it_shows_what_it_is(opened):
    """Its text has the id where there is one."""
    envs = opened("CartPole-v1", 2)
    assert repr(envs) == str(envs) == "LocalVectorEnv(CartPole-v1, num_envs=2)"
    assert (envs.spec.id, envs.unwrapped, envs.closed) == ("CartPole-v1", envs, False)
    assert repr(opened([make_count()] * 2)) == "LocalVectorEnv(num_envs=2)"
    envs.close()
    assert envs.closed


def test_without_copies_two_more_steps_leave_an_observation_as_it_is(opened):
    """Arrays are the arena's own and stay right for two further steps; the third writes over them."""
    envs = opened(COUNT, 3, copy=False, length=50)
    first = envs.reset(seed=1)[0]
    before = first.copy()
    for _ in range(2):
        rewards = envs.step(ZEROS)[1]
        assert np.array_equal(first, before)
    kept = rewards.copy()
    observations = envs.step(ZEROS)[0]
    assert np.shares_memory(first, observations)
    assert not np.array_equal(first, before)
    envs.step(ZEROS)
    envs.step(ZEROS)
    assert np.array_equal(rewards, kept)


# Workers that end, and programs that do


def test_a_dead_worker_is_named_and_the_rest_can_be_closed(opened):
    """Where no other may take its place: the step raises WorkerDied with its rows, later calls PoolBroken."""
    envs = opened(env_id("Kill-v0"), 3, workers=3, seed=11, restart_budget=0)
    envs.reset(seed=10)
    with pytest.raises(WorkerDied, match="row") as caught:
        envs.step(ZEROS)
    assert caught.value.details["rows"] == [1, 1]
    for call in (partial(envs.step, ZEROS), partial(envs.call, "identity"), envs.render):
        with pytest.raises(PoolBroken, match="SIGKILL"):
            call()
    envs.close()


def test_a_worker_that_dies_between_steps_is_found_by_the_next(opened):
    """No step hangs for it."""
    envs = opened([env_class(pid=lambda self: os.getpid())] * 2, workers=2, on_failure="raise")
    envs.reset()
    os.kill(envs.call("pid")[1], signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        envs.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("ends_by", ["close", "kill"])
def test_programs_that_environments_started_end_with_their_worker(opened, tmp_path, ends_by):
    """All that did not leave the worker's group of processes."""
    pids = tmp_path / "pids"
    make = partial(gym.make, odd("Starting-v0"), pids=str(pids), own_session=False)
    envs = opened([make, make_count()], workers=2)
    if ends_by == "kill":
        envs.reset()
        (worker,) = {int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in pids.read_text().split()}
        (started,) = map(int, pids.read_text().split())
        with Watched(started) as watched:
            os.kill(worker, signal.SIGKILL)
            envs.step(np.zeros(2, np.int64))  # with another worker, whose environment has started another program
            assert not watched.running()
    with Watched(int(pids.read_text().split()[-1])) as watched:
        envs.close()
        assert not watched.running()


def test_a_step_that_takes_too_long_names_the_row(opened):
    """It stays pending, and close does not wait for it for ever."""
    envs = opened(env_id("Hang-v0"), 3, workers=1, seed=11)
    envs.reset(seed=10)
    envs.step_async(ZEROS)
    with pytest.raises(DeadlineExceeded, match="rows 1 to 2"):
        envs.step_wait(timeout=0.2)
    with pytest.warns(UserWarning, match="giving it up"):
        envs.close(terminate=True)


def test_a_frame_that_took_too_long_does_not_get_in_the_way(opened, tmp_path):
    """A render that timed out is forgotten when it has ended; until then other calls say what is busy."""
    gate = tmp_path / "gate"

    def render(self):
        pause = threading.Event()
        while not gate.exists():
            pause.wait(0.002)

    envs = opened([env_class(render=render)] * 2, workers=1)
    envs.reset()
    envs.patience = 0.2
    with pytest.raises(DeadlineExceeded, match="rows 0 to 1"):
        envs.render()
    with pytest.raises(DeadlineExceeded, match="busy"):
        envs.step(np.zeros(2, np.int64))
    gate.touch()
    envs.patience = LONG_S
    assert envs.step(np.zeros(2, np.int64))[0].shape == (2, 2)


def test_a_call_that_was_torn_leaves_nothing_to_trust(opened, monkeypatch):
    """Some workers rung and others not is no state to go on from: the next call says so, and close works."""
    envs = opened(COUNT, 2, workers=2)
    envs.reset(seed=0)

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(envs._link._host._workers[1].bell, "ring", interrupted)
        envs.step(np.zeros(2, np.int64))
    with pytest.raises(PoolBroken, match="KeyboardInterrupt"):
        envs.step(np.zeros(2, np.int64))


def test_an_interrupted_call_is_not_waited_for(monkeypatch):
    """Ctrl-C at any moment ends the program: behind the last ring too, with a worker that hangs already."""
    begun = monotonic()
    with pytest.raises(KeyboardInterrupt), LocalVectorEnv(env_id("Hang-v0"), 2, workers=1) as envs:
        envs.reset(seed=0)
        bell = envs._link._host._workers[0].bell
        ring = bell.ring

        def interrupted():
            ring()
            raise KeyboardInterrupt

        monkeypatch.setattr(bell, "ring", interrupted)
        envs.step(np.zeros(2, np.int64))
    assert monotonic() - begun < LONG_S


def test_an_interrupted_frame_is_not_waited_for(monkeypatch):
    """Nor is a render that hangs."""

    def forever(self):
        threading.Event().wait()

    begun = monotonic()
    with pytest.raises(KeyboardInterrupt), LocalVectorEnv([env_class(render=forever)], workers=1) as envs:
        envs.reset()
        host = envs._link._host

        def interrupted(timeout):
            if timeout:
                raise KeyboardInterrupt
            return False

        monkeypatch.setattr(host, "watch", interrupted)
        envs.render()
    assert monotonic() - begun < LONG_S


def test_it_outlives_the_thread_that_made_it():
    """Workers belong to the process, whichever thread started them."""
    made = []
    thread = threading.Thread(target=lambda: made.append(LocalVectorEnv(COUNT, 3)))
    thread.start()
    thread.join(LONG_S)
    with made.pop() as envs:
        assert envs.reset(seed=3)[0][:, 0].tolist() == [3.0, 4.0, 5.0]
        assert envs.step(ZEROS)[0][:, 2].tolist() == [1.0, 1.0, 1.0]


def test_what_fails_in_another_thread_leaves_nothing():
    """The error comes out there, and the thread that stands by is gone."""
    errors = []

    def make():
        try:
            LocalVectorEnv(env_id("Raise-v0"), 2, where="init")
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(LONG_S)
    assert "broken on purpose" in str(errors)


def test_the_program_is_left_as_it_was(opened):
    """Neither its cores, its signal handlers nor its environment change."""

    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
        return os.sched_getaffinity(0), handlers, dict(os.environ)

    before = state()
    envs = opened("CartPole-v1", 4)
    envs.reset(seed=0)
    envs.step(np.zeros(4, np.int64))
    assert state() == before


def test_one_that_nobody_closed_is_closed_when_it_is_collected():
    """The check for leaks after this test finds nothing."""
    LocalVectorEnv(COUNT, 2).reset(seed=0)


def test_a_forked_child_leaves_the_parents_workers_alone(opened):
    """It can neither close nor step them."""
    envs = opened(COUNT, 3)
    envs.reset(seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer interpreters warn of any fork with threads
        child = os.fork()
    if not child:
        try:
            envs.step(ZEROS)
        except LocalError:
            envs.close()
            os._exit(7)
        os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert envs.step(ZEROS)[0][:, 2].tolist() == [1.0, 1.0, 1.0]


PROGRAM = """
import os, sys, threading, time
import numpy as np
from vecserver_client import LocalVectorEnv
import gymnasium as gym

class Stuck(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}
    def pid(self):
        return os.getpid()
    def step(self, action):
        pattern = "(a+)+$"
        __import__("re").match(pattern, "a" * 64 + "b")  # for years, and never lets another thread run

def main():
    global envs
    envs = LocalVectorEnv([Stuck] * 2, workers=2)

if sys.argv[1] == "thread":
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
else:
    main()
envs.reset()
pids = envs.call("pid")
child = os.fork() if sys.argv[1] == "fork" else 0
if sys.argv[1] == "fork" and not child:
    time.sleep(1000)
print(*pids, child, flush=True)
envs.step(np.zeros(2, np.int64))
"""


@pytest.fixture
def program():
    """Starts a program whose environments are stuck in a step; gives it and the pids of its workers."""
    with ExitStack() as stack:

        def start(how):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-c", PROGRAM, how],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    text=True,
                )
            )
            stack.callback(process.kill)
            *workers, child = map(int, process.stdout.readline().split())
            if child:
                stack.callback(os.kill, child, signal.SIGKILL)
            return process, workers

        yield start


def wait_for_the_end(pid: int) -> None:
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    ended = poll.poll(LONG_S * 1000)
    os.close(watched)
    assert ended, f"worker {pid} outlives its program"


@pytest.mark.parametrize("how", ["plain", "thread", "fork"])
def test_workers_end_with_the_program(program, how):
    """Killed, with every environment stuck, made in a thread that is gone, with a child that holds all descriptors."""
    process, workers = program(how)
    assert len(workers) == 2
    process.kill()
    for pid in workers:
        wait_for_the_end(pid)


def test_ctrl_c_is_the_programs_alone(program):
    """It shows one traceback, the program's own, and ends with its workers however stuck they are."""
    process, workers = program("plain")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LONG_S)
    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    for pid in workers:
        wait_for_the_end(pid)


def test_faults_of_a_program_pickle(opened):
    """A fault with a class of the program's survives another process boundary, as the class does."""
    envs = opened(env_id("Raise-v0"), 3, kind="two_args")
    envs.reset(seed=0)
    with pytest.raises(EnvFault) as caught:
        envs.step(ZEROS)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again).__mro__[1:] == type(caught.value).__mro__[1:]
    assert str(again) == str(caught.value)


def test_nothing_of_the_server_is_loaded_before_it_is_needed():
    """Importing the client alone starts no part of a host."""
    code = "import sys, vecserver_client; print(any(name.startswith('vecserver.pools') for name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert run.stdout.strip() == "False"
