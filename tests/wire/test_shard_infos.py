"""Infos that vectorised environments merged for their shards become those of the pool."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from tests.contract.compare import assert_same
from vecserver.wire.codec import pack
from vecserver.wire.errors import MalformedMessage
from vecserver.wire.infos import MERGED_ROWS, SHARD_ROWS, by_row, encode_merged, join, merge


def merged(*shards):
    ext = join([encode_merged(infos, shard=rows) for rows, infos in shards])
    return merge(ext, 5, VectorEnv()._add_info)[0], by_row(ext, 5)[0]


def test_arrays_of_all_shards_become_one():
    """Of any dtype and shape, nested and masked; row by row they are each row's."""
    one = {"a": np.arange(2, dtype=np.int32), "d": {"x": np.ones((2, 3)), "_x": np.array([True, False])}}
    two = {"a": np.arange(3, dtype=np.int32) + 7, "d": {"x": np.zeros((3, 3)), "_x": np.array([True, True, False])}}
    infos, rows = merged(((0, 2), one), ((2, 5), two))
    mask = np.array([True, False, True, True, False])
    expected = {
        "a": np.array([0, 1, 7, 8, 9], np.int32),
        "d": {"x": np.concatenate([np.ones((2, 3)), np.zeros((3, 3))]), "_x": mask},
    }
    assert_same(infos, expected, "merged")
    assert [row["a"] for row in rows] == [0, 1, 7, 8, 9]
    assert ["x" in row["d"] for row in rows] == mask.tolist()


def test_a_key_of_one_shard_gets_a_mask():
    """The rows of the other have no value."""
    infos, rows = merged(((0, 2), {"a": np.array([1.5, 2.5])}), ((2, 5), {"b": np.array([{}, None, "x"], object)}))
    assert_same(infos["a"], np.array([1.5, 2.5, 0, 0, 0]), "a")
    assert infos["_a"].tolist() == [True, True, False, False, False]
    assert infos["b"].tolist() == [None, None, {}, None, "x"]
    assert infos["_b"].tolist() == [False, False, True, True, True]
    assert rows == [{"a": 1.5}, {"a": 2.5}, {"b": {}}, {"b": None}, {"b": "x"}]


def test_values_that_do_not_go_together_are_objects():
    """Arrays of other dtypes or shapes, lists, and what is no row's but the shard's."""
    infos, _ = merged(
        ((0, 2), {"a": np.zeros((2, 2)), "b": 3, "c": [1, 2]}), ((2, 5), {"a": np.ones(3), "b": "x", "c": ()})
    )
    assert infos["a"].dtype == infos["b"].dtype == object
    assert [np.shape(value) for value in infos["a"]] == [(2,), (2,), (), (), ()]
    assert infos["b"].tolist() == [3, 3, "x", "x", "x"]
    assert infos["c"].tolist() == [1, 2, (), (), ()]


def test_infos_of_all_rows_are_left_as_they_are():
    """Whatever they hold."""
    infos, _ = merged((None, {"a": np.arange(5), "n": np.array([1, 2, 3, 4, 5])}))
    assert_same(infos, {"a": np.arange(5), "n": np.array([1, 2, 3, 4, 5])}, "infos")


@pytest.mark.parametrize(
    "shard",
    [
        {},
        {"first": 0},
        {"first": 3, "end": 3},
        {"first": 0, "end": 6},
        {"first": -1, "end": 2},
        {"first": "0", "end": 2},
    ],
)
def test_a_shard_that_the_pool_does_not_have_is_malformed(shard):
    """For whoever reads them, merged or row by row."""
    ext = pack([[[SHARD_ROWS, shard], [MERGED_ROWS, {"a": 1}]]])
    for read in (lambda: merge(ext, 5, VectorEnv()._add_info), lambda: by_row(ext, 5)):
        with pytest.raises(MalformedMessage):
            read()


def test_a_mask_that_is_none_is_malformed():
    """Of another length than the shard."""
    ext = join([encode_merged({"a": np.zeros(2), "_a": np.zeros(3, bool)}, shard=(0, 2))])
    with pytest.raises(MalformedMessage, match="mask"):
        merge(ext, 5, VectorEnv()._add_info)
