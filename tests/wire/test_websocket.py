"""A message in one piece, and errors as close codes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.utils import apply_mask

from tests.wire.strategies import broken, fixed
from vecserver.control.guards import MAX_BODY_BYTES
from vecserver.wire.errors import ERRORS, MalformedMessage, PoolLost, UnknownPool, VersionMismatch
from vecserver.wire.frames import Header, Kind
from vecserver.wire.websocket import MAX_REQUEST, WholeFrames, close_of, error_of, head_of, join, part


def packed(ext: bytes, body: bytes) -> bytes:
    return join(Header(Kind.STEP, seq=3, body_length=len(body)).pack(), ext, body)


@fixed(200)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_message_comes_out_as_it_went_in(ext, body):
    """The body's length is in the header; the rest is the ext."""
    message = packed(ext, body)
    header, *frames = part(message)
    assert header == Header(Kind.STEP, seq=3, body_length=len(body))
    assert [bytes(frame) for frame in frames] == [message[:64], ext, body]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"", MalformedMessage),
        (packed(b"", b"")[:63], MalformedMessage),
        (packed(b"e", b"body")[:-2], MalformedMessage),
        (packed(b"", b"")[:48] + b"\xff" * 16, MalformedMessage),
        (b"HTTP" * 20, MalformedMessage),
        (b"VECS\x02\x00" + bytes(58), VersionMismatch),
        (b"VECS\x01\x00\xee" + bytes(57), MalformedMessage),
    ],
)
def test_what_is_no_message_is_refused(message, error):
    """Too short, of another protocol, of another version, or of no known kind."""
    with pytest.raises(error):
        part(message)


@fixed(300)
@given(broken(st.binary(max_size=30).map(lambda body: packed(b"ext", body)) | st.binary(max_size=90)))
def test_a_broken_message(message):
    """Is refused, or is one."""
    try:
        header, first, ext, body = part(message)
    except (MalformedMessage, VersionMismatch):
        return
    assert len(first) == 64
    assert len(first) + len(ext) + len(body) == len(message)
    assert len(body) == header.body_length


def test_every_error_has_a_close_code():
    """Its own, and comes back as itself."""
    codes = {}
    for cls in ERRORS.values():
        code, reason = close_of(cls("why"))
        codes[code] = cls
        assert 4000 < code < 5000
        assert (type(error_of(code, reason)), error_of(code, reason).message) == (cls, "why")
    assert len(codes) == len(ERRORS)
    assert (close_of(UnknownPool("x"))[0], close_of(PoolLost("x"))[0]) == (4024, 4031)


@pytest.mark.parametrize("code", [1000, 1001, 1009, 1011, 3000, 4000, 4999])
def test_other_codes_are_no_errors_of_the_protocol(code):
    """The WebSocket protocol's, and those that nobody has."""
    assert error_of(code, "why") is None


def test_a_reason_fits_its_frame():
    """Cut between two characters, whatever the text holds."""
    _, reason = close_of(PoolLost("é" * 100 + "\ud800"))
    assert len(reason.encode()) <= 123
    assert reason == "é" * 61


def test_a_request_is_no_larger_than_the_server_takes():
    """The HTTP server's limit is for all WebSockets."""
    assert MAX_REQUEST <= MAX_BODY_BYTES


def a_frame(opcode: Opcode, size: int, fin: bool) -> Frame:
    """Those that control are short and never in parts."""
    controls = opcode >= Opcode.CLOSE
    return Frame(opcode, bytes(min(size, 125) if controls else size), fin or controls)


FRAMES = st.tuples(
    st.sampled_from([Opcode.BINARY, Opcode.BINARY, Opcode.TEXT, Opcode.CONT, Opcode.PING, Opcode.CLOSE]),
    st.integers(0, 200) | st.just(70_000),
    st.booleans(),
)


@fixed(200)
@given(st.booleans(), st.lists(FRAMES, max_size=8), st.data())
def test_whole_frames_are_told_from_all_others(masked, drawn, data):
    """However frames come: in pieces, several at once, or between the parts of a message."""
    came, whole_ones, edges, in_parts = b"", {}, [0], False
    for each in drawn:
        frame = a_frame(*each)
        begin, came = len(came), came + frame.serialize(mask=masked)
        if frame.opcode is Opcode.BINARY and frame.fin and not in_parts:
            whole_ones[begin, len(came)] = frame.data
        if frame.opcode < Opcode.CLOSE:
            in_parts = not frame.fin
        edges += [begin + 1, begin + 3, begin + 8, (begin + len(came)) // 2, len(came), len(came)]
    cuts = sorted({0, len(came), *(edge for edge in data.draw(st.lists(st.sampled_from(edges))) if edge < len(came))})
    whole = WholeFrames(masked=masked, limit=1 << 20)
    for begin, end in itertools.pairwise(cuts):
        found = whole.payload(came[begin:end])
        if found is None:
            assert (begin, end) not in whole_ones
            whole.skim(came[begin:end])
        else:
            mask, payload = found
            assert (apply_mask(payload, mask) if masked else payload) == whole_ones[begin, end]


@pytest.mark.parametrize("masked", [False, True])
def test_what_the_protocol_is_to_refuse_is_not_taken(masked):
    """A frame without its mask or with one too many, and one that is longer than may be."""
    whole = WholeFrames(masked=masked, limit=10)
    assert whole.payload(Frame(Opcode.BINARY, b"x" * 10).serialize(mask=masked)) is not None
    assert whole.payload(Frame(Opcode.BINARY, b"x" * 11).serialize(mask=masked)) is None
    assert whole.payload(Frame(Opcode.BINARY, b"x" * 10).serialize(mask=not masked)) is None
    assert whole.payload(b"") is None


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_head_is_that_of_a_frame_without_a_mask(size):
    """As the package writes it."""
    assert head_of(size) + bytes(size) == Frame(Opcode.BINARY, bytes(size)).serialize(mask=False)
