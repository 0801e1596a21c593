"""Values ↔ bytes: what comes out is what went in, to the type and the bit, or was refused before it was sent."""

from __future__ import annotations

import enum
import struct
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from gymnasium.spaces import GraphInstance
from hypothesis import given

from tests.contract.compare import assert_same
from tests.wire.strategies import any_arrays, fixed, little_memory, scalars, values
from vecserver.wire.codec import MAX_DEPTH, numeric_dtype, pack, portable, unpack
from vecserver.wire.errors import MalformedMessage, Unportable

GOLDEN = {
    "none": (None, "c0"),
    "true": (True, "c3"),
    "small integer": (-1, "ff"),
    "largest plain integer": (2**64 - 1, "cf ffffffffffffffff"),
    "big integer": (2**64, "c70905 000000000000000001"),
    "big negative integer": (-(2**64), "c70905 0000000000000000ff"),
    "float": (1.5, "cb 3ff8000000000000"),
    "minus zero": (-0.0, "cb 8000000000000000"),
    "text": ("ü", "a2 c3bc"),
    "bytes": (b"\x00\xff", "c402 00ff"),
    "list": ([1, "a"], "92 01 a161"),
    "dict": ({"a": None}, "81 a161 c0"),
    "tuple": ((1, 2), "c70303 92 01 02"),
    "dict with other keys": ({1: "a"}, "c70506 91 92 01 a161"),
    "array": (np.array([[1.0, -2.0]], "<f4"), "c71201 93 a33c6634 920102 c408 0000803f 000000c0"),
    "0-d array": (np.array(7, "u1"), "c70901 93 a37c7531 90 c401 07"),
    "empty array": (np.zeros((0, 2), "<i2"), "c70a01 93 a33c6932 920002 c400"),
    "numpy scalar": (np.float32(1.0), "c70b02 92 a33c6634 c404 0000803f"),
    "numpy bool": (np.bool_(True), "d702 92 a37c6231 c401 01"),
    "numpy text": (np.str_("a"), "c70b02 92 a33c5531 c404 61000000"),
    "object array": (np.array([None, 1], dtype=object), "c70604 92 9102 92c001"),
    "graph": (GraphInstance(np.array(7, "u1"), None, None), "c70f07 93 c70901 93a37c753190c40107 c0 c0"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_every_type_has_fixed_bytes(name):
    """The encoding of a value is the one the protocol gives, in both directions."""
    value, text = GOLDEN[name]
    data = bytes.fromhex(text)
    assert pack(value).hex() == data.hex()
    assert_same(unpack(data), value)


@fixed(400)
@given(values)
def test_a_value_comes_back_with_its_types_and_bits(value):
    """Round trip of nested values, from every kind of buffer."""
    data = pack(value)
    assert_same(unpack(data), value)
    assert_same(unpack(memoryview(bytearray(data))), value)


@fixed(300)
@given(scalars)
def test_a_numpy_scalar_of_any_dtype_comes_back(scalar):
    """NaN payloads, big-endian numbers, times, and text with trailing null characters included."""
    assert_same(unpack(pack(scalar)), scalar)


@fixed(200)
@given(any_arrays)
def test_an_array_comes_back_writable_and_owning_its_memory(array):
    """Whatever memory order was sent, the receiver may write into what it got."""
    got = unpack(pack(array))
    assert_same(got, array)
    assert got.flags.writeable
    assert got.flags.c_contiguous


@pytest.mark.parametrize("bits", [0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000001, 0x8000000000000000])
def test_the_bits_of_a_float_survive(bits):
    """Quiet and signalling NaNs keep their payload, minus zero its sign."""
    value = struct.unpack("<d", struct.pack("<Q", bits))[0]
    assert struct.pack("<d", unpack(pack(value))) == struct.pack("<Q", bits)


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), 2**70, -(2**70)], ids=["+5000 digits", "-5000 digits", "+", "-"]
)
def test_an_integer_of_any_size_travels(value):
    """Beyond the digits that Python turns into text, too; as a key as well."""
    assert unpack(pack(value)) == value
    assert unpack(pack({value: 1})) == {value: 1}


def test_keys_keep_their_types():
    """A key of one type is not a key of another, and the order of keys stays."""
    value = {True: 1, (1, "a"): 2, np.int64(3): 4, None: 5, 2.5: 6, b"x": 7, "s": 8}
    assert [(type(key), key) for key in unpack(pack(value))] == [(type(key), key) for key in value]


def test_objects_in_an_object_array_stay_objects():
    """Arrays and lists inside an object array are not unpacked into its shape."""
    array = np.empty((2, 2), dtype=object)
    array[0, 0], array[0, 1], array[1, 0] = np.zeros(3), [1, 2], np.array(5)
    assert_same(unpack(pack(array)), array)


_Point = namedtuple("_Point", "x y")


class _Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        1j,
        bytearray(b"x"),
        range(3),
        _Point(1, 2),
        _Colour.RED,
        OrderedDict(a=1),
        np.ma.masked_array([1]),
        np.zeros(2, [("a", "f4")]),
        np.void(b"abc"),
        np.ndarray((3,), "S0"),
        np.zeros(2, "g"),
        np.longdouble(1),
        np.clongdouble(1),
        "\ud800",
        {"\udfff": 1},
        test_keys_keep_their_types,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_travel_is_refused_by_name(value):
    """The error says where the value stands; nothing is sent as something else."""
    for wrapped, path in [(value, "value"), ([value], "value[0]"), ({"k": (value,)}, "value['k'][0]")]:
        with pytest.raises(Unportable, match="cannot travel") as caught:
            pack(wrapped)
        assert caught.value.message.startswith(path)


def test_an_unportable_key_is_refused():
    """A key is a value too."""
    with pytest.raises(Unportable, match=r"^key 1 of value is a .*frozenset"):
        pack({1: 1, frozenset(): 1})
    with pytest.raises(Unportable, match=r"^item 0 of value is a .*object"):
        pack({1: object()})


def _nest(kind, levels):
    value = np.ones(1) if kind == "array" else []
    for _ in range(levels):
        value = {"list": lambda v: [v], "dict": lambda v: {"": v}, "map": lambda v: {1: v}}.get(kind, lambda v: (v,))(
            value
        )
    return value


@pytest.mark.parametrize("kind", ["list", "dict", "map", "tuple", "array"])
def test_what_may_be_packed_may_be_unpacked(kind):
    """Both ends have the same limit of nesting: the deepest value passes both, one level more passes neither."""
    deepest = _nest(kind, MAX_DEPTH)
    assert_same(unpack(pack(deepest)), deepest)
    with pytest.raises(Unportable, match="nested deeper than 32"):
        pack(_nest(kind, MAX_DEPTH + 1))


def test_a_value_inside_itself_is_refused():
    """A cycle ends at the limit of nesting."""
    value = []
    value.append(value)
    with pytest.raises(Unportable, match="nested"):
        pack(value)


def test_depth_counts_where_a_value_stands():
    """A caller that wraps a value says how deep it will be."""
    assert portable(1, depth=MAX_DEPTH) == 1
    with pytest.raises(Unportable):
        portable(1, depth=MAX_DEPTH + 1)


@pytest.mark.parametrize("name", ["<f4", ">f8", "|b1", "|S5", "<U0", "<M8[25s]", "<m8", "|i1", "<c16"])
def test_a_plain_dtype_is_known_by_its_name(name):
    """Numbers, text, bytes and times."""
    assert numeric_dtype(name).str == name


@pytest.mark.parametrize(
    "name",
    [
        "O",
        "|O8",
        "V4",
        "|V4",
        "f4",
        "float32",
        "<f3",
        "<M8[x]",
        "a5",
        "<S9999999999",
        "f4,f4",
        "(2,)f4",
        "(,)f4",
        "",
        4,
        None,
        ["<f4"],
        "<f4 ",
    ],
)
def test_other_dtypes_are_refused(name):
    """No objects, structures, aliases or expressions; numpy does not even see them."""
    with pytest.raises(MalformedMessage, match="is not taken"):
        numeric_dtype(name)


def _ext(code: int, text: str) -> str:
    data = bytes.fromhex(text)
    return (b"\xc9" + len(data).to_bytes(4, "big") + bytes([code]) + data).hex()


def _extensions(levels: int) -> str:
    data = "90"
    for _ in range(levels):
        data = _ext(3, "91" + data)
    return data


HOSTILE = {
    "nothing": "",
    "two values": "0101",
    "a byte that is no type": "c1",
    "unknown extension": _ext(42, "00"),
    "list of four thousand million": "ddffffffff",
    "map of four thousand million": "dfffffffff",
    "bytes of four gigabytes": "c6ffffffff",
    "invalid text": "a1ff",
    "timestamp out of range": "c70cff" + "ff" * 12,
    "map with an array as a key": "81" + _ext(1, "93 a37c7531 90 c40107") + "00",
    "tuple of a number": _ext(3, "01"),
    "mapping of no pairs": _ext(6, "9101"),
    "mapping with a list as a key": _ext(6, "91 92 90 01"),
    "graph of one part": _ext(7, "9101"),
    "array of one part": _ext(1, "9101"),
    "array of nothing": _ext(1, "c0"),
    "array with a huge shape of no width": _ext(1, "93 a37c5330 91cf0000010000000000 c400"),
    "array of text of no width": _ext(1, "93 a33c5530 9103 c400"),
    "array with more elements than bytes": _ext(1, "93 a33c6634 91ccff c400"),
    "array with zero and huge sides": _ext(1, "93 a33c6634 93 00 cf4000000000000000 cf4000000000000000 c400"),
    "array with a side beyond 64 bits": _ext(1, "93 a37c7531 92 00 c70905000000000000000001 c400"),
    "array with negative sides": _ext(1, "93 a33c6634 92ffff c404 00000000"),
    "array with a side that is true": _ext(1, "93 a33c6634 91c3 c404 00000000"),
    "array with a side that is a float": _ext(1, "93 a33c6634 91cb3ff0000000000000 c404 00000000"),
    "array whose shape is a number": _ext(1, "93 a33c6634 01 c404 00000000"),
    "array with too many sides": _ext(1, "93 a37c7531 dc0041" + "01" * 65 + "c40100"),
    "array of objects": _ext(1, "93 a37c4f38 9101 c408 0000000000000000"),
    "array whose bytes are a list": _ext(1, "93 a37c7531 9101 9101"),
    "array whose bytes are text": _ext(1, "93 a37c7531 9101 a141"),
    "array of no characters": _ext(1, "93 a33c5531 9101 c404 00001100"),
    "big-endian array of no characters": _ext(1, "93 a33e5531 9101 c404 00110000"),
    "scalar of one byte too few": _ext(2, "92 a33c6634 c403 000000"),
    "scalar of no character": _ext(2, "92 a33c5531 c404 ffffffff"),
    "scalar whose bytes are a number": _ext(2, "92 a33c6634 01"),
    "object array of another length": _ext(4, "92 9103 90"),
    "object array of a number": _ext(4, "92 9101 01"),
    "object array with zero and huge sides": _ext(4, "92 92 00 cf4000000000000000 90"),
    "extensions in extensions": _extensions(2000),
    "lists in lists": "91" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bytes_that_are_no_value_are_refused_before_memory_is_taken(name):
    """What the sender claims is checked against what it sent, not against what the machine has."""
    data = bytes.fromhex(HOSTILE[name])
    with little_memory(1 << 20), pytest.raises(MalformedMessage):
        unpack(data)
