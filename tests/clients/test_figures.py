"""What a pool tells of its batches, workers and episodes, whoever steps it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

import vecserver_client as vs
from tests.environments import env_id
from vecserver.wire.messages import Stats

COUNT = env_id("Count-v0")
PATIENCE_S = 20.0


def settled(envs: vs.RemoteVectorEnv, batches: int, workers: int) -> Stats:
    """The figures, once every worker has counted so many batches: it does when it has told that one is finished."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        stats = envs.stats()
        done = stats.worker_batches == [batches] * workers and stats.batch_seconds.count == batches
        if done or time.monotonic() > deadline:
            return stats


@pytest.fixture
def make(server) -> Callable[..., vs.RemoteVectorEnv]:
    made = []

    def make(**options) -> vs.RemoteVectorEnv:
        made.append(vs.make_vec(COUNT, options.pop("num_envs", 4), url=server.url, workers=2, **options))
        return made[-1]

    yield make
    for envs in made:
        envs.close()


@pytest.mark.parametrize("transport", ["shm", "ipc", "tcp"])
def test_batches_workers_and_episodes_are_counted_alike(make, transport):
    """Over the network and under direct drive: only the requests differ, which the latter has none of."""
    envs = make(transport=transport, length=3)
    envs.reset(seed=1)
    returns, began = 0.0, time.perf_counter()
    for number in range(8):  # three steps, a reset, three steps, a reset
        returns += envs.step(np.full(4, number % 5))[1].sum()
    took = time.perf_counter() - began
    stats = settled(envs, 8, 2)
    assert (stats.batches, stats.env_steps, stats.episodes) == (8, 24, 8)
    assert stats.worker_rows == [(0, 2), (2, 4)]
    assert stats.worker_batches == [8, 8]
    assert sum(stats.worker_last) == stats.batch_seconds.count == 8
    assert 0 < max(stats.worker_busy_s) < stats.batch_seconds.sum < took
    figures = stats.episode_figures
    assert (figures.count, figures.steps) == (8, 24)
    assert figures.gained - figures.lost == pytest.approx(returns)
    assert [length for _, _, length in figures.recent] == [3] * 8
    assert sum(gained for _, gained, _ in figures.recent) == pytest.approx(returns)
    assert all(0 <= age < took + 5 for age, *_ in figures.recent)
    asked = stats.requests.get("STEP", 0)
    assert asked == 0 if transport == "shm" else asked >= 8  # more where an answer was late and asked for again
    assert stats.lent == (transport == "shm")


def test_figures_go_along_into_parts_and_back(make):
    """A pool that is split counts on, and so does one that is joined again."""
    envs = make(transport="tcp", length=2)
    envs.reset(seed=1)
    envs.step(np.zeros(4, np.int64))
    for part in envs.split(2):
        part.step(np.zeros(2, np.int64))
        part.step(np.zeros(2, np.int64))
    envs.join()
    envs.step(np.zeros(4, np.int64))
    envs.step(np.zeros(4, np.int64))
    deadline = time.monotonic() + PATIENCE_S
    while (stats := envs.stats()).worker_batches != [5, 5] and time.monotonic() < deadline:
        pass
    assert stats.worker_batches == [5, 5]
    assert stats.batch_seconds.count == 3 + 2 * 2
    assert (stats.episode_figures.count, stats.episode_figures.steps) == (8, 16)


def test_a_batch_of_resets_calls_and_frames_is_none(make):
    """Latency is that of steps."""
    envs = make(transport="ipc")
    envs.reset(seed=1)
    envs.call("identity")
    stats = envs.stats()
    assert stats.batch_seconds.count == 0
    assert stats.batch_seconds.quantile(0.5) is None
    assert stats.worker_busy_s == [0.0, 0.0]
