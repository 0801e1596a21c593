"""Infos, statistics and wrappers as ``make_vec`` offers them, over every transport and with every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import vecserver_client as vs
from tests.contract.compare import assert_same, assert_same_batch, run_both
from tests.contract.infos import KeepsOptions, assert_same_infos, make_filtered
from tests.contract.vector_contract import COUNT, DISABLED, SAME_STEP, in_every_mode, make_oracle
from tests.info_environments import ODD_INFOS, OddInfosEnv
from vecserver.wire.errors import EnvCreationFailed, EnvFault, InvalidSpec

OLD = tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4)
SEED = OddInfosEnv.BASE
WAYS = [
    pytest.param({"transport": "tcp"}, id="tcp"),
    pytest.param({"transport": "ipc"}, id="ipc", marks=pytest.mark.slow),
    pytest.param({"engine": "sync"}, id="sync", marks=pytest.mark.slow),  # in tests/engine too
    pytest.param({"engine": "async"}, id="async", marks=pytest.mark.slow),
]

over_every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def remote(server, opened) -> Callable[..., vs.RemoteVectorEnv]:
    """Makes pools of the module's server that are closed after the test."""
    return lambda *args, **kwargs: opened.enter_context(closing(vs.make_vec(*args, url=server.url, **kwargs)))


@pytest.fixture
def local(opened) -> Callable[..., Any]:
    """Makes oracles that are closed after the test."""
    return lambda envs: opened.enter_context(closing(envs))


def assert_walk(subject: VectorEnv, oracle: VectorEnv, steps: int, masks: bool = False) -> int:
    """Asserts that all results are the same, the elapsed times aside; returns how many episodes were reported."""
    reported = 0
    assert_same(subject.reset(seed=SEED)[0], oracle.reset(seed=SEED)[0], "reset")
    for number in range(steps):
        actions = np.full(subject.num_envs, number % 2)
        got, expected = subject.step(actions), oracle.step(actions)
        if isinstance(expected[4].get("episode"), dict):
            mine, other = [result[4]["episode"].pop("t") for result in (got, expected)]
            over = expected[4]["_episode"]
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
            assert (mine[over] > 0).all()
            assert not mine[~over].any()
            assert_same(mine, np.round(mine, 6), "times")
            reported += int(over.sum())
        assert_same_batch(got, expected, f"step {number}")
        assert_same_infos(got[4], expected[4], f"step {number}")
        over = expected[2] | expected[3]
        if oracle.metadata["autoreset_mode"] is DISABLED and over.any():
            for envs in (subject, oracle):
                envs.reset(options={"reset_mask": over.copy()})
        elif masks and number % 4 == 2:
            for envs in (subject, oracle):
                envs.reset(options={"reset_mask": np.arange(envs.num_envs) == 1})
    return reported


@over_every_way
@pytest.mark.parametrize("case", ["python_values", "numpy_scalars", "arrays", "odd_keys", "gaps", "nested"])
def test_infos_are_gymnasiums(remote, local, way, case):
    """Every kind of value and key, with SameStep, which nests them once more."""
    kwargs = {"autoreset_mode": SAME_STEP, "case": case}
    assert_walk(remote(ODD_INFOS, 3, **way, **kwargs), local(make_oracle(ODD_INFOS, 3, **kwargs)), 12)


@over_every_way
def test_what_cannot_travel_is_named_once(remote, way):
    """One warning a value, all of them in ``dropped_infos``, and steps that do not fail."""
    envs = remote(ODD_INFOS, 3, case="not_travelling", length=9, **way)
    with pytest.warns(UserWarning, match="^the info '.*' is a .*, which cannot travel: it is left out") as caught:
        _, infos = envs.reset(seed=SEED)
    assert envs.dropped_infos["in.set"] == "builtins.set"
    assert list(infos) == ["steps", "_steps", "in", "_in", "array", "_array"]
    assert len(caught) == len(envs.dropped_infos) == 14
    for _ in range(3):  # a further warning is an error
        assert list(envs.step(np.zeros(3, np.int64))[4]) == list(infos)


@over_every_way
def test_infos_that_gymnasium_cannot_merge_are_its_exception(remote, way):
    """The type that numpy raises in ``SyncVectorEnv``, as a fault that names its row, and the pool can be reset."""
    envs = remote(ODD_INFOS, 2, case="shapes that differ", length=9, **way)
    envs.reset(seed=SEED)
    envs.step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="could not broadcast") as caught:
        envs.step(np.zeros(2, np.int64))
    assert isinstance(caught.value, EnvFault)
    envs.reset(seed=SEED)
    envs.step(np.zeros(2, np.int64))


@over_every_way
@in_every_mode
def test_keys_choose_the_infos(remote, local, way, mode):
    """As if the environments gave no other infos."""
    keys = ["steps", "nested", "note"]
    subject = remote(COUNT, 3, info=keys, autoreset_mode=mode, **way)
    assert_walk(subject, local(make_filtered(COUNT, 3, keys, autoreset_mode=mode)), 20)


@over_every_way
@in_every_mode
@pytest.mark.parametrize("info", ["none", "episode"])
def test_none_leaves_the_final_observations(remote, local, way, mode, info):
    """Nothing of the environments' infos arrives but ``final_obs``."""
    subject = remote(COUNT, 3, info=info, autoreset_mode=mode, **way)
    oracle = local(make_oracle(COUNT, 3, autoreset_mode=mode))
    assert [envs.reset(seed=SEED)[1] for envs in (subject, oracle)][0] == {}
    ended = 0
    for _ in range(20):
        got, expected = [envs.step(np.zeros(3, np.int64)) for envs in (subject, oracle)]
        over = expected[2] | expected[3]
        wanted = {key: value for key, value in expected[4].items() if key.removeprefix("_") == "final_obs"}
        statistics = ["episode", "_episode"] if info == "episode" and over.any() else []
        assert list(got[4]) == [*wanted, *statistics]
        assert_same({key: got[4][key] for key in wanted}, wanted, "infos")
        ended += int(over.sum())
        if mode is DISABLED and over.any():
            for envs in (subject, oracle):
                envs.reset(options={"reset_mask": over.copy()})
    assert ended >= 3


@over_every_way
@in_every_mode
def test_statistics_are_those_of_gymnasiums_wrapper(remote, local, way, mode):
    """Return and length to the bit, the time's type and place, behind the infos; a mask starts its rows anew only."""
    if OLD and mode is SAME_STEP:
        pytest.skip("Gymnasium's wrapper counts otherwise in this mode before 1.4")
    subject = remote(COUNT, 3, episode_statistics=True, autoreset_mode=mode, **way)
    oracle = RecordEpisodeStatistics(KeepsOptions(local(make_oracle(COUNT, 3, autoreset_mode=mode))))
    assert assert_walk(subject, oracle, 30, masks=True) >= 6


def test_an_environment_with_statistics_of_its_own_is_told(remote):
    """Two that write one key are an error, in Gymnasium's type."""
    asked = ["RecordEpisodeStatistics", {"id": "TimeLimit", "kwargs": {"max_episode_steps": 2}}]
    envs = remote("CartPole-v1", 2, wrappers=asked[1:] + asked[:1], episode_statistics=True)
    envs.reset(seed=1)
    envs.step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="have the key 'episode'"):
        envs.step(np.zeros(2, np.int64))


@over_every_way
def test_wrappers_are_put_around_each_row(remote, local, way):
    """In their order, with their arguments; the spaces are theirs."""
    asked = [
        {"id": "TimeLimit", "kwargs": {"max_episode_steps": 6}},
        {"id": "RescaleAction", "kwargs": {"min_action": [-1], "max_action": [1]}},
        "TimeAwareObservation",
    ]

    def make() -> gym.Env:
        env = wrappers.TimeLimit(gym.make("Pendulum-v1"), 6)
        return wrappers.TimeAwareObservation(wrappers.RescaleAction(env, np.array([-1]), np.array([1])))

    subject, oracle = remote("Pendulum-v1", 3, wrappers=asked, **way), local(SyncVectorEnv([make] * 3))
    assert subject.single_observation_space == oracle.single_observation_space
    assert subject.single_action_space == oracle.single_action_space
    assert run_both(subject, oracle, 20) == 9


def test_a_wrapper_that_cannot_be_made_says_why(remote):
    """The wrapper's own message, when the pool is made."""
    with pytest.raises(EnvCreationFailed, match="row 0" if OLD else "ClipAction requires a Box action space"):
        remote("CartPole-v1", 2, wrappers=["ClipAction"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"info": "few"}, "it is one of all, episode, none, or a list of keys"),
        ({"wrappers": ["TransformReward"]}, "it takes a function"),
        ({"wrappers": [{"id": "ClipReward", "kwarg": {}}]}, "kwarg"),
        ({"wrappers": "ClipReward"}, "wrappers"),
    ],
)
def test_an_option_that_is_none_is_refused(remote, options, message):
    """Before anything is made."""
    with pytest.raises(InvalidSpec, match=message):
        remote("CartPole-v1", 2, **options)


def test_a_wrapper_class_is_not_a_name(remote):
    """What Gymnasium's own ``make_vec`` takes cannot travel: the error says so."""
    with pytest.raises(TypeError, match=r"ClipReward.* JSON cannot carry"):
        remote("CartPole-v1", 2, wrappers=[wrappers.ClipReward])
