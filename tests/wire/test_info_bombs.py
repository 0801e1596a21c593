"""Infos that are too large: left out and counted, at once, whatever makes them large."""

from __future__ import annotations

import numpy as np
import pytest

from vecserver.wire import infos


def bounded(rows, limit=1 << 20):
    """Encode with a limit; gives the infos row by row, what was left out by name, and how many that were."""
    counted = []
    ext = infos.join([infos.encode_rows(rows, bounds=infos.InfoBounds(limit, counted.append))])
    assert len(ext) <= 2 * limit
    given, dropped, _ = infos.by_row(ext, 4)
    return given, dropped, sum(counted)


def shared_lists(width: int, depth: int) -> list:
    """Lists that hold the same list many times: small here, and ``width ** depth`` items when they are written out."""
    value: list = []
    for _ in range(depth):
        value = [value] * width
    return value


def shared_dicts(width: int, depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {str(i): value for i in range(width)}
    return value


def own_list() -> list:
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "bomb",
    [
        np.zeros(10_000_000, np.uint8),
        np.zeros(1_000_000, object),
        "x" * 10_000_000,
        b"x" * 10_000_000,
        1 << 100_000_000,
        [0] * 1_000_000,
        tuple([0] * 1_000_000),
        shared_lists(10, 30),
        shared_lists(1000, 4),
        shared_lists(2, 31),
        shared_dicts(10, 30),
        shared_dicts(2, 29),
        own_list(),
        dict.fromkeys(range(1_000_000), 0),
        {"x" * 10_000_000: 0},
    ],
    ids=lambda bomb: type(bomb).__name__,
)
def test_an_info_that_is_too_large_is_left_out_and_counted(bomb):
    """At once, whatever makes it large; its name is told, and every other info arrives."""
    given, dropped, count = bounded([(0, {"a": 1, "bomb": bomb, "b": 2}), (1, {"c": 3}), (2, {"lives": {"d": 4}})])
    assert {key: given[0][key] for key in ("a", "b")} == {"a": 1, "b": 2}
    assert given[1:3] == [{"c": 3}, {"lives": {"d": 4}}]
    assert count >= 1
    assert all(name.startswith("bomb") for name in dropped)
    assert dropped


def test_rows_whose_infos_are_large_together_share_what_there_is():
    """Each has a part: what one says does not cost the others theirs."""
    blob = np.zeros(600_000, np.uint8)
    given, dropped, count = bounded([(row, {"blob": blob, "x": row}) for row in range(4)])
    assert given == [{"x": row} for row in range(4)]
    assert (set(dropped), count) == ({"blob"}, 4)


def test_last_observations_are_no_infos():
    """They are as large as observations are, and trainers need them."""
    last = np.arange(3_000_000, dtype=np.uint8)
    ext = infos.join(
        [infos.encode_rows([(0, {"final_obs": last, "big": last})], bounds=infos.InfoBounds(1 << 20, lambda _: None))]
    )
    given, dropped, _ = infos.by_row(ext, 1)
    assert np.array_equal(given[0]["final_obs"], last)
    assert set(dropped) == {"big"}


def test_few_of_many_that_are_left_out_are_named():
    """All are counted; a name is no longer than a line."""
    given, dropped, count = bounded([(0, {f"{'k' * 5000}{i}": object() for i in range(1000)})])
    assert (given[0], count) == ({}, 1000)
    assert 1 <= len(dropped) <= 64
    assert max(map(len, dropped)) <= 200


def test_merged_infos_have_the_same_limit():
    """A vectorised environment's are left out key by key."""
    counted = []
    merged = {"bomb": shared_lists(10, 30), "x": np.arange(4)}
    payload = infos.encode_merged(merged, bounds=infos.InfoBounds(1 << 20, counted.append))
    given, dropped, _ = infos.by_row(infos.join([payload]), 4)
    assert [row["x"] for row in given] == [0, 1, 2, 3]
    assert (set(dropped), counted) == ({"bomb"}, [1])
