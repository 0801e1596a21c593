"""Histograms and figures of episodes: what is read out of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import fixed
from vecserver.wire.figures import BATCH_BOUNDS_S, EpisodeFigures, Histogram

BOUNDS = [1.0, 2.0, 4.0]


def test_a_quantile_lies_in_the_bucket_that_holds_it():
    """Durations are taken as spread evenly within their bucket."""
    histogram = Histogram(BOUNDS, [2, 0, 2, 0], 7.0)
    assert histogram.count == 4
    assert [histogram.quantile(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.5, 1.0, 3.0, 4.0]


def test_beyond_all_bounds_the_last_one_stands():
    """What is not known is not made up."""
    assert Histogram(BOUNDS, [1, 0, 0, 9], 900.0).quantile(0.99) == 4.0


def test_of_nothing_there_is_no_quantile():
    """Neither of a pool that has not stepped, nor of one that says nothing."""
    assert Histogram(BOUNDS, [0, 0, 0, 0]).quantile(0.5) is None
    assert Histogram().quantile(0.5) is None
    assert Histogram().count == 0


@fixed(100)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=4), st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_the_difference_is_what_came_in_between(first, more):
    """Bucket by bucket."""
    earlier = Histogram(BOUNDS, first, 1.0)
    later = Histogram(BOUNDS, [a + b for a, b in zip(first, more, strict=True)], 1.5)
    assert later.minus(earlier) == Histogram(BOUNDS, more, 0.5)


def test_a_histogram_of_another_life_is_not_subtracted():
    """A pool that was made anew begins from nothing."""
    fresh = Histogram(BOUNDS, [1, 0, 0, 0], 0.5)
    assert fresh.minus(Histogram(BOUNDS, [5, 0, 0, 0], 2.5)) == fresh
    assert fresh.minus(Histogram([9.0], [1, 0], 0.1)) == fresh


def test_the_bounds_ascend_evenly():
    """Each is at most two and a half times the one before, from 20 µs to 50 s."""
    steps = [after / before for before, after in zip(BATCH_BOUNDS_S, BATCH_BOUNDS_S[1:], strict=False)]
    assert (BATCH_BOUNDS_S[0], BATCH_BOUNDS_S[-1]) == (2e-5, 50.0)
    assert 1.99 < min(steps) < max(steps) < 2.51


def test_means_are_those_of_the_sums():
    """Losses are subtracted; without episodes there is no mean."""
    figures = EpisodeFigures(count=4, gained=10.0, lost=4.0, steps=6)
    assert figures.mean_return == pytest.approx(1.5)
    assert figures.mean_length == pytest.approx(1.5)
    assert (EpisodeFigures().mean_return, EpisodeFigures().mean_length) == (None, None)
