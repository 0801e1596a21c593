from __future__ import annotations

import os
from contextlib import ExitStack
from time import process_time

import pytest

from benchmarks import idle, waiting
from benchmarks.__main__ import markdown
from benchmarks.cases import Aim, Case, reached
from benchmarks.row_overhead import row_overhead_us
from tests.cli.measure.test_report import made_up, reports
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
            ("ceiling", 0.4, 0.45, 0.6, False)
        ]
        assert "| CartPole-v1 × 64 | tcp | ceiling | 0.5 | 0.45 | 0.40 to 0.60 | not reached |" in markdown([], aims)


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
