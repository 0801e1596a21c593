"""The plan of an arena: every part has a place of its own, aligned and large enough."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from gymnasium.spaces import Discrete
from hypothesis import given
from hypothesis import strategies as st

from tests.arena.arenas import Arena
from tests.wire.strategies import action_spaces, fixed, row_spaces
from vecserver.arena.plan import SLOTS, ArenaPlan, even_shards
from vecserver.wire.actions import ActionFormat
from vecserver.wire.layout import Layout

PAGE, LINE = 4096, 64
sizes = st.integers(1, 40).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(1, rows)))


def parts_of(plan: ArenaPlan, slot_size: int) -> list[tuple[int, int]]:
    """First byte and end of every part, page 0 included, in the order in which they lie."""
    workers = range(len(plan.shards))
    lines = [at for i in workers for at in (plan.driver_line(i), plan.worker_line(i))]
    return [
        (0, PAGE),
        *((at, at + LINE) for at in lines),
        (plan.codes, plan.codes + plan.code_count),
        (plan.actions, plan.actions + plan.actions_size),
        *((at, at + slot_size) for at in (plan.slots + i * plan.slot_stride for i in range(plan.slot_count))),
        *((at, at + size) for at, size in zip(plan.sides, plan.side_sizes, strict=True)),
    ]


@given(st.integers(1, 5000).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(1, min(rows, 256)))))
@fixed(100)
def test_shards_are_even_and_cover_every_row_once(rows_and_workers):
    """Shards follow one another without a gap, none is empty, and their sizes differ by one at most."""
    rows, workers = rows_and_workers
    shards = even_shards(rows, workers)
    assert len(shards) == workers
    assert [row for first, end in shards for row in range(first, end)] == list(range(rows))
    lengths = {end - first for first, end in shards}
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1


@given(row_spaces, action_spaces, sizes)
@fixed(80)
def test_parts_do_not_overlap(observation_space, action_space, rows_and_workers):
    """Whatever the spaces, each part begins where the one before has ended, and the last ends with the arena."""
    rows, workers = rows_and_workers
    layout, actions = Layout.of(observation_space, rows), ActionFormat(action_space, rows)
    plan = ArenaPlan.of(layout, actions, even_shards(rows, workers))
    parts = parts_of(plan, layout.slot_size)
    assert all(before[1] <= after[0] for before, after in pairwise(parts))
    assert all(first <= end for first, end in parts)
    assert parts[-1][1] == plan.size
    assert plan.slot_count == SLOTS


@given(row_spaces, action_spaces, sizes)
@fixed(40)
def test_parts_are_aligned(observation_space, action_space, rows_and_workers):
    """Lines lie on cache lines of their own; slots, side areas and the whole are made of pages."""
    rows, workers = rows_and_workers
    layout, actions = Layout.of(observation_space, rows), ActionFormat(action_space, rows)
    plan = ArenaPlan.of(layout, actions, even_shards(rows, workers))
    lines = [at for i in range(workers) for at in (plan.driver_line(i), plan.worker_line(i))]
    assert all(at % LINE == 0 for at in [*lines, plan.actions])
    assert all(at % PAGE == 0 for at in [plan.slots, plan.slot_stride, *plan.sides, *plan.side_sizes, plan.size])


@given(row_spaces, sizes)
@fixed(40)
def test_a_side_area_holds_the_last_observation_of_all_its_rows(observation_space, rows_and_workers):
    """Every row of a shard may finish in one batch; its observation then travels in the side area."""
    rows, workers = rows_and_workers
    layout = Layout.of(observation_space, rows)
    plan = ArenaPlan.of(layout, ActionFormat(Discrete(2), rows), even_shards(rows, workers))
    for (first, end), size in zip(plan.shards, plan.side_sizes, strict=True):
        assert size >= (end - first) * (layout.slot_size // rows)


@given(row_spaces, action_spaces, sizes)
@fixed(30)
def test_views_share_no_byte(observation_space, action_space, rows_and_workers):
    """What is written through one view of an arena is seen through no other."""
    arena = Arena(observation_space, action_space, even_shards(*rows_and_workers))
    try:
        views = arena.views
        regions = [
            views.head.cast("B"),
            *(line.cast("B") for line in [*views.driver_lines, *views.worker_lines]),
            views.codes,
            views.actions,
            *views.slot_bytes,
            *views.sides,
        ]
        for mark, region in enumerate(regions):
            np.frombuffer(region, np.uint8)[:] = mark % 251
        for mark, region in enumerate(regions):
            assert (np.frombuffer(region, np.uint8) == mark % 251).all()
    finally:
        arena.close()
