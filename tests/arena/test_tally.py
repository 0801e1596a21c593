"""What a worker counts, as others read it."""

from __future__ import annotations

import math

import pytest

from tests.arena.arenas import Arena
from vecserver.arena.tally import TALLY_SIZE, Tally
from vecserver.wire.figures import BATCH_BOUNDS_S

MS = 1_000_000


@pytest.fixture
def memory():
    return memoryview(bytearray(TALLY_SIZE))


def test_others_read_what_the_worker_wrote(memory):
    """Every figure, through the memory alone."""
    tally, reader = Tally(memory), Tally(memory)
    tally.worked(3 * MS)
    tally.worked(4 * MS)
    tally.ended_batch(10 * MS, 15 * MS)
    tally.ended_episode(2.0, 5.0, 3)
    tally.ended_episode(3.0, -1.5, 2)
    assert (reader.busy_s, reader.batches) == (0.007, 2)
    assert {BATCH_BOUNDS_S[i]: count for i, count in enumerate(reader.latency_counts) if count} == {5e-3: 1}
    assert reader.latency_s == pytest.approx(0.005)
    assert reader.sums == (2, 0, 5, 5.0, 1.5)
    assert reader.recent() == [(2.0, 5.0, 3), (3.0, -1.5, 2)]


def test_a_duration_of_a_bound_belongs_below_it_and_what_is_beyond_all_in_the_last(memory):
    """As Prometheus has it."""
    tally = Tally(memory)
    tally.ended_batch(0, 20_000)
    tally.ended_batch(0, 20_001)
    tally.ended_batch(0, 51 * 10**9)
    counts = tally.latency_counts
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (1, 1, 1, 3)


@pytest.mark.parametrize("since", [2**64 - 1, 1, 10**18 + 5 * MS])
def test_a_wrong_stamp_stops_no_worker(memory, since):
    """A driver with another clock, or none, spoils a figure at most."""
    tally = Tally(memory)
    for _ in range(3):
        tally.ended_batch(since, 10**18)
    assert sum(tally.latency_counts) == 3
    assert 0 <= tally.latency_s < 1e7


@pytest.mark.parametrize("gained", [math.nan, math.inf, -math.inf, 1e300, -1e16])
def test_a_return_that_is_no_ordinary_number_is_left_out(memory, gained):
    """The sums stay right, and the episode is counted all the same."""
    tally = Tally(memory)
    tally.ended_episode(1.0, 2.5, 4)
    tally.ended_episode(2.0, gained, 7)
    tally.ended_episode(3.0, 2.5, 4)
    assert tally.sums == (2, 1, 8, 5.0, 0.0)
    shown = gained if math.isfinite(gained) else None
    assert [entry[1] for entry in tally.recent()] == [2.5, shown, 2.5]


def test_the_ring_keeps_the_last_episodes(memory):
    """As many as it has room for."""
    tally = Tally(memory)
    for number in range(200):
        tally.ended_episode(float(number), 1.0, number)
    kept = sorted(tally.recent())
    assert [length for _, _, length in kept] == list(range(200 - len(kept), 200))
    assert len(kept) == 64


def test_a_worker_goes_on_from_what_is_there(memory):
    """One that replaces another in the same arena, and one that moves to another arena."""
    first = Tally(memory)
    first.worked(MS)
    first.ended_episode(1.0, -2.0, 3)
    second = Tally(memory)
    second.worked(MS)
    second.ended_episode(2.0, 2.0, 3)
    moved = Tally(memoryview(bytearray(TALLY_SIZE)))
    moved.go_on_from(second)
    moved.worked(MS)
    moved.ended_episode(3.0, 1.0, 1)
    assert (moved.batches, moved.sums) == (3, (3, 0, 7, 3.0, 2.0))
    assert [at for at, _, _ in moved.recent()] == [1.0, 2.0, 3.0]


def test_tallies_of_an_arena_lie_beside_each_other():
    """No worker writes into another's, nor into anything else."""
    arena = Arena.small(num_envs=4, workers=2)
    try:
        plan = arena.plan
        blank = bytes(arena.memory)
        for tally in arena.views.tallies:
            tally.worked(MS)
            tally.ended_batch(0, MS)
            for number in range(100):
                tally.ended_episode(float(number), 1.0, 1)
        changed = [at for at, (old, new) in enumerate(zip(blank, bytes(arena.memory), strict=True)) if old != new]
        assert plan.tallies <= changed[0] < changed[-1] < plan.tallies + 2 * TALLY_SIZE == plan.codes
        assert arena.views.tallies[0].recent() == arena.views.tallies[1].recent()
        assert TALLY_SIZE % 64 == 0
    finally:
        arena.close()
