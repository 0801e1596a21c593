"""How an observation gets into its row of a slot."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.compare import assert_same
from tests.wire.strategies import fixed, row_spaces
from vecserver.engine.rows import observation_writer
from vecserver.wire.layout import Layout, leaf_values

ROWS = 3


def slot_of(space: spaces.Space):
    layout = Layout.of(space, ROWS)
    return layout.views(bytearray(layout.slot_size))


@given(row_spaces, st.integers(0, 2**32 - 1))
@fixed(60)
def test_what_is_written_into_a_row_is_there_and_nowhere_else(space, seed):
    """Whatever the space, a sample lands in its own row with every bit, and the rows beside it stay zero."""
    space.seed(seed)
    slot, sample = slot_of(space), space.sample()
    observation_writer(space, slot)(1, sample)
    for leaf, part in zip(slot.observations, leaf_values(space, sample), strict=True):
        assert_same(leaf[1:2].copy().reshape(leaf.shape[1:]), np.asarray(part).astype(leaf.dtype), "row 1")
        assert leaf[[0, 2]].tobytes() == bytes(leaf[[0, 2]].nbytes)


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), True])
def test_a_plain_number_is_an_observation_of_a_discrete_space(value):
    """Python's numbers, numpy's and arrays without dimensions are all the same."""
    space = spaces.Discrete(5)
    slot = slot_of(space)
    observation_writer(space, slot)(2, value)
    assert slot.observations[0].tolist() == [0, 0, int(value)]


def test_a_list_is_an_observation_of_a_box():
    """Sequences are taken as numpy takes them."""
    slot = slot_of(spaces.Box(-1, 1, (2, 2)))
    observation_writer(spaces.Box(-1, 1, (2, 2)), slot)(0, [[0.5, 1], (0, -1)])
    assert slot.observations[0][0].tolist() == [[0.5, 1], [0, -1]]


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Box(-1, 1, (2,)), np.zeros(1)),
        (spaces.Box(-1, 1, (2,)), np.zeros((1, 2))),
        (spaces.Box(-1, 1, (2,)), 0.0),
        (spaces.Discrete(3), np.zeros(1)),
        (spaces.MultiBinary((2, 2)), np.zeros(4)),
        (spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))]), (1, np.zeros(3))),
        (spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)]), (1,)),
        (spaces.Tuple([spaces.Discrete(3)]), (1, 2)),
    ],
)
def test_another_shape_is_refused(space, value):
    """A smaller value is not stretched over the row, nor a larger one cut."""
    slot = slot_of(space)
    with pytest.raises(ValueError, match=r"shape|zip\(\)"):
        observation_writer(space, slot)(1, value)


def test_a_part_that_is_missing_is_refused():
    """Every key of a Dict space is needed."""
    space = spaces.Dict(a=spaces.Discrete(3), b=spaces.Discrete(3))
    with pytest.raises(KeyError, match="b"):
        observation_writer(space, slot_of(space))(0, {"a": 1})
