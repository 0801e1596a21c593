"""Environments that cannot be rebuilt are refused before there is a pool, by what differs and when."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import NormalizeObservation, RecordEpisodeStatistics, TimeLimit

from tests.environments import CountEnv, SequenceEnv
from tests.replay_environments import CarefulEnv, DrawnEnv, DrawnNestedEnv, DrawnTextEnv, FickleEnv, OtherGeneratorEnv
from vecserver.engine.determinism import check_replay
from vecserver.engine.infos import ALL_INFOS, InfoOptions
from vecserver.wire.errors import InvalidSpec


class GlobalEnv(DrawnEnv):
    """Draws from the generator of a module, which all environments of a process have in common."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, reward + np.random.random(), *rest  # noqa: NPY002


class LongEnv(DrawnEnv):
    """Its episodes do not end; it counts them all the same, over all resets without a seed."""

    def __init__(self) -> None:
        super().__init__(length=10**6)
        self.before = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.before = 0 if seed is not None else self.before + 1
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self.tag = float(self.before)
        return super().step(action)


class UnlockedEnv(DrawnEnv):
    """Has something in its infos that does not travel."""

    def describe(self, action: Any) -> dict[str, Any]:
        return {**super().describe(action), "lock": object()}


def check(make: Any, infos: InfoOptions = ALL_INFOS) -> None:
    check_replay(lambda _row: make(), 0, infos)


@pytest.mark.parametrize(
    "make",
    [
        DrawnEnv,
        DrawnNestedEnv,
        DrawnTextEnv,
        UnlockedEnv,
        partial(gym.make, "CartPole-v1"),
        partial(gym.make, "Pendulum-v1"),
        partial(gym.make, "FrozenLake-v1"),
        lambda: TimeLimit(DrawnEnv(length=100), 5),
    ],
)
def test_what_comes_from_seeds_and_actions_is_taken(make):
    """Nested, with limits, with values that do not travel."""
    check(make)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (partial(FickleEnv, where="observation"), r"the observation of a copy with the same seed differs at step 2;"),
        (partial(FickleEnv, where="reward"), r"the reward of a copy with the same seed differs at step 1;"),
        (partial(FickleEnv, where="info"), r"the info 'luck' of a copy with the same seed differs at step 1;"),
        (GlobalEnv, "the reward of a copy with the same seed differs at step 1;"),
        (CountEnv, "the observation of a copy that begins its episode as it began differs at a reset;"),
        (LongEnv, "the observation of a copy that begins its episode as it began differs at step 1;"),
        (OtherGeneratorEnv, r"it has no `np_random` of Gymnasium's kind \(PCG64\)"),
        (lambda: NormalizeObservation(DrawnEnv()), "with its seed again differs at a reset;"),
        (lambda: RecordEpisodeStatistics(DrawnEnv()), "the info 'episode' of a copy"),
        (SequenceEnv, "its actions have no fixed size"),
    ],
)
def test_what_does_not_is_refused(make, text):
    """The sentence says what differs, when, and what works instead."""
    with pytest.raises(InvalidSpec, match=text) as caught:
        check(make)
    assert "on_failure='truncate' works with every environment" in str(caught.value)
    assert caught.value.details["field"] == "on_failure"


def test_infos_that_are_not_sent_may_differ():
    """Nobody sees them."""
    check(partial(FickleEnv, where="info"), InfoOptions(["steps"]))
    check(partial(FickleEnv, where="info"), InfoOptions("none"))


def test_an_environment_that_raises_is_refused(tmp_path):
    """In its own words."""
    (tmp_path / "mark").touch()
    with pytest.raises(InvalidSpec, match="it raised ValueError while that was tried: not this one"):
        check(partial(CarefulEnv, mark=str(tmp_path / "mark")))
