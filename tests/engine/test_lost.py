"""A row whose environment was lost: what its first step and its first reset are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.environments import CountEnv
from vecserver.arena.tally import TALLY_SIZE, Tally
from vecserver.engine.channel import Lost
from vecserver.engine.episodes import EpisodeStatistics
from vecserver.engine.lost import LostRow
from vecserver.wire.codec import pack

LAST = np.arange(6, dtype=np.float64)


def row(mode: str = "NextStep", *, over: bool = False, under_way: bool = True, seed: int | None = 7) -> LostRow:
    lost = Lost("it was killed", under_way, mode, [over], [pack([LAST])], None, [seed])
    return LostRow(CountEnv(), lost, 0)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_the_first_step_ends_what_was_lost(mode):
    """The environment has no part in it; after its reset it has all."""
    env = row(mode)
    observation, reward, terminated, truncated, info = env.step(1)
    assert observation.tolist() == LAST.tolist()
    assert (reward, terminated, truncated, info) == (0.0, False, True, {"env_failure": "it was killed"})
    observation, info = env.reset()
    assert observation.tolist()[:3] == [7, 0, 0]
    assert ("env_failure" in info) == (mode == "SameStep")
    assert "env_failure" not in env.reset()[1]
    assert env.step(1)[0].tolist()[:4] == [7, 1, 1, 1]


def test_an_episode_that_was_over_is_reset_where_the_mode_does_that():
    """In Disabled the caller does, and a step before is the environment's own affair."""
    observation, reward, terminated, truncated, info = row(over=True).step(1)
    assert observation.tolist()[:3] == [7, 0, 0]
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["fresh"]
    assert row("Disabled", over=True).step(3)[0].tolist()[2:4] == [1, 3]


def test_a_seed_of_the_callers_goes_before():
    """And the row's next one is for the first reset alone."""
    env = row()
    assert env.reset(seed=99)[0][0] == 99
    assert env.reset()[0].tolist()[:2] == [99, 1]


def test_a_row_that_was_never_reset_has_lost_nothing():
    """Nor one without a seed anything to be seeded with."""
    env = row(under_way=False, seed=None)
    assert env.step(2)[0].tolist()[2:4] == [1, 2]


def test_statistics_begin_with_the_first_episode_that_is_whole():
    """Of the rest nobody knows what it earned; a row that was over begins it in the step that resets it."""
    lost = Lost("", True, "NextStep", [False, True], [], None, [None, None])
    statistics, tally = EpisodeStatistics(10, 12, "NextStep", lost), Tally(memoryview(bytearray(TALLY_SIZE)))
    statistics.bind(10, tally)
    assert statistics.step(np.array([0.0, 0.0]), [0], report=True) is None
    assert statistics.step(np.array([0.0, 3.0]), [], report=True) is None
    report = statistics.step(np.array([2.0, 4.0]), [0, 1], report=True)
    assert tally.sums == (2, 0, 3, 9.0, 0.0)
    assert report is not None
    assert (report["rows"], report["r"], report["l"]) == ([10, 11], [2.0, 7.0], [1, 2])
