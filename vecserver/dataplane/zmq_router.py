"""The tcp socket of a pool that other machines reach: libzmq's ROUTER, with hygiene first."""

from __future__ import annotations

import logging
import select
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

import zmq

from vecserver.dataplane.zap import DOMAIN, Zap, judge_by_key, judge_by_ticket
from vecserver.wire.frames import FRAME_COUNT, HEADER_SIZE, MAX_EXT

if TYPE_CHECKING:
    from vecserver.dataplane.keyring import Keyring
    from vecserver.dataplane.requests import Reply
    from vecserver.dataplane.router import Message
    from vecserver.pools.gate import Gate

__all__ = ["ZmqRouter"]

_log = logging.getLogger(__name__)

_HIGH_WATER: Final = 64
"""Messages a peer may have queued: a driver has one in flight, an observer a few."""

_HANDSHAKE_MS: Final = 5000
_BACKLOG: Final = 64
"""Peers that may wait to be accepted."""

_STRAYS: Final = 256
"""Frames too many that are thrown away at a time: a message of a million of them must not keep the loop."""

_TIDY_S: Final = 1.0
_MAX_GROWTH: Final = 512 << 20
"""Bytes by which the process may grow between two looks, and what it may keep of it: libzmq holds a message until its
last frame is there, however many there are. Beyond it the socket is made anew, and clients connect again."""
_BIND_AGAIN_S: Final = 0.02
_STATUS: Final = Path("/proc/self/status")

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
        gate: What it asks of its peers.
        keyring: Which keys may come in, where that is CURVE.
    """

    def __init__(self, max_request: int, gate: Gate, keyring: Keyring) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._limit = max(max_request, MAX_EXT, HEADER_SIZE)
        self._gate = gate
        self._keyring = keyring if gate.secret_key else None
        judge = judge_by_ticket(gate.ticket) if self._keyring is None else judge_by_key(self._keyring)
        self._zap = Zap(self._context, judge)  # before there is a socket that asks
        self._epoll = select.epoll()  # stands for sockets of which one may be made anew
        self._epoll.register(self._zap.fd, select.EPOLLIN)
        self._socket = self._opened()
        self._is_skipping = False
        self._next_tidy, self._refused = 0.0, 0
        self._usual_bytes = _own_bytes()
        self._unbound = ""  # where it listened before it was made anew, until it does again
        self.fds = (self._epoll.fileno(),)

    def _opened(self) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        router.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        router.setsockopt(zmq.BACKLOG, _BACKLOG)
        router.setsockopt(zmq.MAXMSGSIZE, self._limit)
        router.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        router.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        if self._keyring is None:
            router.setsockopt(zmq.PLAIN_SERVER, 1)
        else:
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt_string(zmq.CURVE_SECRETKEY, self._gate.secret_key)
        self._epoll.register(int(router.getsockopt(zmq.FD)), select.EPOLLIN)
        return router

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
        """Whether some peer has sent something; answers those that knock."""
        self._zap.attend()
        if monotonic() >= self._next_tidy:
            self._tidy()
        return bool(int(self._socket.getsockopt(_EVENTS)) & _POLLIN)

    def receive(self) -> Message | None:
        """Take a message of the next peer that has one."""
        socket = self._socket
        if self._is_skipping and not self._skip():
            return None
        try:
            if self._keyring is None:
                peer, key = socket.recv(_LAST), b""
            else:
                frame = socket.recv(_LAST, copy=False)
                peer, key = frame.bytes, _key_of(frame)
        except zmq.Again:
            return None
        frames: list[bytes] = []
        while socket.getsockopt(_RCVMORE):
            if len(frames) > FRAME_COUNT:  # one too many is enough to be refused
                self._is_skipping = True
                break
            frames.append(socket.recv(_LAST))
        if self._keyring is None or self._keyring.note(key):
            return peer, frames, key
        return peer, frames, None

    def _skip(self) -> bool:
        """Throw frames away that are too many; whether those of this message are gone."""
        for _ in range(_STRAYS):
            if not self._socket.getsockopt(_RCVMORE):
                self._is_skipping = False
                return True
            self._socket.recv(_LAST)
        return False

    def _tidy(self) -> None:
        self._next_tidy = monotonic() + _TIDY_S
        if self._keyring is not None:
            self._keyring.tidy()
        if self._zap.refused > self._refused:
            _log.warning("refused %d connections that showed no good key or ticket", self._zap.refused - self._refused)
            self._refused = self._zap.refused
        if self._unbound:
            self._bind_again()
            return
        now = _own_bytes()
        self._usual_bytes = min(self._usual_bytes, now)
        if now - self._usual_bytes > _MAX_GROWTH:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Have libzmq forget what it holds: everybody connects again, and asks again."""
        _log.warning("messages without an end take more than %d MiB: all connections end", _MAX_GROWTH >> 20)
        self._unbound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._epoll.unregister(int(self._socket.getsockopt(zmq.FD)))
        self._socket.close(linger=0)
        self._socket, self._is_skipping = self._opened(), False
        self._bind_again()

    def _bind_again(self) -> None:
        if "[" in self._unbound:
            self._socket.setsockopt(zmq.IPV6, 1)
        try:
            self._socket.bind(self._unbound)
        except zmq.ZMQError:  # libzmq's thread has not let go of it yet
            self._next_tidy = monotonic() + _BIND_AGAIN_S
            return
        self._unbound = ""
        self._usual_bytes = _own_bytes()

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
        self._zap.close()
        self._context.term()
        self._epoll.close()


def _key_of(frame: zmq.Frame) -> bytes:
    """The key that the peer has proved to have, as ``Zap`` has named it."""
    return str(frame.get("User-Id")).encode()


def _own_bytes() -> int:
    """Bytes of memory that are this process's alone."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10
