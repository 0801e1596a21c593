"""The transport of one machine: ZeroMQ's protocol spoken on a plain socket, with no thread in between.

libzmq moves every message through a thread of its own. Across a network that costs nothing that can be seen; between
two processes on one machine its wakes are a tenth of a small batch. The pool's end is libzmq either way.
"""

from __future__ import annotations

import socket
import struct
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from vecserver.wire import zmtp
from vecserver.wire.errors import MalformedMessage, ServerUnreachable
from vecserver.wire.frames import FRAME_COUNT, HEADER_SIZE, MAX_EXT, Header

if TYPE_CHECKING:
    from vecserver.wire.frames import Buffer
    from vecserver_client.transport import Frames

__all__ = ["DirectTransport"]

_TIMEVAL: Final = struct.Struct("@qq")
_KNOCK_S: Final = 0.05
"""Pause between two tries to connect to an address where nobody listens."""


class DirectTransport:
    """A connection to one pool; connects when it is first used, and again after it was lost.

    Args:
        endpoint: ``tcp://…`` or ``ipc://…``.
        max_body: Largest legal body of an answer, in bytes.
    """

    def __init__(self, endpoint: str, max_body: int) -> None:
        self._endpoint = endpoint
        self._limits = (HEADER_SIZE, MAX_EXT, max_body)
        self._socket: socket.socket | None = None
        self._incoming = zmtp.Incoming(self._limits)
        self._send_wait = self._receive_wait = -1.0

    def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``Transport.send``."""
        buffers = zmtp.encode((header, ext, body))
        if self._socket is not None and self._sent(self._socket, buffers, timeout):
            return
        # not connected yet, or not any more: a fresh connection tells whether the pool is still there
        if not self._sent(self._connect(timeout), buffers, timeout):
            raise self._unreachable("does not take a message", timeout)

    def _sent(self, sock: socket.socket, buffers: list[Buffer], timeout: float) -> bool:
        if timeout != self._send_wait:
            _limit(sock, socket.SO_SNDTIMEO, timeout)
            self._send_wait = timeout
        try:
            if sock.sendmsg(buffers) == sum(map(len, buffers)):
                return True
        except OSError:
            self._drop()
            return False
        self._drop()  # a message that was sent in part ends with its connection
        return False

    def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``Transport.receive``."""
        sock, incoming = self._socket, self._incoming
        if sock is None:
            raise ConnectionResetError
        if timeout != self._receive_wait:
            _limit(sock, socket.SO_RCVTIMEO, timeout)
            self._receive_wait = timeout
        while (frames := incoming.message()) is None:
            try:
                count = sock.recv_into(incoming.room())
            except BlockingIOError:
                return None
            if not count:
                raise ConnectionResetError("the pool closed the connection")
            incoming.received(count)
            if incoming.commands:
                self._obey(sock)
        return self._checked(frames)

    @staticmethod
    def _checked(frames: list[bytearray]) -> Frames:
        header = Header.unpack(frames[0])
        if len(frames) != FRAME_COUNT:
            raise MalformedMessage(f"a message of kind {header.kind} with fewer than {FRAME_COUNT} frames")
        _, ext, body = frames
        if len(body) != header.body_length:
            raise MalformedMessage(f"the header announces a body of {header.body_length} bytes, it has {len(body)}")
        return header, bytes(ext), body

    def _obey(self, sock: socket.socket) -> None:
        for name, data in self._incoming.commands:
            if name == b"PING":
                sock.sendall(zmtp.pong(data))
            elif name == b"ERROR":
                raise MalformedMessage(f"the pool's socket refuses this one: {data[1:].decode('utf-8', 'replace')}")
        self._incoming.commands.clear()

    def _connect(self, timeout: float) -> socket.socket:
        deadline = monotonic() + timeout
        while True:
            sock = self._opened()
            try:
                sock.settimeout(max(0.001, deadline - monotonic()))
                sock.connect(self._address())
                self._greet(sock)
                sock.settimeout(None)  # from here on the kernel limits the waits
            except OSError:
                sock.close()
                if monotonic() + _KNOCK_S >= deadline:
                    raise self._unreachable("does not answer", timeout) from None
                sleep(_KNOCK_S)
                continue
            except BaseException:
                sock.close()
                raise
            self._send_wait = self._receive_wait = -1.0
            self._socket = sock
            return sock

    def _opened(self) -> socket.socket:
        if self._endpoint.startswith("ipc://"):
            return socket.socket(socket.AF_UNIX)
        family = socket.AF_INET6 if self._endpoint.startswith("tcp://[") else socket.AF_INET
        sock = socket.socket(family)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _address(self) -> str | tuple[str, int]:
        if self._endpoint.startswith("ipc://"):
            return self._endpoint.removeprefix("ipc://")
        address = urlsplit(self._endpoint)
        assert address.hostname is not None
        assert address.port is not None
        return address.hostname, address.port

    def _greet(self, sock: socket.socket) -> None:
        """Exchange greetings and READY; the time limit is the socket's."""
        sock.sendall(zmtp.GREETING + zmtp.READY)
        greeting = b""
        while len(greeting) < len(zmtp.GREETING):
            chunk = sock.recv(len(zmtp.GREETING) - len(greeting))
            greeting += chunk
            if not chunk or greeting[:1] != zmtp.GREETING[:1]:
                break
        if not greeting:
            raise ConnectionResetError
        zmtp.check_greeting(greeting)
        self._incoming = zmtp.Incoming(self._limits)
        while not any(name == b"READY" for name, _ in self._incoming.commands):
            count = sock.recv_into(self._incoming.room())
            if not count:
                raise ConnectionResetError
            self._incoming.received(count)
            self._incoming.message()
        self._obey(sock)

    def _unreachable(self, what: str, timeout: float) -> ServerUnreachable:
        return ServerUnreachable(
            f"{self._endpoint} {what} within {timeout:g} s: is the pool's server running, and is this port open from "
            "here?",
            endpoint=self._endpoint,
        )

    def _drop(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """Close the connection; may be called again."""
        self._drop()


def _limit(sock: socket.socket, option: int, timeout: float) -> None:
    """Let the kernel end a wait: a poll before each would cost a call a batch."""
    micros = max(1, int(timeout * 1e6))  # 0 would be for ever
    sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(micros, 1_000_000)))
