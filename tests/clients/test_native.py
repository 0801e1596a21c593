"""``engine="native"`` as a trainer meets it: over every transport, without a server, and where it is refused."""

from __future__ import annotations

from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import vecserver_client as vs
from tests.contract.compare import assert_same
from tests.contract.vector_contract import SAME_STEP
from tests.vector_environments import DEEP_TALLY, TALLY, TallyVectorEnv
from vecserver.wire.errors import EnvFault, InvalidSpec


@pytest.fixture(params=["local", "shm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ipc", "tcp"))])
def make(request, server):
    """Makes the subject; the caller closes it."""
    if request.param == "local":
        return vs.LocalVectorEnv
    return lambda *args, **kwargs: vs.make_vec(*args, url=server.url, transport=request.param, **kwargs)


@pytest.mark.parametrize("workers", [None, 2])
def test_a_pool_gives_what_the_vector_environment_gives(make, workers):
    """Rewards as float64; with two workers each has one, the second with its first row's seed."""
    bounds = [0, 5] if workers is None else [0, 2, 5]
    sizes = np.diff(bounds).tolist()
    oracles = [gym.make_vec("CartPole-v1", size, vectorization_mode="vector_entry_point") for size in sizes]
    with closing(make("CartPole-v1", 5, engine="native", workers=workers)) as envs:
        first = [oracle.reset(seed=3 + row)[0] for oracle, row in zip(oracles, bounds, strict=False)]
        assert_same(envs.reset(seed=3)[0], np.concatenate(first), "reset")
        envs.action_space.seed(1)
        for _ in range(60):
            actions = envs.action_space.sample()
            parts = np.split(actions, bounds[1:-1])
            results = [oracle.step(part)[:4] for oracle, part in zip(oracles, parts, strict=True)]
            expected = [np.concatenate(field) for field in zip(*results, strict=True)]
            expected[1] = expected[1].astype(np.float64)
            got = envs.step(actions)
            assert_same(list(got[:4]), expected, "step")
            assert got[4] == {}
    for oracle in oracles:
        oracle.close()


def test_infos_masks_faults_and_calls_go_through(make):
    """A vector environment of one's own, in the mode SameStep."""
    with closing(make(DEEP_TALLY, 5, engine="native", autoreset_mode="SameStep", breaks=12)) as envs:
        oracle = gym.make_vec("vectest/DeepTally-v0", 5, autoreset_mode=SAME_STEP, breaks=12)
        assert envs.metadata["autoreset_mode"] is SAME_STEP
        assert_same(envs.reset(seed=3), oracle.reset(seed=3), "reset")
        for number in range(11):
            if number == 4:
                options = {"reset_mask": np.array([True, False, False, True, False])}
                assert_same(envs.reset(options=dict(options)), oracle.reset(options=dict(options)), "reset by mask")
            observations, rewards, *others = oracle.step(np.full(5, 3))
            expected = (observations, rewards.astype(np.float64), *others)
            assert_same(envs.step(np.full(5, 3)), expected, f"step {number}")
        with pytest.raises(EnvFault, match="broken on purpose"):
            envs.step(np.full(5, 3))
        envs.reset(seed=3)
        envs.set_attr("tags", [1.0, 2.0, 3.0, 4.0, 5.0])
        assert envs.get_attr("tags") == (1.0, 2.0, 3.0, 4.0, 5.0)


def test_gymnasiums_vector_wrappers_go_around_it(make):
    """As around any vector environment."""
    with closing(make(TALLY, 3, engine="native")) as envs:
        recorded = RecordEpisodeStatistics(envs)
        recorded.reset(seed=1)
        lengths = [
            infos["episode"]["l"]
            for *_, infos in (recorded.step(np.full(3, 2)) for _ in range(8))
            if infos.get("episode")
        ]
        assert sum(int(each.astype(bool).sum()) for each in lengths) == recorded.episode_count > 0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"env_id": "Pendulum-v1"}, "engine"),
        ({"wrappers": ["TimeAwareObservation"]}, "wrappers"),
        ({"observation_mode": "different"}, "observation_mode"),
        ({"autoreset_mode": "SameStep"}, "autoreset_mode"),
    ],
)
def test_what_it_cannot_be_is_refused_by_the_name_of_the_option(make, options, field):
    """Before anything is stepped."""
    options = {"env_id": "CartPole-v1", **options}
    with pytest.raises(InvalidSpec) as caught:
        make(options.pop("env_id"), 3, engine="native", **options).close()
    assert caught.value.details["field"] == field


def test_an_environment_that_only_exists_as_a_vector_environment_is_not_chosen_silently(server):
    """Its numbers would not be those of separate environments: the engine must be asked for by name."""
    gym.register("vectest/OnlyVector-v0", vector_entry_point=TallyVectorEnv)
    try:
        with pytest.raises(gym.error.Error, match="entry_point"):
            vs.LocalVectorEnv("vectest/OnlyVector-v0", 3)
        with closing(vs.LocalVectorEnv("vectest/OnlyVector-v0", 3, engine="native")) as envs:
            assert envs.reset(seed=1)[0].shape == (3, 4)
    finally:
        del gym.registry["vectest/OnlyVector-v0"]


def test_callables_have_no_vector_environment():
    """They make one row each."""
    with pytest.raises(TypeError, match="native"):
        vs.LocalVectorEnv([lambda: gym.make("CartPole-v1")] * 2, engine="native")
