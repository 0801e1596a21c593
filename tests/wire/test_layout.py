"""Slots: every array has its place, aligned, and the views of both ends are the same bytes."""

from __future__ import annotations

import mmap
import zlib
from math import prod

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, create_empty_array
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.compare import assert_same
from tests.wire.strategies import action_spaces, every_space, fixed, row_spaces, side_leaves
from vecserver.wire.layout import Layout, assemble, has_slot, leaf_spaces, leaf_values
from vecserver.wire.spaces import space_from_json, space_to_json

rows = st.integers(1, 5)
FLAGS = ("reward", "terminated", "truncated", "autoreset")


@fixed(200)
@given(row_spaces, rows)
def test_fields_are_aligned_and_do_not_overlap(space, num_envs):
    """Each begins on a cache line of its own, after the end of the one before, and the last ends in the slot."""
    layout = Layout.of(space, num_envs)
    end = 0
    for field in layout.fields:
        assert field.offset % 64 == 0
        assert field.offset >= end
        assert field.shape[0] == num_envs
        end = field.offset + np.dtype(field.dtype).itemsize * prod(field.shape)
    assert end <= layout.slot_size
    assert layout.slot_size % 64 == 0
    assert [field.name for field in layout.fields[-4:]] == list(FLAGS)
    assert [field.dtype for field in layout.fields[-4:]] == ["<f8", "|b1", "|b1", "|b1"]


@fixed(200)
@given(row_spaces, rows)
def test_views_are_the_buffer_itself(space, num_envs):
    """What is written through one end's views is read through the other's, at any base, without a copy."""
    layout = Layout.of(space, num_envs)
    buffer = bytearray(2 * layout.slot_size)
    base = layout.slot_size
    views = layout.views(buffer, base)
    arrays = [*views.observations, views.rewards, views.terminated, views.truncated, views.autoreset]
    for number, array in enumerate(arrays):
        array[...] = number % 2
    again = layout.views(memoryview(bytes(buffer)), base)
    for number, array in enumerate([*again.observations, *[getattr(again, n) for n in again.__slots__[1:]]]):
        assert (array == number % 2).all()
        assert not array.flags.writeable
    assert not any(buffer[:base])


@fixed(200)
@given(action_spaces, rows)
def test_leaves_have_the_dtypes_and_shapes_of_gymnasiums_batch(space, num_envs):
    """A slot's arrays are those that ``create_empty_array`` makes and ``batch_space`` describes."""
    views = Layout.of(space, num_envs).views(bytearray(Layout.of(space, num_envs).slot_size))
    expected = list(leaf_values(space, create_empty_array(space, num_envs)))
    described = [leaf for _, leaf in leaf_spaces(batch_space(space, num_envs))]
    assert len(views.observations) == len(expected) == len(described)
    for view, array, leaf in zip(views.observations, expected, described, strict=True):
        assert (view.shape, view.dtype) == (array.shape, array.dtype) == (leaf.shape, leaf.dtype)


@fixed(200)
@given(action_spaces, rows)
def test_assemble_is_the_inverse_of_taking_leaves(space, num_envs):
    """Dicts in the space's order, tuples as tuples."""
    batch = create_empty_array(space, num_envs)
    assert_same(assemble(space, leaf_values(space, batch)), batch)
    assert len(list(leaf_values(space, batch))) == len(list(leaf_spaces(space)))


@fixed(100)
@given(row_spaces, rows)
def test_both_ends_compute_the_same_layout(space, num_envs):
    """From the space as it came over the wire, with the same hash; of another number of rows, with another."""
    layout = Layout.of(space, num_envs)
    assert Layout.of(space_from_json(space_to_json(space)), num_envs) == layout
    assert Layout.of(space, num_envs + 1).hash != layout.hash


def test_the_layout_of_cartpole():
    """The description that programs in other languages read, and its hash."""
    layout = Layout.of(spaces.Box(-1, 1, (4,), np.float32), 8)
    assert layout.describe() == {
        "num_envs": 8,
        "slot_size": 384,
        "fields": [
            {"name": "observation", "dtype": "<f4", "shape": [8, 4], "offset": 0},
            {"name": "reward", "dtype": "<f8", "shape": [8], "offset": 128},
            {"name": "terminated", "dtype": "|b1", "shape": [8], "offset": 192},
            {"name": "truncated", "dtype": "|b1", "shape": [8], "offset": 256},
            {"name": "autoreset", "dtype": "|b1", "shape": [8], "offset": 320},
        ],
    }
    sorted_json = (
        b'{"fields":[{"dtype":"<f4","name":"observation","offset":0,"shape":[8,4]},'
        b'{"dtype":"<f8","name":"reward","offset":128,"shape":[8]},'
        b'{"dtype":"|b1","name":"terminated","offset":192,"shape":[8]},'
        b'{"dtype":"|b1","name":"truncated","offset":256,"shape":[8]},'
        b'{"dtype":"|b1","name":"autoreset","offset":320,"shape":[8]}],"num_envs":8,"slot_size":384}'
    )
    assert layout.hash == zlib.crc32(sorted_json) == 0xEB7DDD9E


def test_leaves_are_named_by_their_path():
    """Keys and positions, in the space's order."""
    space = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.MultiBinary(1), spaces.Discrete(3)])})
    names = [field.name for field in Layout.of(space, 1).fields]
    assert names == ["observation/a/0", "observation/a/1", "observation/b", *FLAGS]


def test_a_slot_in_shared_memory_is_seen_by_both_sides():
    """Two views of one mapping are one array."""
    layout = Layout.of(spaces.Box(-1, 1, (3,), np.float64), 2)
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    one, other = layout.views(memory, 128), layout.views(memory, 128)
    one.observations[0][1, 2] = 0.5
    assert other.observations[0][1, 2] == 0.5
    assert np.shares_memory(one.rewards, other.rewards)


def test_a_buffer_without_room_is_refused():
    """numpy checks every view against its buffer."""
    layout = Layout.of(spaces.Discrete(3), 4)
    with pytest.raises((TypeError, ValueError)):
        layout.views(bytearray(layout.slot_size - 64))


def test_a_size_beyond_64_bits_does_not_wrap():
    """The caps of a server compare the true size."""
    assert Layout.of(spaces.MultiBinary([2**33, 2**33]), 1).slot_size > 2**66


@fixed(60)
@given(side_leaves)
def test_a_leaf_without_a_fixed_size_has_no_place_in_a_slot(space):
    """Alone, and beside others; it is a leaf all the same."""
    assert not has_slot(space)
    assert [field.name for field in Layout.of(space, 2).fields] == list(FLAGS)
    outer = spaces.Tuple([space, spaces.Discrete(3), space])
    assert [field.name for field in Layout.of(outer, 2).fields] == ["observation/1", *FLAGS]
    assert [path for path, _ in leaf_spaces(outer)] == ["/0", "/1", "/2"]


@fixed(100)
@given(every_space, rows)
def test_both_ends_lay_out_every_space_alike(space, num_envs):
    """What has no place in a slot at one end has none at the other."""
    assert Layout.of(space_from_json(space_to_json(space)), num_envs) == Layout.of(space, num_envs)
