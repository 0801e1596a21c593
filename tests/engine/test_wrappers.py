"""Gymnasium's wrappers by name: which are taken, why others are not, and what an environment in them is like."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.contract.compare import assert_same, run_both
from tests.contract.engine_contract import EngineRows
from tests.contract.vector_contract import in_every_mode
from vecserver.engine.make import EnvMaker
from vecserver.engine.wrappers import ALLOWED_WRAPPERS, REFUSED_WRAPPERS, check_wrappers, wrap
from vecserver.wire.errors import InvalidSpec


def test_every_wrapper_of_gymnasium_is_taken_or_refused_with_a_reason():
    """A wrapper that a release of Gymnasium adds has to be judged here."""
    known = set(wrappers.__all__) - {"vector"}
    assert known <= ALLOWED_WRAPPERS | REFUSED_WRAPPERS.keys()
    assert not ALLOWED_WRAPPERS & REFUSED_WRAPPERS.keys()
    if "RepeatAction" in known:  # the newest of them
        assert known == ALLOWED_WRAPPERS | REFUSED_WRAPPERS.keys()


OLD = tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4)

CARTPOLE = [
    ["TimeAwareObservation"],
    [{"id": "TimeAwareObservation", "kwargs": {"flatten": False, "dict_time_key": "when"}}, "FlattenObservation"],
    [{"id": "FrameStackObservation", "kwargs": {"stack_size": 3}}],
    [{"id": "FrameStackObservation", "kwargs": {"stack_size": 2, "padding_type": [0, 0.5, 0, 1]}}],
    [{"id": "ReshapeObservation", "kwargs": {"shape": [2, 2]}}],
    [{"id": "DelayObservation", "kwargs": {"delay": 2}}],
    [{"id": "MaxAndSkipObservation", "kwargs": {"skip": 2}}],
    [{"id": "DtypeObservation", "kwargs": {"dtype": "float64"}}],
    ["NormalizeObservation", {"id": "NormalizeReward", "kwargs": {"gamma": 0.9}}],
    [{"id": "StickyAction", "kwargs": {"repeat_action_probability": 0.5, "repeat_action_duration": [1, 3]}}],
    [{"id": "ClipReward", "kwargs": {"max_reward": 0.5}}, {"id": "TimeLimit", "kwargs": {"max_episode_steps": 4}}],
    ["RecordEpisodeStatistics", "OrderEnforcing", "PassiveEnvChecker"],
]
PENDULUM = [
    ["ClipAction"],
    [{"id": "RescaleAction", "kwargs": {"min_action": [-1], "max_action": [1]}}],
    [{"id": "RescaleAction", "kwargs": {"min_action": -0.5, "max_action": 0.5}}],
    [{"id": "RescaleObservation", "kwargs": {"min_obs": [0, 0, 0], "max_obs": [1, 1.5, 2]}}],
    [{"id": "DiscretizeAction", "kwargs": {"bins": [5]}}],
    [{"id": "DiscretizeObservation", "kwargs": {"bins": [3, 4, 5], "multidiscrete": True}}],
    [{"id": "ClipReward", "kwargs": {"min_reward": [-1.0], "max_reward": [0.0]}}],
]


def _by_hand(env: gym.Env, asked: list) -> gym.Env:
    """The same wrappers, made as a program of one's own makes them."""
    for each in asked:
        name, kwargs = (each, {}) if isinstance(each, str) else (each["id"], each.get("kwargs", {}))
        kwargs = {
            key: np.array(value, np.float32 if key == "padding_type" else None)
            if isinstance(value, list) and key.startswith(("min_", "max_", "padding"))
            else tuple(value)
            if isinstance(value, list)
            else np.dtype(value).type
            if key == "dtype"
            else value
            for key, value in kwargs.items()
        }
        env = getattr(wrappers, name)(env, **kwargs)
    return env


@pytest.mark.filterwarnings("ignore:.*precision lowered:UserWarning")  # Gymnasium's, of numbers of double precision
@pytest.mark.parametrize(
    ("env_id", "asked"),
    [*(("CartPole-v1", asked) for asked in CARTPOLE), *(("Pendulum-v1", asked) for asked in PENDULUM)],
    ids=lambda value: (
        value
        if isinstance(value, str)
        else "+".join(str(each if isinstance(each, str) else each["id"]) for each in value)
    ),
)
def test_a_wrapped_row_is_what_gymnasium_makes(env_id, asked):
    """Spaces, and every number of some episodes, for lists that stand for arrays and for tuples."""
    check_wrappers(asked)
    subject, made = wrap(gym.make(env_id), asked), _by_hand(gym.make(env_id), asked)
    assert (subject.observation_space, subject.action_space) == (made.observation_space, made.action_space)
    for envs in (subject, made):
        envs.action_space.seed(1)
    assert_same(subject.reset(seed=4)[0], made.reset(seed=4)[0], "reset")
    for number in range(20):
        results = [envs.step(envs.action_space.sample()) for envs in (subject, made)]
        assert_same(results[0][:4], results[1][:4], f"step {number}")
        if results[0][2] or results[0][3]:
            assert_same(subject.reset()[0], made.reset()[0], f"reset after step {number}")


@in_every_mode
def test_the_order_is_that_of_the_list(mode):
    """The first is innermost: a limit of steps inside time-awareness is seen by it."""
    asked = [
        {"id": "TimeLimit", "kwargs": {"max_episode_steps": 7}},
        {"id": "TimeAwareObservation", "kwargs": {"normalize_time": True}},
    ]
    subject = EngineRows("envs", "CartPole-v1", 3, autoreset_mode=mode, shards=2, wrappers=asked)
    made = SyncVectorEnv([lambda: _by_hand(gym.make("CartPole-v1"), asked)] * 3, autoreset_mode=AutoresetMode(mode))
    try:
        assert subject.info.observation_space.shape == (5,)
        assert subject.info.observation_space.high[-1] == 1.0
        assert run_both(subject, made, 30) >= 9
    finally:
        subject.close()
        made.close()


@pytest.mark.parametrize("name", sorted(REFUSED_WRAPPERS))
def test_a_wrapper_that_is_not_taken_says_why(name):
    """The refusal has the wrapper's name, the reason, and the option's name."""
    with pytest.raises(InvalidSpec, match=f"{name} in wrappers is not taken: .* ") as caught:
        check_wrappers(["TimeAwareObservation", {"id": name}])
    assert caught.value.message.endswith(REFUSED_WRAPPERS[name])
    assert caught.value.details["field"] == "wrappers"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("timeawareobservation", "TimeAwareObservation"),
        ("FrameStack", "FrameStackObservation"),
        ("AtariPreprocess", "AtariPreprocessing"),
    ],
)
def test_an_unknown_wrapper_comes_with_the_nearest(name, nearest):
    """A typing error, or a name of an older release, is answered with what was meant."""
    with pytest.raises(InvalidSpec, match="did you mean") as caught:
        check_wrappers([{"id": name, "kwargs": {"a": 1}}])
    assert caught.value.details["nearest"][0] == nearest
    assert nearest in caught.value.message


@pytest.mark.parametrize("name", ["", "vector", "gymnasium", "os.system", "__init__", "Env", "spaces"])
def test_nothing_else_can_be_reached_by_name(name):
    """What is no wrapper is refused by the check and, if it came past it, where wrappers are made; all are listed."""
    with pytest.raises(InvalidSpec, match="TimeAwareObservation") as caught:
        check_wrappers([name])
    assert caught.value.details["nearest"] == []
    with pytest.raises(InvalidSpec):
        wrap(gym.make("CartPole-v1"), [name])


@pytest.mark.parametrize(
    "asked",
    [
        "TimeAwareObservation",
        [1],
        [None],
        [["TimeAwareObservation"]],
        [wrappers.ClipAction],
        [{}],
        [{"id": 1}],
        [{"kwargs": {}}],
        [{"id": "ClipAction", "kwargs": []}],
        [{"id": "ClipAction", "arguments": {}}],
        [{"id": "ClipReward", "kwargs": {"max_reward": float("nan")}}],
        [{"id": "ClipReward", "kwargs": {"max_reward": 2**70}}],
        [{"id": "ClipReward", "kwargs": {"max_reward": 1j}}],
    ],
    ids=repr,
)
def test_what_is_no_list_of_wrappers_is_refused(asked):
    """Names, or objects of a name and arguments that JSON can carry."""
    with pytest.raises(InvalidSpec, match="wrappers") as caught:
        check_wrappers(asked)
    assert caught.value.details["field"] == "wrappers"


def test_what_a_wrapper_says_comes_out():
    """Arguments that a wrapper refuses are its own exception."""
    for asked, message in (
        ({"id": "RescaleAction"}, "min_action"),
        ({"id": "ClipReward", "kwargs": {"max": 1}}, "max"),
        ({"id": "ClipAction"}, "^" if OLD else "Box action space"),  # asserted without a word, once
    ):
        check_wrappers([asked])
        with pytest.raises((TypeError, AssertionError), match=message):
            EnvMaker("CartPole-v1", {}, None, [asked])()
