"""Action batches with values of no fixed size: they reach the environments as they are, or are refused by their row."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.contract.compare import assert_same
from tests.environments import Words
from tests.wire.strategies import encodable, every_space, fixed, sampled
from vecserver.wire import actions
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack
from vecserver.wire.errors import InvalidAction, MalformedMessage
from vecserver.wire.layout import assemble
from vecserver.wire.opaque import OpaqueSpace

TEXT = ActionFormat(spaces.Text(3), 2)
PAIR = ActionFormat(spaces.Dict(a=spaces.Text(3), b=spaces.Box(-1, 1, (1,))), 2)
GRAPH = ActionFormat(spaces.Graph(spaces.Discrete(2), None), 1)
STACK = ActionFormat(spaces.Sequence(spaces.Discrete(3), stack=True), 1)


@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")  # Box, of a number that it made itself
@fixed(200)
@given(every_space, st.integers(1, 4), st.integers(0, 2**32 - 1), st.data())
def test_every_row_gets_the_action_that_gymnasium_gives_it(space, num_envs, seed, data):
    """A sampled batch passes the checks, the wire and the way to a worker, with every type and bit."""
    assume(encodable(space))
    batched = batch_space(space, num_envs)
    batched.seed(seed)
    batch = sampled(batched)
    try:
        expected = list(iterate(batched, batch))
        assume(batched.contains(batch))
    except ValueError:
        assume(False)  # Gymnasium finds no rows in a Dict without keys
    fmt = ActionFormat(space, num_envs)
    parts = fmt.decode(*fmt.encode(fmt.coerce(batch)))
    fmt.check(parts)
    area, codes = memoryview(bytearray(fmt.area_size)), memoryview(bytearray(fmt.leaf_count))
    fmt.store(parts, area, codes)
    first = data.draw(st.integers(0, num_envs - 1))
    side = fmt.side.unpack_rows(fmt.side_rows(parts, first, num_envs), num_envs - first)
    leaves = fmt.side.weave(fmt.load(area, bytes(codes), slice(first, None)), side)
    got = list(iterate(batch_space(space, num_envs - first), assemble(space, leaves)))
    assert_same(got, expected[first:])


GOLDEN = [
    (TEXT, ["ab", "c"], "92 c0 92 c404 91a26162 c403 91a163", ""),
    (
        PAIR,
        {"a": ("ab", "c"), "b": np.array([[1.0], [-2.0]], "f8")},
        "92 91a33c6638 92 c404 91a26162 c403 91a163",
        "000000000000f03f 00000000000000c0",
    ),
    (PAIR, {"a": ("", "c"), "b": np.zeros((2, 1), "f4")}, "92 c0 92 c402 91a0 c403 91a163", "0000000000000000"),
]


@pytest.mark.parametrize(("fmt", "batch", "ext", "body"), GOLDEN)
def test_a_batch_has_fixed_bytes(fmt, batch, ext, body):
    """Ext and body of a STEP are those that the protocol gives, in both directions."""
    got = fmt.encode(fmt.coerce(batch))
    assert [bytes(part).hex() for part in got] == [bytes.fromhex(ext).hex(), bytes.fromhex(body).hex()]
    assert_same(fmt.decode(bytes.fromhex(ext), bytes.fromhex(body)), fmt.coerce(batch))


@pytest.mark.parametrize(
    ("fmt", "batch", "text"),
    [
        (TEXT, None, "the action batch has no rows"),
        (TEXT, ["a"], "the action batch has 1 rows, the pool has 2"),
        (TEXT, "abc", "the action batch has 3 rows, the pool has 2"),
        (PAIR, {"b": np.zeros((2, 1))}, "does not have the structure of Dict"),
        (PAIR, {"a": 5, "b": np.zeros((2, 1))}, "the action batch at /a has no rows"),
    ],
)
def test_a_batch_without_its_rows_is_refused_before_it_is_sent(fmt, batch, text):
    """As an array of the wrong length is."""
    with pytest.raises(InvalidAction, match=text):
        fmt.coerce(batch)


@pytest.mark.parametrize(
    ("value", "text"),
    [("\ud800", "^row 1: the action has a lone surrogate"), (object(), "^row 1: the action is a builtins.object")],
)
def test_a_value_that_cannot_travel_is_refused_by_its_row(value, text):
    """At once: nothing was sent."""
    with pytest.raises(InvalidAction, match=text) as caught:
        TEXT.encode(TEXT.coerce(["a", value]))
    assert caught.value.details == {"row": 1}


@pytest.mark.parametrize(
    ("fmt", "batch", "text"),
    [
        (TEXT, ["a", "abcd"], r"^row 1: action 'abcd' is outside Text\(1, 3"),
        (TEXT, [5, "a"], "^row 0: action 5 is outside"),
        (PAIR, {"a": ["a", "-"], "b": np.zeros((2, 1))}, "^row 1: action at /a '-' is outside"),
        (GRAPH, [spaces.GraphInstance(np.array([2]), None, None)], "^row 0: action GraphInstance.*outside Graph"),
        (GRAPH, [spaces.GraphInstance(7, None, None)], "^row 0: "),
        (GRAPH, ["no graph"], "^row 0: "),
        (STACK, [np.array([0, 3])], "^row 0: "),
        (STACK, [5], "^row 0: "),
    ],
)
def test_a_value_outside_its_space_is_refused_by_its_row(fmt, batch, text):
    """Also one that Gymnasium's own test stumbles over."""
    parts = fmt.decode(*fmt.encode(fmt.coerce(batch)))
    with pytest.raises(InvalidAction, match=text):
        fmt.check(parts)


class Unsure(spaces.Space):
    """Has no test of its own."""


def test_what_only_the_environment_can_judge_passes():
    """A custom space that is not here, and one that has no test."""
    for space in (OpaqueSpace("m.Words", None, None, "Words(3)"), Unsure()):
        fmt = ActionFormat(space, 2)
        fmt.check(fmt.coerce([{"any": 1}, None]))
    fmt = ActionFormat(Words(1), 2)
    with pytest.raises(InvalidAction, match="^row 1: "):
        fmt.check(fmt.coerce([{"words": []}, {"words": ["a", "b"]}]))


@pytest.mark.parametrize(
    ("ext", "error", "text"),
    [
        (b"", MalformedMessage, "undecodable"),
        (pack(5), MalformedMessage, "holds no values"),
        (pack([None]), MalformedMessage, "holds no values"),
        (pack([None, 5]), MalformedMessage, "holds no values"),
        (pack([None, ["a", "b"]]), MalformedMessage, "holds no values"),
        (pack([None, [pack(["a"])]]), MalformedMessage, "values of 1 rows"),
        (pack([None, [pack(["a"]), pack([])]]), MalformedMessage, "row 1 has no values of the 1 leaves"),
        (pack(["<f4", [pack(["a"])] * 2]), MalformedMessage, "names no dtypes"),
        (pack([[5], [pack(["a"])] * 2]), MalformedMessage, "names no dtypes"),
        (pack([[], [pack(["a"])] * 2]), MalformedMessage, "names 0 dtypes for 1 leaves"),
        (pack([["<c8"], [pack(["a"])] * 2]), InvalidAction, "dtype '<c8'"),
    ],
)
def test_a_step_that_is_no_batch_is_refused(ext, error, text):
    """Whatever the bytes say, the answer is an error of the tree."""
    with pytest.raises(error, match=text):
        PAIR.decode(ext, bytes(8))


def test_a_batch_too_large_for_a_message_is_refused(monkeypatch):
    """Before it is sent."""
    monkeypatch.setattr(actions, "MAX_EXT", 40)
    TEXT.encode([("a" * 10, "b")])
    with pytest.raises(InvalidAction, match="bytes beside its arrays; at most 40 are taken"):
        TEXT.encode([("a" * 30, "b")])
