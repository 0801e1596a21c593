"""Infos as columns: merged, or row by row, they are what the rows' infos give one at a time."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.compare import assert_same
from tests.wire.strategies import arrays, fixed
from vecserver.wire.codec import pack, unpack
from vecserver.wire.columns import COLUMN_ROWS, to_entries
from vecserver.wire.errors import EnvFault, MalformedMessage
from vecserver.wire.infos import by_row, encode_rows, join, merge

ROWS = 12
numpy_numbers = [np.int8, np.uint16, np.int64, np.uint64, np.float16, np.float32, np.float64, np.complex64]
COLUMNS: list[st.SearchStrategy[Any]] = [
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    *(arrays(np.dtype(kind).str, (1,)).map(lambda array: array[0]) for kind in numpy_numbers),
    arrays("<f8", (2, 3)),
    arrays(">i2", ()),
    arrays("|b1", (4,)),
    arrays("<f4", (0, 2)),
]
KINDS = [
    *COLUMNS,
    st.text(max_size=3),
    st.integers(2**63, 2**70),
    st.booleans().map(np.bool_),
    st.fixed_dictionaries({"x": st.floats()}),
]


@st.composite
def alike(draw: st.DrawFn) -> list[tuple[int, dict[str, Any]]]:
    """Runs of rows that fit columns, then other runs under the same keys."""
    keys = draw(st.lists(st.sampled_from(["a", "b", "é"]), min_size=1, max_size=3, unique=True))
    usual = {key: draw(st.sampled_from(COLUMNS)) for key in keys}
    other = {key: draw(st.sampled_from([usual[key], *COLUMNS])) for key in keys}
    end = draw(st.integers(4, ROWS))
    return [
        (row, {key: draw(value) for key, value in (usual if row < end else other).items()})
        for row in range(draw(st.integers(0, 2)), ROWS)
    ]


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[int, dict[str, Any]]]:
    """Runs of rows that say the same keys, of one kind or another, with other rows and gaps between them."""
    keys = draw(st.lists(st.sampled_from(["a", "b", "_a", "final_obs", "é"]), min_size=1, max_size=4, unique=True))
    usual = {key: draw(st.sampled_from(KINDS)) for key in keys}
    odd = {**usual, draw(st.sampled_from([*keys, "c"])): draw(st.sampled_from(KINDS))}
    rows = []
    for row in range(ROWS):
        kind = draw(st.sampled_from([usual] * 8 + [odd, {}]))
        info = {key: draw(value) for key, value in kind.items()}
        if info:
            rows.append((row, info))
    return rows


def _outcome(make: Any) -> Any:
    """What merging gives, or that it cannot be done."""
    with np.errstate(all="ignore"):
        try:
            return make()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, EnvFault):
            return "cannot be merged"


def _envs() -> VectorEnv[Any, Any, Any]:
    envs: VectorEnv[Any, Any, Any] = VectorEnv()
    envs.num_envs = ROWS
    return envs


def _ext(rows: list[tuple[int, dict[str, Any]]], workers: int) -> bytes:
    ends = [ROWS * i // workers for i in range(workers + 1)]
    return join(
        [
            encode_rows([(row, info) for row, info in rows if first <= row < end])
            for first, end in zip(ends, ends[1:], strict=False)
        ]
    )


@fixed(400)
@given(batches() | alike(), st.integers(1, 2))
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::numpy.exceptions.ComplexWarning")
def test_columns_merge_as_rows_do(rows, workers):
    """Keys, their order, dtypes, masks and gaps are Gymnasium's, whatever fits a column and whatever does not."""

    def one_by_one() -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for row, info in deepcopy(rows):
            infos = _envs()._add_info(infos, info, row)
        return infos

    expected = _outcome(one_by_one)
    merged = _outcome(lambda: merge(_ext(rows, workers), ROWS, _envs()._add_info)[0])
    assert_same(merged, expected)
    if isinstance(expected, dict):
        assert [*merged] == [*expected]


@fixed(200)
@given(batches() | alike(), st.integers(1, 2))
def test_columns_come_back_row_by_row(rows, workers):
    """Python's numbers as Python's, numpy's as numpy's, arrays as the caller's own."""
    infos, dropped, side = by_row(_ext(rows, workers), ROWS)
    expected: list[dict[str, Any]] = [{} for _ in range(ROWS)]
    for row, info in rows:
        expected[row] = info
    assert_same(infos, expected)
    for info in infos:
        assert all(value.flags.writeable for value in info.values() if isinstance(value, np.ndarray))
    assert (dropped, side) == ({}, [])


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, 2], ">f4"),
        np.array(1.5),
        np.array(2, ">i2"),
        np.array([[True]]),
        np.zeros((2, 0)),
        np.complex64(1j),
    ],
    ids=lambda value: f"{value.dtype.str}{value.shape}",
)
def test_every_kind_of_number_goes_as_a_column(value):
    """Byte order, dimensions and class are what they were, merged and row by row."""
    rows = [(row, {"x": value}) for row in range(ROWS)]
    assert [row for row, _ in to_entries(rows)] == [COLUMN_ROWS]
    expected: dict[str, Any] = {}
    for row, info in rows:
        expected = _envs()._add_info(expected, info, row)
    merged, _, _ = merge(_ext(rows, 2), ROWS, _envs()._add_info)
    assert_same(merged, expected)
    assert merged["x"].dtype.str == expected["x"].dtype.str
    infos, _, _ = by_row(_ext(rows, 2), ROWS)
    for info in infos:
        assert type(info["x"]) is type(value)
        assert (info["x"].dtype.str, info["x"].shape) == (value.dtype.str, value.shape)
        assert info["x"].base is None


def test_a_row_that_does_not_merge_is_named():
    """Also where it is one of a column: it is that row whose environment is to blame."""
    rows = [(row, {"x": np.zeros(2)} if row < 6 else {"x": np.zeros(3), "y": 1}) for row in range(ROWS)]
    assert [row for row, _ in to_entries(rows)] == [COLUMN_ROWS, COLUMN_ROWS]
    with pytest.raises(EnvFault, match="row 6") as caught:
        merge(_ext(rows, 1), ROWS, _envs()._add_info)
    assert caught.value.details["faults"][0]["row"] == 6


def _speeds(rows: range) -> list[tuple[int, dict[str, Any]]]:
    return [(row, {"x": float(row), "on": True, "v": np.float32(row), "at": np.full(2, row, np.int8)}) for row in rows]


def test_a_run_of_rows_is_one_entry():
    """Two workers' infos are two entries, and a row between them that says something else is its own."""
    assert [row for row, _ in to_entries(_speeds(range(8)))] == [COLUMN_ROWS]
    mixed = [*_speeds(range(4)), (4, {"y": 1}), *_speeds(range(5, 9))]
    assert [row for row, _ in to_entries(mixed)] == [COLUMN_ROWS, 4, COLUMN_ROWS]
    apart = [*_speeds(range(3)), *_speeds(range(4, 7))]
    assert [row for row, _ in to_entries(apart)] == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    "info",
    [
        {"final_obs": np.zeros(2)},
        {"_x": 1},
        {1: 1},
        {"x": object()},
        {"x": np.longdouble(1)},
        {"x": 1 << 70},
        {"\ud800": 1},
    ],
    ids=["final_obs", "a mask's name", "no text", "an object", "a long double", "a long integer", "a lone surrogate"],
)
def test_what_gymnasium_treats_in_another_way_goes_row_by_row(info):
    """A column is only for what every merge treats alike."""
    assert [row for row, _ in to_entries([(row, info) for row in range(6)])] == [0, 1, 2, 3, 4, 5]


def test_a_column_has_fixed_bytes():
    """The bytes that the protocol gives."""
    (_, (first, end, schema, data)), *others = to_entries([(row, {"x": float(row)}) for row in range(2, 6)])
    assert not others
    assert (first, end, unpack(schema)) == (2, 6, [["x", "float", "<f8", []]])
    assert data == np.array([2.0, 3.0, 4.0, 5.0], "<f8").tobytes()


SCHEMA = pack([["x", "float", "<f8", []]])
MALFORMED = {
    "no schema": [0, 1, b"", b""],
    "a schema that is a number": [0, 1, pack(7), b""],
    "a schema of nothing": [0, 1, pack([]), b""],
    "a column of nothing": [0, 1, pack([[]]), b""],
    "a column twice": [0, 1, pack([["x", "float", "<f8", []]] * 2), b"\0" * 16],
    "another dtype": [0, 1, pack([["x", "float", "<f4", []]]), b"\0" * 4],
    "another name": [0, 1, pack([["x", "object", "<f8", []]]), b"\0" * 8],
    "a scalar with a shape": [0, 1, pack([["x", "numpy", "<f8", [1]]]), b"\0" * 8],
    "a dtype of text": [0, 1, pack([["x", "array", "<U1", [1]]]), b"\0" * 4],
    "objects": [0, 1, pack([["x", "array", "|O", [1]]]), b"\0" * 8],
    "a negative shape": [0, 1, pack([["x", "array", "<f8", [-1]]]), b"\0" * 8],
    "a shape beyond arrays": [0, 1, pack([["x", "array", "<f8", [0, 2**62, 2**62]]]), b""],
    "too few bytes": [0, 2, SCHEMA, b"\0" * 8],
    "too many bytes": [0, 1, SCHEMA, b"\0" * 9],
    "no rows": [1, 1, SCHEMA, b""],
    "rows below the first": [-1, 1, SCHEMA, b"\0" * 16],
    "rows beyond the last": [0, ROWS + 1, SCHEMA, b"\0" * 8 * (ROWS + 1)],
    "a row that is text": ["0", 1, SCHEMA, b"\0" * 8],
    "a schema without end": [0, 1, pack([[f"key {i}", "float", "<f8", []] for i in range(2000)]), b"\0" * 16000],
    "the name of a mask": [0, 1, pack([["_x", "float", "<f8", []]]), b"\0" * 8],
    "a last observation": [0, 1, pack([["final_obs", "float", "<f8", []]]), b"\0" * 8],
    "no list": 7,
    "a short list": [0, 1],
}


@pytest.mark.parametrize("parts", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("read", [lambda ext: merge(ext, ROWS, _envs()._add_info), lambda ext: by_row(ext, ROWS)])
def test_malformed_columns_are_refused(parts, read):
    """A reply that claims columns it does not have is named, and nothing is made of it."""
    with pytest.raises(MalformedMessage):
        read(pack([[[COLUMN_ROWS, parts]]]))
