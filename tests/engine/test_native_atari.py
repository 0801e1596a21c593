"""ALE's vector environment in the engine ``native``. Needs the extra `atari`."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, closing

import gymnasium as gym
import numpy as np
import pytest

from tests.contract.compare import assert_same, run_both
from tests.contract.engine_contract import EngineRows
from tests.contract.vector_contract import DISABLED, NEXT_STEP, SAME_STEP
from tests.engine.test_native import Oracle
from vecserver.engine.base import RowFaults
from vecserver.engine.make import EnvMaker

ale_py = pytest.importorskip("ale_py")

ID = "ALE/Breakout-v5"
SHORT = {"max_num_frames_per_episode": 200, "num_threads": 1}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    with warnings.catch_warnings(action="ignore"):
        gym.register_envs(ale_py)


@pytest.fixture
def native():
    """Makes engines and, for the oracle, the same vector environment in this process; closed after the test."""
    with ExitStack() as stack:

        def make(num_envs, mode=NEXT_STEP, shards=1, **options):
            options = {**SHORT, **options}
            subject = EngineRows("native", ID, num_envs, autoreset_mode=mode, shards=shards, **options)
            oracle = Oracle(EnvMaker(ID, options, None).vector(num_envs, mode))
            return tuple(stack.enter_context(closing(each)) for each in (subject, oracle))

        yield make


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP], ids=["next_step", "same_step"])
def test_every_result_equals_the_vector_environment(native, mode):
    """Frames, rewards as float64, flags and infos, over the ends of episodes."""
    assert run_both(*native(3, mode), 110, seed=3) >= 6


def test_a_mode_that_ale_has_not_is_refused():
    """With ALE's own words."""
    with pytest.raises(RowFaults) as caught:
        EngineRows("native", ID, 2, autoreset_mode=DISABLED, **SHORT)
    assert "autoreset_mode" in caught.value.faults[0]["message"]


def test_shards_together_equal_the_whole(native):
    """Every row has a generator of its own; what numbers rows in the infos numbers those of a shard."""
    parts, whole = native(5, shards=2)
    assert_same(parts.reset(seed=9)[0], whole.reset(seed=9)[0], "reset")
    for _ in range(60):
        actions = np.array([0, 1, 2, 3, 0])
        got, expected = parts.step(actions), whole.step(actions)
        assert_same(got[:4], expected[:4], "step")
        assert_same(got[4]["lives"], expected[4]["lives"], "lives")
    assert got[4]["env_id"].tolist() == [0, 1, 0, 1, 2]


def test_seeds_and_masks(native):
    """A seed a row, as an array; and a reset of some rows, with seeds and without."""
    subject, oracle = native(3)
    assert_same(subject.reset(seed=[4, 9, 1]), oracle.reset(seed=np.array([4, 9, 1])), "reset")
    for _ in range(5):
        assert_same(subject.step(np.ones(3, np.int64)), oracle.step(np.ones(3, np.int64)), "step")
    mask = np.array([True, False, True])
    for ours, theirs in ((None, None), ([8, None, 5], np.array([8, 5]))):
        both = (
            subject.reset(seed=ours, options={"reset_mask": mask}),
            oracle.reset(seed=theirs, options={"reset_mask": mask}),
        )
        assert_same(*both, "reset by mask")
        assert_same(subject.step(np.ones(3, np.int64)), oracle.step(np.ones(3, np.int64)), "step")


def test_rows_that_are_reset_may_be_sent_anything(native):
    """ALE hangs for ever on an action that it has not."""
    subject, _ = native(2)
    subject.reset(seed=1)
    over, ended = np.zeros(2, np.bool_), 0
    for _ in range(60):
        subject.format.check = lambda *_: None  # as where the driver knows which rows are reset
        over = np.logical_or(*subject.step(np.where(over, 99, 0))[2:4])
        ended += int(over.sum())
    assert ended >= 2


def test_the_dtype_of_actions_does_not_matter(native):
    """ALE takes two kinds of integers."""
    subject, oracle = native(2)
    assert_same(subject.reset(seed=1), oracle.reset(seed=1), "reset")
    for dtype in (np.uint8, np.int16, np.int32):
        assert_same(subject.step(np.array([1, 2], dtype)), oracle.step(np.array([1, 2])), "step")
