from __future__ import annotations

import os
import signal
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from time import process_time
from typing import ClassVar

import gymnasium
import pytest

from benchmarks import cost_model, idle, waiting
from benchmarks.__main__ import markdown
from benchmarks.cases import Aim, Case, reached
from benchmarks.cost_model import Point
from benchmarks.lockstep_bound import bound
from benchmarks.row_overhead import row_overhead_us
from tests.cli.measure.test_report import made_up, reports
from tests.environments import env_id
from vecserver.cli.measure.matrix import CannotRun
from vecserver.cli.measure.where import Part, WhereTimeGoes

CASE = Case("CartPole-v1", 64, ("tcp",), (Aim("tcp", "ceiling", 0.5), Aim("tcp", "RLMesh", 5)))


def measured(**more):
    return made_up(reports(ceiling=[200.0, 100.0, 100.0], **{"vecserver tcp": [80.0, 60.0, 45.0]}), **more)


class TestThePage:
    def test_it_has_a_table_a_case(self):
        """And a sentence for one that could not be measured."""
        lines = markdown([measured(), CannotRun("ALE/Pong-v5", 32, "unknown_env", "not registered")])
        assert "## CartPole-v1 × 64" in lines
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert ["vecserver tcp", "60", "29%", "2.00", "3.00", "3.00", "0.450", "0.10", "–", "–"] in cells
        assert lines[-3:] == ["## ALE/Pong-v5 × 32", "", "Not measured: not registered"]

    def test_where_the_time_goes_stands_below_it(self):
        """Where it was asked."""
        where = [WhereTimeGoes("vecserver tcp", 10, 100.0, [Part("client", 100.0, 100.0, "measured")])]
        assert "| part | vecserver tcp | found |" in markdown([measured(where=where)])

    def test_aims_come_first(self):
        """The median of the rounds' ratios decides; what was not measured has none."""
        aims = list(reached(CASE, measured()))
        assert [(aim.beside, aim.lowest, aim.median, aim.highest, aim.met) for aim in aims] == [
            ("ceiling", 0.4, 0.45, 0.6, False),
            ("RLMesh", None, None, None, None),
        ]
        assert "| CartPole-v1 × 64 | tcp | ceiling | 0.5 | 0.45 | 0.40 to 0.60 | not reached |" in markdown([], aims)

    def test_an_aim_that_was_not_measured_stays_on_the_page(self):
        """Whether one of its two subjects was left out or the whole case."""
        lines = markdown([], [*reached(CASE, measured()), *reached(CASE, None)])
        beside = [line for line in lines if "not measured" in line]
        assert beside == [
            "| CartPole-v1 × 64 | tcp | RLMesh | 5 | – | – | not measured |",
            "| CartPole-v1 × 64 | tcp | ceiling | 0.5 | – | – | not measured |",
            "| CartPole-v1 × 64 | tcp | RLMesh | 5 | – | – | not measured |",
        ]


class TestTheBoundOfLockstep:
    def test_it_is_a_part_of_the_ceiling(self):
        """Who waits for the slowest of each round loses something, and not all."""
        assert 0 < bound("CartPole-v1", 4, 20) <= 1

    def test_an_environment_that_cannot_be_made_ends_it(self):
        """With the error itself, in every process."""
        with pytest.raises(gymnasium.error.NameNotFound):
            bound("NoSuchEnvironment-v0", 4, 20)

    def test_one_that_fails_in_one_process_ends_it_too(self):
        """Those that wait for it to begin are told, and the error is its own."""
        with pytest.raises(OSError, match="no odd ones"):
            bound("tests.cli.unsteady_environments:vectest/Odd-v0", 2, 20)

    def test_a_process_that_is_killed_ends_it(self):
        """As a crash in native code does."""
        with pytest.raises(BrokenProcessPool):
            bound(env_id("Kill-v0"), 2, 20)


class TestTheModelOfCosts:
    COSTS: ClassVar = {"batch": 30.0, "worker": 2.0, "shard": 0.5, "row": 0.25, "byte": 0.001}

    @pytest.fixture(autouse=True)
    def two_cores(self, monkeypatch):
        """On one a row of a shard and a row of the batch are the same."""
        monkeypatch.setattr(cost_model, "WORKERS", (1, 2))

    def points(self):
        shapes = list(cost_model.shapes())
        return [Point(*shape, cost_model.predicted(self.COSTS, cost_model.factors(*shape))) for shape in shapes]

    def test_a_third_of_the_shapes_is_kept_from_the_fit(self):
        """Every number of rows, and every size of a row, is on both sides."""
        seen, unseen = cost_model.held_out(self.points())
        assert len(seen) == 2 * len(unseen)
        assert not set(seen) & set(unseen)
        for side in (seen, unseen):
            assert {point.rows for point in side} == set(cost_model.ROWS)
            assert {point.row_bytes for point in side} == set(cost_model.BYTES)

    def test_what_follows_the_model_is_found_again(self):
        """From the seen shapes alone; of the unseen ones one that does not follow it is the worst error."""
        seen, unseen = cost_model.held_out(self.points())
        costs = cost_model.fit({"tcp": seen}, self.COSTS["worker"])["tcp"]
        assert costs == pytest.approx(self.COSTS, rel=1e-3)
        unseen[0] = unseen[0]._replace(batch_us=2 * unseen[0].batch_us)
        assert cost_model.errors(unseen, costs) == pytest.approx((0, 0.5), abs=1e-3)


@pytest.mark.parametrize("primitive", waiting.CHANNELS)
def test_every_way_to_wait_wakes(primitive, monkeypatch):
    """Each round the other process is woken after it was rung for."""
    monkeypatch.setattr(waiting, "_LONGEST_S", 0.02)
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    try:
        wake = waiting._wake(primitive, waiting.CHANNELS[primitive], "same", (core, core), 0.0)
    finally:
        os.sched_setaffinity(0, allowed)
    assert wake.count >= 1
    assert 0 < wake.p50_us <= wake.p90_us <= wake.p99_us


@pytest.mark.parametrize("primitive", waiting.CHANNELS)
def test_the_other_process_raises_for_itself_alone(primitive, monkeypatch):
    """It goes no further in what is the parent's, and the parent does not wait for it."""

    def fail(*_arguments):
        raise OSError("no such core")

    allowed, owner = os.sched_getaffinity(0), os.getpid()
    monkeypatch.setattr(waiting, "_echo", fail)
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(ChildProcessError, match="the other process ended"):
            waiting._wake(primitive, waiting.CHANNELS[primitive], "same", (min(allowed),) * 2, 0.0)
    finally:
        if os.getpid() != owner:
            os._exit(1)  # or it would go on with the tests
        os.sched_setaffinity(0, allowed)
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_every_call_that_is_costed_can_be_called():
    """The doorbell's among them."""
    with ExitStack() as stack:
        for make in waiting.COSTS.values():
            make(stack)()


def test_the_two_sides_of_a_rows_overhead_go_the_same_way():
    """Same seeds, same actions, same resets: what differs is the engine."""
    assert row_overhead_us(rows=8, batches=60) > 0


def test_processor_time_is_counted_to_less_than_a_tick():
    """A process that works for 3 ms is seen to."""
    before = idle.processor_seconds([os.getpid()])
    end = process_time() + 0.003
    while process_time() < end:
        pass
    assert 0.003 <= idle.processor_seconds([os.getpid()]) - before < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("case", idle.CASES)
def test_a_pool_that_nobody_steps_costs_no_processor_time(case):
    """Host and workers together less than a thousandth of a core, with a driver that does nothing and without."""
    assert idle.idle(case, 3.0).pool_per_cent < 0.1
