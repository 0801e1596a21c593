"""The process that sessions' environments live in: reads messages, plays, answers; one at a time.

Frames on the socket: to it ``length u32 | session u32 | ask u8 | data``, from it the same with a ``kind`` in place of
the ``ask``, little-endian; the length is that of the data. A session begins with its first message and ends with
``Ask.END``, which is not answered.
"""

from __future__ import annotations

import signal
import socket
import struct
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from vecserver.engine.orphans import die_with_parent, keep_orphans
from vecserver.pools.sessions.answers import Answer, Ask, Kind, answer, error_data
from vecserver.pools.sessions.play import Play
from vecserver.wire.errors import MessageTooLarge

if TYPE_CHECKING:
    from vecserver.pools.sessions.play import PlayOptions

__all__ = ["HEAD", "MAX_ANSWER", "run_sessions"]

HEAD: Final = struct.Struct("<IIB")

MAX_ANSWER: Final = 256 << 20
"""Bytes of an answer: twice what a picture of a million numbers is as text."""

_CHUNK: Final = 1024
"""Bytes that are read at once: the messages of some twenty sessions, answered together while the server sends more."""


def run_sessions(nursery_pid: int, socket_fd: int, options: PlayOptions, *, shared: bool) -> None:
    """Serve sessions until their server closes the socket.

    Args:
        nursery_pid: The process that this one is a copy of; it is not survived.
        socket_fd: The socket to the server.
        options: What every session begins with.
        shared: Whether many sessions live here, so that only environments that cannot harm their neighbours may.
    """
    die_with_parent(nursery_pid)
    keep_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the server
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with socket.socket(fileno=socket_fd) as sock, ExitStack() as stack, suppress(ConnectionError):
        plays: dict[int, Play] = {}
        stack.callback(_close_all, plays)
        buffer = bytearray()
        while data := sock.recv(max(_CHUNK, _missing(buffer))):
            buffer += data
            if replies := _answer_all(buffer, plays, options, shared=shared):
                sock.sendall(replies)


def _missing(buffer: bytearray) -> int:
    """Bytes that the message at the beginning of the buffer lacks."""
    return HEAD.size + HEAD.unpack_from(buffer)[0] - len(buffer) if len(buffer) >= HEAD.size else 0


def _answer_all(buffer: bytearray, plays: dict[int, Play], options: PlayOptions, *, shared: bool) -> bytes:
    """Answer the whole messages in the buffer and take them out of it."""
    at, replies = 0, []
    while len(buffer) - at >= HEAD.size:
        length, session, ask = HEAD.unpack_from(buffer, at)
        end = at + HEAD.size + length
        if len(buffer) < end:
            break
        data, at = bytes(buffer[at + HEAD.size : end]), end
        if ask == Ask.END:
            _close(plays.pop(session, None))
            continue
        play = plays.get(session)
        if play is None:
            play = plays[session] = Play(options, shared=shared)
        reply = answer(play, ask, data)
        if len(reply.data) > MAX_ANSWER:
            too_large = MessageTooLarge(f"the answer would have {len(reply.data)} bytes, and may have {MAX_ANSWER}")
            reply = Answer(Kind.ERROR, error_data(too_large))
        replies += [HEAD.pack(len(reply.data), session, reply.kind), reply.data]
    del buffer[:at]
    return b"".join(replies)


def _close_all(plays: dict[int, Play]) -> None:
    for play in plays.values():
        _close(play)


def _close(play: Play | None) -> None:
    if play is not None:
        play.close()
