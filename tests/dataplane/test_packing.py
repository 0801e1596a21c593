"""A driver that asks for it gets packed slots, exactly once and never against what it does not have."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box

from tests.dataplane.desks import Desk
from vecserver.wire.errors import EnvFault
from vecserver.wire.frames import Flag, Kind
from vecserver.wire.stacks import FEATURE

FRAMES = int(Flag.FRAMES)
ANSWER = int(Flag.ANSWER)


@pytest.fixture
def desk():
    """A pool whose observations are stacks, with a driver; all slots hold one value each."""
    desk = Desk(Box(0, 255, (4, 8, 8), np.uint8))
    assert desk.attach().features == [FEATURE]
    return desk


def step(desk: Desk, seq: int, slot: int, base: int | None, **fields):
    """One step, whose result lies in a slot."""
    asked = {} if base is None else {"flags": FRAMES, "clock": base}
    assert desk.step(seq, **asked | fields) is None
    (answer,) = desk.finish(slot)
    return answer


def is_packed(answer) -> bool:
    assert answer.header.flags & ~int(Flag.REPLAYED) in (ANSWER, ANSWER | FRAMES)
    return bool(answer.header.flags & FRAMES)


def unpacked(desk: Desk, answer, before) -> bytes:
    body = bytearray(desk.stacks.slot_size)
    desk.stacks.unpack(answer.body, desk.stacks.stacks(before.body), memoryview(body))
    return bytes(body)


def test_the_first_answer_is_whole_and_the_next_is_packed(desk):
    """The driver has nothing at first, and says so."""
    first = step(desk, 1, 1, 0)
    again = step(desk, 2, 1, 1)
    assert [is_packed(each) for each in (first, again)] == [False, True]
    assert first.body == bytes(desk.pool.slot_body(1))
    assert len(again.body) < len(first.body)
    assert unpacked(desk, again, first) == first.body


def test_who_does_not_ask_gets_whole_slots(desk):
    """Whatever stands in the field that names a base."""
    for seq in (1, 2):
        answer = step(desk, seq, 1, None, clock=seq - 1)
        assert (is_packed(answer), answer.body) == (False, bytes(desk.pool.slot_body(1)))


def test_rows_that_did_not_move_make_a_whole_slot(desk):
    """Where packing saves nothing."""
    step(desk, 1, 1, 0)
    answer = step(desk, 2, 2, 1)
    assert (is_packed(answer), answer.body) == (False, bytes(desk.pool.slot_body(2)))


def test_a_replayed_answer_is_the_same(desk):
    """Byte for byte, packed against the same observations."""
    step(desk, 1, 1, 0)
    first = step(desk, 2, 1, 1)
    again = desk.step(2, flags=FRAMES, clock=1)
    assert again.body == first.body
    assert again.header == first.header._replace(flags=first.header.flags | Flag.REPLAYED)


def test_resets_are_packed_too(desk):
    """A RESET's answer is one to go on from, and can be packed itself."""
    assert desk.send(Kind.RESET, seq=1, flags=FRAMES) is None
    (first,) = desk.finish(1)
    assert desk.send(Kind.RESET, seq=2, flags=FRAMES, clock=1) is None
    (again,) = desk.finish(1)
    assert unpacked(desk, again, first) == first.body


def test_a_step_that_failed_leaves_the_base_as_it_was(desk):
    """Its answer has no observations; the next is packed against the last that had some."""
    first = step(desk, 1, 1, 0)
    assert desk.step(2, flags=FRAMES, clock=1) is None
    (failed,) = desk.finish(2, error=EnvFault("row 0", faults=[]))
    assert failed.header.kind == Kind.ERROR
    third = step(desk, 3, 1, 1)
    assert unpacked(desk, third, first) == first.body


def test_a_new_driver_begins_with_whole_slots(desk):
    """Also where it names the number of an answer that the driver before it had."""
    step(desk, 1, 1, 0)
    step(desk, 2, 1, 1)
    desk.attach("another", force=True)
    assert not is_packed(step(desk, 1, 1, 2))
    assert is_packed(step(desk, 2, 1, 1))


def test_a_pool_whose_observations_are_no_stacks_packs_nothing():
    """It does not offer to, and looks at no flag."""
    desk = Desk()
    assert desk.attach().features == []
    for seq in (1, 2):
        assert not is_packed(step(desk, seq, 1, seq - 1))
