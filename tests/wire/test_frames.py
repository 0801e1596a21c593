"""The header and the three frames, byte for byte."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import fixed
from vecserver.wire.errors import MalformedMessage, MessageTooLarge, VersionMismatch
from vecserver.wire.frames import (
    FRAME_COUNT,
    HEADER_SIZE,
    MAX_EXT,
    PROTOCOL_VERSION,
    Flag,
    Header,
    Kind,
    digest_of,
    split,
)

GOLDEN = {
    "every field": (
        Header(
            kind=9,
            flags=3,
            status=0x0504,
            slot=0x0706,
            rows=0x0B0A0908,
            lease=0x1312111009080706,
            epoch=0x1B1A191817161514,
            seq=0x232221201F1E1D1C,
            t_steps=0x27262524,
            digest=0x2B2A2928,
            body_length=0x333231302F2E2D2C,
            clock=0x3B3A393837363534,
        ),
        (
            "56454353 0100 09 03 0405 0607 08090a0b 0607080910111213 1415161718191a1b 1c1d1e1f20212223"
            "24252627 28292a2b 2c2d2e2f30313233 3435363738393a3b"
        ),
    ),
    "the least": (Header(Kind.HELLO), "56454353 0100 01" + "00" * 57),
    "a STEP": (
        Header(Kind.STEP, lease=2, epoch=0xABCD, seq=1, digest=0x0EEFB5B8, body_length=32),
        (
            "56454353 0100 03 00 0000 0000 00000000 0200000000000000 cdab000000000000 0100000000000000"
            "00000000 b8b5ef0e 2000000000000000 0000000000000000"
        ),
    ),
    "an answer": (
        Header(Kind.STEP, Flag.ANSWER | Flag.REPLAYED, 0, 3, 4, 2, 0xABCD, 1, 1, 0, 320, 10**9),
        (
            "56454353 0100 03 03 0000 0300 04000000 0200000000000000 cdab000000000000 0100000000000000"
            "01000000 00000000 4001000000000000 00ca9a3b00000000"
        ),
    ),
}

headers = st.builds(
    Header,
    st.sampled_from(Kind),
    *[st.integers(0, 2**bits - 1) for bits in (8, 16, 16, 32, 64, 64, 64, 32, 32, 64, 64)],
)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_header_has_fixed_bytes(name):
    """Little-endian, 64 bytes, in both directions."""
    header, text = GOLDEN[name]
    assert header.pack().hex() == bytes.fromhex(text).hex()
    assert Header.unpack(bytes.fromhex(text)) == header


def test_numbers_of_kinds_and_flags_do_not_change():
    """They are the protocol: a new one gets a new number."""
    assert {kind.name: kind.value for kind in Kind} == {
        "HELLO": 1,
        "ATTACH": 2,
        "STEP": 3,
        "RESET": 4,
        "CALL": 5,
        "RENDER": 6,
        "PING": 7,
        "DETACH": 8,
        "ERROR": 9,
        "IN_PROGRESS": 10,
        "SPLIT": 11,
        "JOIN": 12,
        "RESUME": 13,
    }
    assert {flag.name: flag.value for flag in Flag} == {"ANSWER": 1, "REPLAYED": 2, "REFUSED": 4, "FRAMES": 8}
    assert (PROTOCOL_VERSION, FRAME_COUNT, HEADER_SIZE, MAX_EXT) == (1, 3, 64, 67_108_864)


@fixed(200)
@given(headers)
def test_a_header_comes_back(header):
    """From any kind of buffer."""
    frame = header.pack()
    assert len(frame) == HEADER_SIZE
    for buffer in (frame, bytearray(frame), memoryview(frame)):
        assert Header.unpack(buffer) == header


def test_a_header_of_another_size_is_refused():
    """The error says how long it was."""
    for size in (*range(64), 65, 128):
        with pytest.raises(MalformedMessage, match=f"this one has {size}$"):
            Header.unpack((Header(Kind.PING).pack() * 2)[:size])


def test_another_protocol_is_named():
    """What came instead is shown."""
    with pytest.raises(MalformedMessage, match="begins with b'HTTP' instead of b'VECS'"):
        Header.unpack(b"HTTP/1.1 200 OK".ljust(64))


@pytest.mark.parametrize("version", [0, 2, 65535])
@pytest.mark.parametrize("size", [6, 64, 80])
def test_another_version_is_named_whatever_its_header_looks_like(version, size):
    """Magic and version stand first in every version; the rest may change."""
    frame = (b"VECS" + struct.pack("<H", version)).ljust(size, b"\xff")
    with pytest.raises(VersionMismatch, match=f"version {version}, this side speaks 1") as caught:
        Header.unpack(frame)
    assert caught.value.details == {"theirs": version, "ours": 1}


@pytest.mark.parametrize("kind", [0, 14, 255])
def test_an_unknown_kind_is_refused(kind):
    """Also one that a later version may have."""
    frame = bytearray(Header(Kind.PING).pack())
    frame[6] = kind
    with pytest.raises(MalformedMessage, match=f"unknown message kind {kind}"):
        Header.unpack(frame)


@fixed(100)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_the_digest_is_the_crc_of_ext_and_body(ext, body):
    """In this order, over both as if they were one."""
    assert digest_of(ext, memoryview(body)) == zlib.crc32(ext + body)


def test_the_digest_is_the_usual_crc_32():
    """The check value of the catalogue of CRCs."""
    assert digest_of(b"1234", b"56789") == 0xCBF43926


@fixed(100)
@given(headers, st.binary(max_size=40), st.binary(max_size=40))
def test_a_message_is_taken_apart(header, ext, body):
    """Header, ext and body as they were sent."""
    header = header._replace(body_length=len(body))
    assert split([header.pack(), ext, memoryview(body)], 40) == (header, ext, body)


@pytest.mark.parametrize(
    ("frames", "error", "text"),
    [
        ([], MalformedMessage, "without frames"),
        ([b""], MalformedMessage, "has 64 bytes, this one has 0"),
        ([Header(Kind.PING).pack()], MalformedMessage, "has 3 frames, this one has 1"),
        ([Header(Kind.PING).pack(), b""], MalformedMessage, "has 3 frames, this one has 2"),
        ([Header(Kind.PING).pack(), b"", b"", b""], MalformedMessage, "has 3 frames, this one has 4"),
        ([b"VECS\x02\x00", b""], VersionMismatch, "version 2"),
        ([Header(Kind.PING).pack(), b"", b"x"], MalformedMessage, "announces a body of 0 bytes, it has 1"),
        ([Header(Kind.PING, body_length=2**63).pack(), b"", b"x"], MalformedMessage, "9223372036854775808 bytes"),
        ([Header(Kind.PING, body_length=9).pack(), b"", b"x" * 9], MessageTooLarge, "body of 9 bytes; at most 8"),
        ([Header(Kind.PING).pack(), memoryview(bytes(MAX_EXT + 1)), b""], MessageTooLarge, "ext of 67108865 bytes"),
    ],
)
def test_frames_that_are_no_message_are_refused(frames, error, text):
    """Count, version, limits and length, in this order."""
    with pytest.raises(error, match=text):
        split(frames, 8)


def test_limits_are_inclusive():
    """A message as large as is allowed passes."""
    ext, body = memoryview(bytes(MAX_EXT)), b"12345678"
    assert split([Header(Kind.PING, body_length=8).pack(), ext, body], 8)[2] == body
