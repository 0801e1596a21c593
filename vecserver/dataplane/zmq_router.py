"""The tcp socket of a pool that other machines reach: libzmq's ROUTER, with hygiene first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import zmq

from vecserver.wire.frames import HEADER_SIZE, MAX_EXT

if TYPE_CHECKING:
    from vecserver.dataplane.dispatch import Reply
    from vecserver.dataplane.router import Message

__all__ = ["ZmqRouter"]

_HIGH_WATER: Final = 64
"""Messages a peer may have queued: a driver has one in flight, an observer a few."""

_HANDSHAKE_MS: Final = 5000
_HEARTBEAT_MS: Final = 10_000
_HEARTBEAT_TIMEOUT_MS: Final = 60_000
"""A trainer's interpreter may stand still for long, in a debugger say; its I/O thread answers heartbeats anyway."""

_COPY_LIMIT: Final = 64 << 10
"""Bytes from which handing memory to ZeroMQ is cheaper than copying it."""

# as plain numbers: to combine enum members costs more than to send a frame
_LAST: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_RCVMORE: Final = int(zmq.RCVMORE)
_POLLIN: Final = int(zmq.POLLIN)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


class ZmqRouter:
    """As ``Router``; bind it before it is used.

    Args:
        max_request: Largest legal body of a request, in bytes.
    """

    def __init__(self, max_request: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        router.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        router.setsockopt(zmq.MAXMSGSIZE, max(max_request, MAX_EXT, HEADER_SIZE))
        router.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        router.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        self.fds = (int(router.getsockopt(zmq.FD)),)

    def bind(self, host: str, port: int) -> str:
        """Listen on an address, port 0 being any free one; returns the endpoint.

        Raises:
            OSError: It cannot be listened on.
        """
        if ":" in host:
            self._socket.setsockopt(zmq.IPV6, 1)
        name = f"[{host}]" if ":" in host else host
        try:
            self._socket.bind(f"tcp://{name}:{port or '*'}")
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from None
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def has_message(self) -> bool:
        """Whether some peer has sent something."""
        return bool(int(self._socket.getsockopt(_EVENTS)) & _POLLIN)

    def receive(self) -> Message | None:
        """Take a message of the next peer that has one."""
        socket = self._socket
        try:
            peer = socket.recv(_LAST)
        except zmq.Again:
            return None
        frames = []
        while socket.getsockopt(_RCVMORE):
            frames.append(socket.recv(_LAST))
        return peer, frames

    def send(self, reply: Reply) -> None:
        """Hand a reply to ZeroMQ's thread."""
        send = self._socket.send
        try:
            send(reply.peer, _MORE)
            send(reply.header, _MORE)
            send(reply.ext, _MORE)
            send(reply.body, _LAST, copy=len(reply.body) < _COPY_LIMIT)
        except zmq.ZMQError:
            return  # a peer that left, or that does not read

    def close(self, linger: float) -> None:
        """Close the socket and end ZeroMQ's threads."""
        self._socket.close(linger=int(linger * 1000))
        self._context.term()
