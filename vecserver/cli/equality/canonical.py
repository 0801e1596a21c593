"""One canonical form of what a vector environment returns: bytes that are equal exactly when two values are.

Equal means equal to the bit and to the type: dtypes and shapes count, ``0.0`` is not ``-0.0``, a NaN equals a NaN of
the same bits, a tuple is no list, ``1`` is neither ``True`` nor ``np.int64(1)``. The order of a dict's keys does not
count, nor which kind of mapping it is. Objects of types that are not known here are equal when their types are: their
memory address, which is all that many of them show, says nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["Mismatch", "Path", "encode", "fingerprints", "first_mismatch", "path_text", "without"]

Path = tuple[str | int, ...]
"""Where a part of a value stands: text for a key of a mapping, a number for an index."""

_MAX_DEPTH: Final = 64
"""Nesting beyond which a value is compared by its type only; it may hold itself."""

_SHOWN: Final = 96
"""Characters of a value in a message."""

_ROW_DIGEST_BYTES: Final = 8

_PLAIN: Final[tuple[type, ...]] = (bool, int, float, complex, str, bytes)

_Node = tuple[Path, bytes, Any]
"""A part of a value: its path, what it is in bytes (an array's elements not included), and itself."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first place at which two values differ, and what stands there, shortened."""

    path: Path
    got: str
    expected: str


def encode(value: Any) -> bytes:
    """The canonical form of a value."""
    return b"".join(_framed(head, part) for _, head, part in _walk(value, (), 0))


def fingerprints(value: Any) -> dict[Path, str]:
    """A digest of each part of a value, of an array one a row: small enough to keep for every step of a run."""
    found = {}
    for path, head, part in _walk(value, (), 0):
        found[path] = _short_digest(head if _is_array(part) and part.ndim else _framed(head, part))
        if _is_array(part) and part.ndim:
            found.update({(*path, row): _short_digest(part[row].tobytes()) for row in range(len(part))})
    return found


def first_mismatch(got: Any, expected: Any) -> Mismatch | None:
    """Find the first place, in a fixed order, at which a value is not what was expected; None when it is."""
    # as long as all heads are equal both walks are at the same path, and they end together
    for left, right in zip(_walk(got, (), 0), _walk(expected, (), 0), strict=True):
        if left[1] != right[1]:
            return _differing_heads(left, right)
        if _is_array(right[2]) and left[2].tobytes() != right[2].tobytes():
            return _differing_elements(left, right)
    return None


def without(infos: Mapping[str, Any], dropped: Collection[str]) -> dict[str, Any]:
    """Leave out the infos that could not travel, with their masks.

    Args:
        infos: Merged infos.
        dropped: Paths of those to leave out, keys joined by dots, as in ``RemoteVectorEnv.dropped_infos``.
    """
    return _kept(infos, "", frozenset(dropped))


def _kept(infos: Mapping[str, Any], prefix: str, dropped: frozenset[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in infos.items():
        # as the pool names it: text that is no UTF-8 cannot travel, not even in the name of what does not travel
        paths = [f"{prefix}{name}".encode("utf-8", "replace").decode() for name in (key, str(key).removeprefix("_"))]
        if dropped.isdisjoint(paths):
            kept[key] = _kept(value, f"{prefix}{key}.", dropped) if isinstance(value, Mapping) else value
    return kept


def path_text(path: Path) -> str:
    """A path as it stands in a message."""
    return "".join(f"[{part!r}]" for part in path)


def _walk(value: Any, path: Path, depth: int) -> Iterator[_Node]:
    """Every part of a value in a fixed order, each before its own parts."""
    if depth > _MAX_DEPTH:
        yield path, _named(b"deep", value), value
    elif isinstance(value, np.generic):
        yield path, b"scalar %b %b" % (_dtype_name(value.dtype), value.tobytes()), value
    elif isinstance(value, np.ndarray):
        yield from _walk_array(value, path, depth)
    elif isinstance(value, Mapping):
        yield from _walk_mapping(value, path, depth)
    elif isinstance(value, tuple | list):
        # the name of the type: a named tuple is not the tuple of its fields
        yield path, _named(b"sequence", value) + b" %d" % len(value), value
        for index, item in enumerate(value):
            yield from _walk(item, (*path, index), depth + 1)
    elif isinstance(value, set | frozenset):
        digests = sorted(blake2b(encode(item)).digest() for item in value)
        yield path, _named(b"set", value) + b"".join(digests), value
    else:
        yield path, _head(value), value


def _walk_array(value: np.ndarray[Any, Any], path: Path, depth: int) -> Iterator[_Node]:
    shape = repr(value.shape).encode()
    if not value.dtype.hasobject:
        yield path, b"array %b %b" % (_dtype_name(value.dtype), shape), np.ascontiguousarray(value).reshape(value.shape)
        return
    objects = value.astype(object)  # an array of text of any length, or of structures with objects, becomes one too
    yield path, b"objects %b %b" % (_dtype_name(value.dtype), shape), objects
    for index in np.ndindex(value.shape):
        # the one element of an array without dimensions has a path of its own, too
        yield from _walk(objects[index], (*path, *(index or ("()",))), depth + 1)


def _walk_mapping(value: Mapping[Any, Any], path: Path, depth: int) -> Iterator[_Node]:
    items = sorted(((encode(key), key) for key in value), key=lambda pair: pair[0])
    yield path, b"mapping" + b"".join(b" %d %b" % (len(name), name) for name, _ in items), value
    for _, key in items:
        yield from _walk(value[key], (*path, _component(key)), depth + 1)


def _head(value: Any) -> bytes:
    for kind in _PLAIN:
        if isinstance(value, kind):
            return _named(b"plain", value) + b" " + _content(kind(value))
    return _named(b"object", value)


def _content(value: Any) -> bytes:
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, complex):
        return struct.pack("<dd", value.real, value.imag)
    if isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogatepass")


def _named(kind: bytes, value: Any) -> bytes:
    return kind + b" " + _type_name(value).encode()


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _dtype_name(dtype: np.dtype[Any]) -> bytes:
    return (repr(dtype) if dtype.names else dtype.str).encode()


def _component(key: Any) -> str:
    return key if type(key) is str else repr(key)


def _is_array(part: Any) -> bool:
    return isinstance(part, np.ndarray) and not part.dtype.hasobject


def _framed(head: bytes, part: Any) -> bytes:
    body = part.tobytes() if _is_array(part) else b""
    return b"%d %d " % (len(head), len(body)) + head + body


def _short_digest(data: bytes) -> str:
    return blake2b(data, digest_size=_ROW_DIGEST_BYTES).hexdigest()


def _differing_heads(left: _Node, right: _Node) -> Mismatch:
    path, got, expected = right[0], left[2], right[2]
    if isinstance(got, Mapping) and isinstance(expected, Mapping):
        ours, theirs = ({encode(key): key for key in mapping} for mapping in (got, expected))
        name = min(ours.keys() ^ theirs.keys())
        if name in theirs:
            return Mismatch((*path, _component(theirs[name])), "missing", _shown(expected[theirs[name]]))
        return Mismatch((*path, _component(ours[name])), _shown(got[ours[name]]), "no such key")
    texts = _shown(got), _shown(expected)
    if texts[0] == texts[1]:
        texts = f"{texts[0]} ({_precisely(got)})", f"{texts[1]} ({_precisely(expected)})"
    return Mismatch(path, *texts)


def _differing_elements(left: _Node, right: _Node) -> Mismatch:
    got, expected = left[2], right[2]
    columns = expected.dtype.itemsize
    bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(-1, columns) for array in (got, expected)]
    first = int(np.argmax((bits[0] != bits[1]).any(axis=1)))
    index = tuple(int(at) for at in np.unravel_index(first, expected.shape))
    return _differing_heads(
        ((*left[0], *index), b"", np.ravel(got)[first]), ((*right[0], *index), b"", np.ravel(expected)[first])
    )


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        shape = "×".join(map(str, value.shape)) or "()"
        elements = np.array2string(value.ravel()[:8], separator=", ", threshold=8, max_line_width=1000)
        text = f"{value.dtype} array of {shape}: {elements}"
    else:
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _precisely(value: Any) -> str:
    if isinstance(value, np.generic):
        return f"{value.dtype}, bytes {value.tobytes().hex()}"
    if type(value) is float:
        return f"float, bytes {struct.pack('<d', value).hex()}"
    return _type_name(value)
