"""``LegacyKeys`` gives scripts of Gymnasium 0.29 the keys they read, over a pool and over Gymnasium's own."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import vecserver_client as vs
from tests.contract.compare import assert_same
from tests.environments import env_id
from vecserver_client.legacy import LegacyKeys

COUNT = env_id("Count-v0")
RECORDED = "tests.clients.trainer_environments:vectest/Recorded-v0"
SAME_STEP = AutoresetMode.SAME_STEP
OLD = tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4)
ROWS, STEPS = 4, 40


def by_hand(step):
    """What a plain loop over four environments shows at each end of an episode: (step, row, last observation, info)."""
    envs = [gym.make(RECORDED) for _ in range(ROWS)]
    for row, env in enumerate(envs):
        env.reset(seed=9 + row)
    ends = []
    for number in range(STEPS):
        for row, env in enumerate(envs):
            observation, _, terminated, truncated, info = env.step(step[number][row])
            if terminated or truncated:
                ends.append((number, row, observation, info))
                env.reset()
    return ends


@pytest.fixture(
    params=[
        "pool",
        "sync",
        pytest.param(
            "pool in the vector wrapper",
            marks=pytest.mark.skipif(OLD, reason="before 1.4 it counts a step too few in SameStep"),
        ),
    ]
)
def envs(request, server):
    """Three ways to the same episodes."""
    if request.param == "sync":
        made = SyncVectorEnv([partial(gym.make, RECORDED)] * ROWS, autoreset_mode=SAME_STEP)
    elif request.param == "pool":
        made = vs.make_vec(RECORDED, ROWS, url=server.url, autoreset_mode="SameStep")
    else:
        made = RecordEpisodeStatistics(vs.make_vec(COUNT, ROWS, url=server.url, autoreset_mode="SameStep"))
    with closing(LegacyKeys(made)) as wrapped:
        yield wrapped


def test_the_loops_of_cleanrl_read_the_ends_of_episodes(envs):
    """PPO's loop over ``final_info`` and DQN's over ``final_observation`` find every episode, and nothing else."""
    actions = np.random.default_rng(3).integers(0, 5, (STEPS, ROWS))
    ends = by_hand(actions)
    assert len(ends) >= 3 * ROWS
    envs.reset(seed=9)
    returns, lengths, cut_off = [], [], []
    for number in range(STEPS):
        next_obs, _, terminations, truncations, infos = envs.step(actions[number])
        if "final_info" in infos:
            for info in infos["final_info"]:
                if info and "episode" in info:
                    returns.append(float(info["episode"]["r"]))
                    lengths.append(int(info["episode"]["l"]))
        real_next_obs = next_obs.copy()
        for idx, trunc in enumerate(truncations):
            if trunc:
                real_next_obs[idx] = infos["final_observation"][idx]
                cut_off.append((number, idx, real_next_obs[idx].tolist()))
    assert returns == pytest.approx([float(info["episode"]["r"]) for *_, info in ends])
    assert lengths == [int(info["episode"]["l"]) for *_, info in ends]
    ended = {(number, row): observation.tolist() for number, row, observation, _ in ends}
    assert cut_off
    assert all(ended[number, row] == shown for number, row, shown in cut_off)


def test_the_keys_of_a_step_are_those_of_then(envs):
    """Object arrays with None where no episode ended, masks beside them, and no such keys in other steps."""
    actions = np.random.default_rng(3).integers(0, 5, (STEPS, ROWS))
    ends = {(number, row): (observation, info) for number, row, observation, info in by_hand(actions)}
    envs.reset(seed=9)
    for number in range(STEPS):
        *_, infos = envs.step(actions[number])
        over = np.array([(number, row) in ends for row in range(ROWS)])
        assert not {"final_obs", "_final_obs", "episode", "_episode"} & set(infos)
        assert ("final_info" in infos) == ("final_observation" in infos) == over.any()
        if not over.any():
            continue
        assert_same([infos["_final_info"], infos["_final_observation"]], [over, over], "masks")
        assert infos["final_info"].dtype == infos["final_observation"].dtype == object
        for row in range(ROWS):
            if not over[row]:
                assert infos["final_info"][row] is infos["final_observation"][row] is None
                continue
            observation, info = ends[number, row]
            assert_same(infos["final_observation"][row], observation, "final_observation")
            assert infos["final_info"][row].keys() == info.keys()
            assert infos["final_info"][row]["steps"] == info["steps"]
            assert infos["final_info"][row]["nested"]["deeper"]["last"] == info["nested"]["deeper"]["last"]


def test_infos_of_the_new_episode_stay_where_they_were(server):
    """What the reset says is at the top level, as in the vector environment underneath."""
    with closing(LegacyKeys(vs.make_vec(COUNT, 1, url=server.url, autoreset_mode="SameStep", length=2))) as envs:
        envs.reset(seed=1)
        envs.step(np.array([0]))
        *_, infos = envs.step(np.array([0]))
        assert infos["fresh"].tolist() == [True]
        assert "steps" not in infos
        assert infos["final_info"][0]["steps"] == 2


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_another_autoreset_mode_is_refused(server, mode):
    """The error names the mode that is needed."""
    refused = pytest.raises(ValueError, match=f"{mode}.*SameStep")
    with vs.make_vec(COUNT, 1, url=server.url, autoreset_mode=mode) as envs, refused:
        LegacyKeys(envs)
