"""Spaces ↔ JSON: the space at the other end is the same one, to the last bit of its bounds."""

from __future__ import annotations

import base64
import json

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given

from tests.contract.compare import assert_same
from tests.environments import Words
from tests.wire.strategies import every_space, fixed, little_memory, row_spaces
from vecserver.wire.errors import InvalidSpec, MalformedMessage, UnsupportedSpace
from vecserver.wire.opaque import OpaqueSpace
from vecserver.wire.spaces import refuse_differing, space_from_json, space_to_json


def assert_same_space(got: spaces.Space, expected: spaces.Space) -> None:
    if isinstance(expected, Words):
        assert got == OpaqueSpace("tests.environments.Words", None, None, repr(expected))
        return
    assert type(got) is type(expected)
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    match expected:
        case spaces.Box():
            assert_same([got.low, got.high], [expected.low, expected.high])
        case spaces.Discrete():
            assert_same([got.n, got.start], [expected.n, expected.start])
        case spaces.MultiDiscrete():
            assert_same([got.nvec, got.start], [expected.nvec, expected.start])
        case spaces.MultiBinary():
            assert_same(got.n, expected.n)
        case spaces.Dict():
            assert list(got.spaces) == list(expected.spaces)
            assert getattr(got, "sort_keys", None) == getattr(expected, "sort_keys", True)
            for key, child in expected.spaces.items():
                assert_same_space(got[key], child)
        case spaces.Text():
            assert (got.min_length, got.max_length) == (expected.min_length, expected.max_length)
            assert got.character_list == expected.character_list
        case spaces.Sequence():
            assert got.stack is expected.stack
            assert_same_space(got.feature_space, expected.feature_space)
        case spaces.Graph():
            assert_same_space(got.node_space, expected.node_space)
            assert (got.edge_space is None) == (expected.edge_space is None)
            if expected.edge_space is not None:
                assert_same_space(got.edge_space, expected.edge_space)
        case spaces.Tuple() | spaces.OneOf():
            assert len(got.spaces) == len(expected.spaces)
            for left, right in zip(got.spaces, expected.spaces, strict=True):
                assert_same_space(left, right)


@fixed(300)
@given(row_spaces)
def test_a_space_comes_back_the_same(space):
    """Through JSON text and through msgpack: types, dtypes, order of keys, infinities and signs of zero."""
    described = space_to_json(space)
    for decoded in (json.loads(json.dumps(described)), msgspec.msgpack.decode(msgspec.msgpack.encode(described))):
        got = space_from_json(decoded)
        assert_same_space(got, space)
        assert got == space
        assert space_to_json(got) == described


@fixed(200)
@given(every_space)
def test_a_space_of_any_kind_comes_back(space):
    """Those without a fixed size too; a custom one as its stand-in."""
    described = space_to_json(space)
    got = space_from_json(json.loads(json.dumps(described)))
    assert_same_space(got, space)
    assert space_to_json(got) == described


@pytest.mark.parametrize(
    ("space", "described"),
    [
        (
            spaces.Box(-1.0, np.inf, (2,), np.float32),
            {
                "type": "Box",
                "dtype": "<f4",
                "low": {"dtype": "<f4", "shape": [2], "uniform": True, "bytes": "AACAvw=="},
                "high": {"dtype": "<f4", "shape": [2], "uniform": True, "bytes": "AACAfw=="},
            },
        ),
        (
            spaces.Box(np.array([0, 1], np.uint8), np.array([2, 3], np.uint8), dtype=np.uint8),
            {
                "type": "Box",
                "dtype": "|u1",
                "low": {"dtype": "|u1", "shape": [2], "uniform": False, "bytes": "AAE="},
                "high": {"dtype": "|u1", "shape": [2], "uniform": False, "bytes": "AgM="},
            },
        ),
        (spaces.Discrete(3, start=-1), {"type": "Discrete", "n": 3, "start": -1, "dtype": "<i8"}),
        (
            spaces.MultiDiscrete([2], start=[5], dtype=np.int32),
            {
                "type": "MultiDiscrete",
                "dtype": "<i4",
                "nvec": {"dtype": "<i4", "shape": [1], "uniform": False, "bytes": "AgAAAA=="},
                "start": {"dtype": "<i4", "shape": [1], "uniform": False, "bytes": "BQAAAA=="},
            },
        ),
        (spaces.MultiBinary(3), {"type": "MultiBinary", "n": 3}),
        (spaces.MultiBinary([3]), {"type": "MultiBinary", "n": [3]}),
        (
            spaces.Text(5, min_length=2, charset="ba"),
            {"type": "Text", "min_length": 2, "max_length": 5, "charset": [98, 97]},
        ),
        (
            spaces.Sequence(spaces.MultiBinary(1), stack=True),
            {"type": "Sequence", "space": {"type": "MultiBinary", "n": 1}, "stack": True},
        ),
        (spaces.OneOf([spaces.MultiBinary(1)]), {"type": "OneOf", "spaces": [{"type": "MultiBinary", "n": 1}]}),
        (
            spaces.Graph(spaces.Discrete(2), None),
            {
                "type": "Graph",
                "node_space": {"type": "Discrete", "n": 2, "start": 0, "dtype": "<i8"},
                "edge_space": None,
            },
        ),
        (
            Words(3),
            {"type": "Custom", "name": "tests.environments.Words", "shape": None, "dtype": None, "repr": "Words(3)"},
        ),
        (
            spaces.Tuple([spaces.Dict({"b": spaces.MultiBinary(1), "a": spaces.Tuple([])})]),
            {
                "type": "Tuple",
                "spaces": [
                    {
                        "type": "Dict",
                        "sort_keys": True,
                        "spaces": [["a", {"type": "Tuple", "spaces": []}], ["b", {"type": "MultiBinary", "n": 1}]],
                    }
                ],
            },
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, spaces.Space) else "",
)
def test_a_space_has_one_description(space, described):
    """The description is the one that the protocol gives."""
    assert space_to_json(space) == described
    assert_same_space(space_from_json(described), space)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32, np.float64])
def test_a_box_bounded_by_one_number_is_short(dtype):
    """An image's bounds are one number each, not a million."""
    space = spaces.Box(0, 7, (64, 64, 3), dtype)
    assert len(json.dumps(space_to_json(space))) < 300
    assert_same_space(space_from_json(space_to_json(space)), space)


def test_zeros_of_both_signs_are_not_one_number():
    """Uniform means the same bits, not equal numbers."""
    space = spaces.Box(np.array([0.0, -0.0], "f4"), np.array([1, 1], "f4"))
    assert space_to_json(space)["low"]["uniform"] is False
    assert_same_space(space_from_json(space_to_json(space)), space)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "Blackjack-v1"])
def test_the_spaces_of_known_environments_travel(env_id):
    """Classic control and toy text."""
    env = gymnasium.make(env_id)
    for space in (env.observation_space, env.action_space):
        assert_same_space(space_from_json(space_to_json(space)), space)
    env.close()


class Odd(spaces.Space):
    """A space whose attributes are what nobody expects."""

    def __init__(self, shape=None, dtype=None, text="Odd()") -> None:
        super().__init__(shape)
        self.dtype, self.text = dtype, text

    def __repr__(self) -> str:
        return self.text


@pytest.mark.parametrize(
    ("dtype", "travels"),
    [(None, None), (np.float32, "<f4"), (np.dtype("f4"), "<f4"), (object, None), ("no dtype", None), (str, "<U0")],
)
def test_a_custom_space_may_call_anything_its_dtype(dtype, travels):
    """What can travel does."""
    described = space_to_json(Odd((np.int64(2), 3), dtype))
    assert (described["shape"], described["dtype"]) == ([2, 3], travels)
    got = space_from_json(json.loads(json.dumps(described)))
    assert (got.shape, got.dtype) == ((2, 3), None if travels is None else np.dtype(travels))


def test_a_custom_space_is_described_alike_by_every_process():
    """Addresses are left out, and what is too long or in no encoding is made to travel."""
    assert space_to_json(Odd(text=object.__repr__(Odd())))["repr"] == "<tests.wire.test_spaces.Odd object>"
    assert space_to_json(Odd(text="x" * 5000))["repr"] == "x" * 1000
    assert space_to_json(Odd(text="\ud800"))["repr"] == "?"


def test_a_stand_in_says_what_it_is():
    """Equal where the descriptions are; it cannot be sampled or flattened, and holds what can travel."""
    stand_in = space_from_json(space_to_json(Words(3)))
    assert stand_in == space_from_json(space_to_json(Words(3)))
    assert stand_in != space_from_json(space_to_json(Words(4)))
    assert stand_in != Words(3)
    assert repr(stand_in) == "OpaqueSpace(Words(3))"
    assert not stand_in.is_np_flattenable
    assert {"any": ("value", 1)} in stand_in
    assert object() not in stand_in
    with pytest.raises(UnsupportedSpace, match=r"Words is a class .* Words\(3\) cannot be sampled from here: make"):
        stand_in.sample()


def test_what_is_no_space_is_refused():
    """An environment that forgot its space is told so."""
    with pytest.raises(UnsupportedSpace, match="None is a NoneType, and no space of Gymnasium"):
        space_to_json(None)


def test_rows_may_differ_in_bounds():
    """In a Box's, a Discrete's, a Text's shortest length; at any depth."""
    refuse_differing([])
    refuse_differing([spaces.Box(0, high, (2,)) for high in (1, 2, 3)])
    refuse_differing([spaces.Tuple([spaces.Discrete(n, start=n), spaces.Text(9, min_length=n)]) for n in (1, 2)])


@pytest.mark.parametrize(
    "other",
    [
        spaces.Box(0, 1, (3,)),
        spaces.Box(0, 1, (2,), np.float64),
        spaces.Discrete(2),
        spaces.Tuple([spaces.Box(0, 1, (2,))]),
        Words(3),
    ],
    ids=repr,
)
def test_rows_that_differ_in_more_are_named(other):
    """The first row whose type, shape or dtype is another."""
    box = spaces.Box(0, 1, (2,))
    with pytest.raises(InvalidSpec, match="the observation space of row 2 is") as caught:
        refuse_differing([box, box, other, other])
    assert caught.value.details == {"field": "observation_mode", "row": 2}


def test_custom_spaces_are_not_batched_by_their_bounds():
    """Gymnasium has no way to."""
    with pytest.raises(InvalidSpec, match="row 0 .* spaces of Gymnasium's own"):
        refuse_differing([Words(3), Words(3)])


def test_a_long_double_is_refused():
    """Its bits are not the same numbers on every machine."""
    with pytest.raises(UnsupportedSpace, match="use float64"):
        space_to_json(spaces.Box(np.zeros(1, "g"), np.ones(1, "g"), dtype=np.longdouble))


def test_keys_that_json_would_change_are_refused():
    """A tuple as a key would come back as a list."""
    with pytest.raises(UnsupportedSpace, match="keys of a Dict are text or integers"):
        space_to_json(spaces.Dict({("a", 1): spaces.Discrete(2)}))


def _bytes(text: bytes) -> str:
    return base64.b64encode(text).decode()


def _array(**changes):
    return {"dtype": "<f4", "shape": [1], "uniform": False, "bytes": _bytes(b"\0\0\0\0")} | changes


def _box(**low):
    return {"type": "Box", "dtype": "<f4", "low": _array(**low), "high": _array()}


WRONG = {
    "nothing": None,
    "a list": [],
    "no type": {},
    "another type": {"type": "Space"},
    "a type that is no text": {"type": []},
    "a Box without bounds": {"type": "Box", "dtype": "<f4"},
    "bounds of objects": _box(dtype="|O8"),
    "bounds of a structure": _box(dtype="(,)f4"),
    "bounds of text": _box(dtype="<U1"),
    "bounds that are no base64": _box(bytes="%"),
    "bounds that are no text": _box(bytes=5),
    "bounds of other length": _box(shape=[2]),
    "a bound that is no number": _box(bytes=_bytes(b"\xff\xff\xff\xff")),
    "uniform bounds of nothing": _box(uniform=True, bytes=""),
    "uniform bounds of a terabyte": _box(uniform=True, shape=[2**40]),
    "uniform bounds beyond 64 bits": _box(uniform=True, shape=[2**40, 2**40]),
    "uniform bounds of nothing times much": _box(uniform=True, shape=[0, 2**70]),
    "uniform bounds of negative size": _box(uniform=True, shape=[-1]),
    "uniform bounds of a broken size": _box(uniform=True, shape=[1.5]),
    "a shape that is a number": _box(shape=1),
    "low above high": _box(bytes=_bytes(b"\0\0\x80\x3f")),
    "a Discrete of nothing": {"type": "Discrete", "n": 0, "start": 0, "dtype": "<i8"},
    "a Discrete of text": {"type": "Discrete", "n": "3", "start": 0, "dtype": "<i8"},
    "a Discrete beyond its dtype": {"type": "Discrete", "n": 2**70, "start": 0, "dtype": "|i1"},
    "a Discrete of floats": {"type": "Discrete", "n": 2, "start": 0, "dtype": "<f4"},
    "a MultiDiscrete of nothing": {
        "type": "MultiDiscrete",
        "dtype": "<i4",
        "nvec": _array(dtype="<i4"),
        "start": _array(dtype="<i4"),
    },
    "a MultiBinary of a float": {"type": "MultiBinary", "n": 1.5},
    "a MultiBinary of no shape": {"type": "MultiBinary", "n": [None]},
    "a Dict of numbers": {"type": "Dict", "sort_keys": True, "spaces": [1]},
    "a Dict with a list as a key": {
        "type": "Dict",
        "sort_keys": True,
        "spaces": [[[], {"type": "MultiBinary", "n": 1}]],
    },
    "a Tuple of numbers": {"type": "Tuple", "spaces": [1]},
    "a Tuple that is none": {"type": "Tuple", "spaces": 5},
    "a Text without characters": {"type": "Text", "min_length": 0, "max_length": 1},
    "a Text of text": {"type": "Text", "min_length": 0, "max_length": 1, "charset": "ab"},
    "a Text beyond Unicode": {"type": "Text", "min_length": 0, "max_length": 1, "charset": [0x110000]},
    "a Text of negative length": {"type": "Text", "min_length": 0, "max_length": -1, "charset": [97]},
    "a Sequence of nothing": {"type": "Sequence", "space": None, "stack": True},
    "a Sequence stacked by a number": {"type": "Sequence", "space": {"type": "MultiBinary", "n": 1}, "stack": 1},
    "a OneOf of nothing": {"type": "OneOf", "spaces": []},
    "a Graph of nothing": {"type": "Graph", "node_space": None, "edge_space": None},
    "a custom space without a name": {"type": "Custom", "name": None, "shape": None, "dtype": None, "repr": ""},
    "a custom space of half a size": {"type": "Custom", "name": "", "shape": [0.5], "dtype": None, "repr": ""},
    "a custom space of objects": {"type": "Custom", "name": "", "shape": None, "dtype": "|O", "repr": ""},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_describes_no_space_is_refused(name):
    """With one error, and before it takes memory."""
    with little_memory(1 << 20), pytest.raises(MalformedMessage):
        space_from_json(WRONG[name])


def test_spaces_inside_one_another_without_end_are_refused():
    """A description nested too deep ends in the same error."""
    data = {"type": "Tuple", "spaces": []}
    for _ in range(3000):
        data = {"type": "Tuple", "spaces": [data]}
    with pytest.raises(MalformedMessage):
        space_from_json(data)
