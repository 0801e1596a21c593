"""A record says how far a worker had come, wherever it was stopped."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from vecserver.arena.record import Beginning, How, Record, Why
from vecserver.wire.actions import ActionFormat

FORMAT = ActionFormat(spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,))), 2)
CAPACITY = 3


@pytest.fixture
def memory() -> memoryview:
    """What outlives a worker."""
    return memoryview(bytearray(Record.size(FORMAT, CAPACITY)))


def record_of(memory: memoryview) -> Record:
    return Record(memory, FORMAT, CAPACITY)


def step(record: Record, number: int, dtype: type = np.float32) -> list[np.ndarray]:
    """Begin a step with actions of its own; returns them."""
    parts = FORMAT.coerce({"a": np.array([number % 3, 1]), "b": np.full((2, 2), number / 8, dtype)})
    area, codes = bytearray(FORMAT.area_size), bytearray(FORMAT.leaf_count)
    FORMAT.store(parts, memoryview(area), memoryview(codes))
    record.order(number, lent=False)
    record.begin_step(number % 3, parts, bytes(codes))
    return parts


def test_what_was_stepped_is_known_to_whoever_comes_next(memory):
    """As many batches as the ring holds, each in the dtypes in which it came."""
    record = record_of(memory)
    batches = []
    for number in range(5):
        batches.append(step(record, number, (np.float32, np.float16)[number % 2]))
        record.settle()
    record = record_of(memory)
    assert record.take_up(lambda _lent: 0) == (5, None, False)
    for number in (2, 3, 4):
        for array, was in zip(record.actions(number), batches[number], strict=True):
            assert array.dtype == was.dtype
            assert np.array_equal(array, was)


@pytest.mark.parametrize("lent", [False, True])
def test_a_command_that_was_not_told_is_under_way(memory, lent):
    """The worker's own word decides, that of whoever gave the command; the slot before it is where the results are."""
    record = record_of(memory)
    step(record, 1)
    record.settle()
    record.order(7, lent=lent)
    record.begin_reset(2)
    assert record_of(memory).take_up(lambda by: 7 if by != lent else 6) == (1, 2, False)
    assert record_of(memory).take_up(lambda by: 7 if by == lent else 6) == (1, None, False)
    assert record_of(memory).take_up(lambda _lent: 0) == (1, None, False)  # which is known from then on


def test_a_step_that_was_begun_twice_is_not_begun_a_third_time(memory):
    """A reset is not different; a command that comes to its end begins the count anew."""
    for number in range(2):
        record = record_of(memory)
        assert record.take_up(lambda _lent: 0) == (0, 0 if number else None, False)
        record.order(1, lent=False)
        record.begin_reset(0)
    record = record_of(memory)
    assert record.take_up(lambda _lent: 0).is_tried
    record.order(1, lent=False)
    record.begin_reset(0)
    record.settle()
    step(record, 2)
    assert not record_of(memory).take_up(lambda _lent: 1).is_tried


def test_an_episode_that_began_in_a_command_under_way_has_not_begun(memory):
    """The one before it counts, however often that happens."""
    record = record_of(memory)
    record.order(1, lent=False)
    record.begin_reset(0)
    first = Beginning(How.SEED, 2**64 - 1, True, 1.5, bytes(40))
    record.note_beginning(1, first)
    record.settle()
    for _ in range(3):
        step(record, 2)
        record.note_beginning(1, Beginning(How.STATE, state=b"1" * 40))
        record = record_of(memory)
        record.take_up(lambda _lent: 1)
        assert record.episode(1) == (first, 0, Why.NOTHING)
    step(record, 2)
    second = Beginning(How.STATE, 0, False, 2.5, bytes(range(40)))
    record.note_beginning(1, second)
    record.spoil(1, Why.RAISED)
    record.settle()
    record = record_of(memory)
    record.take_up(lambda _lent: 1)
    assert record.episode(1) == (second, 1, Why.RAISED)
    assert record.episode(0).beginning.how == How.NOT


def test_a_row_with_another_environment_is_forgotten(memory):
    """Alone, or all of them."""
    record = record_of(memory)
    record.order(1, lent=False)
    record.begin_reset(0)
    for row in range(2):
        record.note_beginning(row, Beginning(How.SEED, 5))
        record.change(row)
    record.settle()
    record.forget(0)
    assert [record.episode(row).beginning.how for row in range(2)] == [How.NOT, How.SEED]
    assert [record.is_changed(row) for row in range(2)] == [False, True]
    record.forget_all()
    assert not record.is_changed(1)
    assert record_of(memory).take_up(lambda _lent: 9) == (0, None, False)


def test_that_rows_were_being_rebuilt_is_known(memory):
    """Whoever was at it ended over it."""
    record = record_of(memory)
    record.trying(now=True)
    assert record_of(memory).take_up(lambda _lent: 0).is_tried
    record.trying(now=False)
    assert not record_of(memory).take_up(lambda _lent: 0).is_tried
