"""EnvPool's environments in the engine ``native``. Needs EnvPool."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, closing

import numpy as np
import pytest

from tests.contract.compare import assert_same
from tests.contract.engine_contract import EngineRows
from vecserver.engine.base import RowFaults
from vecserver.engine.make import EnvMaker
from vecserver.wire.errors import InvalidSpec, UnknownEnv

with warnings.catch_warnings(action="ignore"):
    envpool = pytest.importorskip("envpool")

ID = "EnvPool/CartPole-v1"


@pytest.fixture
def rows():
    """Makes engines that are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(closing(EngineRows("native", *args, **kwargs)))


def theirs(task_id: str, num_envs: int, seed: int):
    with warnings.catch_warnings(action="ignore"):
        envs = envpool.make_gymnasium(task_id, num_envs=num_envs, seed=seed)
        assert envs.observation_space is not None  # it makes it now, and warns
        return envs


def as_in_a_pool(result, dtype):
    """Observations in the dtype of their space, which EnvPool's int32 are not, and rewards as float64."""
    observations, rewards, *others = result
    return observations.astype(dtype), rewards.astype(np.float64), *others


@pytest.mark.parametrize(("task_id", "steps"), [("CartPole-v1", 60), ("Pendulum-v1", 210), ("FrozenLake-v1", 60)])
def test_every_result_equals_envpools(rows, task_id, steps):
    """Observations, rewards, flags and infos, over the ends of episodes."""
    subject, oracle = rows(f"EnvPool/{task_id}", 5), theirs(task_id, 5, seed=3)
    space = EnvMaker(f"EnvPool/{task_id}", {}, None).vector(5, subject.metadata["autoreset_mode"]).action_space
    space.seed(1)
    dtype = subject.info.observation_space.dtype
    observations, infos = oracle.reset()
    assert_same(subject.reset(seed=3), (observations.astype(dtype), infos), "reset")
    ended = 0
    for number in range(steps):
        actions = space.sample()
        expected = as_in_a_pool(oracle.step(actions), dtype)
        assert_same(subject.step(actions), expected, f"step {number}")
        ended += int((expected[2] | expected[3]).sum())
    assert ended > 0


def test_a_reset_with_a_seed_is_not_ignored(rows):
    """The same seed gives the same episodes, another one others; without one it goes on."""
    subject = rows(ID, 4)
    first, again, other = (subject.reset(seed=seed)[0] for seed in (3, 3, 4))
    assert_same(again, first, "reset(seed=3)")
    assert_same(other[:-1], first[1:], "row i gets seed + i")
    assert not np.array_equal(subject.reset()[0], other)


def test_without_a_seed_no_two_shards_are_alike(rows):
    """EnvPool's own default is one seed for all that are made."""
    subject = rows(ID, 4, shards=2)
    observations, _ = subject.reset()
    assert not np.array_equal(observations[:2], observations[2:])


def test_shards_together_equal_the_whole(rows):
    """Every row has a generator of its own."""
    whole, parts = rows(ID, 5), rows(ID, 5, shards=2)
    assert_same(parts.reset(seed=9)[0], whole.reset(seed=9)[0], "reset")
    for _ in range(40):
        actions = np.ones(5, np.int64)
        assert_same(parts.step(actions)[:4], whole.step(actions)[:4], "step")


def test_a_seed_a_row(rows):
    """EnvPool takes a list."""
    subject = rows(ID, 3)
    expected = [subject.reset(seed=seed)[0][0] for seed in (7, 1, 30)]
    assert_same(subject.reset(seed=[7, 1, 30])[0], np.stack(expected), "reset")


def test_a_mask_resets_its_rows_and_no_other(rows):
    """The others give their last observation again; infos have masks."""
    subject = rows(ID, 4)
    subject.reset(seed=1)
    for _ in range(3):
        before = subject.step(np.ones(4, np.int64))[0]
    mask = np.array([False, True, False, True])
    after, infos = subject.reset(options={"reset_mask": mask})
    assert_same(after[~mask], before[~mask], "rows outside of the mask")
    assert (np.abs(after[mask]) <= 0.05).all()
    assert infos["_elapsed_step"].tolist() == infos["players"]["_env_id"].tolist() == mask.tolist()
    subject.step(np.ones(4, np.int64))
    with pytest.raises(RowFaults) as caught:
        subject.reset(seed=1, options={"reset_mask": mask})
    assert "without a seed" in caught.value.faults[0]["message"]


def test_frames_come_one_a_row(rows):
    """Of all rows, where EnvPool by itself shows one."""
    subject = rows(ID, 2, render_mode="rgb_array")
    subject.reset(seed=1)
    frames = subject.render()
    assert len(frames) == 2
    assert frames[0].shape == frames[1].shape == (400, 600, 3)


def test_rows_that_are_reset_may_be_sent_anything(rows):
    """EnvPool never sees it."""
    subject = rows(ID, 3)
    subject.reset(seed=1)
    over = np.zeros(3, np.bool_)
    for _ in range(60):
        subject.format.check = lambda *_: None  # as where the driver knows which rows are reset
        over = np.logical_or(*subject.step(np.where(over, 99, 1))[2:4])
    assert subject.counted()[1] > 3


def test_an_unknown_task_is_named_with_the_nearest():
    """As any environment that nobody knows."""
    with pytest.raises(UnknownEnv, match="EnvPool/CartPole-v1"):
        EngineRows("native", "EnvPool/CartPol-v1", 3)


@pytest.mark.parametrize("option", ["seed", "batch_size"])
def test_options_that_a_pool_sets_itself_are_refused(option):
    """A batch is all rows, and they are seeded by ``reset``."""
    with pytest.raises(InvalidSpec, match=option):
        EngineRows("native", ID, 3, **{option: 1})
