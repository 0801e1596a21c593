"""Defects of other vector environments that cost their users something, each shown not to be here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from importlib.util import find_spec
from time import monotonic

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import vecserver_client as vs
from tests.contract.compare import assert_same, run_both
from tests.contract.vector_contract import make_oracle, step_until_an_end
from tests.environments import FAULT_MESSAGE, UnpicklableError, env_id
from tests.vector_environments import TALLY
from vecserver.wire.errors import DeadlineExceeded, EnvFault, InvalidAction, PoolBroken, WorkerDied

LONG_S = 30.0
GRACE_S = 5.0  # that a server gives a batch in flight
COUNT = env_id("Count-v0")
ZEROS = np.zeros(3, np.int64)


AT_A_SERVER = pytest.param("remote", marks=pytest.mark.slow)
"""There the same worker steps, and the contract over tcp says the same; by default where a server has a part in it."""
at_a_server_too = pytest.mark.parametrize("make", ["local", "remote"], indirect=True)


@pytest.fixture(params=["local", AT_A_SERVER])
def make(request, server):
    """Makes the subject with its arena here, or at a server; closed after the test."""
    with ExitStack() as stack:

        def make_one(env, num_envs=3, **options):
            if request.param == "local":
                envs = vs.LocalVectorEnv(env, num_envs, **options)
            else:
                envs = vs.make_vec(env, num_envs, url=server.url, **options)
            return stack.enter_context(closing(envs))

        make_one.local = request.param == "local"
        yield make_one


@at_a_server_too
def test_g1_an_exception_that_cannot_be_pickled_arrives(make):
    """Gymnasium waits for it for ever."""
    envs = make(env_id("Raise-v0"), kind="unpicklable", seed=11)
    envs.reset(seed=10)
    with pytest.raises(UnpicklableError if make.local else EnvFault, match=f"row 1.*{FAULT_MESSAGE}") as caught:
        envs.step(ZEROS)
    assert caught.value.type == "UnpicklableError"


def test_g2_an_exception_with_two_arguments_arrives(make):
    """Gymnasium raises a TypeError of its own instead."""
    envs = make(env_id("Raise-v0"), kind="two_args", seed=11)
    envs.reset(seed=10)
    with pytest.raises(EnvFault, match=rf"row 1 raised TwoArgumentError: {FAULT_MESSAGE} \(7\)"):
        envs.step(ZEROS)


@at_a_server_too
def test_g3_a_killed_worker_is_named_and_all_the_others_end(make):
    """Gymnasium raises a BrokenPipeError that names nobody, from ``close`` too, and leaves the other workers alive."""
    envs = make(env_id("Kill-v0"), workers=3, seed=11, restart_budget=0)
    envs.reset(seed=10)
    with pytest.raises(WorkerDied) as caught:
        envs.step(ZEROS)
    assert (caught.value.details["rows"], caught.value.details["exitcode"]) == ([1, 1], -signal.SIGKILL)
    with pytest.raises(PoolBroken):
        envs.step(ZEROS)
    envs.close()


def test_g4_a_step_after_an_exception_is_a_step(make):
    """Gymnasium answers with an AttributeError about None."""
    name, oracle = env_id("Raise-v0"), make_oracle(COUNT, 3)
    envs = make(name, at=2, seed=11)
    envs.reset(seed=10)
    envs.step(ZEROS)
    with pytest.raises(ValueError, match=FAULT_MESSAGE):
        envs.step(ZEROS)
    with closing(oracle):
        run_both(envs, oracle, 12, seed=20)


@pytest.mark.parametrize("shared_memory", [True, False])
def test_g5_a_reset_when_an_episode_is_over_swallows_no_step(make, shared_memory):
    """Gymnasium, without shared memory, resets a second time in the step after it."""
    envs = make(COUNT, **({"shared_memory": shared_memory} if make.local else {}))
    envs.reset(seed=0)
    step_until_an_end(envs)
    envs.reset(seed=0)
    observations, rewards, *_ = envs.step(np.array([1, 2, 3]))
    assert observations[:, 2].tolist() == [1.0, 1.0, 1.0]
    assert observations[:, 3].tolist() == [1.0, 2.0, 3.0]
    assert rewards.all()


def test_g6_a_wrapper_sees_the_mask_that_the_caller_gave(make):
    """Gymnasium takes it out of the caller's dict, so that the statistics of every row begin anew."""
    bare = make(COUNT, autoreset_mode=AutoresetMode.DISABLED, length=4)
    envs = RecordEpisodeStatistics(bare)
    envs.reset(seed=0)
    options = {"reset_mask": np.array([True, True, True])}
    bare.reset(options=options)
    assert list(options) == ["reset_mask"]
    for _ in range(2):
        envs.step(ZEROS)
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    for _ in range(2):
        infos = envs.step(ZEROS)[4]
    assert infos["episode"]["l"].tolist() == [0, 4, 4]


@pytest.mark.parametrize("name", ["Graph-v0", "Sequence-v0"])
def test_g7_observations_without_a_fixed_size_need_no_switch(make, name):
    """Gymnasium raises a TypeError unless its shared memory is given up."""
    with closing(make_oracle(env_id(name), 3)) as oracle:
        assert run_both(make(env_id(name)), oracle, 12, seed=0) > 0


@at_a_server_too
def test_g8_a_wait_that_timed_out_loses_no_result(make, tmp_path):
    """After one Gymnasium gives every later step the result of the step before."""
    gate = tmp_path / "gate"
    envs = make(env_id("Slow-v0"), gate=str(gate), at=2, seed=9)
    envs.reset(seed=8)
    envs.step(ZEROS)
    envs.step_async(np.array([1, 2, 3]))
    with pytest.raises(DeadlineExceeded):
        envs.step_wait(timeout=0.1)
    gate.touch()
    assert envs.step_wait(timeout=LONG_S)[0][:, 3].tolist() == [1.0, 2.0, 3.0]
    assert envs.step(np.array([4, 0, 1]))[0][:, 2:4].tolist() == [[3.0, 4.0], [3.0, 0.0], [3.0, 1.0]]


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name.lower())
def test_g9_a_reward_of_shape_one_is_a_number(make, mode):
    """Gymnasium's two vector environments do not agree about it, and one of them raises when a row is reset."""
    name = env_id("OneReward-v0")
    with closing(make_oracle(name, 3, autoreset_mode=mode, plain=True)) as oracle:
        assert run_both(make(name, autoreset_mode=mode), oracle, 25, seed=0) >= 3


def test_g10_the_last_observation_is_not_written_over(make):
    """Gymnasium shows the new episode's in ``final_obs`` where an environment reuses its buffer."""
    mode = AutoresetMode.SAME_STEP
    with closing(make_oracle(COUNT, 3, autoreset_mode=mode)) as fresh:
        envs = make(env_id("ReusedBuffer-v0"), autoreset_mode=mode)
        for each in (envs, fresh):
            each.reset(seed=0)
        for _ in range(12):
            ours, theirs = envs.step(ZEROS)[4], fresh.step(ZEROS)[4]
            assert_same(ours.get("final_obs"), theirs.get("final_obs"), "final_obs")


PROGRAM = """
import sys, numpy as np, vecserver_client as vs
env, url = sys.argv[1:]
make = vs.make_vec if url else vs.LocalVectorEnv
with make(env, 3, **({"url": url} if url else {})) as envs:
    envs.reset(seed=0)
    print("ready", flush=True)
    envs.step(np.zeros(3, np.int64))
"""


@at_a_server_too
def test_g11_ctrl_c_shows_one_traceback(make, server):
    """Gymnasium shows two a worker. Here the program's own, whatever its workers were about."""
    url = "" if make.local else server.url
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, env_id("Hang-v0"), url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as program:
        assert program.stdout.readline() == "ready\n"
        os.killpg(program.pid, signal.SIGINT)
        err = program.communicate(timeout=LONG_S)[1]
    assert program.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1


@at_a_server_too
def test_g11_an_environment_that_hangs_delays_no_close(make):
    """Gymnasium waits for it without end. Whoever has given a step up does not wait for its environments to close."""
    envs = make(env_id("Hang-v0"), 2)
    envs.reset(seed=0)
    envs.step_async(np.zeros(2, np.int64))
    with pytest.raises(DeadlineExceeded):
        envs.step_wait(timeout=0.3)
    begun = monotonic()
    with pytest.warns(UserWarning, match="giving it up"):
        envs.close(terminate=True)
    assert monotonic() - begun < GRACE_S


def test_e1_five_actions_for_eight_environments_are_refused(make):
    """EnvPool ends the whole process."""
    envs = make(COUNT, 8)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match="5 rows"):
        envs.step(np.zeros(5, np.int64))
    assert envs.step(np.zeros(8, np.int64))[0][:, 2].tolist() == [1.0] * 8


def test_e2_an_action_outside_its_space_is_refused(make):
    """EnvPool takes it without a word."""
    envs = make("CartPole-v1", 2)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"row 1: action 7 is outside Discrete\(2\)"):
        envs.step(np.array([1, 7]))


def test_e2_a_seed_is_obeyed(make):
    """EnvPool ignores the seed of a reset."""
    envs = make("CartPole-v1", 2)
    first, other, again = (envs.reset(seed=seed)[0] for seed in (3, 4, 3))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(first[1], other[0])


NATIVE = [
    "CartPole-v1",
    TALLY,
    pytest.param("ALE/Pong-v5", marks=pytest.mark.skipif(find_spec("ale_py") is None, reason="needs ale-py")),
    pytest.param("EnvPool/CartPole-v1", marks=pytest.mark.skipif(find_spec("envpool") is None, reason="needs EnvPool")),
]


@pytest.mark.parametrize("env", NATIVE)
def test_e1_e2_a_batch_that_does_not_fit_never_reaches_a_native_environment(make, env):
    """EnvPool ends its process with 5 actions for 8 rows, and takes action 7 of two; ALE waits for ever on such."""
    envs = make(env, 8, engine="native")
    first, _ = envs.reset(seed=3)
    right = envs.action_space.sample()
    for wrong in (right[:5], np.append(right, right[0]), right + 100, right - 100, right + 0.5, right.reshape(4, 2)):
        with pytest.raises(InvalidAction, match="nothing was stepped"):
            envs.step(wrong)
    assert envs.step(right)[1].shape == (8,)
    assert_same(envs.reset(seed=3)[0], first, "reset(seed=3), which EnvPool ignores")
    assert not np.array_equal(envs.reset(seed=4)[0], first)
