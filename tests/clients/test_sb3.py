"""``VecServerVecEnv`` is what Stable-Baselines3's ``DummyVecEnv`` is, number for number."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

import vecserver_client as vs
from tests.contract.compare import assert_same
from tests.environments import env_id

FLAT = "tests.clients.trainer_environments:vectest/FlatDict-v0"
COUNT = env_id("Count-v0")
ENVIRONMENTS = [
    (COUNT, 4, 25, {"odd_info": True}),
    (env_id("CountBox-v0"), 3, 25, {}),
    (FLAT, 4, 25, {}),
    (FLAT.replace("Dict", "Tuple"), 3, 25, {"with_infos": False}),
    ("CartPole-v1", 5, 80, {}),
    ("Pendulum-v1", 3, 205, {}),
    ("LunarLander-v3", 3, 160, {}),
    ("FrozenLake-v1", 5, 60, {}),
]


@pytest.fixture
def sb3():
    """The adapter; its tests are selected where Stable-Baselines3 is, so that its absence is a failure."""
    import vecserver_client.sb3

    return vecserver_client.sb3


@pytest.fixture
def pair(server, sb3):
    """Makes the subject and the ``DummyVecEnv`` to compare it with."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    opened = []

    def make(name, num_envs, *, options=None, **kwargs):
        opened.append(sb3.make_vec(name, num_envs, url=server.url, **(options or {}), **kwargs))
        opened.append(DummyVecEnv([partial(gym.make, name, **kwargs)] * num_envs))
        return opened[-2:]

    yield make
    for envs in opened:
        envs.close()


def run_both(subject, oracle, steps):
    """Resets and steps both with the same actions; returns how many episodes ended."""
    assert_same(subject.reset(), oracle.reset(), "reset")
    assert_same(subject.reset_infos, oracle.reset_infos, "reset_infos")
    oracle.action_space.seed(5)
    ended = 0
    for number in range(steps):
        actions = np.array([oracle.action_space.sample() for _ in range(oracle.num_envs)])
        got, expected = subject.step(actions.copy()), oracle.step(actions)
        assert_same(got, expected, f"step {number}")
        assert_same(subject.reset_infos, oracle.reset_infos, f"reset_infos of step {number}")
        ended += int(expected[2].sum())
    return ended


@pytest.mark.sb3
@pytest.mark.parametrize(("name", "num_envs", "steps", "kwargs"), ENVIRONMENTS)
def test_every_result_equals_that_of_dummy_vec_env(pair, name, num_envs, steps, kwargs):
    """Observations, float32 rewards, dones, infos and the infos of resets are the same to the bit."""
    subject, oracle = pair(name, num_envs, **kwargs)
    assert subject.observation_space == oracle.observation_space
    assert subject.action_space == oracle.action_space
    for seed in (7, 8):
        assert subject.seed(seed) == oracle.seed(seed)
        assert run_both(subject, oracle, steps) > 0


@pytest.mark.sb3
def test_a_terminal_observation_is_kept_from_an_environment_that_reuses_its_buffer(pair):
    """It shows the end of the episode, where the observation shows the beginning of the next."""
    subject, _ = pair(env_id("ReusedBuffer-v0"), 3)
    subject.seed(7)
    subject.reset()
    ends = 0
    for _ in range(12):
        observations, _, dones, infos = subject.step(np.ones(3, np.int64))
        for row in np.flatnonzero(dones):
            assert infos[row]["terminal_observation"][2] >= 3
            assert observations[row][2] == 0
            ends += 1
    assert ends >= 3


@pytest.mark.sb3
@pytest.mark.parametrize("engine", ["sync", "async"])
def test_infos_that_an_engine_merged_are_split_again(pair, engine):
    """The same keys and numbers for each row, numbers as numpy scalars."""
    subject, oracle = pair(COUNT, 3, options={"engine": engine})
    for envs in (subject, oracle):
        envs.seed(7)
        envs.reset()
    for _ in range(12):
        got, expected = (envs.step(np.array([1, 2, 3])) for envs in (subject, oracle))
        assert_same(got[:3], expected[:3], "step")
        for mine, others in zip(got[3], expected[3], strict=True):
            assert mine.keys() == others.keys()
            assert mine["steps"] == others["steps"]
            assert mine["nested"]["deeper"].keys() == others["nested"]["deeper"].keys()
            assert_same(mine.get("terminal_observation"), others.get("terminal_observation"), "terminal_observation")


@pytest.mark.sb3
def test_options_reach_the_rows_they_are_for_once(pair):
    """One dict for all, or one a row, at the next reset and no later."""
    subject, oracle = pair(COUNT, 4)
    for options in ({"mark": 1}, [{"mark": 1}, {}, {"mark": 2}, {"mark": 1}], None):
        for envs in (subject, oracle):
            envs.seed(3)
            envs.set_options(options)
        run_both(subject, oracle, 3)
        run_both(subject, oracle, 3)


@pytest.mark.sb3
def test_calls_and_attributes_reach_the_rows_that_are_meant(pair):
    """``env_method``, ``get_attr`` and ``set_attr`` take no, one or several indices, and leave the other rows alone."""
    subject, oracle = pair(FLAT, 4)
    for envs in (subject, oracle):
        envs.seed(10)
        envs.reset()
    for indices in (None, 2, [0, 3], [3, 0], [-1], range(1, 3), np.array([1])):
        calls = [envs.env_method("goal", 2, plus=1, indices=indices) for envs in (subject, oracle)]
        assert_same(*calls, f"env_method of {indices}")
        assert_same(*[envs.get_attr("identity", indices) for envs in (subject, oracle)], f"get_attr of {indices}")
    assert_same(*[envs.get_attr("asked") for envs in (subject, oracle)], "calls of each row")
    subject.set_attr("tag", [1.0, 2.0])
    assert subject.get_attr("tag") == [[1.0, 2.0]] * 4
    subject.set_attr("tag", 3.0, indices=[2, 0])
    assert subject.get_attr("tag") == [3.0, [1.0, 2.0], 3.0, [1.0, 2.0]]


@pytest.mark.sb3
@pytest.mark.parametrize("engine", ["envs", "async"])
def test_an_attribute_is_looked_for_without_calling_it(pair, engine):
    """A method is there, is not run by the question, and cannot be fetched."""
    subject, _ = pair(FLAT, 2, options={"engine": engine})
    assert subject.has_attr("goal")
    assert not subject.has_attr("no_such_method")
    with pytest.raises(AttributeError, match="no_such_method"):
        subject.env_method("no_such_method")
    subject.reset()
    with pytest.raises(vs.errors.EnvFault, match="method"):
        subject.get_attr("goal")
    subject.reset()
    assert subject.get_attr("asked") == [0, 0]


@pytest.mark.sb3
def test_wrappers_in_the_pool_are_found_by_their_class(pair):
    """A base class finds its subclasses, another class nothing."""
    from gymnasium.wrappers import OrderEnforcing, TimeLimit
    from stable_baselines3.common.monitor import Monitor

    subject, oracle = pair("CartPole-v1", 3)
    for wrapper in (TimeLimit, OrderEnforcing, gym.Wrapper, Monitor):
        for indices in (None, [1]):
            assert subject.env_is_wrapped(wrapper, indices) == oracle.env_is_wrapped(wrapper, indices)


@pytest.mark.sb3
def test_frames_are_images_of_every_row(pair):
    """``get_images`` gives one a row, ``render`` all of them in one picture; other render modes give none."""
    subject, oracle = pair(COUNT, 3, render_mode="rgb_array")
    assert subject.render_mode == oracle.render_mode == "rgb_array"
    for envs in (subject, oracle):
        envs.seed(1)
        envs.reset()
    assert_same(subject.get_images(), oracle.get_images(), "images")
    assert_same(subject.render(), oracle.render(), "picture")
    blind, _ = pair(COUNT, 2)
    with pytest.warns(UserWarning, match="rgb_array"):
        assert blind.get_images() == [None, None]


@pytest.mark.sb3
def test_a_reset_forgets_a_step_under_way(pair):
    """As the interface of ``VecEnv`` asks: the step's result is not mistaken for a later one's."""
    subject, oracle = pair(COUNT, 3)
    subject.reset()
    subject.step_async(np.array([1, 2, 3]))
    for envs in (subject, oracle):
        envs.seed(4)
    run_both(subject, oracle, 8)


@pytest.mark.sb3
def test_wrappers_of_stable_baselines3_give_the_same_on_top(pair, tmp_path):
    """``VecMonitor`` and ``VecNormalize``, with their statistics of episodes."""
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    both = [VecNormalize(VecMonitor(envs)) for envs in pair("CartPole-v1", 4)]
    rng = np.random.default_rng(2)
    for envs in both:
        envs.seed(3)
    assert_same(*[envs.reset() for envs in both], "reset")
    returns = []
    for number in range(120):
        actions = rng.integers(0, 2, 4)
        results = [envs.step(actions) for envs in both]
        for *_, infos in results:
            for info in infos:
                returns += [info["episode"]["r"]] if "episode" in info else []
                info.get("episode", {}).pop("t", None)
        assert_same(*results, f"step {number}")
    assert len(returns) >= 8


@pytest.mark.sb3
def test_a_vector_environment_of_another_kind_or_mode_is_refused(server, sb3):
    """The error says which is needed."""
    with vs.make_vec(COUNT, 2, url=server.url) as envs, pytest.raises(ValueError, match="NextStep.*SameStep"):
        sb3.VecServerVecEnv(envs)
    with (
        closing(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")) as local,
        pytest.raises(TypeError, match="Sync"),
    ):
        sb3.VecServerVecEnv(local)


@pytest.mark.sb3
def test_closing_twice_is_closing(sb3, server):
    """The pool is gone after the first."""
    envs = sb3.make_vec("CartPole-v1", 2, url=server.url)
    pool = envs.envs.pool
    envs.close()
    envs.close()
    with vs.ControlClient(server.url) as control, pytest.raises(vs.errors.UnknownPool):
        control.get_pool(pool)


@pytest.mark.sb3
@pytest.mark.timeout(300)
def test_ppo_learns_on_it(sb3, server):
    """A few thousand steps of CartPole lead well beyond the 22 steps that random actions last."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecMonitor

    with closing(sb3.make_vec("CartPole-v1", 8, url=server.url)) as envs:
        model = PPO("MlpPolicy", VecMonitor(envs), n_steps=64, batch_size=64, seed=1, device="cpu")
        model.learn(12_000)
        mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=16)
    assert mean > 60


def test_without_stable_baselines3_the_import_names_the_extra():
    """Whoever misses it is told what to install."""
    code = "import sys; sys.modules['stable_baselines3'] = None; import vecserver_client.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: vecserver_client.sb3 needs" in result.stderr
    assert "pip install 'vecserver[sb3]'" in result.stderr


def test_infos_by_row_are_those_the_environments_gave(server):
    """Not merged: each row's own dict, its types kept, with the end of an episode beside the reset."""
    with vs.make_vec(COUNT, 3, url=server.url, autoreset_mode="SameStep", odd_info=True) as envs:
        rows = [gym.make(COUNT, odd_info=True) for _ in range(3)]
        envs.infos_by_row = True
        _, infos = envs.reset(seed=5)
        assert_same(infos, [env.reset(seed=5 + row)[1] for row, env in enumerate(rows)], "reset")
        for _ in range(8):
            *_, infos = envs.step(np.array([1, 2, 3]))
            for row, env in enumerate(rows):
                observation, _, terminated, truncated, info = env.step(np.int64(row + 1))
                if terminated or truncated:
                    info = {"final_obs": observation, "final_info": info, **env.reset()[1]}
                assert_same(infos[row], info, f"row {row}")


def test_some_rows_can_be_called_and_set(server):
    """By ``call_rows`` and ``set_attr``; the others are left alone."""
    with vs.make_vec(COUNT, 4, url=server.url, workers=2) as envs:
        envs.reset(seed=5)
        envs.set_attr("tag", 2.0, [1, 2])
        envs.set_attr("tag", [3.0, 4.0], [0, 3])
        assert envs.get_attr("tag") == (3.0, 2.0, 2.0, 4.0)
        assert envs.call_rows([1, 3], "add", 2, b=1) == (9, 11)
        with pytest.raises(ValueError, match="one entry a row"):
            envs.set_attr("tag", [3.0, 4.0], [0])
        with pytest.raises(ValueError, match="`step`"):
            envs.call_rows([0], "step", 1)
        for rows in ([4], [1, 0]):
            with pytest.raises(vs.errors.InvalidSpec, match="row"):
                envs.call_rows(rows, "add", 2)
