from __future__ import annotations

import pytest

from vecserver.cli.measure import loops
from vecserver.cli.measure.loops import closed_loop, paced_loop

MS = 1_000_000


class Clock:
    """Goes on by a microsecond at each look, and as far as it is told, whatever else the machine does."""

    def __init__(self):
        self.now = 0

    def look(self):
        self.now += 1000
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loops, "perf_counter_ns", clock.look)
    monkeypatch.setattr(loops, "sleep", clock.sleep)
    return clock


def test_a_closed_loop_begins_each_batch_when_the_one_before_it_is_there():
    """The batches' times sum to what all of it took, and the steps are those that were counted."""
    steps, batch_ns, took_ns = closed_loop(lambda: 3, 0.01)
    assert steps == 3 * len(batch_ns)
    assert sum(batch_ns) == took_ns >= 10 * MS


class TestAFixedRate:
    def test_a_slow_batch_makes_those_behind_it_slow(self, clock):
        """Each counts from when it was due: what waited behind a batch of 20 ms has waited for it."""
        calls = []

        def step():
            calls.append(clock.now)
            if len(calls) == 1:
                clock.now += 20 * MS
            return 1

        steps, batch_ns, _, due, begun = paced_loop(step, 0.002, 0.04)
        assert steps == due == begun == len(batch_ns) == 20
        for number in range(10):
            assert batch_ns[number] >= (20 - 2 * number) * MS
        assert min(batch_ns) < 10 * MS  # it has caught up

    def test_no_batch_is_begun_before_it_is_due(self, clock):
        """However quick they are."""
        calls = []

        def step():
            calls.append(clock.now)
            return 1

        began = clock.now
        _, batch_ns, took_ns, *_ = paced_loop(step, 0.003, 0.03)
        assert all(call - began >= 3 * MS * number for number, call in enumerate(calls))
        assert min(batch_ns) >= 0
        assert took_ns >= 30 * MS

    def test_what_is_late_when_the_round_is_over_is_not_begun(self, clock):
        """A rate that cannot be kept does not make the round longer; that batches are missing shows."""
        steps, _, took_ns, due, begun = paced_loop(lambda: clock.sleep(0.005) or 1, 0.001, 0.02)
        assert steps == begun == 4
        assert due == 20
        assert took_ns < 21 * MS

    def test_a_batch_that_was_not_begun_counts_with_what_it_had_waited(self, clock):
        """A round that ends in a long batch is not quicker for those that it kept from being begun."""
        _, batch_ns, took_ns, due, begun = paced_loop(lambda: clock.sleep(0.03) or 1, 0.001, 0.02)
        assert (due, begun) == (20, 1)
        assert batch_ns == [took_ns - number * MS for number in range(20)]

    def test_a_rate_that_no_machine_keeps_takes_no_memory_for_it(self, clock):
        """Of ten million batches that were due few are listed."""
        _, batch_ns, _, due, begun = paced_loop(lambda: clock.sleep(0.015) or 1, 1e-12, 0.01)
        assert (due, begun) == (10 * MS, 1)
        assert len(batch_ns) < 200_000
