"""Infos of many rows as columns: numbers and arrays that every row of a run has, one block of bytes a key.

An environment that says the same few numbers at every step, as MuJoCo's do, would otherwise cost more for its infos
than for its steps. What comes out of the columns is what the rows' infos would have given, merged or row by row.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vecserver.wire.codec import numeric_dtype, pack, unpack
from vecserver.wire.errors import MalformedMessage, Unportable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["COLUMN_ROWS", "Columns", "columns_from", "merge_columns", "rows_of", "to_entries"]

COLUMN_ROWS: Final = -5
"""The row of an entry that holds the infos of a run of rows as columns: ``[first row, end row, schema, data]``."""

_LEAST_ROWS: Final = 4
"""A shorter run is cheaper row by row."""

_MAX_SCHEMA: Final = 16 << 10
"""Bytes of a schema; infos with more keys go row by row."""

_MAX_BYTES: Final = 1 << 62
"""What an array may have if none of its axes were empty."""

_ONE, _ARRAY = "numpy", "array"
_PLAIN: Final[dict[str, type]] = {"float": float, "int": int, "bool": bool}
"""Python's own numbers by name: they merge as numpy's do, and come back row by row as what they were."""
_DTYPES: Final = frozenset(
    f"{order}{code}" for code in ("f2", "f4", "f8", "c8", "c16", "i2", "i4", "i8", "u2", "u4", "u8") for order in "<>"
) | {"|b1", "|i1", "|u1"}
_NAME_OF: Final[dict[type, str]] = {
    **{kind: name for name, kind in _PLAIN.items()},
    **{
        np.dtype(code).type: _ONE
        for code in ("f2", "f4", "f8", "c8", "c16", *(f"{k}{n}" for k in "iu" for n in "1248"))
    },
    np.ndarray: _ARRAY,
}
"""The types that fit a column. Gymnasium merges others, numpy's booleans among them, into arrays of objects."""


class Column(NamedTuple):
    """One key of the infos.

    Attributes:
        key: The key.
        name: ``float``, ``int``, ``bool``, ``numpy`` for numpy's scalars, or ``array``.
        dtype: Of the column.
        shape: Of one row's value.
    """

    key: str
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Columns(NamedTuple):
    """The infos of the rows ``first`` to ``end - 1``: one array [end - first, *shape] a column, read-only."""

    first: int
    end: int
    schema: tuple[Column, ...]
    arrays: list[np.ndarray[Any, Any]]


def to_entries(infos: list[tuple[int, dict[str, Any]]]) -> list[list[Any]]:
    """The entries of a payload for infos: columns where a run of rows fits them, else one a row; in order."""
    entries: list[list[Any]] = []
    at = 0
    while at < len(infos):
        end = _end_of_run(infos, at)
        columns = _encode(infos[at:end]) if end - at >= _LEAST_ROWS else None
        entries += [[row, info] for row, info in infos[at:end]] if columns is None else [[COLUMN_ROWS, columns]]
        at = end
    return entries


def _end_of_run(infos: list[tuple[int, dict[str, Any]]], at: int) -> int:
    """One past the last of the infos, from ``at`` on, whose rows follow each other with the same keys and types."""
    row, info = infos[at]
    keys, types = [*info], [*map(type, info.values())]
    if not keys or not _NAME_OF.keys() >= set(types):
        return at + 1
    for i in range(at + 1, len(infos)):
        row += 1
        number, info = infos[i]
        if number != row or [*info] != keys or [*map(type, info.values())] != types:
            return i
    return len(infos)


def _is_plain(key: str) -> bool:
    """Whether Gymnasium treats a key as any other; masks begin with an underscore, last observations are objects."""
    return key != "final_obs" and not key.startswith("_")


def _encode(run: list[tuple[int, dict[str, Any]]]) -> list[Any] | None:
    """A run as columns; None where its values do not fit after all."""
    keys = [*run[0][1]]
    if not all(type(key) is str and _is_plain(key) for key in keys):
        return None
    schema, data = [], []
    for key, values in zip(keys, zip(*(info.values() for _, info in run), strict=True), strict=True):
        kind = type(values[0])
        array: np.ndarray[Any, Any]
        if kind is np.ndarray:
            like = values[0]
            if like.dtype.str not in _DTYPES or any((v.dtype, v.shape) != (like.dtype, like.shape) for v in values):
                return None
            array = np.stack(values, dtype=like.dtype)  # by itself it would turn the bytes of another order
        else:
            try:
                array = np.array(values, kind)
            except OverflowError:  # integers beyond 64 bits
                return None
        schema.append([key, _NAME_OF[kind], array.dtype.str, [*array.shape[1:]]])
        data.append(array.tobytes())
    try:
        packed = pack(schema)
    except Unportable:  # a key with a lone surrogate
        return None
    return [run[0][0], run[-1][0] + 1, packed, b"".join(data)] if len(packed) <= _MAX_SCHEMA else None


def columns_from(parts: Any, num_envs: int) -> Columns:
    """Take the columns of an entry; the arrays are views of its bytes.

    Raises:
        MalformedMessage: It holds none of ``num_envs`` rows.
    """
    match parts:
        case [int(first), int(end), bytes(schema), bytes(data)] if 0 <= first < end <= num_envs:
            columns = _schema(schema)
        case _:
            raise MalformedMessage(f"the ext holds an entry that is no columns of {num_envs} rows")
    sizes = [(end - first) * prod(column.shape) * column.dtype.itemsize for column in columns]
    if sum(sizes) != len(data):
        raise MalformedMessage(f"columns of {end - first} rows have {sum(sizes)} bytes, not {len(data)}")
    arrays = []
    at = 0
    for column, size in zip(columns, sizes, strict=True):
        if prod(n or 1 for n in column.shape) * column.dtype.itemsize * num_envs > _MAX_BYTES:
            raise MalformedMessage(f"no array of infos has the shape {column.shape}")  # one without elements
        arrays.append(np.frombuffer(data[at : at + size], column.dtype).reshape(end - first, *column.shape))
        at += size
    return Columns(first, end, columns, arrays)


@lru_cache(maxsize=64)
def _schema(data: bytes) -> tuple[Column, ...]:
    entries = unpack(data) if len(data) <= _MAX_SCHEMA else None
    if not isinstance(entries, list):
        raise MalformedMessage("the schema of an info's columns is none")
    columns = tuple(_column(entry) for entry in entries)
    if not columns or len({column.key for column in columns}) != len(columns):
        raise MalformedMessage("the schema of an info's columns names none, or one twice")
    return columns


def _column(entry: Any) -> Column:
    match entry:
        case [str(key), str(name), str(dtype), list(shape)] if _is_plain(key) and all(
            type(n) is int and n >= 0 for n in shape
        ):
            column = Column(key, name, numeric_dtype(dtype), tuple(shape))
            plain = _PLAIN.get(name)
            one = name == _ONE and dtype in _DTYPES and dtype != "|b1"
            if ((plain and column.dtype == plain) or one) and not shape:
                return column
            if name == _ARRAY and dtype in _DTYPES:
                return column
    raise MalformedMessage(f"a column of infos is not described by {entry!r:.80}")


def rows_of(columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """The infos row by row, as the environments gave them; the caller's own."""
    each = [_values(column, array) for column, array in zip(columns.schema, columns.arrays, strict=True)]
    keys = [column.key for column in columns.schema]
    for row, *values in zip(range(columns.first, columns.end), *each, strict=True):
        yield row, dict(zip(keys, values, strict=True))


def _values(column: Column, array: np.ndarray[Any, Any]) -> list[Any]:
    if column.name in _PLAIN:
        values: list[Any] = array.tolist()
        return values
    # an ellipsis keeps a row without dimensions an array
    return [row.copy() for row in (array[i, ...] for i in range(len(array)))] if column.name == _ARRAY else [*array]


def merge_columns(infos: dict[str, Any], columns: Columns, num_envs: int) -> Iterable[tuple[int, dict[str, Any]]]:
    """Add the infos of a run of rows to merged ones, as Gymnasium would add them row by row.

    Returns:
        Nothing; or, where they meet values of another kind under their keys, nothing was added, and these are the rows
        to be added one by one.
    """
    if not all(_is_alike(infos, column) for column in columns.schema):
        return rows_of(columns)
    rows = slice(columns.first, columns.end)
    for column, array in zip(columns.schema, columns.arrays, strict=True):
        key, mask = column.key, f"_{column.key}"
        if key not in infos:
            infos[key] = np.zeros((num_envs, *column.shape), column.dtype)
            infos[mask] = np.zeros(num_envs, np.bool_)
        infos[key][rows] = array
        infos[mask][rows] = True
    return ()


def _is_alike(infos: dict[str, Any], column: Column) -> bool:
    """Whether a whole column may be set at once: it is new, or goes where one like it began."""
    key, mask = column.key, infos.get(f"_{column.key}")
    if key not in infos:
        return mask is None
    merged = infos[key]
    arrays = type(merged) is np.ndarray and type(mask) is np.ndarray and mask.dtype == np.bool_
    return arrays and merged.dtype == column.dtype and merged.shape[1:] == column.shape
