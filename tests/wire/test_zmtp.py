"""ZeroMQ's protocol as DEALER and ROUTER speak it: known bytes, any cut, any noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import broken, fixed, little_memory
from vecserver.wire.errors import MalformedMessage, MessageTooLarge, Unauthorized
from vecserver.wire.zmtp import (
    GREETING,
    OPENING_SIZE,
    READY,
    ROUTER_READY,
    Incoming,
    check_greeting,
    check_ready,
    encode,
    pong,
)

LIMITS = (64, 1 << 17, 1 << 17)
EDGES = [0, 1, 255, 256, (16 << 10) - 1, 16 << 10, 32767, 32768, 65525, 65526, 65535, 65536, 65537, 1 << 17]
PING = bytes.fromhex("04 0b 04") + b"PING" + b"\0\x64" + b"ctx!"


def whole(frames) -> bytes:
    """The bytes of a message."""
    return b"".join(encode(frames))


def pushed(incoming: Incoming, data: bytes, cuts=(1 << 20,)) -> list[list[bytes]]:
    """The messages that come out when bytes go in, cut to these sizes in turn, as a socket would deliver them."""
    messages, at, turn = [], 0, 0
    while at < len(data):
        room = incoming.room()
        assert len(room)
        count = min(len(room), max(1, cuts[turn % len(cuts)]), len(data) - at)
        room[:count] = data[at : at + count]
        incoming.received(count)
        at, turn = at + count, turn + 1
        while (message := incoming.message()) is not None:
            messages.append([bytes(frame) for frame in message])
    return messages


def frame(flags: int, data: bytes, *, long: bool = False) -> bytes:
    length = len(data).to_bytes(8, "big") if long else bytes([len(data)])
    return bytes([flags | 2 * long]) + length + data


# Known bytes


def test_the_greeting_is_the_specifications():
    """Signature, version 3.0, NULL, not a server, and zeros: 64 bytes."""
    assert GREETING.hex() == "ff00000000000000007f" + "0300" + "4e554c4c" + 32 * "0" + "00" + 31 * "00"
    assert len(GREETING) == 64
    assert GREETING[:OPENING_SIZE].hex() == "ff00000000000000007f0300"


def test_ready_names_the_kind_of_socket():
    """A command of a property, and for a ROUTER a second one, the name that it does not have."""
    assert READY == b"\x04\x1c" + b"\x05READY" + b"\x0bSocket-Type" + b"\0\0\0\x06DEALER"
    identity = b"\x08Identity" + b"\0\0\0\0"
    assert b"\x04\x29" + b"\x05READY" + b"\x0bSocket-Type" + b"\0\0\0\x06ROUTER" + identity == ROUTER_READY


@pytest.mark.parametrize(
    ("context", "answer"),
    [(b"", b"\x04\x05\x04PONG"), (b"ctx!", b"\x04\x09\x04PONGctx!"), (b"x" * 300, b"\x04\x15\x04PONG" + b"x" * 16)],
)
def test_a_pong_gives_the_context_back(context, answer):
    """Without the time to live, and no more than the specification's sixteen bytes."""
    assert pong(b"\0\x64" + context) == answer


def test_a_message_of_small_frames_is_one_buffer():
    """Flags, length, data; MORE on all but the last."""
    assert encode([b"head", b"", b"body"]) == [b"\x01\x04head" + b"\x01\x00" + b"\x00\x04body"]


@pytest.mark.parametrize(
    ("size", "start"),
    [(255, b"\x00\xff"), (256, b"\x02\0\0\0\0\0\0\x01\0"), (65536, b"\x02\0\0\0\0\0\x01\0\0")],
)
def test_lengths_from_256_take_eight_bytes(size, start):
    """The LONG flag says so."""
    data = bytes(range(256)) * 256
    assert whole([data[:size]]) == start + data[:size]


def test_large_frames_are_sent_from_where_they_lie():
    """No copy is made of a body; the frames around it are joined."""
    body = bytearray(1 << 16)
    before, sent, after = encode([b"head", body, b"tail"])
    assert sent is body
    assert before == b"\x01\x04head" + b"\x03" + (1 << 16).to_bytes(8, "big")
    assert after == b"\x00\x04tail"
    assert encode([body])[-1] is body


# Any cut


@pytest.mark.parametrize("size", EDGES)
def test_frames_of_every_odd_size_come_back(size):
    """Where a length or a buffer ends: the same bytes, whole or in pieces, followed by another message."""
    message = [b"h" * 64, random.Random(size).randbytes(size), random.Random(size + 1).randbytes(size)]
    data = whole(message) + whole([b"next", b"", b"one"])
    for cuts in [(1 << 20,), (65536,), (9, 1, 40_000), (1000, 2)]:
        assert pushed(Incoming(LIMITS), data, cuts) == [message, [b"next", b"", b"one"]]


def test_a_message_comes_back_cut_at_every_byte():
    """Two pieces, wherever the cut is, and the message behind it is whole as well."""
    message = [b"h" * 64, b"e" * 300, b""]
    data = PING + whole(message) + whole([b"a", b"b"])
    for at in range(1, len(data)):
        assert pushed(Incoming(LIMITS), data, (at, 1 << 20)) == [message, [b"a", b"b"]]
    assert pushed(Incoming(LIMITS), data, (1,)) == [message, [b"a", b"b"]]


messages = st.lists(
    st.tuples(
        st.binary(max_size=64),
        st.one_of(st.binary(max_size=300), st.sampled_from(EDGES).map(bytes)),
        st.one_of(st.binary(max_size=300), st.sampled_from(EDGES).map(lambda size: b"\xaa" * size)),
    ).map(list)
    | st.lists(st.binary(max_size=64), min_size=1, max_size=3),
    max_size=6,
)


@fixed(200)
@given(messages, st.lists(st.integers(1, 70_000), min_size=1, max_size=8))
def test_any_messages_survive_any_cut(sent, cuts):
    """What was encoded comes out, in order, however the bytes arrive."""
    assert pushed(Incoming(LIMITS), b"".join(map(whole, sent)), cuts) == sent


@fixed(100)
@given(st.lists(st.binary(max_size=40), min_size=3, max_size=3), st.lists(st.integers(0, 3), max_size=5))
def test_commands_may_come_anywhere(message, places):
    """Between messages and between the frames of one; they are gathered in order and belong to no message."""
    parts = [frame(1, message[0]), frame(1, message[1]), frame(0, message[2])]
    for number, place in enumerate(places):
        parts[min(place, 2)] = frame(4, b"\x04PING" + bytes([number])) + parts[min(place, 2)]
    incoming = Incoming(LIMITS)
    assert pushed(incoming, b"".join(parts), (7,)) == [message]
    assert sorted(incoming.commands) == [(b"PING", bytes([number])) for number in range(len(places))]


def test_frames_are_the_readers_own():
    """What was given out does not change when more arrives."""
    incoming = Incoming(LIMITS)
    kept = []
    for number in range(50):
        room, data = incoming.room(), whole([bytes([number]) * 64, bytes([number]) * 5000])
        room[: len(data)] = data
        incoming.received(len(data))
        kept.append(incoming.message())
        assert incoming.message() is None
    assert [(message[0][0], set(message[1])) for message in kept] == [(number, {number}) for number in range(50)]


# What is refused


@pytest.mark.parametrize(
    "data",
    [b"H", b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-x", b"\x01\x00", b"\xff" + bytes(8) + b"\x7e", b"\xff" * 64],
)
def test_a_stranger_is_told_by_its_first_bytes(data):
    """The text shows what it said."""
    with pytest.raises(MalformedMessage, match=r"does not speak ZeroMQ: it begins with b'"):
        check_greeting(data)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_older_peer_is_told_before_it_falls_silent(version):
    """It sends no greeting of 64 bytes, so that its version must do."""
    with pytest.raises(MalformedMessage, match=r"ZeroMQ before 4\.0"):
        check_greeting(GREETING[:10] + bytes([version]))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"CURVE", Unauthorized),
        (b"PLAIN", Unauthorized),
        (b"GSSAPI", MalformedMessage),
        (b"\xf0\x9f", MalformedMessage),
    ],
)
def test_a_peer_that_demands_security_is_refused_by_name(name, error):
    """Whatever the name is made of; one that a server can open has an error of its own."""
    with pytest.raises(error, match="demands the security mechanism"):
        check_greeting(GREETING[:12] + name.ljust(20, b"\0") + bytes(32))


@pytest.mark.parametrize("minor", [0, 1, 9])
def test_a_peer_of_this_or_a_later_version_passes(minor):
    """At every length of its greeting; the length in the signature is nobody's business."""
    greeting = b"\xff" + bytes(7) + b"\x01\x7f\x03" + bytes([minor]) + GREETING[12:]
    for size in range(65):
        check_greeting(greeting[:size] or b"\xff")


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (frame(1, b"h" * 65), 64),
        (frame(1, b"h") + b"\x03" + (LIMITS[1] + 1).to_bytes(8, "big"), LIMITS[1]),
        (whole([b"h", b"e"])[:-3] + frame(1, b"e") + b"\x02" + (LIMITS[2] + 1).to_bytes(8, "big"), LIMITS[2]),
        (b"\x02" + b"\xff" * 8, 64),
        (b"\x06" + (1025).to_bytes(8, "big"), 1024),
    ],
    ids=["header", "ext", "body", "absurd", "command"],
)
def test_a_frame_above_its_limit_is_refused_before_it_comes(data, limit):
    """Its length is enough, and no memory is taken for it."""
    with little_memory(1 << 17), pytest.raises(MessageTooLarge, match=f"at most {limit} are taken here") as caught:
        pushed(Incoming(LIMITS), data)
    assert caught.value.details == {"limit": limit}


@pytest.mark.parametrize("last", [b"", b"x" * 300])
def test_a_third_frame_that_promises_a_fourth_is_refused(last):
    """At once, not when the fourth comes."""
    with pytest.raises(MalformedMessage, match="more than 3 frames"):
        pushed(Incoming(LIMITS), frame(1, b"h") + frame(1, b"e") + frame(1, last, long=len(last) > 255))


@pytest.mark.parametrize("body", [b"", b"\x05PING"])
def test_a_command_without_its_name_is_refused(body):
    """Its name would be longer than the command."""
    with pytest.raises(MalformedMessage, match="without a name"):
        pushed(Incoming(LIMITS), frame(4, body))


@fixed(500)
@given(
    broken(st.binary(max_size=80) | messages.map(lambda sent: b"".join(map(whole, sent))[:2000])),
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
)
def test_noise_is_refused_or_is_messages(data, cuts):
    """Nothing but the errors of the tree comes out, and nothing beyond the limits."""
    try:
        for message in pushed(Incoming((64, 128, 128)), data, cuts):
            assert 1 <= len(message) <= 3
            assert all(len(part) <= limit for part, limit in zip(message, (64, 128, 128), strict=False))
    except (MalformedMessage, MessageTooLarge) as error:
        assert len(str(error)) < 500


SOCKET_TYPE = b"\x0bSocket-Type\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        READY[8:],
        b"\x08Identity\0\0\0\x03abc" + READY[8:],
        b"\x0bSOCKET-TYPE\0\0\0\x06DEALER" + b"\x03X-a\0\0\0\0",
        SOCKET_TYPE + b"\x03REQ",
    ],
)
def test_sockets_that_ask_are_taken(data):
    """Whatever else they say; the case of a property's name does not matter."""
    check_ready(data)


@pytest.mark.parametrize(
    "data", [b"", SOCKET_TYPE + b"\x03SUB", SOCKET_TYPE + b"\x06dealer", READY[8:20], b"\xff", b"\0"]
)
def test_other_sockets_are_refused(data):
    """Also one that does not say what it is."""
    with pytest.raises(MalformedMessage, match="takes DEALERs|in the middle of a property"):
        check_ready(data)


@fixed(300)
@given(broken(st.just(READY[8:]) | st.binary(max_size=60)))
def test_noise_is_no_ready(data):
    """It passes or is refused by the one error of the tree that says so."""
    try:
        check_ready(data)
    except MalformedMessage as error:
        assert len(str(error)) < 500


def test_a_greeting_is_taken_out_of_what_came():
    """At any cut, and what follows it is a message of its own."""
    data = GREETING + PING + whole([b"a", b"b"])
    for at in range(1, len(data)):
        incoming, greeted, found = Incoming(LIMITS), False, None
        for part, end in ((data[:at], at), (data[at:], len(data))):
            incoming.room()[: len(part)] = part
            incoming.received(len(part))
            greeted = greeted or incoming.greeting()
            assert greeted == (end >= len(GREETING))
            found = incoming.message() if greeted else None
        assert found == [b"a", b"b"]
        assert not incoming.unread


@pytest.mark.parametrize("size", [0, 300, 40_000])
def test_what_an_unfinished_message_takes_is_known(size):
    """So many bytes as came of it; none when it is whole."""
    incoming, data = Incoming(LIMITS), whole([b"h", bytes(size)])
    for at in range(0, len(data), 1000):
        part = data[at : at + 1000]
        incoming.room()[: len(part)] = part
        incoming.received(len(part))
        message = incoming.message()
        assert (message is None) == (at + len(part) < len(data))
        assert message is not None or at + len(part) - 20 <= incoming.held <= at + len(part)
    assert incoming.held == 0


@fixed(300)
@given(broken(st.just(GREETING) | st.binary(min_size=1, max_size=80)))
def test_noise_is_no_greeting(data):
    """A greeting passes or is refused by the one error of the tree that says so."""
    try:
        check_greeting(data)
    except MalformedMessage as error:
        assert len(str(error)) < 500


def test_a_greeting_is_waited_for_before_its_first_byte():
    """Nothing has come, and nothing is wrong."""
    assert not Incoming((64, 100, 100)).greeting()
