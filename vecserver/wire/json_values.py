"""Values that environments decide, as JSON: for people and for languages without a client of their own.

JSON has no infinities, no NaN, no bytes and no objects: non-finite numbers become null, bytes base64 text, and what has
no other form its ``repr``. A graph is an object of its three arrays. Whoever needs the last bit steps over ZeroMQ.
"""

from __future__ import annotations

import base64
from functools import singledispatch
from typing import Any, Final

import numpy as np
import orjson
from gymnasium.spaces import GraphInstance

__all__ = ["to_json", "to_json_value"]

_NATIVE: Final = frozenset(
    np.dtype(name) for name in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
)
"""Dtypes that orjson writes from an array's memory, without a Python object an element."""

_JSON_INTEGERS: Final = range(-(2**63), 2**64)


@singledispatch
def to_json_value(value: Any) -> Any:
    """Turn any value into one that orjson can write.

    Args:
        value: What an environment gave: infos, observations, metadata, in dicts, lists, tuples and arrays.

    Returns:
        A new structure of dicts, lists, text, numbers, None and C-ordered numeric arrays.
    """
    return repr(value)


@to_json_value.register(bool)
@to_json_value.register(float)
@to_json_value.register(type(None))
def _as_it_is(value: Any) -> Any:
    return value


@to_json_value.register
def _of_int(value: int) -> Any:
    return value if value in _JSON_INTEGERS else str(value)


@to_json_value.register
def _of_text(value: str) -> str:
    # a lone surrogate is legal in a str and in no encoding of JSON
    return str(value) if value.isascii() else value.encode(errors="replace").decode()


@to_json_value.register
def _of_bytes(value: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(value).decode()


@to_json_value.register(dict)
def _of_dict(value: dict[Any, Any]) -> dict[str, Any]:
    return {_of_text(str(key)): to_json_value(item) for key, item in value.items()}


@to_json_value.register(list)
@to_json_value.register(tuple)
def _of_sequence(value: list[Any] | tuple[Any, ...]) -> list[Any]:
    return [to_json_value(item) for item in value]


@to_json_value.register
def _of_graph(value: GraphInstance) -> dict[str, Any]:
    return {name: to_json_value(part) for name, part in value._asdict().items()}


@to_json_value.register(np.ndarray)
def _of_array(value: np.ndarray[Any, Any]) -> Any:
    if value.ndim == 0:
        return to_json_value(value[()])
    if value.dtype in _NATIVE:
        return np.ascontiguousarray(value)
    return to_json_value(value.tolist())


@to_json_value.register
def _of_scalar(value: np.generic) -> Any:
    if value.dtype in _NATIVE:
        return value
    plain = value.item()
    return repr(value) if isinstance(plain, np.generic) else to_json_value(plain)


def to_json(value: Any) -> bytes:
    """Any value as the bytes of a JSON document."""
    return orjson.dumps(to_json_value(value), option=orjson.OPT_SERIALIZE_NUMPY)
