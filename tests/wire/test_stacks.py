"""Packed stacks: whatever rows do, what is unpacked is the slot that was packed, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.spaces import Dict as DictSpace
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import fixed
from vecserver.wire.errors import MalformedMessage
from vecserver.wire.layout import Layout
from vecserver.wire.stacks import Given, StackFormat

SPACE = Box(0, 255, (4, 8, 8), np.uint8)


def form_of(space, rows: int) -> StackFormat:
    form = StackFormat.of(Layout.of(space, rows), space)
    assert form is not None
    return form


def box(*shape: int, dtype: type = np.uint8) -> Box:
    return Box(0, 255, shape, dtype)


@pytest.mark.parametrize(
    ("space", "depth", "comes_first"),
    [
        (box(4, 84, 84), 4, True),
        (box(84, 84, 4), 4, False),
        (box(210, 160, 3), 3, False),
        (box(2, 84, 84, 3), 2, True),
        (box(5, 5), 5, True),
        (box(9, 8), 8, False),
    ],
)
def test_the_stack_is_the_shorter_of_the_outer_axes(space, depth, comes_first):
    """The first where they are equal."""
    form = form_of(space, 3)
    assert (form.depth, form.comes_first) == (depth, comes_first)
    assert form.frame_size * depth == np.prod(space.shape)


@pytest.mark.parametrize(
    "space",
    [box(84), box(4, 84, 84, dtype=np.float32), box(1, 84, 84), box(84, 84, 1), box(4, 0), Discrete(3)],
)
def test_other_observations_are_no_stacks(space):
    """One axis, another dtype, one frame, no bytes, no Box, and a Dict with a stack in it."""
    assert StackFormat.of(Layout.of(space, 2), space) is None
    nested = DictSpace(a=SPACE)
    assert StackFormat.of(Layout.of(nested, 2), nested) is None


DEEDS = ("move", "move", "move", "new", "stay", "fill", "back")


def changed(stack: np.ndarray, deed: str, rng: np.random.Generator) -> np.ndarray:
    """What a row's stack [k, F] becomes."""
    frame = rng.integers(3, size=(1, stack.shape[1]), dtype=np.uint8)  # few values: rows are alike by chance too
    match deed:
        case "move":
            return np.concatenate([stack[1:], frame])
        case "new":
            return rng.integers(256, size=stack.shape, dtype=np.uint8)
        case "fill":
            return np.repeat(frame, len(stack), axis=0)
        case "back":
            return np.concatenate([frame, stack[:-1]])
    return stack


@fixed(300)
@given(
    shape=st.sampled_from([(4, 8, 8), (2, 3), (3, 5, 7), (8, 8, 4), (7, 5, 3), (4, 1, 64), (9, 2)]),
    deeds=st.integers(1, 6).flatmap(
        lambda rows: st.lists(st.lists(st.sampled_from(DEEDS), min_size=rows, max_size=rows), min_size=1, max_size=8)
    ),
    lost=st.sets(st.integers(0, 7)),
    seed=st.integers(0, 2**32),
)
def test_what_is_unpacked_is_what_was_packed(shape, deeds, lost, seed):
    """Rows that move, stand still, begin anew or go back; and a reader that lost an answer in between."""
    rng = np.random.default_rng(seed)
    form = form_of(box(*shape), len(deeds[0]))
    slot = rng.integers(256, size=form.slot_size, dtype=np.uint8)
    sender, held, base = Given(form), slot, 0
    for seq, batch in enumerate(deeds, 1):
        for stack, deed in zip(form.stacks(slot), batch, strict=True):
            stack[...] = changed(stack.copy(), deed, rng)
        slot[form.end :] = rng.integers(256, size=form.slot_size - form.end)
        packed = sender.pack(seq, base, slot.data)
        if seq in lost:
            continue
        if packed is None:
            got = slot.copy()
        else:
            assert base == seq - 1 > 0
            assert len(packed) < form.slot_size
            got = np.full(form.slot_size, 99, np.uint8)
            form.unpack(packed, form.stacks(held), got.data)
        assert np.array_equal(form.stacks(got), form.stacks(slot))
        assert np.array_equal(got[form.end :], slot[form.end :])
        held, base = got, seq


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8, 4), (4, 3, 3)])
def test_only_the_newest_frame_of_a_row_that_moved_travels(shape):
    """A row that moved costs a frame and a byte, another one its stack and a byte."""
    form = form_of(box(*shape), 40)
    rng = np.random.default_rng(1)
    before = rng.integers(256, size=form.slot_size, dtype=np.uint8)
    now = before.copy()
    for row, stack in enumerate(form.stacks(now)):
        stack[...] = changed(stack.copy(), "new" if row == 7 else "move", rng)
    packed = form.pack(form.stacks(before), now.data)
    assert packed is not None
    assert len(packed) == 40 + 39 * form.frame_size + form.depth * form.frame_size + form.slot_size - form.end
    assert bytes(packed[:40]) == bytes([1] * 7 + [0] + [1] * 32)


def test_an_answer_is_packed_against_the_one_that_the_driver_names():
    """Against no other: an earlier one, a later one, none, or one of another driver."""
    form = form_of(SPACE, 2)
    sender = Given(form)
    slot = np.zeros(form.slot_size, np.uint8).data
    assert sender.pack(1, 0, slot) is None
    assert sender.pack(2, 1, slot) is not None
    assert sender.pack(3, 1, slot) is None
    assert sender.pack(4, 9, slot) is None
    assert sender.pack(5, 0, slot) is None
    assert sender.pack(7, 5, slot) is not None
    sender.forget()
    assert sender.pack(8, 7, slot) is None


def test_what_was_given_is_a_copy():
    """The arena writes over its slots when it likes."""
    form = form_of(SPACE, 2)
    sender, slot = Given(form), np.ones(form.slot_size, np.uint8)
    sender.pack(1, 0, slot.data)
    slot[...] = 2
    assert sender.pack(2, 1, slot.data) is None


def test_the_bytes_of_a_packed_slot():
    """Golden: two rows of two frames of 40 bytes; the second one did not move."""
    form = form_of(box(2, 40), 2)
    before, now = (np.zeros(form.slot_size, np.uint8) for _ in range(2))
    form.stacks(before)[...] = [[[1], [2]], [[3], [4]]]
    form.stacks(now)[...] = [[[2], [5]], [[6], [7]]]
    now[form.end :] = 9
    packed = form.pack(form.stacks(before), now.data)
    assert packed is not None
    assert bytes(packed) == b"\1\0" + 40 * b"\5" + 40 * b"\6" + 40 * b"\7" + (form.slot_size - form.end) * b"\t"


@fixed(300)
@given(data=st.binary(max_size=700))
def test_bytes_that_are_no_packed_slot_are_refused(data):
    """Whatever comes: refused as malformed, or unpacked within the slot."""
    form = form_of(box(2, 40), 2)
    slot = np.zeros(form.slot_size + 8, np.uint8)
    before = np.zeros(form.size, np.uint8)
    try:
        form.unpack(data, form.stacks(before), slot.data[: form.slot_size])
    except MalformedMessage:
        return
    assert not slot[form.slot_size :].any()


@pytest.mark.parametrize("change", [b"", b"\1", b"\2\0" + 312 * b"x", b"\1\0" + 311 * b"x", b"\1\1" + 312 * b"x"])
def test_a_packed_slot_of_another_length_is_refused(change):
    """Its flags say how long it is; flags are 0 or 1."""
    form = form_of(box(2, 40), 2)
    assert form.slot_size - form.end == 256
    with pytest.raises(MalformedMessage):
        form.unpack(change, form.stacks(np.zeros(form.size, np.uint8)), memoryview(bytearray(form.slot_size)))
