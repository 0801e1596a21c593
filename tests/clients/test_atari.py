"""The usual Atari stack on the server's side. Needs the extra `atari`; `make verify` runs it."""

from __future__ import annotations

import warnings
from contextlib import closing

import gymnasium as gym
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

import vecserver_client as vs
from tests.contract.compare import assert_same, assert_same_batch

pytest.importorskip("cv2")
ale_py = pytest.importorskip("ale_py")

ID = "ALE/Pong-v5"


def preprocessed() -> gym.Env:
    return FrameStackObservation(AtariPreprocessing(gym.make(ID, frameskip=1), noop_max=30), 4)


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_preprocessing_and_stacking_equal_gymnasiums(server, transport):
    """Both wrappers run in the workers, and draw the same random no-ops."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gym.register_envs(ale_py)
        oracle = gym.vector.SyncVectorEnv([preprocessed] * 3)
    wrappers = [
        {"id": "AtariPreprocessing", "kwargs": {"noop_max": 30}},
        {"id": "FrameStackObservation", "kwargs": {"stack_size": 4}},
    ]
    made = vs.make_vec(ID, 3, url=server.url, transport=transport, wrappers=wrappers, frameskip=1)
    with closing(oracle), closing(made) as envs:
        assert envs.observation_space == oracle.observation_space
        assert_same(envs.reset(seed=7), oracle.reset(seed=7), "reset")
        oracle.action_space.seed(7)
        for _ in range(100):
            actions = oracle.action_space.sample()
            assert_same_batch(envs.step(actions), oracle.step(actions), "step")
