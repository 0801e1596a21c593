from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vecserver.control.rendering import batch_to_json
from vecserver.pools.results import Batch
from vecserver.wire.json_values import to_json


def rendered(value):
    return json.loads(to_json(value))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (np.bool_(True), True),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (2**64, str(2**64)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (float("inf"), None),
        (np.float32("nan"), None),
        (np.float32(0.1), 0.1),
        (np.float16(0.5), 0.5),
        (np.longdouble("0.5"), "np.longdouble('0.5')"),
        (1 - 2j, "(1-2j)"),
        (np.complex64(1 - 2j), "(1-2j)"),
        (b"\x00\xff", "AP8="),
        ("žluťoučký 🐎", "žluťoučký 🐎"),
        ("lone \ud800", "lone ?"),
        (np.str_("word"), "word"),
        ((1, [2.5, (None,)]), [1, [2.5, [None]]]),
        ({1: 2, (3, 4): 5, None: 6}, {"1": 2, "(3, 4)": 5, "None": 6}),
        ({1}, "{1}"),
        (range(2), "range(0, 2)"),
    ],
)
def test_values_of_infos_become_json(value, shown):
    """Each kind of value that infos hold has a form in JSON."""
    assert rendered({"it": value}) == {"it": shown}


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.array([1.5, np.nan, -np.inf]), [1.5, None, None]),
        (np.array(7, np.int16), 7),
        (np.zeros((0, 3), np.float16), []),
        (np.zeros((2, 0)), [[], []]),
        (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
        (np.arange(6, dtype=np.uint8)[::2], [0, 2, 4]),
        (np.array([1, 2], ">i4"), [1, 2]),
        (np.array(["row", "step"]), ["row", "step"]),
        (np.array([{"at": 1}, None, np.array([2])], object), [{"at": 1}, None, [2]]),
        (np.array([True, False]), [True, False]),
        (np.array([b"\xff"]), ["/w=="]),
    ],
)
def test_arrays_become_lists(array, shown):
    """Arrays of any dtype, order and size become lists of the same shape."""
    assert rendered(array) == shown


@given(
    hnp.arrays(
        st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(sizes=(32, 64))),
        hnp.array_shapes(min_dims=0, min_side=0),
    )
)
def test_numbers_survive(array):
    """Every finite number of an array comes back as it was."""
    back = np.array(rendered(array), dtype=float if array.dtype.kind == "f" else object).reshape(array.shape)
    if array.dtype.kind == "f":
        array = np.where(np.isfinite(array), array, np.nan)
        assert np.array_equal(back.astype(array.dtype), array, equal_nan=True)
    else:
        assert np.array_equal(back.astype(array.dtype), array)


def test_a_batch_keeps_its_structure_and_masks():
    """Nested observations stay nested, and the masks of infos stand beside their values."""
    batch = Batch(
        observations={"image": np.zeros((1, 2, 2), np.uint8), "pair": (np.ones(1), np.zeros((1, 1)))},
        rewards=np.array([1.0]),
        terminated=np.array([True]),
        truncated=np.array([False]),
        infos={"note": np.array(["a"], object), "_note": np.array([True])},
    )
    assert json.loads(batch_to_json(batch)) == {
        "observations": {"image": [[[0, 0], [0, 0]]], "pair": [[1.0], [[0.0]]]},
        "rewards": [1.0],
        "terminated": [True],
        "truncated": [False],
        "infos": {"note": ["a"], "_note": [True]},
    }
