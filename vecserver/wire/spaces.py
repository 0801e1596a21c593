"""Gymnasium spaces ↔ JSON values.

Bounds travel as raw bytes (base64), so infinities and the last bit survive; where one number bounds a whole Box it is
sent once. Random generators are not sent: a decoded space samples from a seed of its own.
"""

from __future__ import annotations

import base64
from functools import singledispatch
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium import spaces

from vecserver.wire.codec import numeric_dtype
from vecserver.wire.errors import MalformedMessage, UnsupportedSpace

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["space_from_json", "space_to_json"]

_MAX_UNIFORM: Final = 1 << 28
"""256 MiB: above the bounds of any sane row, below what one line of JSON may make the reader allocate."""

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
        UnsupportedSpace: The space, or one inside it, has no fixed size.
    """
    raise UnsupportedSpace(
        f"{space} is a {type(space).__name__}: pools take Box, Discrete, MultiDiscrete, MultiBinary, and Dict and "
        "Tuple of these; wrap the environment so that its space is one of them"
    )


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
    return spaces.MultiBinary(data["n"])


def _dict_from_json(data: Json) -> spaces.Space[Any]:
    # A list of pairs keeps the order of keys, which decides the order of leaves
    space = spaces.Dict({})
    space.sort_keys = data["sort_keys"]
    space.spaces = {key: space_from_json(child) for key, child in data["spaces"]}
    return space


def _tuple_from_json(data: Json) -> spaces.Space[Any]:
    return spaces.Tuple([space_from_json(child) for child in data["spaces"]])


_FROM_JSON: dict[str, Callable[[Json], spaces.Space[Any]]] = {
    "Box": _box_from_json,
    "Discrete": _discrete_from_json,
    "MultiDiscrete": _multi_discrete_from_json,
    "MultiBinary": _multi_binary_from_json,
    "Dict": _dict_from_json,
    "Tuple": _tuple_from_json,
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
