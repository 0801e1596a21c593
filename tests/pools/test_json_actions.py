"""JSON values as actions: what the HTTP answers show of a value can be sent back as one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from tests.contract.compare import assert_same
from tests.wire.strategies import little_memory
from vecserver.pools.json_actions import batch_from_json
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import InvalidAction
from vecserver.wire.json_values import to_json
from vecserver.wire.opaque import OpaqueSpace

BOX = spaces.Box(-1, 1, (2, 3), np.float32)
SPACES = [
    spaces.Text(5, charset="až🐎"),
    spaces.Sequence(BOX),
    spaces.Sequence(BOX, stack=True),
    spaces.Sequence(spaces.Dict(a=spaces.Discrete(3), b=spaces.Tuple([spaces.MultiBinary(2), BOX])), stack=True),
    spaces.Sequence(spaces.Sequence(spaces.MultiDiscrete([3, 4], dtype=np.uint8))),
    spaces.OneOf([spaces.Discrete(3, start=-1), BOX, spaces.Text(3), spaces.Tuple([spaces.MultiBinary(2)])]),
    spaces.Graph(BOX, spaces.Discrete(3)),
    spaces.Graph(spaces.Discrete(3), None),
]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_a_value_comes_back_from_its_json(space):
    """With its types and dtypes, alone and beside an array, which is left as it is."""
    batched = batch_space(space, 3)
    for seed in range(20):
        batched.seed(seed)
        batch = batched.sample()
        sent = json.loads(to_json(batch))
        assert_same(batch_from_json(space, sent), list(batch))
        both = batch_from_json(spaces.Dict(a=space, b=spaces.Discrete(4)), {"a": sent, "b": [1, 2, 3]})
        assert_same(both, {"a": list(batch), "b": [1, 2, 3]})
        fmt = ActionFormat(space, 3)
        fmt.check(fmt.coerce(batch_from_json(space, sent)))


def test_an_empty_list_has_the_shape_of_its_space():
    """A sequence of nothing, stacked or not, is one of its space."""
    for stack, expected in ((False, ()), (True, np.zeros((0, 2, 3), np.float32))):
        assert_same(batch_from_json(spaces.Sequence(BOX, stack=stack), [[]]), [expected])


def test_what_needs_no_help_is_left_alone():
    """Arrays, values of custom spaces, and batches of another structure, which whoever reads them refuses."""
    pair = spaces.Dict(a=spaces.Discrete(3), b=spaces.Text(3))
    custom = OpaqueSpace("m.Words", None, None, "Words()")
    for space, batch in (
        (BOX, [[0.5]]),
        (custom, [{"words": [1]}]),
        (pair, {"a": [1]}),
        (pair, 5),
        (SPACES[1], "text"),
    ):
        assert batch_from_json(space, batch) is batch or batch_from_json(space, batch) == batch


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Sequence(spaces.Discrete(3)), 5),
        (spaces.Sequence(spaces.Discrete(3)), [0.5]),
        (spaces.Sequence(spaces.Discrete(3, dtype=np.int8)), [300]),
        (spaces.Sequence(spaces.Discrete(3), stack=True), ["text"]),
        (spaces.Sequence(spaces.Dict(a=BOX)), [{"b": []}]),
        (spaces.OneOf([BOX]), [1, []]),
        (spaces.OneOf([BOX]), [True, []]),
        (spaces.OneOf([BOX]), [0]),
        (spaces.Graph(BOX, None), [[], None, None]),
        (spaces.Graph(BOX, BOX), {"nodes": [[[0.5]]], "edges": [[[0.5]]], "edge_links": [[0.5, 1]]}),
    ],
    ids=str,
)
def test_json_of_another_form_is_refused_by_its_row(space, value):
    """In words, and nothing is stepped."""
    good = json.loads(to_json(space.sample()))
    with pytest.raises(InvalidAction, match="^row 1: .* is not the JSON of an action of") as caught:
        batch_from_json(space, [good, value])
    assert caught.value.details == {"row": 1}


BOMB = ["x" * 100_000, *["y"] * 2000]
"""As an array each of its texts would have 100,000 characters of four bytes."""


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,)),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.MultiBinary(2)),
        spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]),
        spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(3)),
        spaces.Sequence(spaces.Discrete(3), stack=True),
    ],
)
def test_text_where_numbers_belong_takes_no_memory(space):
    """It is refused before an array is made of it, which has as much room for each text as for the longest."""
    batch = {"a": BOMB, "b": BOMB} if isinstance(space, spaces.Dict) else BOMB
    batch = [BOMB, ["a", "b"]] if isinstance(space, spaces.Tuple) else batch
    batch = [{"nodes": BOMB, "edges": None, "edge_links": None}] if isinstance(space, spaces.Graph) else batch
    with little_memory(1 << 20), pytest.raises(InvalidAction, match="is text, where numbers belong"):
        batch_from_json(space, [BOMB] if isinstance(space, spaces.Sequence) else batch)
