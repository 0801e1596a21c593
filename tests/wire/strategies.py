"""Random values, spaces, action batches and broken bytes for the tests of the wire."""

from __future__ import annotations

import inspect
import os
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from gymnasium import spaces
from hypothesis import HealthCheck, reject, settings
from hypothesis import strategies as st

from tests.environments import Words

INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
FLOATS = ("f2", "f4", "f8")
NUMBERS = ("?", *INTEGERS, *FLOATS)
TRAVELLING = (
    *(*NUMBERS, "F", "D", ">i4", ">f8", "S3", "U2", ">U2"),
    *("m8[ns]", "M8[s]", "M8[25D]", "<m8", ">M8[ms]"),
)
_TAKES_SORT_KEYS = "sort_keys" in inspect.signature(spaces.Dict.__init__).parameters


_ALL = os.environ.get("VECSERVER_TEST_EXAMPLES") == "all"
"""As ``make slow`` has it."""


def fixed(examples: int, **more: Any) -> settings:
    """Settings under which every run draws the same examples, however slow the machine is; a third of them by default."""
    if not _ALL:
        examples = max(20, examples // 3)
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=quiet, **more
    )


@contextmanager
def little_memory(limit: int) -> Iterator[None]:
    """Fails a block that takes more memory than ``limit`` bytes at once, numpy's arrays included."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak} bytes were taken, {limit} are fair"


def shapes(max_dims: int = 3, min_side: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(min_side, 3), max_size=max_dims).map(tuple)


@st.composite
def arrays(draw, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of random bits, in one of the memory orders that numpy knows."""
    dtype = np.dtype(dtype)
    count = prod(shape)
    if dtype.kind == "b":
        flat = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype)
    elif dtype.kind == "U":
        # null characters included, which numpy strips when it reads one out
        points = st.integers(0, 0x10FFFF)
        numbers = draw(st.lists(points, min_size=count * dtype.itemsize // 4, max_size=count * dtype.itemsize // 4))
        flat = np.array(numbers, f"{dtype.byteorder}u4").view(dtype)
    else:
        size = count * dtype.itemsize
        flat = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype)
    array = flat.reshape(shape)
    match draw(st.sampled_from(("C", "F", "strided"))):
        case "F":
            return np.asfortranarray(array)
        case "strided":
            return np.repeat(array[..., None], 2, axis=-1)[..., 0]
    return array


any_arrays = st.tuples(st.sampled_from(TRAVELLING), shapes()).flatmap(lambda pair: arrays(*pair))
scalars = st.one_of(
    st.sampled_from(TRAVELLING).flatmap(lambda dtype: arrays(dtype, (1,))).map(lambda array: array[0]),
    st.text(st.characters()).map(np.str_),
    st.binary().map(np.bytes_),
)
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**80), 2**80),
    st.sampled_from([-(2**63) - 1, -(2**63), 2**63 - 1, 2**63, 2**64 - 1, 2**64]),
    st.binary(min_size=8, max_size=8).map(lambda bits: struct.unpack("<d", bits)[0]),
    st.sampled_from([0.0, -0.0, float("inf"), float("-inf")]),
    st.text(),
    st.binary(),
    scalars,
    any_arrays,
)
graphs = st.builds(spaces.GraphInstance, any_arrays, st.none() | any_arrays, st.none() | any_arrays)
hashables = st.one_of(
    st.text(), st.integers(-(2**70), 2**70), st.booleans(), st.none(), st.binary(), st.tuples(st.integers(), st.text())
)


@st.composite
def object_arrays(draw, items: st.SearchStrategy[Any]) -> np.ndarray:
    shape = draw(shapes(2))
    array = np.empty(prod(shape), dtype=object)
    for i in range(len(array)):
        array[i] = draw(items)
    return array.reshape(shape)


values = st.recursive(
    atoms | graphs,
    lambda items: st.one_of(
        st.lists(items, max_size=4),
        st.lists(items, max_size=4).map(tuple),
        st.dictionaries(st.text(), items, max_size=4),
        st.dictionaries(hashables, items, max_size=4),
        object_arrays(items),
    ),
    max_leaves=8,
)


@st.composite
def _bounds(draw, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    if dtype.kind == "b":
        numbers: st.SearchStrategy[Any] = st.booleans()
    elif dtype.kind == "f":
        numbers = st.floats(width=8 * dtype.itemsize, allow_nan=False) | st.sampled_from([-np.inf, np.inf, 0.0, -0.0])
    else:
        numbers = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    count = prod(shape)
    if draw(st.booleans()):
        pairs = [draw(st.tuples(numbers, numbers))] * count
    else:
        pairs = draw(st.lists(st.tuples(numbers, numbers), min_size=count, max_size=count))
    low, high = (np.array([pick(pair) for pair in pairs], dtype).reshape(shape) for pick in (min, max))
    return low, high


@st.composite
def boxes(draw, dtypes: tuple[str, ...] = NUMBERS, min_side: int = 0) -> spaces.Box:
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    low, high = draw(_bounds(dtype, draw(shapes(3, min_side))))
    return spaces.Box(low, high, dtype=dtype)


DISCRETE_HAS_DTYPE = "dtype" in inspect.signature(spaces.Discrete).parameters
"""Gymnasium 1.1 has int64 only."""


@st.composite
def discretes(draw) -> spaces.Discrete:
    dtype = np.dtype(draw(st.sampled_from(INTEGERS if DISCRETE_HAS_DTYPE else ["<i8"])))
    info = np.iinfo(dtype)
    n = draw(st.integers(1, int(info.max)))
    start = draw(st.integers(int(info.min), int(info.max) - n + 1))
    return spaces.Discrete(n, start=start, **({"dtype": dtype} if DISCRETE_HAS_DTYPE else {}))


@st.composite
def multi_discretes(draw, min_side: int = 1) -> spaces.MultiDiscrete:
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    info = np.iinfo(dtype)
    shape = draw(shapes(3, min_side))
    count = prod(shape)
    nvec = draw(st.lists(st.integers(1, int(info.max)), min_size=count, max_size=count))
    start = [draw(st.integers(int(info.min), int(info.max) - n + 1)) for n in nvec]
    return spaces.MultiDiscrete(
        np.array(nvec, dtype).reshape(shape), dtype=dtype, start=np.array(start, dtype).reshape(shape)
    )


multi_binaries = st.one_of(
    st.integers(1, 9).map(spaces.MultiBinary), st.lists(st.integers(1, 3), max_size=3).map(spaces.MultiBinary)
)


@st.composite
def _dicts(draw, children: st.SearchStrategy[spaces.Space]) -> spaces.Dict:
    keys = draw(st.sampled_from([st.text(max_size=4), st.integers(-3, 300), st.text(max_size=2) | st.integers(0, 3)]))
    parts = draw(st.dictionaries(keys, children, max_size=4))
    if _TAKES_SORT_KEYS:
        return spaces.Dict(parts, sort_keys=draw(st.booleans()))
    return spaces.Dict(parts)


def nested(leaves: st.SearchStrategy[spaces.Space]) -> st.SearchStrategy[spaces.Space]:
    return st.recursive(
        leaves,
        lambda children: _dicts(children) | st.lists(children, max_size=4).map(spaces.Tuple),
        max_leaves=5,
    )


_row_leaves = st.one_of(boxes((*NUMBERS, ">f4", ">i2")), discretes(), multi_discretes(), multi_binaries)
_action_leaves = st.one_of(boxes(), discretes(), multi_discretes(), multi_binaries)

row_spaces = nested(_row_leaves)
"""Every space whose observations have a fixed size."""

action_spaces = nested(_action_leaves)
"""Every space whose actions have a fixed size."""


@st.composite
def texts(draw) -> spaces.Text:
    characters = draw(st.lists(st.characters(exclude_categories=()), min_size=1, max_size=6, unique=True))
    shortest = draw(st.integers(0, 3))
    return spaces.Text(shortest + draw(st.integers(1, 5)), min_length=shortest, charset="".join(characters))


@st.composite
def node_graphs(draw) -> spaces.Graph:
    parts = boxes(("f2", "f4", "f8", "u1")) | discretes()
    return spaces.Graph(draw(parts), draw(st.none() | parts))


def _side_leaves(children: st.SearchStrategy[spaces.Space]) -> st.SearchStrategy[spaces.Space]:
    return st.one_of(
        texts(),
        node_graphs(),
        st.builds(Words, st.integers(0, 5)),
        st.builds(spaces.Sequence, children, stack=st.booleans()),
        st.lists(children, min_size=1, max_size=3).map(spaces.OneOf),
    )


side_leaves = _side_leaves(nested(_action_leaves | texts()))
"""Spaces whose values have no fixed size."""

every_space = nested(_action_leaves | side_leaves)
"""Spaces with leaves of both kinds, wherever a leaf may be."""


def sampled(space: spaces.Space) -> Any:
    """A sample; spaces that numpy cannot draw from, Boxes as wide as 64 bits, are not looked at."""
    try:
        return space.sample()
    except (OverflowError, ValueError):
        reject()


def encodable(space: spaces.Space) -> bool:
    """Whether all that a space holds can travel: not where a text may have lone surrogates."""
    match space:
        case spaces.Text():
            return not any(0xD800 <= ord(character) < 0xE000 for character in space.character_list)
        case spaces.Dict():
            return all(map(encodable, space.spaces.values()))
        case spaces.Tuple() | spaces.OneOf():
            return all(map(encodable, space.spaces))
        case spaces.Sequence():
            return encodable(space.feature_space)
    return True


@st.composite
def broken(draw, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were right before somebody changed, cut, doubled or inserted some; or were never right."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("change", "cut", "insert", "drop", "double"))):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=6))
            case "drop":
                del data[at : at + draw(st.integers(1, 4))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 16))]
    return bytes(data)
