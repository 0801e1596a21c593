"""Gymnasium spaces ↔ JSON values.

Bounds travel as raw bytes (base64), so infinities and the last bit survive; where one number bounds a whole Box it is
sent once. Random generators are not sent: a decoded space samples from a seed of its own.

A space of a class that is not Gymnasium's own cannot be built from a description without running code that the peer
names. What arrives in its place is an ``OpaqueSpace``.
"""

from __future__ import annotations

import base64
import re
from functools import singledispatch
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import is_space_dtype_shape_equiv

from vecserver.wire.codec import numeric_dtype
from vecserver.wire.errors import InvalidSpec, MalformedMessage, UnsupportedSpace
from vecserver.wire.opaque import OpaqueSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["refuse_differing", "space_from_json", "space_to_json"]

_MAX_UNIFORM: Final = 1 << 28
"""256 MiB: above the bounds of any sane row, below what one line of JSON may make the reader allocate."""

_MAX_REPR: Final = 1000
"""Characters of a custom space's own description: enough to recognise it, whatever it prints."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
"""Where Python prints an object's address: it differs from process to process, and says nothing."""

Json = dict[str, Any]


def _encode_array(array: np.ndarray[Any, Any]) -> Json:
    """Encode an array; one whose elements are all the same bits is sent as one element."""
    first = array.ravel()[:1]
    uniform = array.size > 1 and np.tile(first, array.size).tobytes() == array.tobytes()
    data = first if uniform else array
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "uniform": uniform,
        "bytes": base64.b64encode(data.tobytes()).decode(),
    }


def _decode_array(data: Json) -> np.ndarray[Any, Any]:
    dtype, shape = numeric_dtype(data["dtype"]), tuple(data["shape"])
    flat = np.frombuffer(base64.b64decode(data["bytes"], validate=True), dtype)
    if not data["uniform"]:
        return flat.reshape(shape).copy()
    if prod(shape) * dtype.itemsize > _MAX_UNIFORM:
        raise MalformedMessage(f"an array of more than {_MAX_UNIFORM} bytes is not one repeated number")
    return np.full(shape, flat[0], dtype)


@singledispatch
def space_to_json(space: spaces.Space[Any]) -> Json:
    """Describe a space as a JSON value.

    Args:
        space: A space of one row.

    Raises:
        UnsupportedSpace: It is no space, or one inside it is a Box of long doubles or a Dict with odd keys.
    """
    if not isinstance(space, spaces.Space):
        raise UnsupportedSpace(f"{space!r:.200} is a {type(space).__name__}, and no space of Gymnasium")
    text = _ADDRESS.sub("", repr(space))[:_MAX_REPR].encode("utf-8", "replace").decode()
    name = f"{type(space).__module__}.{type(space).__qualname__}"
    return _custom_to_json(OpaqueSpace(name, space.shape, _travelling_dtype(space.dtype), text))


def _travelling_dtype(dtype: Any) -> np.dtype[Any] | None:
    try:
        return None if dtype is None else numeric_dtype(np.dtype(dtype).str)
    except (TypeError, MalformedMessage):  # a custom space may call anything its dtype
        return None


@space_to_json.register
def _custom_to_json(space: OpaqueSpace) -> Json:
    return {
        "type": "Custom",
        "name": space.name,
        "shape": None if space.shape is None else [int(n) for n in space.shape],
        "dtype": None if space.dtype is None else space.dtype.str,
        "repr": space.text,
    }


@space_to_json.register
def _box_to_json(space: spaces.Box) -> Json:
    if space.dtype.itemsize > 8:
        raise UnsupportedSpace(f"{space} has dtype {space.dtype}, whose bits differ between machines: use float64")
    return {
        "type": "Box",
        "dtype": space.dtype.str,
        "low": _encode_array(space.low),
        "high": _encode_array(space.high),
    }


@space_to_json.register
def _discrete_to_json(space: spaces.Discrete) -> Json:
    return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": np.dtype(space.dtype).str}


@space_to_json.register
def _multi_discrete_to_json(space: spaces.MultiDiscrete) -> Json:
    return {
        "type": "MultiDiscrete",
        "dtype": np.dtype(space.dtype).str,
        "nvec": _encode_array(space.nvec),
        "start": _encode_array(space.start),
    }


@space_to_json.register
def _multi_binary_to_json(space: spaces.MultiBinary) -> Json:
    return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}


@space_to_json.register
def _dict_to_json(space: spaces.Dict) -> Json:
    for key in space.spaces:
        if type(key) not in (str, int):
            raise UnsupportedSpace(f"the key {key!r} of {space} cannot travel: keys of a Dict are text or integers")
    return {
        "type": "Dict",
        "sort_keys": getattr(space, "sort_keys", True),  # gymnasium before 1.4 always sorts
        "spaces": [[key, space_to_json(child)] for key, child in space.spaces.items()],
    }


@space_to_json.register(spaces.Tuple)
def _tuple_to_json(space: spaces.Tuple[Any]) -> Json:
    return {"type": "Tuple", "spaces": [space_to_json(child) for child in space.spaces]}


@space_to_json.register
def _text_to_json(space: spaces.Text) -> Json:
    return {
        "type": "Text",
        "min_length": space.min_length,
        "max_length": space.max_length,
        # numbers: a set of characters may hold some that are in no encoding, and its order decides what is sampled
        "charset": [ord(character) for character in space.character_list],
    }


@space_to_json.register(spaces.Sequence)
def _sequence_to_json(space: spaces.Sequence) -> Json:
    return {"type": "Sequence", "space": space_to_json(space.feature_space), "stack": bool(space.stack)}


@space_to_json.register(spaces.OneOf)
def _one_of_to_json(space: spaces.OneOf[Any]) -> Json:
    return {"type": "OneOf", "spaces": [space_to_json(child) for child in space.spaces]}


@space_to_json.register
def _graph_to_json(space: spaces.Graph) -> Json:
    return {
        "type": "Graph",
        "node_space": space_to_json(space.node_space),
        "edge_space": None if space.edge_space is None else space_to_json(space.edge_space),
    }


def _box_from_json(data: Json) -> spaces.Space[Any]:
    low, high = _decode_array(data["low"]), _decode_array(data["high"])
    return spaces.Box(low, high, low.shape, dtype=numeric_dtype(data["dtype"]))


def _discrete_from_json(data: Json) -> spaces.Space[Any]:
    dtype: Any = numeric_dtype(data["dtype"])
    if dtype == np.int64:  # gymnasium before 1.2 has no dtype argument
        return spaces.Discrete(data["n"], start=data["start"])
    return spaces.Discrete(data["n"], start=data["start"], dtype=dtype)


def _multi_discrete_from_json(data: Json) -> spaces.Space[Any]:
    return spaces.MultiDiscrete(
        _decode_array(data["nvec"]), dtype=numeric_dtype(data["dtype"]), start=_decode_array(data["start"])
    )


def _multi_binary_from_json(data: Json) -> spaces.Space[Any]:
    if not isinstance(data["n"], int | list):  # gymnasium 1.1 takes any number
        raise TypeError(f"n is {data['n']!r}")
    return spaces.MultiBinary(data["n"])


def _dict_from_json(data: Json) -> spaces.Space[Any]:
    # A list of pairs keeps the order of keys, which decides the order of leaves
    space = spaces.Dict({})
    space.sort_keys = data["sort_keys"]
    space.spaces = {key: space_from_json(child) for key, child in data["spaces"]}
    return space


def _tuple_from_json(data: Json) -> spaces.Space[Any]:
    return spaces.Tuple([space_from_json(child) for child in data["spaces"]])


def _text_from_json(data: Json) -> spaces.Space[Any]:
    return spaces.Text(data["max_length"], min_length=data["min_length"], charset="".join(map(chr, data["charset"])))


def _sequence_from_json(data: Json) -> spaces.Space[Any]:
    return spaces.Sequence(space_from_json(data["space"]), stack=_checked(data["stack"], bool))


def _one_of_from_json(data: Json) -> spaces.Space[Any]:
    return spaces.OneOf([space_from_json(child) for child in data["spaces"]])


def _graph_from_json(data: Json) -> spaces.Space[Any]:
    edges = data["edge_space"]
    return spaces.Graph(space_from_json(data["node_space"]), None if edges is None else space_from_json(edges))


def _custom_from_json(data: Json) -> spaces.Space[Any]:
    shape, dtype = data["shape"], data["dtype"]
    return OpaqueSpace(
        _checked(data["name"], str),
        None if shape is None else tuple(_checked(n, int) for n in shape),
        None if dtype is None else numeric_dtype(dtype),
        _checked(data["repr"], str),
    )


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


_FROM_JSON: dict[str, Callable[[Json], spaces.Space[Any]]] = {
    "Box": _box_from_json,
    "Discrete": _discrete_from_json,
    "MultiDiscrete": _multi_discrete_from_json,
    "MultiBinary": _multi_binary_from_json,
    "Dict": _dict_from_json,
    "Tuple": _tuple_from_json,
    "Text": _text_from_json,
    "Sequence": _sequence_from_json,
    "OneOf": _one_of_from_json,
    "Graph": _graph_from_json,
    "Custom": _custom_from_json,
}


def space_from_json(data: Json) -> spaces.Space[Any]:
    """Build the space that ``space_to_json`` described.

    Raises:
        MalformedMessage: The value describes no space.
    """
    try:
        return _FROM_JSON[data["type"]](data)
    except (LookupError, TypeError, ValueError, AssertionError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"not the description of a space: {error!r}") from None


def refuse_differing(rows: Sequence[spaces.Space[Any]]) -> None:
    """Make sure that the observation spaces of rows differ in their bounds only.

    Raises:
        InvalidSpec: Names the first row whose space has another type, shape or dtype than row 0's, or holds a custom
            space, which Gymnasium does not batch in this way.
    """
    for row, space in enumerate(rows):
        try:
            alike = is_space_dtype_shape_equiv(rows[0], space)
        except NotImplementedError:  # a custom space: Gymnasium cannot tell
            alike = False
        if not alike:
            raise InvalidSpec(
                f"the observation space of row {row} is {space!s:.200}, that of row 0 is {rows[0]!s:.200}: with "
                "observation_mode 'different' rows may differ in their bounds, not in type, shape or dtype, and have "
                "spaces of Gymnasium's own",
                field="observation_mode",
                row=row,
            )
