"""Infos: what the client merges is what Gymnasium would have merged, row by row; what cannot travel is named."""

from __future__ import annotations

import enum
from collections import OrderedDict
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.compare import assert_same
from tests.wire.strategies import any_arrays, arrays, fixed, graphs, scalars, values
from vecserver.wire.codec import MAX_DEPTH, pack
from vecserver.wire.errors import EnvFault, MalformedMessage
from vecserver.wire.infos import (
    DROPPED_ROW,
    EPISODE_ROWS,
    MERGED_ROWS,
    SIDE_ROWS,
    by_row,
    encode_merged,
    encode_rows,
    join,
    merge,
    side_values,
    split,
)


def _bare(num_envs: int) -> VectorEnv:
    envs = VectorEnv()
    envs.num_envs = num_envs
    return envs


def _through(rows: list[tuple[int, dict]], num_envs: int, workers: int = 1) -> tuple[dict[str, Any], dict[str, str]]:
    """Sends infos as so many workers do, and merges them."""
    ends = [num_envs * i // workers for i in range(workers + 1)]
    payloads = [
        encode_rows([(row, info) for row, info in rows if first <= row < end])
        for first, end in zip(ends, ends[1:], strict=False)
    ]
    infos, dropped, side = merge(join(payloads), num_envs, _bare(num_envs)._add_info)
    assert side == []
    return infos, dropped


def _by_gymnasium(rows: list[tuple[int, dict]], num_envs: int) -> dict[str, Any]:
    infos: dict[str, Any] = {}
    for row, info in deepcopy(rows):
        infos = _bare(num_envs)._add_info(infos, info, row)
    return infos


# one kind of value a key, as Gymnasium needs it; rows may lack a key
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**62), 2**62),
    "float": st.floats(),
    "bool": st.booleans(),
    "text": st.text(),
    "f4": arrays("f4", (1,)).map(lambda array: array[0]),
    "array": arrays("f8", (2, 3)),
    "nothing": arrays("i4", (0,)),
    "none": st.none(),
    "list": st.lists(st.integers(), max_size=3),
    "tuple": st.tuples(st.text(), st.booleans()),
    "final_obs": st.one_of(any_arrays, st.dictionaries(st.text(), any_arrays, max_size=2), scalars),
    "graph": graphs,
}
flat = st.fixed_dictionaries({}, optional=KINDS)
infos = st.fixed_dictionaries({}, optional=KINDS | {"final_info": flat, "deep": st.fixed_dictionaries({"er": flat})})


@fixed(200)
@given(st.lists(infos, min_size=1, max_size=6), st.integers(1, 3))
def test_merged_infos_are_gymnasiums(infos_of_rows, workers):
    """Types, dtypes, masks and gaps, whoever sent which rows."""
    rows = [(row, info) for row, info in enumerate(infos_of_rows) if info]
    merged, dropped = _through(rows, len(infos_of_rows), workers)
    assert_same(merged, _by_gymnasium(rows, len(infos_of_rows)))
    assert dropped == {}


@fixed(100)
@given(st.dictionaries(st.text(), values, min_size=1, max_size=4))
def test_infos_that_are_merged_already_come_back(info):
    """A vectorised environment's infos travel as they are, whatever their keys."""
    merged, dropped, _ = merge(join([encode_merged(info)]), 3, _bare(3)._add_info)
    assert_same(merged, info)
    assert dropped == {}


def test_no_infos_are_no_bytes():
    """The usual step has an empty ext."""
    assert encode_rows([]) == encode_merged({}) == join([]) == join([b"", b""]) == b""
    assert merge(b"", 3, _bare(3)._add_info) == ({}, {}, [])


GOLDEN = [
    ([[(2, {"a": 1})]], "91 91 92 02 81 a16101"),
    ([[], [(2, {"a": 1}), (3, {})]], "91 92 92 02 81 a16101 92 03 80"),
    ([[(0, {})], [(1, {})]], "92 91 92 00 80 91 92 01 80"),
    ([[(0, {"f": 1j})]], "91 92 92 00 80 92 ff 81 a166 b0" + b"builtins.complex".hex()),
    ([[(MERGED_ROWS, {"a": 1})]], "91 91 92 fe 81 a16101"),
    ([[(EPISODE_ROWS, {"rows": [1]})]], "91 91 92 fc 81 a4" + b"rows".hex() + "91 01"),
]


@pytest.mark.parametrize(("workers", "text"), GOLDEN)
def test_infos_have_fixed_bytes(workers, text):
    """The ext of a reply is the one that the protocol gives."""
    assert join([encode_rows(rows) for rows in workers]).hex() == bytes.fromhex(text).hex()


@pytest.mark.parametrize("workers", [1, 15, 16, 17, 256])
def test_infos_of_many_workers_arrive(workers):
    """A msgpack array has another head from sixteen elements on."""
    rows = [(row, {"row": row}) for row in range(workers)]
    merged, _ = _through(rows, workers, workers)
    assert merged["row"].tolist() == list(range(workers))
    assert merged["_row"].all()
    ext = join([encode_rows([row]) for row in rows])
    assert ext[:3].hex() == ("dc" + workers.to_bytes(2, "big").hex() if workers > 15 else ext[:3].hex())


class _Colour(enum.Enum):
    RED = 1


def _cycle() -> dict[str, Any]:
    info: dict[str, Any] = {"a": 1}
    info["self"] = info
    return info


def _tower(levels: int, top: Any) -> Any:
    for _ in range(levels):
        top = {"in": top}
    return top


def test_a_value_that_cannot_travel_is_left_out_and_named():
    """The others of its row and of other rows stay, and the step does not fail."""
    rows = [
        (0, {"good": 1, "bad": {1, 2}, "in": {"good": 2.5, "bad": _Colour.RED}}),
        (2, {"good": 3, "list": [1, object()]}),
    ]
    merged, dropped = _through(rows, 3)
    kept = [(0, {"good": 1, "in": {"good": 2.5}}), (2, {"good": 3})]
    assert_same(merged, _by_gymnasium(kept, 3))
    assert dropped == {"bad": "builtins.set", "in.bad": f"{__name__}._Colour", "list": "builtins.list"}


def test_values_of_merged_infos_that_cannot_travel_are_named():
    """Likewise, under a key of any name."""
    merged, dropped, _ = merge(
        join([encode_merged({"": 1, "x": print, "y": {"z": print, "": 2}})]), 1, _bare(1)._add_info
    )
    assert merged == {"": 1, "y": {"": 2}}
    assert dropped == dict.fromkeys(["x", "y.z"], "builtins.builtin_function_or_method")


@pytest.mark.parametrize("subclass", [OrderedDict, type("Tagged", (dict,), {})])
def test_a_subclass_of_dict_is_merged_as_gymnasium_merges_it(subclass):
    """As an info and inside one: Gymnasium merges any dict."""
    rows = [(0, subclass(a=1, b=subclass(c=np.float32(2)))), (1, subclass(a=2))]
    merged, dropped = _through(rows, 2)
    assert_same(merged, _by_gymnasium([(0, {"a": 1, "b": {"c": np.float32(2)}}), (1, {"a": 2})], 2))
    assert dropped == {}


@pytest.mark.parametrize("key", [frozenset(), _Colour.RED, 1j], ids=repr)
def test_a_key_that_cannot_travel_takes_its_value_with_it(key):
    """Whether a plain value or a dict stands under it."""
    merged, dropped = _through([(0, {key: 1, "a": 1}), (1, {key: {"b": 1}, "a": 2})], 2)
    assert merged["a"].tolist() == [1, 2]
    assert dropped == {str(key): "builtins.dict"}


def test_text_that_cannot_travel_is_named_in_text_that_can():
    """A lone surrogate in a key, as in a file name of unknown encoding."""
    merged, dropped = _through([(0, {"\ud800": 1, "a": "\udfff", "b": 2})], 1)
    assert list(merged) == ["b", "_b"]
    assert dropped == {"?": "builtins.int", "a": "builtins.str"}


@pytest.mark.parametrize("levels", range(MAX_DEPTH - 7, MAX_DEPTH + 3))
def test_an_info_that_is_too_deep_is_cut_not_refused(levels):
    """However deep an info is, its step does not fail."""
    merged, dropped = _through([(0, {"a": 1, "deep": _tower(levels, {1: (1, 2)})})], 1)
    assert merged["a"].tolist() == [1]
    # the tower stands at depth 3 and holds a mapping, its tuple and their numbers
    assert len(dropped) == (3 + levels + 2 > MAX_DEPTH)


def test_an_info_inside_itself_is_cut():
    """A cycle ends where the nesting ends."""
    merged, dropped = _through([(0, _cycle())], 1)
    assert merged["a"].tolist() == [1]
    assert [name.strip("self.") for name in dropped] == ["a", ""]
    assert list(dropped.values()) == ["builtins.int", "builtins.dict"]


WRONG = {
    "no msgpack": b"\xc1",
    "no list": pack({}),
    "a number": pack(5),
    "a payload that is a number": pack([5]),
    "a payload that is a dict": pack([{"a": 1}]),
    "an entry that is a number": pack([[5]]),
    "an entry of one": pack([[[0]]]),
    "an entry of three": pack([[[0, {}, {}]]]),
    "an info that is a list": pack([[[0, []]]]),
    "a row that does not exist": pack([[[3, {}]]]),
    "a row below the special ones": pack([[[-5, {}]]]),
    "statistics of nothing": pack([[[EPISODE_ROWS, {}]]]),
    "statistics of no row": pack([[[EPISODE_ROWS, {"rows": [3], "r": [1.0], "l": [1], "t": [0.5]}]]]),
    "statistics of a row below the first": pack([[[EPISODE_ROWS, {"rows": [-1], "r": [1.0], "l": [1], "t": [0.5]}]]]),
    "statistics of a row that is text": pack([[[EPISODE_ROWS, {"rows": ["0"], "r": [1.0], "l": [1], "t": [0.5]}]]]),
    "statistics that lack a row": pack([[[EPISODE_ROWS, {"rows": [0, 1], "r": [1.0], "l": [1], "t": [0.5]}]]]),
    "statistics that are text": pack([[[EPISODE_ROWS, {"rows": [0], "r": ["far"], "l": [1], "t": [0.5]}]]]),
    "statistics beyond 64 bits": pack([[[EPISODE_ROWS, {"rows": [0], "r": [1.0], "l": [2**70], "t": [0.5]}]]]),
    "side values that are a dict": pack([[[-3, {}]]]),
    "side values that are no bytes": pack([[[-3, [b"", "text"]]]]),
    "a row that is true": pack([[[True, {}]]]),
    "a row that is a float": pack([[[1.0, {}]]]),
    "a row that is an array": pack([[[np.zeros(2), {}]]]),
    "a row that is text": pack([[["0", {}]]]),
    "a row beyond 64 bits": pack([[[2**70, {}]]]),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_ext_that_holds_no_infos_is_refused(name):
    """With one error, whatever it holds instead."""
    with pytest.raises(MalformedMessage):
        merge(WRONG[name], 3, _bare(3)._add_info)


@pytest.mark.parametrize(
    "rows",
    [
        [(0, {"a": np.zeros(2)}), (1, {"a": np.zeros(3)})],
        [(0, {"a": 1}), (1, {"a": "text"})],
        [(0, {"a": 1}), (1, {"a": 2**70})],
        [(0, {"a": 1}), (1, {"a": {"b": 1}})],
    ],
)
def test_rows_that_gymnasium_cannot_merge_are_named(rows):
    """Gymnasium raises whatever numpy does; here the error is a fault of the row and names the same exception."""
    with pytest.raises((ArithmeticError, AttributeError, LookupError, TypeError, ValueError)) as expected:
        _by_gymnasium(rows, 2)
    with pytest.raises(EnvFault, match="the infos of row 1 do not merge with those before") as caught:
        _through(rows, 2)
    assert (caught.value.row, caught.value.type) == (1, type(expected.value).__name__)


def test_the_special_rows_do_not_change():
    """They are the protocol."""
    assert (DROPPED_ROW, MERGED_ROWS, SIDE_ROWS, EPISODE_ROWS) == (-1, -2, -3, -4)


def test_statistics_come_out_one_a_row():
    """Every worker's ended episodes in arrays over all rows, zero elsewhere, behind the infos, with one mask."""
    payloads = [
        encode_rows([(0, {"a": 1})], episodes={"rows": [1], "r": [2.5], "l": [3], "t": [0.25]}),
        encode_merged({}, episodes={"rows": [3, 4], "r": [-1.0, float("inf")], "l": [7, 1], "t": [0.0, 1.5]}),
    ]
    merged, dropped, _ = merge(join(payloads), 5, _bare(5)._add_info)
    assert dropped == {}
    assert list(merged) == ["a", "_a", "episode", "_episode"]
    expected = {
        "r": np.array([0, 2.5, 0, -1, np.inf]),
        "l": np.array([0, 3, 0, 7, 1]),
        "t": np.array([0, 0.25, 0, 0, 1.5]),
    }
    assert list(merged["episode"]) == list(expected)
    assert_same(merged["episode"], expected)
    assert_same(merged["_episode"], np.array([False, True, False, True, True]))
    ended = {"r": -1.0, "l": 7, "t": 0.0}
    assert by_row(join(payloads), 5)[0][3] == {"episode": ended}


@pytest.mark.parametrize(
    "kind", [np.matrix, np.ma.MaskedArray, type("Tagged", (np.ndarray,), {})], ids=lambda t: t.__name__
)
def test_a_subclass_of_array_is_merged_as_gymnasium_merges_it(kind):
    """Gymnasium copies it into a plain array, of which nothing is missing here."""
    rows = [(row, {"a": np.array([[1.5, row]]).view(kind), "b": object()}) for row in range(2)]
    merged, dropped = _through(rows, 2)
    assert_same(merged, _by_gymnasium([(row, {"a": info["a"]}) for row, info in rows], 2))
    assert dropped == {"b": "builtins.object"}


def test_side_values_of_a_worker_that_ended_are_none_where_they_are_not_whole():
    """It may have been killed while it wrote them."""
    whole = encode_rows([(0, {"steps": 1})], [b"first", b"second"])
    assert side_values(whole, 2) == [b"first", b"second"]
    for payload in (b"", whole[:-1], b"\xc1", whole[:1], encode_rows([(0, {"steps": 1})], [])):
        assert side_values(payload, 2) is None


def test_side_values_travel_beside_the_infos():
    """In the order of rows over all workers, whether there are infos or not, and whether they all can travel."""
    payloads = [
        encode_rows([(0, {"a": 1})], [b"0", b"1"]),
        encode_rows([], [b"2"]),
        encode_merged({"b": 1}, [b"3"]),
        encode_merged({}, [b"4"]),
        encode_rows([(5, {"c": object()})], [b"5"]),
    ]
    infos, dropped, side = merge(join(payloads), 6, _bare(6)._add_info)
    assert side == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert (infos["a"].tolist(), infos["b"]) == ([1, 0, 0, 0, 0, 0], 1)
    assert by_row(join([payloads[0], payloads[1]]), 6)[2] == [b"0", b"1", b"2"]
    assert dropped == {"c": "builtins.object"}
    assert (DROPPED_ROW, MERGED_ROWS) == (-1, -2)


def test_infos_come_row_by_row_as_they_were():
    """Several of one row are one dict; types stay, and what could not travel is named."""
    rows = [
        (0, {"final_obs": np.zeros(2), "final_info": {"a": 1}}),
        (0, {"b": (2, "x")}),
        (2, {"b": {3}, "c": {"d": np.float32(1)}}),
    ]
    ext = join([encode_rows(rows[:2]), b"", encode_rows(rows[2:])])
    found, dropped, _ = by_row(ext, 4)
    assert_same(
        found, [{"final_obs": np.zeros(2), "final_info": {"a": 1}, "b": (2, "x")}, {}, {"c": {"d": np.float32(1)}}, {}]
    )
    assert dropped == {"b": "builtins.set"}
    assert by_row(b"", 2) == ([{}, {}], {}, [])


@pytest.mark.parametrize("name", WRONG)
def test_an_ext_that_holds_no_infos_is_refused_row_by_row_too(name):
    """With the same error."""
    with pytest.raises(MalformedMessage):
        by_row(WRONG[name], 3)


def test_merged_infos_are_split_as_they_were_merged():
    """Masks say whose a value is; numbers are numpy's, everything else is what it was."""
    infos = [
        {"a": 1, "b": {"c": "x", "d": np.arange(2)}, "_private": 2.5},
        {},
        {"a": 3, "b": {"e": {}}, "final_obs": (1, np.zeros(1)), 7: None},
    ]
    merged = _by_gymnasium(list(enumerate(infos)), 3)
    expected = [
        {"a": np.int64(1), "b": {"c": "x", "d": np.arange(2)}, "_private": np.float64(2.5)},
        {},
        {"a": np.int64(3), "b": {"e": {}}, "final_obs": (1, np.zeros(1)), 7: None},
    ]
    assert_same(split(merged, 3), expected)
    assert_same(by_row(join([encode_merged(merged)]), 3)[0], expected)


@pytest.mark.parametrize(
    "infos", [{"a": np.zeros(1), "_a": np.ones(3, bool)}, {"a": np.zeros(3), "_a": True}, {"a": 1}]
)
def test_merged_infos_of_other_rows_are_refused_row_by_row(infos):
    """What a peer calls merged may be anything."""
    with pytest.raises(MalformedMessage, match="not those of 3 rows"):
        by_row(join([encode_merged(infos)]), 3)


def test_a_key_without_a_mask_is_every_rows():
    """As the parts of ``episode`` are, which Gymnasium's wrapper adds."""
    merged = {"episode": {"r": np.array([1.0, 0.0])}, "_episode": np.array([True, False]), "all": np.array([1, 2])}
    assert_same(split(merged, 2), [{"episode": {"r": np.float64(1)}, "all": np.int64(1)}, {"all": np.int64(2)}])
