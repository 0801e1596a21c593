"""What is left of a step when the standard wrappers have nothing to check any more."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit, TransformReward

from vecserver.engine.settled import settled_step


@pytest.fixture
def env():
    made = gymnasium.make("CartPole-v1", max_episode_steps=6)
    yield made
    made.close()


def _settle(env):
    env.reset(seed=1)
    env.step(0)
    env.step(1)


def test_wrappers_are_kept_while_they_check(env):
    """Before the first reset and the first steps there is nothing to pass by."""
    assert settled_step(env) is None
    env.reset(seed=1)
    assert settled_step(env) is None
    env.step(0)
    env.step(1)
    assert settled_step(env) is not None


def test_steps_are_those_of_the_environment_and_may_be_mixed_with_them(env):
    """Alternating both ways to step gives what the environment alone gives, the time limit's truncation too."""
    _settle(env)
    short = settled_step(env)
    with gymnasium.make("CartPole-v1", max_episode_steps=6) as other:
        _settle(other)
        for i in range(4):
            got, expected = (short if i % 2 else env.step)(i % 2), other.step(i % 2)
            assert np.array_equal(got[0], expected[0])
            assert got[1:] == expected[1:]
        assert got[3], "the limit was not counted"


def test_a_limit_that_is_changed_holds(env):
    """The limit is read at every step, as Gymnasium's wrapper does."""
    _settle(env)
    short = settled_step(env)
    env.set_wrapper_attr("_max_episode_steps", 3)
    assert short(0)[3]


def test_wrappers_outside_the_limit_are_not_passed_by(env):
    """A wrapper that changes a step's results is stepped itself."""
    wrapped = TransformReward(env, lambda reward: reward + 7)
    _settle(wrapped)
    assert settled_step(wrapped)(0)[1] == 8.0


def test_a_subclass_and_a_replaced_step_are_not_passed_by():
    """What is not Gymnasium's own code is called."""

    class Generous(TimeLimit):
        def step(self, action):
            return *super().step(action)[:1], 5.0, False, False, {}

    with gymnasium.make("CartPole-v1").unwrapped as bare:
        generous = Generous(bare, 1)
        generous.reset(seed=1)
        assert settled_step(generous)(0)[1:4] == (5.0, False, False)
        limit = TimeLimit(bare, 10)
        limit.reset(seed=1)
        limit.step = lambda action: ("mine", action)
        assert settled_step(limit)(3) == ("mine", 3)
