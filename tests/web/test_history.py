"""What pools did lately."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from tests.control.fakes import FakeRegistry
from vecserver.control.web.history import Histories
from vecserver.pools.spec import PoolSpec
from vecserver.wire.figures import EpisodeFigures, Histogram


@pytest.fixture
def view():
    registry = FakeRegistry()
    made = registry.create(PoolSpec(env_id="CartPole-v1", num_envs=4), "cart")
    yield changed(made, refusals={}, restarts={}, driver="", resets=0, batch_seconds=Histogram())
    registry.close()


def changed(view, state="ready", reason="", **stats):
    return replace(view, state=state, reason=reason, stats=msgspec.structs.replace(view.stats, **stats))


def watched(*views):
    """The history behind looks a second apart."""
    histories = Histories()
    for second, view in enumerate(views):
        histories.look([view], 100.0 + second, date=60.0)
    return histories.find("cart")


def test_rates_are_what_came_between_two_looks(view):
    """Steps, batches, and how long batches took."""
    before = Histogram([0.001, 0.01], [100, 0, 0], 0.05)
    after = Histogram([0.001, 0.01], [100, 10, 0], 0.1)
    history = watched(
        changed(view, env_steps=100, batches=10, batch_seconds=before),
        changed(view, env_steps=500, batches=20, batch_seconds=after),
    )
    last = history.last
    assert (last.env_steps, last.batches) == (400, 10)
    assert 0.001 < last.latency_s < 0.01
    assert last.latency_s < last.slow_s


def test_episodes_are_those_that_ended(view):
    """Their means between two looks, and the last ones one by one, each once."""
    first = EpisodeFigures(count=1, gained=5.0, steps=5, recent=[(0.5, 5.0, 5)])
    second = EpisodeFigures(
        count=3, gained=20.0, lost=3.0, steps=25, recent=[(1.5, 5.0, 5), (0.4, 15.0, 10), (0.1, -3.0, 10)]
    )
    history = watched(changed(view, episode_figures=first), changed(view, episode_figures=second))
    assert (history.last.mean_return, history.last.mean_length) == (6.0, 10.0)
    assert [episode.gain for episode in history.episodes] == [5.0, 15.0, -3.0]
    assert history.mean_return == pytest.approx(17 / 3)


def test_nothing_is_made_up(view):
    """Where nothing ended and nothing was stepped there is no mean; where nobody looked for long, no rate."""
    history = watched(view, view)
    assert (history.last.env_steps, history.last.latency_s, history.last.mean_return) == (0, None, None)
    histories = Histories()
    histories.look([view], 0.0, date=0.0)
    histories.look([changed(view, env_steps=10**6)], 60.0, date=60.0)
    assert histories.find("cart").last is None
    assert watched(view, replace(view, stats=None)).last is None


def test_events_say_what_changed(view):
    """Newest first: made, driven, refused, replaced, broken."""
    history = watched(
        view,
        changed(view, driver="trainer", lease=1),
        changed(view, driver="trainer", lease=1, refusals={"lease_held": 2}, restarts={"killed": 1}, resets=1),
        changed(
            view,
            state="broken",
            reason="no worker is left",
            resets=1,
            refusals={"lease_held": 2},
            restarts={"killed": 1},
        ),
    )
    assert [event.text for event in history.events] == [
        "its driver left: trainer",
        "broken: no worker is left",
        "reset",
        "1 worker replaced: killed",
        "2 refused: lease_held",
        "driven by trainer",
        "created in 0.25 s, workers: 1",
    ]
    assert history.events[-1].at == 100.0 - 60.0


def test_the_slowest_worker_is_the_one_that_needs_most(view):
    """A batch, and how often it was the last."""
    lists = {"worker_rows": [(0, 2), (2, 4)], "worker_pids": [1, 2], "rss_bytes": [10, 20]}
    history = watched(
        changed(view, worker_batches=[0, 0], worker_busy_s=[0.0, 0.0], worker_last=[0, 0], **lists),
        changed(view, worker_batches=[10, 10], worker_busy_s=[0.1, 0.3], worker_last=[2, 8], **lists),
    )
    first, second = history.workers
    assert (first.rows, first.batch_s, first.last) == ((0, 1), pytest.approx(0.01), 0.2)
    assert (second.batch_s, second.last) == (pytest.approx(0.03), 0.8)


def test_a_pool_of_the_same_name_begins_anew(view):
    """And one that is gone is forgotten."""
    histories = Histories()
    histories.look([view], 0.0, date=0.0)
    old = histories.find("cart")
    histories.look([replace(view, epoch=5)], 1.0, date=1.0)
    assert histories.find("cart") is not old
    histories.look([], 2.0, date=2.0)
    assert histories.all() == []
