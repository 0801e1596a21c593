"""The tests' own tools: the environments show mistakes, the comparison finds them, the leak check catches what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import zmq
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests import leaks
from tests.contract.compare import assert_same, run_both
from tests.contract.vector_contract import make_oracle
from tests.environments import ENVIRONMENTS, FAULT_KINDS, FAULT_MESSAGE, TwoArgumentError, UnpicklableError, env_id

ROOT = Path(__file__).resolve().parent.parent
COUNT = env_id("Count-v0")
CHILD_S = 60.0


def child(code: str, **kwargs) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **kwargs)


# Environments


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_observations_lie_in_their_space(name):
    """Every environment gives observations of its space until its episodes end."""
    options = {"gate": "/nowhere"} if name == "Slow-v0" else {}
    quiet = {"at": 99} if name in ("Kill-v0", "Hang-v0", "Raise-v0", "Slow-v0") else {}
    env = gym.make(env_id(name), **options, **quiet)
    for seed in (1, None, None):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            assert env.observation_space.contains(observation)
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
    env.close()


def test_a_child_process_can_make_them_by_module_and_id():
    """The id imports the module, from whatever folder the child was started in."""
    code = f"import gymnasium; print(gymnasium.make({COUNT!r}).reset(seed=41)[0].tolist())"
    with child(code, cwd="/") as process:
        assert process.communicate(timeout=CHILD_S)[0] == "[41.0, 0.0, 0.0, -1.0, 0.0, 0.0]\n"


def test_registering_twice_is_harmless():
    """Importing the module again neither fails nor warns."""
    code = "import importlib, warnings, tests.environments as m; warnings.simplefilter('error'); importlib.reload(m)"
    with child(code) as process:
        assert process.wait(CHILD_S) == 0


def test_episodes_differ_in_length_and_end():
    """Lengths lie between 3 and 9 and vary; episodes end terminated, truncated and both."""
    lengths, ends = set(), set()
    for seed in range(4):
        env = gym.make(COUNT)
        for episode in range(6):
            env.reset(seed=seed if episode == 0 else None)
            steps, flags = 0, (False, False)
            while not any(flags):
                flags = env.step(0)[2:4]
                steps += 1
            lengths.add(steps)
            ends.add(flags)
    assert lengths == {3, 4, 5, 6, 7, 8, 9}
    assert ends == {(True, False), (False, True), (True, True)}


def test_a_step_past_the_end_is_an_error():
    """An episode that is over cannot be stepped on."""
    env = gym.make(COUNT, length=1)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(RuntimeError, match="step 2 of an episode of 1"):
        env.step(0)


class Stale(SyncVectorEnv):
    """Gives the result of the step before."""

    last = None

    def step(self, actions):
        result = super().step(actions)
        self.last, result = result, self.last or result
        return result


class Swapped(SyncVectorEnv):
    """Gives two rows in each other's place."""

    def step(self, actions):
        observations, *rest = super().step(actions)
        return (observations[[1, 0, 2]], *rest)


class Doubled(SyncVectorEnv):
    """Steps a batch twice now and then."""

    count = 0

    def step(self, actions):
        self.count += 1
        if self.count == 2:
            super().step(actions)
        return super().step(actions)


class Skipped(SyncVectorEnv):
    """Answers a batch without having stepped it now and then."""

    last = None
    count = 0

    def step(self, actions):
        self.count += 1
        self.last = self.last if self.count == 2 else super().step(actions)
        return self.last


class OtherAction(SyncVectorEnv):
    """Sends one row the action of another."""

    def step(self, actions):
        return super().step(np.concatenate([actions[:1], actions[:1], actions[2:]]))


@pytest.mark.parametrize("broken", [Stale, Swapped, Doubled, Skipped, OtherAction])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_wrong_batch_shows_in_the_data(broken, mode):
    """A batch that is stale, swapped, doubled, skipped or given another row's action differs from the right one."""
    subject = broken([lambda: gym.make(COUNT, with_infos=False)] * 3, autoreset_mode=mode)
    oracle = make_oracle(COUNT, 3, autoreset_mode=mode, with_infos=False)
    with pytest.raises(AssertionError, match=r"step [01].*: observations"):
        run_both(subject, oracle, 3, seed=1)


def test_an_attribute_shows_in_the_observation():
    """What is set from outside is seen in the data."""
    env = gym.make(COUNT)
    env.reset(seed=1)
    env.set_wrapper_attr("tag", 8.5)
    assert env.step(2)[0].tolist() == [1.0, 0.0, 1.0, 2.0, 3.0, 8.5]
    assert env.unwrapped.add(2, b=3) == 6


def test_a_reused_buffer_is_one_array():
    """Resets and steps give one and the same array."""
    env = gym.make(env_id("ReusedBuffer-v0"))
    first, _ = env.reset(seed=1)
    assert env.step(0)[0] is first
    assert env.reset()[0] is first


def test_a_change_of_a_kept_action_shows():
    """The environment counts the steps before which the array it kept was changed."""
    env = gym.make(env_id("Keeper-v0"), length=9)
    env.reset(seed=1)
    action = np.zeros(2, np.float32)
    env.step(action)
    assert env.step(action.copy())[0][5] == 0
    kept = np.ones(2, np.float32)
    env.step(kept)
    kept[0] = 5
    assert env.step(action)[0][5] == 1


def test_the_dtype_of_an_action_shows():
    """A float64 that no float32 equals is seen as it is, with its size."""
    env = gym.make(env_id("Float64Action-v0"))
    env.reset(seed=1)
    observation = env.step(np.array([0.1]))[0]
    assert (observation[3], observation[5]) == (0.1, 8)
    assert env.step(np.array([0.1], np.float32))[0][5] == 4


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_every_kind_of_fault_has_its_type_and_message(kind):
    """The environment raises the error it was made for, only at its step and in its row."""
    expected = {
        "value": ValueError,
        "unpicklable": UnpicklableError,
        "two_args": TwoArgumentError,
        "keyboard": KeyboardInterrupt,
        "systemexit": SystemExit,
    }[kind]
    env = gym.make(env_id("Raise-v0"), at=2, seed=7, kind=kind)
    env.reset(seed=6)
    env.step(0)
    env.step(0)
    env.reset(seed=7)
    env.step(0)
    with pytest.raises(expected, match=FAULT_MESSAGE):
        env.step(0)


@pytest.mark.parametrize("where", ["init", "reset", "render", "call"])
def test_faults_lie_in_every_place(where):
    """Each place that can raise does, and the others do not."""

    def use() -> None:
        nonlocal done
        env = gym.make(env_id("Raise-v0"), where=where, at=0, render_mode="rgb_array")
        for place, call in (
            ("init", lambda: None),
            ("reset", lambda: env.reset(seed=1)),
            ("step", lambda: env.step(0)),
            ("render", env.render),
            ("call", env.unwrapped.touch),
        ):
            done = place
            call()

    done = "init"
    with pytest.raises(ValueError, match=FAULT_MESSAGE):
        use()
    assert done == where


def test_kill_ends_its_process():
    """The process is gone with SIGKILL at the step, not before."""
    code = (
        f"import gymnasium; env = gymnasium.make({env_id('Kill-v0')!r}, at=2, seed=1)\n"
        "env.reset(seed=1); env.step(0); print('one', flush=True); env.step(0); print('two', flush=True)"
    )
    with child(code) as process:
        assert process.communicate(timeout=CHILD_S)[0] == "one\n"
        assert process.returncode == -signal.SIGKILL


def test_hang_blocks_its_process():
    """The step at which it hangs does not return."""
    code = (
        f"import gymnasium; env = gymnasium.make({env_id('Hang-v0')!r}, at=1)\n"
        "env.reset(seed=1); print('reset', flush=True); env.step(0)"
    )
    with child(code) as process:
        assert process.stdout.readline() == "reset\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()


def test_slow_waits_for_its_gate(tmp_path):
    """The step returns once the file is there."""
    env = gym.make(env_id("Slow-v0"), gate=str(tmp_path / "gate"))
    env.reset(seed=1)
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(env.step, 0)
        with pytest.raises(TimeoutError):
            step.result(0.05)
        (tmp_path / "gate").touch()
        assert step.result(CHILD_S)[0][2] == 1


# Comparison

QUIET_NAN = np.frombuffer(np.uint64(0x7FF8000000000000).tobytes(), np.float64)
OTHER_NAN = np.frombuffer(np.uint64(0x7FF8000000000001).tobytes(), np.float64)


@pytest.mark.parametrize(
    "value",
    [
        np.array([np.nan, -0.0]),
        float("nan"),
        np.float32("nan"),
        {"a": (1, [2.5, None], "x", b"y"), "b": np.array([{"c": np.eye(2)}, None], dtype=object)},
        np.array(["text"]),
        np.zeros((0, 3)),
        np.array(3.5),
    ],
)
def test_equal_values_are_the_same(value):
    """A value and its equal, NaNs included, pass."""
    assert_same(value, value)


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        (QUIET_NAN, OTHER_NAN, r"v\[0\]: .*nan.* of bits"),
        (np.array([0.0, 0.0]), np.array([0.0, -0.0]), r"v\[1\]: "),
        (0.0, -0.0, "v: 0.0, expected -0.0"),
        (np.zeros(2, np.float32), np.zeros(2), "v: dtype float32, expected float64"),
        (np.zeros(2, ">f8"), np.zeros(2, "<f8"), "v: dtype"),
        (np.zeros((2, 1)), np.zeros(2), r"v: shape \(2, 1\), expected \(2,\)"),
        ((1, 2), [1, 2], "v: type tuple"),
        ((1, 2), (1, 2, 3), "v: length 2, expected 3"),
        (True, 1, "v: type bool"),
        (np.bool_(True), True, "v: type bool"),
        (np.int64(1), 1, "v: type int64"),
        (np.float32(1), np.float64(1), "v: type float32"),
        (1.0, np.array(1.0), "v: type float"),
        ({"a": 1}, {"a": 1, "b": 2}, "v: keys missing: 'b'; not expected: none"),
        ({"a": {"b": (1, np.array([1, 2]))}}, {"a": {"b": (1, np.array([1, 3]))}}, r"v\['a'\]\['b'\]\[1\]\[1\]: "),
        (np.array([None, "a"], object), np.array([None, "b"], object), r"v\[1\]: 'a', expected 'b'"),
        (np.array([None, 1], object), np.array([None, True], object), r"v\[1\]: type int"),
        (None, 0, "v: type NoneType"),
    ],
)
def test_a_difference_is_found_and_its_place_named(a, b, where):
    """Values that differ in structure, type, dtype, shape or one bit fail with the path of the difference."""
    with pytest.raises(AssertionError, match=where):
        assert_same(a, b, "v")


# Leaks


def found_since(before: leaks.Snapshot) -> str:
    return "\n".join(leaks.left_over(before, grace=0.05).texts())


def nothing_since(before: leaks.Snapshot) -> bool:
    return not leaks.left_over(before).texts()


def test_a_thread_that_stays_is_found():
    """A running thread is named until it ends."""
    before, stop = leaks.Snapshot.take(), threading.Event()
    thread = threading.Thread(target=stop.wait, name="lingering", daemon=True)
    thread.start()
    assert found_since(before) == "thread 'lingering' (daemon)"
    stop.set()
    thread.join()
    assert nothing_since(before)


def test_an_open_descriptor_is_found(tmp_path):
    """An open file is named with its number and path."""
    before = leaks.Snapshot.take()
    with (tmp_path / "open").open("w") as file:
        assert found_since(before) == f"descriptor {file.fileno()}: {tmp_path / 'open'}"
    assert nothing_since(before)


def test_a_running_child_is_found_and_ended():
    """A child is named with its command; ``end_processes`` kills it."""
    before = leaks.Snapshot.take()
    process = subprocess.Popen(["sleep", "60"])
    found = leaks.left_over(before, grace=0.05)
    assert f"pid {process.pid}, child of {os.getpid()}: sleep 60" in found.texts()[0]
    leaks.end_processes(found)
    assert process.wait(CHILD_S) == -signal.SIGKILL
    assert nothing_since(before)


def test_a_child_that_nobody_waited_for_is_found():
    """A zombie is a leak of the process table."""
    before = leaks.Snapshot.take()
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert f"zombie that nobody waited for: pid {pid}" in found_since(before)
    os.waitpid(pid, 0)
    assert nothing_since(before)


def test_an_orphan_is_found():
    """A grandchild whose parent ended is told by the run's marker in its environment."""
    before = leaks.Snapshot.take()
    command = ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]
    pid = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found = leaks.left_over(before, grace=0.05)
    assert [process.pid for process in found.processes] == [pid]
    assert "orphan" in found.texts()[0]
    leaks.end_processes(found)


def test_a_context_that_was_not_terminated_is_found():
    """The threads of a ZeroMQ context count, though Python does not know them."""
    before = leaks.Snapshot.take()
    context = zmq.Context()
    context.socket(zmq.PAIR).close()
    assert "thread of a ZeroMQ context that was not terminated" in found_since(before)
    context.term()
    assert nothing_since(before)


def test_shared_memory_is_found_unless_it_is_somebody_elses(monkeypatch):
    """A new name in /dev/shm counts, if no process outside of this run uses it."""
    before = leaks.Snapshot.take()
    path = leaks.SHARED_MEMORY / f"vectest-{os.getpid()}"
    path.touch()
    try:
        assert found_since(before) == f"shared memory: {path}"
        with path.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as other:
            with monkeypatch.context() as patch:
                patch.setattr(leaks, "_foreign", {other.pid})
                assert str(path) not in [*leaks.left_over(before, grace=0.05).files]
            other.kill()
    finally:
        path.unlink()
    assert nothing_since(before)


def test_a_file_in_the_runtime_directory_is_found():
    """Sockets and connection files must go with what made them."""
    before = leaks.Snapshot.take()
    path = Path(os.environ[leaks.RUNTIME_DIR]) / "host.sock"
    path.touch()
    assert found_since(before) == f"in the runtime directory: {path}"
    path.unlink()
    assert nothing_since(before)


def test_what_was_there_before_may_stay():
    """A thread that runs when the snapshot is taken, as a higher-scoped fixture's does, is no leak."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert nothing_since(leaks.Snapshot.take())
    stop.set()
    thread.join()


def test_what_is_just_going_away_is_waited_for():
    """A child that ends within the grace, and the thread that waits for it, are no leaks."""
    before = leaks.Snapshot.take()
    process = subprocess.Popen(["sleep", "0.1"])
    threading.Thread(target=process.wait).start()
    assert leaks.Snapshot.take().since(before).texts()
    assert nothing_since(before)


def test_the_check_runs_after_every_test(tmp_path):
    """A test that leaves a thread behind fails, with the thread's name, and one that does not passes."""
    (tmp_path / "test_leak.py").write_text(
        "import threading\n"
        "from tests import leaks\n"
        "leaks.GRACE_S = 0.05\n"
        "def test_leaves_a_thread():\n"
        "    threading.Thread(target=threading.Event().wait, name='lingering', daemon=True).start()\n"
        "def test_leaves_nothing(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", tmp_path]
    result = subprocess.run([*command, tmp_path], check=False, capture_output=True, text=True, cwd=ROOT)
    assert "left behind by this test:\n  thread 'lingering' (daemon)" in result.stdout
    assert "left behind by the whole run" in result.stdout
    assert "2 passed, 2 errors" in result.stdout
