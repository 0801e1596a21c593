"""Values without a fixed size: what Gymnasium batches comes out at the other end, with every type and bit."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.contract.compare import assert_same
from tests.environments import Words
from tests.wire.strategies import encodable, every_space, fixed, sampled
from vecserver.wire.codec import pack
from vecserver.wire.errors import MalformedMessage, Unportable
from vecserver.wire.layout import Layout, assemble, leaf_spaces, leaf_values
from vecserver.wire.side import SideLeaves

MIXED = spaces.Dict(
    a=spaces.Box(-1, 1, (2,)), b=spaces.Text(5), c=spaces.Tuple([spaces.Discrete(3), spaces.Tuple([Words(3)])])
)


@fixed(300)
@given(every_space, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_batch_is_the_one_that_gymnasium_makes(space, num_envs, seed):
    """Slot leaves through a slot, the others aside: together they are ``concatenate`` of the rows, to the bit."""
    assume(encodable(space))
    space.seed(seed)
    samples = [sampled(space) for _ in range(num_envs)]
    side, views = SideLeaves(space), Layout.of(space, num_envs).views(bytearray(Layout.of(space, num_envs).slot_size))
    rows = []
    for row, sample in enumerate(samples):
        parts, values = side.split(leaf_values(space, sample))
        for leaf, part in zip(views.observations, parts, strict=True):
            leaf[row] = part
        rows.append(side.pack_row(values, "it"))
    got = assemble(space, side.weave(views.observations, side.unpack_rows(rows, num_envs)))
    assert_same(got, concatenate(space, samples, create_empty_array(space, num_envs)))


@fixed(100)
@given(every_space)
def test_splitting_and_weaving_are_inverse(space):
    """Every leaf is on one side, and comes back to its place."""
    side = SideLeaves(space)
    leaves = list(range(len(list(leaf_spaces(space)))))
    slot, aside = side.split(leaves)
    assert sorted(slot + aside) == leaves
    assert len(aside) == len(side)
    assert list(side.weave(slot, aside)) == leaves


def test_side_leaves_are_named_by_their_path():
    """In the space's order; a space of arrays has none, and is false."""
    side = SideLeaves(MIXED)
    assert [path for path, _ in side.leaves] == ["/b", "/c/1/0"]
    assert not SideLeaves(spaces.Dict(a=spaces.Discrete(3), b=spaces.Tuple([])))
    assert SideLeaves(spaces.Text(3)).leaves == (("", spaces.Text(3)),)


def test_what_comes_out_belongs_to_the_caller():
    """Arrays can be written to and hold no other array's memory."""
    side = SideLeaves(spaces.Sequence(spaces.Box(0, 1, (2,)), stack=True))
    row = side.pack_row([np.zeros((3, 2), np.float32)], "it")
    ((first, second),) = side.unpack_rows([row, row], 2)
    first += 1
    assert second.tolist() == [[0, 0]] * 3


def test_a_value_that_cannot_travel_is_named_by_its_leaf():
    """A lone surrogate, or an object of some class."""
    side = SideLeaves(MIXED)
    with pytest.raises(Unportable, match="^the observation/b has a lone surrogate"):
        side.pack_row(["\ud800", {}], "the observation")
    with pytest.raises(Unportable, match=r"^the observation/c/1/0\['x'\] is a builtins.object"):
        side.pack_row(["", {"x": object()}], "the observation")


def test_a_row_that_is_too_deep_is_refused():
    """The list of a row's values is one more level than a value has."""
    deep: object = 1
    for _ in range(32):
        deep = [deep]
    with pytest.raises(Unportable, match="nested deeper"):
        SideLeaves(Words(1)).pack_row([deep], "the observation")


@pytest.mark.parametrize(
    "rows",
    [[], [pack(["a"])], [pack(["a"])] * 3, [pack(["a"]), b""], [pack(["a"]), pack([])], [pack(["a"]), pack("a")]],
    ids=["none", "too few", "too many", "no value", "no leaf", "no list"],
)
def test_rows_of_something_else_are_refused(rows):
    """As many rows as were asked for, as many values as leaves."""
    with pytest.raises(MalformedMessage):
        SideLeaves(spaces.Text(3)).unpack_rows(rows, 2)
