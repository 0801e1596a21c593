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
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["COLUMN_ROWS", "Columns", "columns_from", "joined", "merge_columns", "rows_of", "to_entries"]

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
        size: Elements of one row's value.
        row_bytes: Bytes of them.
    """

    key: str
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int
    row_bytes: int


class Schema(NamedTuple):
    """What a run's columns are.

    Attributes:
        columns: One a key.
        row_bytes: Bytes of a row in all of them.
        widest: Bytes that a row of the widest would have if none of its axes were empty.
    """

    columns: tuple[Column, ...]
    row_bytes: int
    widest: int


class Columns(NamedTuple):
    """The infos of the rows ``first`` to ``end - 1``: one array [end - first, *shape] a column, read-only."""

    first: int
    end: int
    schema: Schema
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
    keys = run[0][1].keys()
    kinds, data = [], []
    for values in zip(*(info.values() for _, info in run), strict=True):
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
        kinds.append((_NAME_OF[kind], array.dtype, array.shape[1:]))
        data.append(array.tobytes())
    schema = _packed((*keys,), (*kinds,))
    return None if schema is None else [run[0][0], run[-1][0] + 1, schema, b"".join(data)]


@lru_cache(maxsize=64)
def _packed(keys: tuple[Any, ...], kinds: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> bytes | None:
    """The schema of a run; None where its keys are no plain ones, or are too many."""
    if not all(type(key) is str and _is_plain(key) for key in keys):
        return None
    columns = zip(keys, kinds, strict=True)
    try:
        packed = pack([[key, name, dtype.str, [*shape]] for key, (name, dtype, shape) in columns])
    except Unportable:  # a key with a lone surrogate
        return None
    return packed if len(packed) <= _MAX_SCHEMA else None


def columns_from(parts: Any, num_envs: int) -> Columns:
    """Take the columns of an entry; the arrays are views of its bytes.

    Raises:
        MalformedMessage: It holds none of ``num_envs`` rows.
    """
    match parts:
        case [int(first), int(end), bytes(schema), bytes(data)] if 0 <= first < end <= num_envs:
            known = _schema(schema)
        case _:
            raise MalformedMessage(f"the ext holds an entry that is no columns of {num_envs} rows")
    count = end - first
    if known.row_bytes * count != len(data):
        raise MalformedMessage(f"columns of {count} rows have {known.row_bytes * count} bytes, not {len(data)}")
    if known.widest * num_envs > _MAX_BYTES:
        raise MalformedMessage("no array of infos has such a shape")  # one without elements
    arrays = []
    at = 0
    for column in known.columns:
        array = np.frombuffer(data, column.dtype, count * column.size, at)
        arrays.append(array.reshape(count, *column.shape) if column.shape else array)
        at += count * column.row_bytes
    return Columns(first, end, known, arrays)


@lru_cache(maxsize=64)
def _schema(data: bytes) -> Schema:
    entries = unpack(data) if len(data) <= _MAX_SCHEMA else None
    if not isinstance(entries, list):
        raise MalformedMessage("the schema of an info's columns is none")
    columns = tuple(_column(entry) for entry in entries)
    if not columns or len({column.key for column in columns}) != len(columns):
        raise MalformedMessage("the schema of an info's columns names none, or one twice")
    widest = max(prod(n or 1 for n in column.shape) * column.dtype.itemsize for column in columns)
    return Schema(columns, sum(column.row_bytes for column in columns), widest)


def _column(entry: Any) -> Column:
    match entry:
        case [str(key), str(name), str(dtype), list(shape)] if _is_plain(key) and all(
            type(n) is int and n >= 0 for n in shape
        ):
            of, size = numeric_dtype(dtype), prod(shape)
            column = Column(key, name, of, tuple(shape), size, size * of.itemsize)
            plain = _PLAIN.get(name)
            one = name == _ONE and dtype in _DTYPES and dtype != "|b1"
            if ((plain and column.dtype == plain) or one) and not shape:
                return column
            if name == _ARRAY and dtype in _DTYPES:
                return column
    raise MalformedMessage(f"a column of infos is not described by {entry!r:.80}")


def rows_of(columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """The infos row by row, as the environments gave them; the caller's own."""
    each = [_values(column, array) for column, array in zip(columns.schema.columns, columns.arrays, strict=True)]
    keys = [column.key for column in columns.schema.columns]
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
    if not all(_is_alike(infos, column) for column in columns.schema.columns):
        return rows_of(columns)
    rows = slice(columns.first, columns.end)
    for column, array in zip(columns.schema.columns, columns.arrays, strict=True):
        key, mask = column.key, f"_{column.key}"
        if key not in infos:
            infos[key] = np.zeros((num_envs, *column.shape), column.dtype)
            infos[mask] = np.zeros(num_envs, np.bool_)
        infos[key][rows] = array
        infos[mask][rows] = True
    return ()


def joined(runs: Sequence[Columns], num_envs: int) -> dict[str, Any] | None:
    """Merge the infos of all rows at once, as ``merge_columns`` would run by run.

    Returns:
        None where the runs are not those of rows 0 to ``num_envs - 1`` in order, with one schema.
    """
    schema, end = runs[0].schema, 0
    for run in runs:
        if run.first != end or run.schema is not schema:  # equal ones are the same, as long as they are remembered
            return None
        end = run.end
    if end != num_envs:
        return None
    infos: dict[str, Any] = {}
    for column, *arrays in zip(schema.columns, *(run.arrays for run in runs), strict=True):
        infos[column.key] = np.concatenate(arrays, dtype=column.dtype)  # by itself it would turn another byte order
        infos[f"_{column.key}"] = np.ones(num_envs, np.bool_)
    return infos


def _is_alike(infos: dict[str, Any], column: Column) -> bool:
    """Whether a whole column may be set at once: it is new, or goes where one like it began."""
    key, mask = column.key, infos.get(f"_{column.key}")
    if key not in infos:
        return mask is None
    merged = infos[key]
    arrays = type(merged) is np.ndarray and type(mask) is np.ndarray and mask.dtype == np.bool_
    return arrays and merged.dtype == column.dtype and merged.shape[1:] == column.shape
