"""Action batches: what the caller passed reaches the environments in the dtype it had, or is refused before a step."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.compare import assert_same
from tests.wire.strategies import (
    INTEGERS,
    NUMBERS,
    action_spaces,
    arrays,
    boxes,
    discretes,
    fixed,
    multi_binaries,
    multi_discretes,
)
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import InvalidAction, MalformedMessage, UnsupportedSpace
from vecserver.wire.layout import assemble, leaf_spaces

RANK = {"b": 0, "i": 1, "u": 1, "f": 2}
CARTPOLE = ActionFormat(spaces.Discrete(2), 4)
PENDULUM = ActionFormat(spaces.Box(-2, 2, (1,), np.float32), 2)


def _taken(dtype: np.dtype) -> list[str]:
    return [name for name in NUMBERS if RANK[np.dtype(name).kind] <= RANK[dtype.kind]]


@st.composite
def batches(draw, of: st.SearchStrategy[spaces.Space] = action_spaces):
    """A format and a batch for it, of random bits in any dtypes that its leaves take."""
    space, num_envs = draw(of), draw(st.integers(1, 4))
    leaves = [leaf for _, leaf in leaf_spaces(space)]
    parts = [
        draw(arrays(draw(st.sampled_from(_taken(np.dtype(leaf.dtype)))), (num_envs, *leaf.shape))) for leaf in leaves
    ]
    return ActionFormat(space, num_envs), parts


@fixed(300)
@given(batches())
def test_a_batch_passes_the_wire_and_the_arena_unchanged(batch):
    """Coerce, encode, decode, store and load are the identity, in the caller's dtypes, to the bit."""
    fmt, parts = batch
    coerced = fmt.coerce(assemble(fmt.space, iter(parts)))
    assert_same(coerced, parts)
    ext, body = fmt.encode(coerced)
    assert len(body) <= fmt.area_size
    decoded = fmt.decode(ext, bytes(body))
    assert_same(decoded, parts)
    area, codes = memoryview(bytearray(fmt.area_size)), memoryview(bytearray(fmt.leaf_count))
    fmt.store(decoded, area, codes)
    for first, end in product(range(fmt.num_envs), range(1, fmt.num_envs + 1)):
        rows = slice(first, end)
        assert_same(fmt.load(area, bytes(codes), rows), [part[rows] for part in parts])


@fixed(100)
@given(batches())
def test_usual_dtypes_are_not_named(batch):
    """The ext is empty exactly where every leaf has its space's own dtype."""
    fmt, parts = batch
    usual = [np.dtype(leaf.dtype) for _, leaf in leaf_spaces(fmt.space)]
    ext, _ = fmt.encode(fmt.coerce(assemble(fmt.space, iter(parts))))
    assert (ext == b"") == (usual == [part.dtype for part in parts])


def test_stored_leaves_do_not_overlap():
    """Each leaf has room for its widest dtype."""
    space = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (3,), np.float16), spaces.MultiBinary([2, 2])])
    fmt = ActionFormat(space, 3)
    assert fmt.area_size == 8 * 3 + 8 * 9 + 8 * 12
    parts = [np.full(3, 1, "u8"), np.full((3, 3), 0.5, "f8"), np.full((3, 2, 2), 1, "i8")]
    area, codes = memoryview(bytearray(fmt.area_size)), memoryview(bytearray(3))
    fmt.store(parts, area, codes)
    assert_same(fmt.load(area, bytes(codes), slice(0, 3)), parts)
    assert bytes(codes) == bytes([8, 11, 4])


GOLDEN = [
    (CARTPOLE, np.array([0, 1, 1, 0]), "", "0000000000000000 0100000000000000 0100000000000000 0000000000000000"),
    (CARTPOLE, np.array([0, 1, 1, 0], "i1"), "91 a37c6931", "00010100 00000000"),
    (CARTPOLE, [False, True, True, False], "91 a37c6231", "00010100 00000000"),
    (PENDULUM, np.array([[1.0], [-2.0]], "f4"), "", "0000803f 000000c0"),
    (PENDULUM, np.array([[1.0], [-2.0]], "f8"), "91 a33c6638", "000000000000f03f 00000000000000c0"),
    (
        ActionFormat(spaces.Dict({"b": spaces.MultiBinary(2), "a": spaces.MultiDiscrete([3], dtype=np.uint8)}), 1),
        {"a": np.array([[2]]), "b": np.array([[1, 0]], "i1")},
        "92 a33c6938 a37c6931",
        "0200000000000000 0100 000000000000",
    ),
    (ActionFormat(spaces.Tuple([]), 3), (), "", ""),
    (ActionFormat(spaces.Box(0, 1, (0,), np.float32), 2), np.zeros((2, 0), "f4"), "", ""),
]


@pytest.mark.parametrize(("fmt", "actions", "ext", "body"), GOLDEN)
def test_a_batch_has_fixed_bytes(fmt, actions, ext, body):
    """Ext and body of a STEP are those that the protocol gives, in both directions."""
    got = fmt.encode(fmt.coerce(actions))
    assert [bytes(part).hex() for part in got] == [bytes.fromhex(ext).hex(), bytes.fromhex(body).hex()]
    assert_same(fmt.decode(bytes.fromhex(ext), bytes.fromhex(body)), fmt.coerce(actions))


def test_an_encoded_batch_is_a_copy():
    """A request is kept until it is answered, and its caller may change the actions before."""
    actions = np.array([0, 1, 1, 0])
    _, body = CARTPOLE.encode(CARTPOLE.coerce(actions))
    actions[:] = 1
    assert np.frombuffer(body, np.int64).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("fmt", "actions", "text"),
    [
        (CARTPOLE, [0, 1, 1], "has 3 rows, the pool has 4"),
        (CARTPOLE, [0, 1, 1, 0, 0], "has 5 rows, the pool has 4"),
        (CARTPOLE, 0, "has no rows"),
        (CARTPOLE, None, "has no rows"),
        (CARTPOLE, [[0], [1], [1], [0]], r"shape \(4, 1\) instead of \(4,\)"),
        (CARTPOLE, [[0], [1, 1], [1], [0]], "is no array"),
        (CARTPOLE, [0.0, 1.0, 1.0, 0.0], "has dtype float64, Discrete.* takes int64"),
        (CARTPOLE, ["0", "1", "1", "0"], "has dtype <U1"),
        (CARTPOLE, [0, 1, 2**70, 0], "has dtype object"),
        (CARTPOLE, np.zeros(4, ">i8"), "has dtype >i8"),
        (CARTPOLE, np.zeros(4, "m8[s]"), "has dtype timedelta64"),
        (PENDULUM, np.zeros((2, 1), "c8"), "has dtype complex64"),
        (PENDULUM, np.zeros((2, 1), "g"), "has dtype float128"),
        (ActionFormat(spaces.Dict(a=spaces.Discrete(2)), 1), [0], "does not have the structure"),
        (ActionFormat(spaces.Dict(a=spaces.Discrete(2)), 1), {"b": [0]}, "does not have the structure"),
        (ActionFormat(spaces.Dict(a=spaces.Discrete(2)), 1), {"a": [0, 1]}, "at /a has 2 rows"),
        (ActionFormat(spaces.Tuple([spaces.Discrete(2)]), 1), ([0], [0]), "does not have the structure"),
        (ActionFormat(spaces.Tuple([spaces.Discrete(2)]), 1), 0, "does not have the structure"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(fmt, actions, text):
    """Structure, rows, shape and dtype, each named; nothing was stepped."""
    with pytest.raises(InvalidAction, match=text) as caught:
        fmt.coerce(actions)
    assert caught.value.message.endswith("nothing was stepped")


class _Tensor:
    """Like a tensor of an accelerator, which refuses to become an array."""

    def __array__(self, dtype=None, copy=None):
        raise self.error

    def __init__(self, error):
        self.error = error


@pytest.mark.parametrize("error", [TypeError("can't convert cuda:0"), RuntimeError("call detach() first")])
def test_a_tensor_that_is_no_array_is_refused_with_its_own_reason(error):
    """The text that says what to do about it is kept."""
    with pytest.raises(InvalidAction, match="cuda:0|detach"):
        CARTPOLE.coerce(_Tensor(error))


@pytest.mark.parametrize("wanted", NUMBERS)
def test_an_action_may_be_narrower_in_kind_but_not_wider(wanted):
    """Booleans for integers, integers for floats; never floats for integers, in either end's check."""
    fmt = ActionFormat(spaces.Box(0, 1, (1,), np.dtype(wanted)), 2)
    for name in NUMBERS:
        dtype = np.dtype(name)
        ext = b"" if name == wanted else b"\x91\xa3" + dtype.str.encode()
        body = bytes(-(-2 * dtype.itemsize // 8) * 8)
        if name in _taken(np.dtype(wanted)):
            assert fmt.coerce(np.zeros((2, 1), name))[0].dtype == dtype
            assert fmt.decode(ext, body)[0].dtype == dtype
        else:
            with pytest.raises(InvalidAction):
                fmt.coerce(np.zeros((2, 1), name))
            with pytest.raises(InvalidAction):
                fmt.decode(ext, body)


def _bad_rows(space: spaces.Space, array: np.ndarray) -> list[int]:
    """Rows with a value that the space does not hold, in Python's own integers."""
    if isinstance(space, spaces.MultiBinary):
        low, n = [0] * prod(space.shape), [2] * prod(space.shape)
    elif isinstance(space, spaces.Discrete):
        low, n = [int(space.start)], [int(space.n)]
    else:
        low, n = space.start.ravel().tolist(), space.nvec.ravel().tolist()
    return [
        row
        for row, values in enumerate(array.reshape(len(array), -1).tolist())
        if any(not first <= value < first + count for value, first, count in zip(values, low, n, strict=True))
    ]


@fixed(400)
@given(batches(st.one_of(discretes(), multi_discretes(), multi_binaries)))
def test_integers_outside_their_space_are_refused(batch):
    """The first row is named; what lies inside passes, in any dtype and at both ends of the range."""
    fmt, (array,) = batch
    bad = _bad_rows(fmt.space, array)
    if not bad:
        fmt.check([array])
        return
    with pytest.raises(InvalidAction, match=rf"^row {bad[0]}: action .* is outside ") as caught:
        fmt.check([array])
    assert caught.value.details == {"row": bad[0]}


@fixed(200)
@given(st.one_of(discretes(), multi_discretes(), multi_binaries), st.data())
def test_the_first_and_last_value_of_a_space_pass(space, data):
    """And one below or above does not, where the dtype can hold it."""
    fmt = ActionFormat(space, 1)
    if isinstance(space, spaces.MultiBinary):
        low, high = np.zeros(space.shape, object), np.ones(space.shape, object)
    else:
        low = np.asarray(space.start).astype(object)
        high = low + np.asarray(getattr(space, "nvec", getattr(space, "n", None))).astype(object) - 1
    for name in INTEGERS:
        info = np.iinfo(name)
        for edge, outside in ((low, low - 1), (high, high + 1)):
            if np.all(edge >= info.min) and np.all(edge <= info.max):
                fmt.check([np.asarray(edge).astype(name)[None]])
            if np.all(outside >= info.min) and np.all(outside <= info.max):
                with pytest.raises(InvalidAction):
                    fmt.check([np.asarray(outside).astype(name)[None]])


@fixed(200)
@given(batches(boxes(min_side=1)))
def test_a_box_refuses_only_what_is_no_number(batch):
    """NaN; bounds are the environment's own business, as in Gymnasium, and so is infinity."""
    fmt, (array,) = batch
    nan = [row for row in range(fmt.num_envs) if array.dtype.kind == "f" and np.isnan(array[row]).any()]
    if not nan:
        fmt.check([array])
        return
    with pytest.raises(InvalidAction, match=f"^row {nan[0]}: "):
        fmt.check([array])


def test_the_refusal_of_a_big_action_is_short():
    """An error travels too."""
    fmt = ActionFormat(spaces.MultiBinary(100_000), 1)
    with pytest.raises(InvalidAction) as caught:
        fmt.check([np.full((1, 100_000), 2, "i1")])
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("ext", "body", "error", "text"),
    [
        ("", "00" * 24, MalformedMessage, "do not have 24 bytes"),
        ("", "00" * 40, MalformedMessage, "do not have 40 bytes"),
        ("", "", MalformedMessage, "do not have 0 bytes"),
        ("91a37c6931", "00" * 4, MalformedMessage, "do not have 4 bytes"),
        ("90", "00" * 32, MalformedMessage, "names 0 dtypes for 1 leaves"),
        ("92a37c6931a37c6931", "00" * 32, MalformedMessage, "names 2 dtypes for 1 leaves"),
        ("c0", "00" * 32, MalformedMessage, "names no dtypes"),
        ("91a1ff", "00" * 32, MalformedMessage, "names no dtypes"),
        ("91" * 5000, "00" * 32, MalformedMessage, "names no dtypes"),
        ("ddffffffff", "00" * 32, MalformedMessage, "names no dtypes"),
        ("91a33c6638", "00" * 32, InvalidAction, "dtype '<f8', Discrete.* takes int64"),
        ("91a3" + b"|O8".hex(), "00" * 32, InvalidAction, "dtype '|O8'"),
        ("91a5" + b"(,)f4".hex(), "00" * 32, InvalidAction, "dtype"),
        ("91a2" + b"i8".hex(), "00" * 32, InvalidAction, "dtype 'i8'"),
        ("91da1000" + "41" * 4096, "00" * 32, InvalidAction, "dtype 'AAA.{1,60}, Discrete"),
    ],
)
def test_a_step_that_is_no_batch_is_refused(ext, body, error, text):
    """Whatever the bytes say, the answer is an error of the tree, and short."""
    with pytest.raises(error, match=text.replace("|", "[|]") if "O8" in text else text):
        CARTPOLE.decode(bytes.fromhex(ext), bytes.fromhex(body))


def test_a_decoded_batch_is_a_view():
    """No copy on the way in."""
    body = bytearray(32)
    (array,) = CARTPOLE.decode(b"", memoryview(body))
    body[0] = 1
    assert array.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("dtype", ["g", ">f4", ">i2"])
def test_a_dtype_that_no_action_may_have_is_refused_at_once(dtype):
    """A long double or a foreign byte order has no code in the arena."""
    with pytest.raises(UnsupportedSpace, match="actions have one of"):
        ActionFormat(spaces.Box(np.zeros(1, dtype), np.ones(1, dtype), dtype=np.dtype(dtype)), 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_is_refused_and_infinity_is_not(dtype):
    """A row with NaN is named; infinity is the environment's own business."""
    fmt = ActionFormat(spaces.Box(-1, 1, (2,)), 3)
    actions = np.zeros((3, 2), dtype)
    actions[0, 1] = np.inf
    fmt.check(fmt.coerce(actions))
    actions[1, 0] = np.nan
    with pytest.raises(InvalidAction, match=r"^row 1: action \[nan, 0.0\] is outside"):
        fmt.check(fmt.coerce(actions))
