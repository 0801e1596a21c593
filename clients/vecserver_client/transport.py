"""Transports: how one message gets to a pool and one comes back. Two methods, and a close.

``DirectTransport`` serves one machine, ``ZmqTransport`` the network. ``MockTransport`` answers from a function, for
tests of everything above it.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import zmq

from vecserver.wire.errors import MalformedMessage, MessageTooLarge, ServerUnreachable, Unauthorized
from vecserver.wire.frames import FRAME_COUNT, MAX_EXT, Header
from vecserver.wire.zmtp import fresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.wire.frames import Buffer
    from vecserver_client.passes import Credentials

__all__ = ["Frames", "MockTransport", "Transport", "ZmqTransport"]

_HIGH_WATER: Final = 16
"""Messages that may be queued: one is in flight, a few are repeats of it."""

_HEARTBEAT_MS: Final = 5000
_HEARTBEAT_TIMEOUT_MS: Final = 15_000
"""After so long without a sign of the peer, the connection is made again."""

# as plain numbers: to combine enum members costs more than to send a frame
_MORE: Final = int(zmq.SNDMORE)
_MORE_NOW: Final = int(zmq.SNDMORE | zmq.NOBLOCK)
_RCVMORE: Final = int(zmq.RCVMORE)

_MONITORS: Final = itertools.count()

Frames = tuple[Header, bytes, bytearray | bytes | memoryview]
"""Header, ext and body of one message."""


class Transport(Protocol):
    """Carries messages to one pool and back. One thread owns it."""

    @property
    def fd(self) -> int:
        """Becomes readable when ``receive`` is worth a call, perhaps once only; −1 while there is no connection."""

    def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message.

        Raises:
            ServerUnreachable: The peer did not take it within ``timeout`` seconds.
            Unauthorized: The peer does not let this client in.
        """

    def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; None when none came within ``timeout`` seconds.

        The body is the caller's own memory, or in that which the transport was given for it.

        Raises:
            ConnectionError: The connection was lost; another transport may reach the pool.
            ProtocolError: What came is no message. After this or any other exception only ``close`` may be called.
        """

    def moved(self) -> bool:
        """Whether a part of a message has come since this was asked last, as far as the transport knows."""

    def close(self) -> None:
        """Let go of everything; may be called again."""


class ZmqTransport:
    """A DEALER socket to one pool.

    Args:
        context: The ZeroMQ context; stays the caller's.
        endpoint: ``tcp://…`` or ``ipc://…``.
        max_body: Largest legal body of an answer, in bytes.
        memory: Gives memory of a size for a body.
        credentials: What the pool's tcp port asks for; None for nothing.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        max_body: int,
        memory: Callable[[int], memoryview] = fresh,
        *,
        credentials: Credentials | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._max_body = max_body
        self._memory = memory
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        self._socket.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max(MAX_EXT, max_body))  # of a frame, before there is memory for it
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # a message waits here, not in the queue of a peer that never came
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max(max_body, MAX_EXT))
        self._refusals: zmq.Socket[bytes] | None = None
        if credentials is not None:
            credentials.apply(self._socket)
            # libzmq gives such a connection up, and says it nowhere else
            address = f"inproc://refusals-{next(_MONITORS)}"
            self._socket.monitor(address, zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            self._refusals = context.socket(zmq.PAIR)
            self._refusals.connect(address)
        if endpoint.startswith("tcp://["):
            self._socket.setsockopt(zmq.IPV6, 1)
        self._wait_ms = -1
        self._socket.connect(endpoint)

    @property
    def fd(self) -> int:
        """As ``Transport.fd``."""
        return int(self._socket.getsockopt(zmq.FD))

    def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``Transport.send``."""
        sock = self._socket
        try:
            sock.send(header, _MORE_NOW)
        except zmq.Again:
            if not self._is_taken(timeout):
                raise ServerUnreachable(
                    f"{self._endpoint} does not take a message within {timeout:g} s: is the pool's server running, and "
                    "is this port open from here?",
                    endpoint=self._endpoint,
                ) from None
            sock.send(header, _MORE)
        sock.send(ext, _MORE)
        sock.send(body)

    def _is_taken(self, timeout: float) -> bool:
        """Wait until the peer takes a message."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLOUT)
        if self._refusals is not None:
            poller.register(self._refusals, zmq.POLLIN)
        ready = dict(poller.poll(int(timeout * 1000)))
        if self._refusals is not None and self._socket not in ready and self._refusals in ready:
            raise Unauthorized(f"{self._endpoint} does not let this client in: its ticket or key is not known there")
        return bool(ready)

    def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``Transport.receive``."""
        sock = self._socket
        wait_ms = int(timeout * 1000)
        if wait_ms != self._wait_ms:  # a wait inside the receive itself spares a poll a message
            sock.setsockopt(zmq.RCVTIMEO, wait_ms)
            self._wait_ms = wait_ms
        try:
            header = Header.unpack(sock.recv())
        except zmq.Again:
            return None
        return header, self._more(header).recv(), self._body(header)

    def _more(self, header: Header) -> zmq.Socket[bytes]:
        if not self._socket.getsockopt(_RCVMORE):
            raise MalformedMessage(f"a message of kind {header.kind} with fewer than {FRAME_COUNT} frames")
        return self._socket

    def _body(self, header: Header) -> bytes | memoryview:
        if header.body_length > self._max_body:
            raise MessageTooLarge(f"a body of {header.body_length} bytes; a slot has {self._max_body}")
        body = self._memory(header.body_length) if header.body_length else b""
        length = self._more(header).recv_into(body) if body else len(self._more(header).recv())
        if length != header.body_length or self._socket.getsockopt(_RCVMORE):
            raise MalformedMessage(f"the header announces a body of {header.body_length} bytes, it has {length}")
        return body

    def moved(self) -> bool:
        """Never: ZeroMQ keeps a message to itself until it is whole."""
        return False

    def close(self) -> None:
        """Close the socket."""
        if self._refusals is not None and not self._socket.closed:
            self._socket.disable_monitor()
            self._refusals.close()
        self._socket.close()


class MockTransport:
    """Answers every message by calling a function: a pool without a server, for tests.

    Args:
        answer: Called with header, ext and body of each message sent; returns the messages to receive for it.
    """

    def __init__(self, answer: Callable[[Header, bytes, bytes], list[Frames]]) -> None:
        self._answer = answer
        self._inbox: deque[Frames] = deque()
        self.closed = False
        self.fd = -1

    def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Hand the message to the function."""
        del timeout
        self._inbox.extend(self._answer(Header.unpack(header), bytes(ext), bytes(body)))

    def receive(self, timeout: float) -> Frames | None:
        """The oldest answer that was not received yet; never waits."""
        del timeout
        return self._inbox.popleft() if self._inbox else None

    def moved(self) -> bool:
        """Never: messages come whole."""
        return False

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True
