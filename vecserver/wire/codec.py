"""Values of infos, calls and options ↔ msgpack, so that what comes out has the types that went in.

msgpack alone turns tuples into lists and knows no numpy. Here arrays, numpy scalars, tuples, big integers and mappings
with keys that are no strings travel as extension types; everything else is refused with ``Unportable`` (or dropped and
counted, for infos, which must never fail a step). No pickle, in any direction.

::

    ext type 1   array          [dtype.str, shape, C-order bytes]
    ext type 2   numpy scalar   [dtype.str, bytes]
    ext type 3   tuple          [items …]
    ext type 4   object array   [shape, items …]
    ext type 5   integer beyond 64 bits: two's complement, little-endian
    ext type 6   mapping with other keys than text: [[key, value], …]
    ext type 7   graph instance [nodes, edges, edge_links]

Where both ends are one program, ``FOREIGN`` says what to do with everything else: see there.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from gymnasium.spaces import GraphInstance

from vecserver.wire.errors import MalformedMessage, Unportable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FOREIGN", "MAX_DEPTH", "Foreign", "numeric_dtype", "pack", "portable", "spend", "spending", "unpack"]

MAX_DEPTH: Final = 32
"""Nesting that a value may have; deeper ones are refused before they exhaust the decoder's stack."""

_FEW: Final = 16
_SHALLOW: Final = 5
"""A value whose containers are no larger and no deeper needs no counting: it has a million items at most."""

_SMALL: Final = 4096
"""Bytes of a text or an array that are not counted either."""

_ITEM_BYTES: Final = 16
"""What an item of a container counts for, whatever it is."""

_ARRAY, _SCALAR, _TUPLE, _OBJECTS, _BIGINT, _MAP, _GRAPH = range(1, 8)
_FOREIGN: Final = 127
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1
_DTYPE_NAME: Final = re.compile(
    r"[<>|](b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,10})|[<>][mM]8(\[[0-9]{0,9}[A-Za-z]+\])?"
)
"""The ``dtype.str`` that may travel. ``np.dtype`` itself would parse a language of structures and aliases, and a long
double is not the same bits on every machine."""
_MAX_CODE_POINT: Final = 0x10FFFF
_Ext = msgspec.msgpack.Ext
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Foreign:
    """How values travel that have no encoding here.

    Attributes:
        dump: Encodes a value, given what to call it; raises Unportable.
        load: Decodes it again; None where nothing is to be decoded.
    """

    dump: Callable[[Any, str], bytes]
    load: Callable[[memoryview], Any] | None


FOREIGN: ContextVar[Foreign | None] = ContextVar("foreign", default=None)
"""Set only between a program and the workers that it started itself, by ``vecserver.engine.pickled``. Not a part of the
protocol: where it is None, as in every server and towards every server, the extension type it uses is unknown."""


class _Purse:
    """What the values that are being encoded may still come to, in bytes."""

    __slots__ = ("left",)

    def __init__(self, limit: float) -> None:
        self.left = limit


_PURSE: Final[ContextVar[_Purse | None]] = ContextVar("purse", default=None)


@contextmanager
def spending(limit: float) -> Iterator[None]:
    """Around the encoding of values that may come to about so many bytes; any more are refused with Unportable.

    It is counted while they are looked at and not afterwards: a few lists that hold each other ten times a level are
    small where they come from, and more than a memory holds when they are written out.
    """
    token = _PURSE.set(_Purse(limit))
    try:
        yield
    finally:
        _PURSE.reset(token)


def spend(size: int, path: str) -> None:
    """Count so many bytes, within ``spending``.

    Raises:
        Unportable: They are too many.
    """
    purse = _PURSE.get()
    if purse is None:
        return
    purse.left -= size
    if purse.left < 0:
        raise Unportable(f"{path} is too large, or what comes before it")


def pack(value: Any) -> bytes:
    """Encode a value.

    Raises:
        Unportable: The value, or something inside it, is none of the types that can travel.
    """
    return _encode(portable(value))


def portable(value: Any, path: str = "value", depth: int = 0) -> Any:
    """Turn a value into one that msgpack encodes without loss.

    Args:
        value: Any value.
        path: Where it stands, for the error's text.
        depth: How deep it is nested already.

    Raises:
        Unportable: The value, or something inside it, is none of the types that can travel.
    """
    convert = _CONVERTERS.get(type(value))
    if convert is not None:
        if depth > MAX_DEPTH:
            raise Unportable(f"{path} is nested deeper than {MAX_DEPTH} levels")
        return convert(value, path, depth)
    if isinstance(value, np.generic):
        return _scalar(value, path)
    return _other(
        value,
        path,
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which cannot travel: use numbers, text, "
        "bytes, numpy arrays, lists, tuples and dicts",
    )


def _other(value: Any, path: str, why: str) -> Any:
    foreign = FOREIGN.get()
    if foreign is None:
        raise Unportable(why)
    return _Ext(_FOREIGN, foreign.dump(value, path))


def _same(value: Any, _path: str, _depth: int) -> Any:
    return value


def _bytes(value: bytes, path: str, _depth: int) -> Any:
    if len(value) > _SMALL:
        spend(len(value), path)
    return value


def _int(value: int, path: str, _depth: int) -> Any:
    if _INT64_MIN <= value <= _UINT64_MAX:
        return value
    spend(value.bit_length() // 8, path)
    return _Ext(_BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


def _text(value: str, path: str, _depth: int) -> Any:
    if len(value) > _SMALL:
        spend(len(value), path)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unportable(f"{path} has a lone surrogate in its text, which cannot travel: {value!a:.80}") from None
    return value


def _dict(value: dict[Any, Any], path: str, depth: int) -> Any:
    if len(value) > _FEW or depth > _SHALLOW:
        spend(_ITEM_BYTES * len(value), path)
    if all(type(key) is str for key in value):
        return {_text(key, path, depth): portable(item, f"{path}[{key!r}]", depth + 1) for key, item in value.items()}
    pairs = [
        [portable(key, f"key {i} of {path}", depth + 1), portable(item, f"item {i} of {path}", depth + 1)]
        for i, (key, item) in enumerate(value.items())
    ]
    return _Ext(_MAP, _encode(pairs))


def _items(value: Any, path: str, depth: int) -> list[Any]:
    if len(value) > _FEW or depth > _SHALLOW:
        spend(_ITEM_BYTES * len(value), path)
    return [portable(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]


def _tuple(value: tuple[Any, ...], path: str, depth: int) -> Any:
    return _Ext(_TUPLE, _encode(_items(value, path, depth)))


def _graph(value: GraphInstance, path: str, depth: int) -> Any:
    return _Ext(_GRAPH, _encode(_items(value, path, depth)))


def _array(value: np.ndarray[Any, Any], path: str, depth: int) -> Any:
    name = value.dtype.str
    if value.nbytes > _SMALL:
        spend(value.nbytes, path)
    if _DTYPE_NAME.fullmatch(name) and value.dtype.itemsize:
        return _Ext(_ARRAY, _encode([name, value.shape, value.tobytes()]))
    if value.dtype == object:
        return _Ext(_OBJECTS, _encode([value.shape, _items(value.ravel().tolist(), path, depth)]))
    return _other(value, path, f"{path} is an array of dtype {value.dtype}, which cannot travel")


def _scalar(value: np.generic, path: str) -> Any:
    name = value.dtype.str
    if value.dtype.itemsize > _SMALL:
        spend(value.dtype.itemsize, path)
    if _DTYPE_NAME.fullmatch(name):
        # sliced: numpy gives an empty text bytes that its dtype does not have
        return _Ext(_SCALAR, _encode([name, value.tobytes()[: value.dtype.itemsize]]))
    return _other(value, path, f"{path} is a numpy scalar of dtype {value.dtype}, which cannot travel")


_CONVERTERS: Final[dict[type, Callable[[Any, str, int], Any]]] = {
    type(None): _same,
    bool: _same,
    float: _same,
    str: _text,
    bytes: _bytes,
    int: _int,
    dict: _dict,
    list: _items,
    tuple: _tuple,
    GraphInstance: _graph,
    np.ndarray: _array,
}


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Decode what ``pack`` encoded. Arrays are writable and own their memory.

    Raises:
        MalformedMessage: The bytes are no encoding of a value.
    """
    try:
        return _Decoder().decode(data)
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError, IndexError, OverflowError) as error:
        raise MalformedMessage(f"undecodable value: {error}") from None


class _Decoder:
    """One decoding; counts the nesting of extension types, which msgspec's own limit does not see."""

    def __init__(self) -> None:
        self._depth = 0

    def decode(self, data: bytes | bytearray | memoryview) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH + 2:  # the message itself, and MAX_DEPTH + 1 values inside one another
            raise MalformedMessage(f"a value nested deeper than {MAX_DEPTH} levels")
        value = msgspec.msgpack.decode(data, ext_hook=self._extension)
        self._depth -= 1
        return value

    def _extension(self, code: int, data: memoryview) -> Any:
        if code == _BIGINT:
            return int.from_bytes(data, "little", signed=True)
        if code == _FOREIGN and (foreign := FOREIGN.get()) is not None and foreign.load is not None:
            return foreign.load(data)
        builder = _BUILDERS.get(code)
        if builder is None:
            raise MalformedMessage(f"unknown extension type {code}")
        return builder(self.decode(data))


def numeric_dtype(name: Any) -> np.dtype[Any]:
    """The dtype whose ``dtype.str`` is ``name``: numbers, text, bytes and times; no objects, structures or aliases.

    Raises:
        MalformedMessage: It names none of these.
    """
    with suppress(TypeError, ValueError):
        if _DTYPE_NAME.fullmatch(name):
            dtype: np.dtype[Any] = np.dtype(name)
            return dtype
    raise MalformedMessage(f"dtype {name!r:.80} is not taken")


def _build_array(parts: list[Any]) -> np.ndarray[Any, Any]:
    name, shape, data = parts
    dtype = numeric_dtype(name)
    if not dtype.itemsize:
        raise MalformedMessage(f"an array of dtype {name}, whose elements have no bytes, could claim any shape")
    _check_bytes(data)
    _check_size(shape, len(data), dtype.itemsize)
    # bytearray: the caller may write into what it received
    array = np.frombuffer(bytearray(data), dtype).reshape(shape)
    if dtype.kind == "U" and (array.reshape(-1).view(f"{name[0]}u4") > _MAX_CODE_POINT).any():
        raise MalformedMessage("an array of text holds numbers that are no characters")
    return array


def _build_scalar(parts: list[Any]) -> Any:
    name, data = parts
    dtype = numeric_dtype(name)
    _check_bytes(data)
    _check_size([], len(data), dtype.itemsize)
    # numpy strips trailing zeros from text and bytes that it reads out of a buffer
    if dtype.kind == "U":
        return np.str_(data.decode("utf-32-be" if name[0] == ">" else "utf-32-le", "surrogatepass"))
    return np.bytes_(data) if dtype.kind == "S" else np.frombuffer(data, dtype)[0]


def _build_objects(parts: list[Any]) -> np.ndarray[Any, Any]:
    shape, items = parts
    _check_size(shape, len(items), 1)
    flat = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        flat[i] = item
    return flat.reshape(shape)


def _check_bytes(data: Any) -> None:
    if not isinstance(data, bytes):
        raise MalformedMessage(f"the elements of an array are bytes, not {type(data).__name__}")


def _check_size(shape: Any, length: int, itemsize: int) -> None:
    if any(type(n) is not int or n < 0 for n in shape) or prod(shape) * itemsize != length:
        raise MalformedMessage(f"an array of shape {shape!r:.80} cannot have {length} bytes, {itemsize} an element")


_BUILDERS: Final[dict[int, Callable[[Any], Any]]] = {
    _ARRAY: _build_array,
    _SCALAR: _build_scalar,
    _TUPLE: tuple,
    _OBJECTS: _build_objects,
    _MAP: dict,
    _GRAPH: lambda parts: GraphInstance(*parts),
}
