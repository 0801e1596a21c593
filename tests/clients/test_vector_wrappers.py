"""Gymnasium's vector wrappers do on top of a pool what they do on top of ``SyncVectorEnv``.

``RecordEpisodeStatistics`` has its tests in the contract. ``HumanRendering`` and ``ResizeObservation`` need packages that
this project does not, and the conversions to other libraries' arrays need those libraries.
"""

from __future__ import annotations

import sys
import types
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import vector as wrappers

import vecserver_client as vs
from tests.contract.compare import assert_same, run_both
from tests.contract.vector_contract import NEXT_STEP, SAME_STEP, make_oracle
from tests.environments import env_id

COUNT, COUNT_BOX, BIG = env_id("Count-v0"), env_id("CountBox-v0"), env_id("Big-v0")
FLAT = "tests.clients.trainer_environments:vectest/FlatDict-v0"
WRAPPERS = {
    "DictInfoToList": (COUNT, wrappers.DictInfoToList),
    "NormalizeObservation": ("Pendulum-v1", wrappers.NormalizeObservation),
    "NormalizeReward": (COUNT, wrappers.NormalizeReward),
    "TransformReward": (COUNT, lambda envs: wrappers.TransformReward(envs, lambda rewards: rewards * 2 - 1)),
    "ClipReward": (COUNT, lambda envs: wrappers.ClipReward(envs, 0.0, 100.0)),
    "VectorizeTransformReward": (
        COUNT,
        lambda envs: wrappers.VectorizeTransformReward(
            envs, gym.wrappers.TransformReward, func=lambda reward: reward / 3
        ),
    ),
    "TransformObservation": (
        COUNT,
        lambda envs: wrappers.TransformObservation(
            envs, lambda observations: observations[:, :2], single_observation_space=spaces.Box(-np.inf, np.inf, (2,))
        ),
    ),
    "FilterObservation": (FLAT, lambda envs: wrappers.FilterObservation(envs, ["image", "number"])),
    "FlattenObservation": (FLAT, wrappers.FlattenObservation),
    "GrayscaleObservation": (BIG, wrappers.GrayscaleObservation),
    "ReshapeObservation": (COUNT, lambda envs: wrappers.ReshapeObservation(envs, (2, 3))),
    "RescaleObservation": ("Pendulum-v1", lambda envs: wrappers.RescaleObservation(envs, 0.0, 1.0)),
    "DtypeObservation": (COUNT, lambda envs: wrappers.DtypeObservation(envs, np.float32)),
    "TransformAction": (COUNT_BOX, lambda envs: wrappers.TransformAction(envs, lambda actions: actions / 2)),
    "ClipAction": (COUNT_BOX, wrappers.ClipAction),
    "RescaleAction": (COUNT_BOX, lambda envs: wrappers.RescaleAction(envs, -3.0, 3.0)),
}


@pytest.fixture
def pair(server):
    """Makes a pool and a ``SyncVectorEnv``, each in wrappers."""
    opened = []

    def make(name, wrap, mode=NEXT_STEP, **kwargs):
        opened.append(vs.make_vec(name, 4, url=server.url, autoreset_mode=mode, **kwargs))
        opened.append(make_oracle(name, 4, autoreset_mode=mode, **kwargs))
        return [wrap(envs) for envs in opened[-2:]]

    yield make
    for envs in opened:
        envs.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")
@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP], ids=["next_step", "same_step"])
def test_a_wrapper_gives_what_it_gives_over_the_oracle(pair, server, name, mode):
    """To the bit; where Gymnasium refuses an autoreset mode, it refuses it here in the same words."""
    env, wrap = WRAPPERS[name]
    with closing(make_oracle(env, 1, autoreset_mode=mode)) as probe:
        try:
            wrap(probe)
        except (ValueError, AssertionError) as refusal:  # before 1.4 it is an assertion
            refused = pytest.raises(type(refusal))
            with vs.make_vec(env, 1, url=server.url, autoreset_mode=mode) as envs, refused as caught:
                wrap(envs)
            assert str(caught.value) == str(refusal)
            return
    subject, oracle = pair(env, wrap, mode)
    assert subject.observation_space == oracle.observation_space
    assert subject.action_space == oracle.action_space
    ended = run_both(subject, oracle, 25, seed=3)
    assert ended >= 8 or env == "Pendulum-v1"


def test_wrappers_can_be_stacked(pair):
    """As a trainer stacks them."""

    def wrap(envs):
        envs = wrappers.NormalizeObservation(envs)
        envs = wrappers.TransformObservation(envs, lambda observations: np.clip(observations, -10, 10))
        return wrappers.ClipReward(wrappers.NormalizeReward(envs), -10, 10)

    subject, oracle = pair(COUNT, wrap, with_infos=False)
    assert run_both(subject, oracle, 40, seed=3) >= 16
    assert subject.unwrapped.num_envs == 4


@pytest.mark.skipif(not hasattr(wrappers, "RecordVideo"), reason="Gymnasium 1.1 has no RecordVideo for vectors")
def test_videos_have_the_frames_of_every_row(pair, tmp_path, monkeypatch):
    """``RecordVideo`` records the same pictures; the film itself is another library's matter."""
    monkeypatch.setitem(sys.modules, "moviepy", types.ModuleType("moviepy"))
    monkeypatch.setattr(wrappers.RecordVideo, "stop_recording", lambda self: None)

    def wrap(envs):
        return wrappers.RecordVideo(envs, str(tmp_path / type(envs).__name__), episode_trigger=lambda _: True)

    subject, oracle = pair(COUNT, wrap, render_mode="rgb_array")
    run_both(subject, oracle, 6, seed=3)
    assert len(subject.recorded_frames) >= 6
    assert_same(subject.recorded_frames, oracle.recorded_frames, "frames")
    for envs in (subject, oracle):
        envs.recorded_frames.clear()  # it warns of a film that was not saved
