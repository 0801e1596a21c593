"""Messages between a host and a worker: whole or not at all."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import msgspec
import pytest

from vecserver.engine import channel
from vecserver.engine.channel import Bind, Call, Failed, Ready, Render, Reset, Start, Step, receive, receive_bytes, send

MESSAGES = [
    Start("CartPole-v1", {"a": [1, None]}, "rgb_array", "SameStep", "envs", 8, (2, 5)),
    Ready({"type": "Box"}, {"type": "Discrete"}, {"render_fps": 50}, None),
    Failed({"row": 3, "type": "ValueError", "message": "ž", "traceback": "…"}),
    Failed({"row": 3, "message": "no"}, "invalid_spec", {"row": 3}),
    Step([b"row 2", b""]),
    Bind(((0, 2), (2, 5)), 1, 2**32 - 1, core=3),
    Reset([1, None, 2**64 - 1], [True, False, True], b"options"),
    Reset([None], None, b""),
    Call("method", b"arguments", assign=False),
    Call("method", b"arguments", assign=True, rows=[1, 3]),
    Render([7, 3]),
]


@pytest.fixture
def pair():
    host, worker = socket.socketpair()
    with closing(host), closing(worker):
        yield host, worker


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was(pair, message):
    """Type and every field come out as they went in."""
    host, worker = pair
    send(host, message)
    assert receive(worker) == message


def test_messages_come_one_by_one(pair):
    """What was sent in one go is told apart."""
    host, worker = pair
    for message in MESSAGES:
        send(host, message)
    assert [receive(worker) for _ in MESSAGES] == MESSAGES


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_raw_bytes_arrive_whole(pair, size):
    """Nothing, something, and more than a socket holds."""
    host, worker = pair
    data = bytes(range(256)) * (size // 256 + 1)
    sender = threading.Thread(target=send, args=(worker, memoryview(data)[:size]))
    sender.start()
    assert receive_bytes(host) == data[:size]
    sender.join()


@pytest.mark.parametrize("sent", [b"", b"\x05", b"\x05\0\0\0", b"\x05\0\0\0half"])
def test_the_end_of_the_other_process_is_no_message(pair, sent):
    """A message that was cut anywhere is none."""
    host, worker = pair
    worker.sendall(sent)
    worker.close()
    with pytest.raises(EOFError, match="gone"):
        receive(host)


def test_a_process_that_does_not_answer_ends_the_wait(pair):
    """A socket with a timeout bounds the wait for the rest of a message."""
    host, worker = pair
    host.settimeout(0.05)
    worker.sendall(b"\x05\0\0\0ha")
    with pytest.raises(TimeoutError):
        receive(host)


def test_a_message_that_is_none_is_refused(pair):
    """Bytes that are no message of the channel do not pass for one."""
    host, worker = pair
    for data in (b"\xc1", b"\x80", msgspec.msgpack.encode({"type": "Other"})):
        send(host, data)
        with pytest.raises(EOFError, match="no message"):
            receive(worker)


def test_a_payload_that_no_length_can_announce_is_refused(pair, monkeypatch):
    """The sender is told; nothing is sent of it."""
    host, worker = pair
    monkeypatch.setattr(channel, "UNBOUNDED", 7)
    with pytest.raises(OSError, match="8 bytes"):
        send(host, b"12345678")
    send(host, b"1234567")
    assert receive_bytes(worker) == b"1234567"


def test_a_message_beyond_a_limit_is_refused_before_it_comes(pair):
    """Its length alone says so."""
    host, worker = pair
    worker.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(EOFError, match="it has 4294967295 bytes"):
        receive(host, 1 << 20)


@pytest.mark.parametrize("size", [10, 11, 1_000_000])
def test_of_bytes_beyond_a_limit_one_is_kept(pair, size):
    """So that they are known to be too many; the rest is dropped as it comes, and what follows is told from it."""
    host, worker = pair
    data = bytes(range(250)) * (size // 250 + 1)

    def say():
        send(worker, memoryview(data)[:size])
        send(worker, Render([7]))

    sender = threading.Thread(target=say)
    sender.start()
    assert receive_bytes(host, 10) == data[: min(size, 11)]
    assert receive(host, 1 << 20) == Render([7])
    sender.join()
