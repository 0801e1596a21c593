"""One peer of a pool on a plain socket: ZeroMQ's protocol as a ROUTER speaks it to one DEALER."""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.wire import zmtp
from vecserver.wire.errors import MalformedMessage, Unauthorized
from vecserver.wire.opening import HostOpening

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from vecserver.wire.frames import Buffer

__all__ = ["Connection"]

_HANDSHAKE_S: Final = 5.0
"""How long a new peer may take to say what it speaks: a program that means to does so at once."""

_STALL_S: Final = 60.0
"""How long a message may be under way, in or out, without a byte of it moving. Between messages silence has no end: a
trainer may compute for hours, and the end of a program on this machine ends its connections."""

_MAX_BUFFERS: Final = 64
"""Buffers for one call into the kernel, which takes a thousand at most: a message has three."""

_NEVER: Final = math.inf


class Connection:
    """Bytes in, messages out, and back. One thread owns it, and closes it when it raises an OSError or a ProtocolError.

    Args:
        sock: The accepted socket, which does not block; closed by ``close``.
        peer: Its name for the dispatcher.
        limits: As of ``zmtp.Incoming``.
        ticket: What the peer must show; empty where it need not.

    Attributes:
        deadline: When to give it up, on the monotonic clock.
        unsent: What the socket had no room for, to be sent in this order.
        in_line: For its owner: whether it waits to be received from.
    """

    __slots__ = ("_borrows", "_greeted", "_incoming", "_opening", "deadline", "in_line", "peer", "sock", "unsent")

    def __init__(self, sock: socket.socket, peer: bytes, limits: Sequence[int], ticket: str = "") -> None:
        self.sock = sock
        self.peer = peer
        self.deadline = monotonic() + _HANDSHAKE_S
        self.unsent: list[Buffer] = []
        self.in_line = False
        self._incoming = zmtp.Incoming(limits)
        self._opening = HostOpening(ticket)
        self._greeted = False
        self._borrows = False  # whether ``unsent`` lies in memory of the sender's

    @property
    def is_stranger(self) -> bool:
        """Whether it has not been let in yet."""
        return not self._opening.is_open

    @property
    def unread(self) -> bool:
        """Whether bytes came that are no message yet, or were not looked at."""
        return self._incoming.unread

    @property
    def held(self) -> int:
        """Bytes of messages that are not whole, in either direction."""
        return self._incoming.held + sum(map(len, self.unsent))

    def greet(self) -> None:
        """Say what is spoken here: the first thing to do."""
        self._write([self._opening.greeting])

    def receive(self) -> Sequence[Buffer] | None:
        """Take one message, and read once if there is none yet; None where none is whole."""
        frames = self._next() if self._incoming.unread else None
        if frames is None and self._read():
            frames = self._next()
        if frames is None or self.deadline != _NEVER:
            self._renew()
        return frames

    def _read(self) -> bool:
        try:
            count = self.sock.recv_into(self._incoming.room())
        except BlockingIOError:
            return False
        if not count:
            raise ConnectionResetError("the peer closed the connection")
        self._incoming.received(count)
        return True

    def _next(self) -> Sequence[Buffer] | None:
        if not self._greeted:
            if not self._incoming.greeting(self._opening.check):
                return None
            self._greeted = True
            if answer := self._opening.greeted():
                self._write([answer])
        frames = self._incoming.message()
        if self._incoming.commands:
            self._obey()
        if frames is not None and self.is_stranger:
            raise MalformedMessage("the peer asks before it has said what it is")
        return frames

    def _obey(self) -> None:
        for name, data in self._incoming.commands:
            if self.is_stranger:
                self._hear_stranger(name, data)
            elif name == b"PING":
                self._write([zmtp.pong(data)])
            elif name == b"ERROR":
                raise ConnectionResetError("the peer gives this connection up")
            # others, such as a SUBSCRIBE, mean nothing to a ROUTER
        self._incoming.commands.clear()

    def _hear_stranger(self, name: bytes, data: bytes) -> None:
        try:
            answer = self._opening.heard(name, data)
        except Unauthorized:
            self._write([self._opening.refusal])
            raise
        if answer:
            self._write([answer])

    def _renew(self) -> None:
        """A byte has moved, or nothing is under way any more."""
        if self._opening.is_open:
            self.deadline = monotonic() + _STALL_S if self.held else _NEVER

    def send(self, frames: Sequence[Buffer]) -> None:
        """Send one message; what finds no room is kept in ``unsent``, where its memory is still the caller's."""
        self._write(zmtp.encode(frames))
        self._borrows = bool(self.unsent)

    def _write(self, buffers: list[Buffer]) -> None:
        if self.unsent:
            self.unsent += buffers
            return
        self.unsent = buffers
        self.flush()
        if self.unsent:
            self._renew()

    def flush(self) -> None:
        """Send what there is room for now."""
        try:
            sent = self.sock.sendmsg(self.unsent[:_MAX_BUFFERS])
        except BlockingIOError:
            return
        whole = 0
        for buffer in self.unsent:
            if sent < len(buffer):
                break
            sent -= len(buffer)
            whole += 1
        del self.unsent[:whole]
        if sent:
            self.unsent[0] = memoryview(self.unsent[0])[sent:]
        if self.deadline != _NEVER:
            self._renew()

    def own_unsent(self) -> None:
        """Copy what is left to send, so that the caller may write into its memory."""
        if self._borrows:
            self.unsent = [b"".join(self.unsent)]
            self._borrows = False

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()
