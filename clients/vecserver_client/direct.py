"""The transport of one machine: ZeroMQ's protocol spoken on a plain socket, with no thread in between.

libzmq moves every message through a thread of its own. Across a network that costs nothing that can be seen; between
two processes on one machine its wakes are a tenth of a small batch.
"""

from __future__ import annotations

import select
import socket
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from vecserver.wire import zmtp
from vecserver.wire.errors import MalformedMessage, ServerUnreachable
from vecserver.wire.frames import FRAME_COUNT, HEADER_SIZE, MAX_EXT, Header
from vecserver.wire.opening import ClientOpening

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.wire.frames import Buffer
    from vecserver_client.passes import Credentials
    from vecserver_client.transport import Frames

__all__ = ["DirectTransport", "address_of", "checked_message", "unreachable"]

_KNOCK_S: Final = 0.05
"""Pause between two tries to connect to an address where nobody listens."""
_PONG_S: Final = 1.0
"""How long a peer that asks for a sign of life may be deaf to it."""


class DirectTransport:
    """A connection to one pool; connects when it is first used, and again after it was lost.

    Args:
        endpoint: ``tcp://…`` or ``ipc://…``.
        max_body: Largest legal body of an answer, in bytes.
        memory: Gives memory of a size for a body that is large.
        credentials: What the pool's tcp port asks for; None for nothing.
    """

    def __init__(
        self,
        endpoint: str,
        max_body: int,
        memory: Callable[[int], memoryview] = zmtp.fresh,
        *,
        credentials: Credentials | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._ticket = "" if credentials is None else credentials.ticket
        self._opening = ClientOpening(self._ticket)
        self._memory = memory
        self._limits = (HEADER_SIZE, MAX_EXT, max_body)
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._incoming = zmtp.Incoming(self._limits, memory)
        self._moved = False

    @property
    def fd(self) -> int:
        """As ``Transport.fd``."""
        return -1 if self._socket is None else self._socket.fileno()

    def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``Transport.send``."""
        buffers = zmtp.encode((header, ext, body))
        deadline = monotonic() + timeout
        if self._socket is not None and self._sent(self._socket, buffers, timeout):
            return
        # not connected yet, or not any more: a fresh connection tells whether the pool is still there
        sock = self._connect(deadline, timeout)
        if not self._sent(sock, buffers, deadline - monotonic()):
            raise unreachable(self._endpoint, "does not take a message", timeout)

    def _sent(self, sock: socket.socket, buffers: list[Buffer], timeout: float) -> bool:
        try:
            _write(sock, buffers, timeout)
        except OSError:  # what was sent in part ends with its connection
            self._drop()
            return False
        return True

    def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``Transport.receive``."""
        sock, incoming = self._socket, self._incoming
        if sock is None:
            raise ConnectionResetError("there is no connection")
        deadline, wait = monotonic() + timeout, timeout
        while (frames := incoming.message()) is None:
            if incoming.commands:
                self._obey(sock)
            # signs of life and parts of a message do not lengthen the wait, and neither do signals
            if wait < 0 or not self._poll.poll(wait * 1000):
                return None
            self._read(sock)
            wait = deadline - monotonic()
        return checked_message(frames)

    def _read(self, sock: socket.socket) -> None:
        try:
            count = sock.recv_into(self._incoming.room())
        except OSError as error:
            raise ConnectionResetError("the connection was lost") from error
        if not count:
            raise ConnectionResetError("the peer closed the connection")
        self._moved = True
        self._incoming.received(count)

    def moved(self) -> bool:
        """As ``Transport.moved``."""
        moved, self._moved = self._moved and self._incoming.held > 0, False
        return moved

    def _obey(self, sock: socket.socket) -> None:
        for name, data in self._incoming.commands:
            if not self._opening.is_open:
                if answer := self._opening.heard(name, data):
                    sock.sendall(answer)
            elif name == b"PING":
                try:
                    _write(sock, [zmtp.pong(data)], _PONG_S)
                except OSError as error:
                    raise ConnectionResetError("the connection was lost") from error
            elif name == b"ERROR":
                raise MalformedMessage(f"the peer refuses the connection: {data[1:].decode('utf-8', 'replace')}")
        self._incoming.commands.clear()

    def _connect(self, deadline: float, timeout: float) -> socket.socket:
        while True:
            sock = self._opened()
            try:
                _limit(sock, deadline)
                sock.connect(address_of(self._endpoint))
                self._greet(sock, deadline)
                sock.setblocking(False)
            except OSError:
                sock.close()
                if monotonic() + _KNOCK_S >= deadline:
                    raise unreachable(self._endpoint, "does not answer", timeout) from None
                sleep(_KNOCK_S)
                continue
            except BaseException:
                sock.close()
                raise
            self._socket, self._poll = sock, select.poll()
            self._poll.register(sock, select.POLLIN)
            return sock

    def _opened(self) -> socket.socket:
        if self._endpoint.startswith("ipc://"):
            return socket.socket(socket.AF_UNIX)
        family = socket.AF_INET6 if self._endpoint.startswith("tcp://[") else socket.AF_INET
        sock = socket.socket(family)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _greet(self, sock: socket.socket, deadline: float) -> None:
        """Exchange greetings and READY before the deadline."""
        opening = self._opening = ClientOpening(self._ticket)
        # the rest later: a peer that demands another mechanism hangs up on it before it has said which
        sock.sendall(opening.greeting[: zmtp.OPENING_SIZE])
        greeting = b""
        while len(greeting) < len(opening.greeting):
            _limit(sock, deadline)
            chunk = sock.recv(len(opening.greeting) - len(greeting))
            if not chunk:
                raise ConnectionResetError("the peer closed the connection")
            greeting += chunk
            opening.check(greeting)
        sock.sendall(opening.greeting[zmtp.OPENING_SIZE :] + opening.greeted())
        incoming = self._incoming = zmtp.Incoming(self._limits, self._memory)
        while not opening.is_open:
            _limit(sock, deadline)
            self._read(sock)
            if incoming.message() is not None:
                raise MalformedMessage("what listens there is no pool: it speaks before it is asked")
            self._obey(sock)

    def _drop(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """Close the connection; may be called again."""
        self._drop()


def address_of(endpoint: str) -> str | tuple[str, int]:
    """The path of an ``ipc://`` endpoint, or host and port of a ``tcp://`` one."""
    if endpoint.startswith("ipc://"):
        return endpoint.removeprefix("ipc://")
    address = urlsplit(endpoint)
    assert address.hostname is not None
    assert address.port is not None
    return address.hostname, address.port


def unreachable(endpoint: str, what: str, timeout: float) -> ServerUnreachable:
    """The error for an endpoint that did not do its part within ``timeout`` seconds."""
    return ServerUnreachable(
        f"{endpoint} {what} within {timeout:g} s: is the pool's server running, and is this port open from here?",
        endpoint=endpoint,
    )


def checked_message(frames: Sequence[Buffer]) -> Frames:
    """The frames of a message as header, ext and body.

    Raises:
        ProtocolError: They are no message.
    """
    header = Header.unpack(frames[0])
    if len(frames) != FRAME_COUNT:
        raise MalformedMessage(f"a message of kind {header.kind} with fewer than {FRAME_COUNT} frames")
    _, ext, body = frames
    if len(body) != header.body_length:
        raise MalformedMessage(f"the header announces a body of {header.body_length} bytes, it has {len(body)}")
    return header, bytes(ext), body


def _write(sock: socket.socket, buffers: list[Buffer], timeout: float) -> None:
    """Send all of it, to a socket that does not block; an OSError leaves a connection of no more use."""
    try:
        sent = sock.sendmsg(buffers)
    except BlockingIOError:
        sent = 0
    if sent < sum(map(len, buffers)):
        _limit(sock, monotonic() + timeout)
        sock.sendall(memoryview(b"".join(buffers))[sent:])
        sock.setblocking(False)


def _limit(sock: socket.socket, deadline: float) -> None:
    """Have the next call on a socket end at a deadline; it may have passed."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
