"""Bytes from anywhere: every decoder answers with a value or with an error of the tree, and takes little memory."""

from __future__ import annotations

import json
import warnings

import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import action_spaces, broken, every_space, fixed, little_memory, row_spaces, values
from tests.wire.test_messages import ANSWERS, GOLDEN, REQUESTS
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import (
    EnvFault,
    InvalidAction,
    MalformedMessage,
    MessageTooLarge,
    VecServerError,
    VersionMismatch,
)
from vecserver.wire.frames import Header, Kind, split
from vecserver.wire.infos import encode_rows, join, merge
from vecserver.wire.messages import decode, decode_error, encode
from vecserver.wire.spaces import space_from_json, space_to_json

FAIR = 1 << 20
"""Bytes that a decoder may take for an input of some hundred bytes."""

HEADERS = st.tuples(st.sampled_from(Kind), st.integers(0, 16)).map(
    lambda pair: Header(pair[0], body_length=pair[1]).pack()
)


def _tried(decoder, *args, errors=(MalformedMessage,)):
    """Runs a decoder; anything but a value or one of these errors fails the test."""
    try:
        with little_memory(FAIR):
            return decoder(*args)
    except errors as error:
        assert len(str(error)) < 4096, "the error of a broken message travels too"
        return None


@fixed(300)
@given(broken(HEADERS | st.binary(max_size=80)))
def test_a_broken_header(frame):
    """Is refused, or is a header that says the same again."""
    header = _tried(Header.unpack, frame, errors=(MalformedMessage, VersionMismatch))
    assert header is None or header.pack() == frame


@fixed(300)
@given(st.lists(broken(HEADERS | st.binary(max_size=30)), max_size=4))
def test_broken_frames(frames):
    """Are refused, or are three of the announced length."""
    whole = _tried(split, frames, 16, errors=(MalformedMessage, VersionMismatch, MessageTooLarge))
    assert whole is None or (len(frames) == 3 and len(whole[2]) == whole[0].body_length <= 16)


@fixed(1000)
@given(broken(values.map(pack) | st.binary(max_size=60)))
def test_a_broken_value(data):
    """Is refused, or is a value; reading it raises nothing either."""
    value = _tried(unpack, data)
    if len(data) < 1500:  # Python has no text for integers of more bytes
        assert repr(value)


@pytest.mark.parametrize("kind", [*REQUESTS, *ANSWERS])
def test_broken_messages(kind):
    """Are refused, or are messages."""
    whole = [encode(message) for message, _ in GOLDEN if type(message) is kind] or [b"\x80"]

    @fixed(150)
    @given(broken(st.sampled_from(whole) | st.binary(max_size=60)))
    def check(data):
        message = _tried(decode, data, kind)
        assert message is None or type(message) is kind

    check()


@fixed(300)
@given(broken(st.sampled_from([encode(message) for message, _ in GOLDEN])))
def test_a_broken_error_reply(data):
    """Is refused, or is an error of the tree to raise."""
    error = _tried(decode_error, data)
    assert error is None or isinstance(error, VecServerError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=5), items, max_size=3),
    max_leaves=5,
)


@st.composite
def _broken_descriptions(draw):
    """A description of a space with some part replaced."""
    data = json.loads(json.dumps(space_to_json(draw(row_spaces | every_space))))
    for _ in range(draw(st.integers(1, 3))):
        node = data
        while draw(st.booleans()) and isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
                node = node[key]
            else:
                small = st.sampled_from(
                    [0, -1, 2**31, 2**40, 2**62, 2**64, 1.5, "", [], {}, None, True, "<f8", "|O8", "Box"]
                )
                node[key] = draw(small | json_values)
    return data


@fixed(500)
@given(_broken_descriptions() | json_values)
def test_a_broken_description_of_a_space(data):
    """Is refused, or is a space that can be described again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns of odd bounds
        space = _tried(space_from_json, data)
    assert space is None or isinstance(space, spaces.Space)


FORMATS = [
    ActionFormat(spaces.Discrete(2), 4),
    ActionFormat(spaces.Box(-1, 1, (3,), np.float32), 2),
    ActionFormat(
        spaces.Dict({"a": spaces.MultiBinary(3), "b": spaces.Tuple([spaces.MultiDiscrete([9], dtype=np.uint8)])}), 2
    ),
    ActionFormat(spaces.Tuple([]), 1),
    ActionFormat(spaces.MultiDiscrete([[1, 2], [3, 4]]), 3),
]
SIDE_FORMATS = [
    ActionFormat(spaces.Text(3), 2),
    ActionFormat(spaces.Dict(a=spaces.Discrete(3), b=spaces.Sequence(spaces.Discrete(3), stack=True)), 2),
    ActionFormat(spaces.Tuple([spaces.Graph(spaces.Discrete(2), spaces.Box(0, 1)), spaces.OneOf([spaces.Text(3)])]), 2),
]
names = st.sampled_from(
    ["<f4", "<f8", "<i8", "|i1", "|b1", "<f2", "|O8", "O", "<M8[s]", "f4,f4", "(,)f4", "", ">i8", "\0"]
)


@fixed(500)
@given(
    st.sampled_from(FORMATS),
    broken(st.lists(names, max_size=3).map(msgspec.msgpack.encode) | st.just(b"")),
    st.integers(0, 9).map(lambda words: bytes(8 * words)) | st.binary(max_size=100),
)
def test_a_broken_step(fmt, ext, body):
    """Is refused, or is one array a leaf of the right shape that the checks can read."""
    arrays = _tried(fmt.decode, ext, body, errors=(MalformedMessage, InvalidAction))
    if arrays is not None:
        assert [array.shape[0] for array in arrays] == [fmt.num_envs] * fmt.leaf_count
        _tried(fmt.check, arrays, errors=(InvalidAction,))


@fixed(500)
@given(
    st.sampled_from(SIDE_FORMATS),
    broken(
        st.tuples(st.none() | st.lists(names, max_size=2), st.lists(values.map(pack), min_size=1, max_size=3)).map(
            lambda parts: pack(list(parts))
        )
    ),
    st.sampled_from([b"", bytes(16)]),
)
def test_a_broken_step_with_side_values(fmt, ext, body):
    """Likewise, and a tuple of a value a row for each leaf that travels aside."""
    parts = _tried(fmt.decode, ext, body, errors=(MalformedMessage, InvalidAction))
    if parts is not None:
        assert [len(part) for part in parts] == [fmt.num_envs] * (fmt.leaf_count + len(fmt.side))
        _tried(fmt.check, parts, errors=(InvalidAction,))


anything = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3).map(np.array),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=3), items, max_size=3),
    max_leaves=5,
)


@fixed(300)
@given(st.sampled_from(FORMATS + SIDE_FORMATS), anything)
def test_an_action_batch_of_anything(fmt, actions):
    """Is refused, or is a batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arrays = _tried(fmt.coerce, actions, errors=(InvalidAction,))
    if arrays is not None:
        _tried(fmt.check, arrays, errors=(InvalidAction,))


@fixed(60)
@given(action_spaces, st.integers(1, 3), anything)
def test_an_action_batch_of_anything_for_any_space(space, num_envs, actions):
    """Likewise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _tried(ActionFormat(space, num_envs).coerce, actions, errors=(InvalidAction,))


info_rows = st.lists(st.dictionaries(st.text(max_size=2), values, max_size=2), max_size=3).map(
    lambda infos: join(
        [encode_rows(list(enumerate(infos)), episodes={"rows": [0, 2], "r": [1.0, 2.0], "l": [3, 4], "t": [0.5, 1.0]})]
    )
)


@fixed(500)
@given(broken(info_rows | st.binary(max_size=40)))
def test_broken_infos(ext):
    """Are refused, or are merged."""
    envs = VectorEnv()
    envs.num_envs = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of odd assignments
        merged = _tried(merge, ext, 3, envs._add_info, errors=(MalformedMessage, EnvFault))
    assert merged is None or [type(part) for part in merged] == [dict, dict, list]
