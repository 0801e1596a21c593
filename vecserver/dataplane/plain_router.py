"""The sockets of a pool on one machine: ZeroMQ's protocol on plain sockets, read and written by the loop's own thread.

libzmq hands every message to a thread of its own and back, two wakes a batch. Here a request is read when the loop
looks for it, and its answer is with the kernel before the loop goes on.
"""

from __future__ import annotations

import logging
import select
import socket
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.arena.passing import check_same_user, peer_of
from vecserver.dataplane.connection import Connection
from vecserver.wire.errors import VecServerError
from vecserver.wire.frames import FRAME_COUNT, MAX_EXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vecserver.dataplane.requests import Reply
    from vecserver.dataplane.router import Message
    from vecserver.wire.frames import Buffer

__all__ = ["PlainRouter"]

_MAX_CONNECTIONS: Final = 128
"""A pool has one driver and a few observers; each connection takes a descriptor and 64 KiB."""

_MAX_STRANGERS: Final = 32
"""Of these, such as were not let in yet: a further one takes the place of the oldest, so that connections that say
nothing keep nobody out who says at once what it is."""

_MAX_FRUITLESS: Final = 64
"""Connections by tcp in a second that end without having been let in: then nobody is let in there until it is over.
Each costs a sixth of a millisecond, and who opens thousands would have them from other pools' workers."""

_MAX_HELD: Final = 2 * MAX_EXT
"""Bytes of large unfinished messages, in and out, of all peers together: as many as one legal message may have. Beyond
it those that stand still longest make way."""
_SMALL: Final = 64 << 10
"""Bytes of a message that need not be counted: every connection has so much."""

_IN_FLIGHT: Final = 176 << 10
"""Bytes of an answer that are with the kernel at a time, on tcp; every kernel grants as many. By itself it comes to
take megabytes, which have left the caches when the peer reads them: that doubled what an answer of 3.6 MB costs."""

_EVENTS: Final = 64
"""Descriptors taken from the kernel at once; the others come with the next look."""

_TIDY_S: Final = 1.0
"""How often the connections are looked through for those to give up."""

_STRAY: Final = 1 << 10
"""Bytes of a frame that is one too many, or no header: such a message is read whole, to be refused with an answer."""
_STRAYS: Final = 13
"""Frames too many that are read for that; more end the connection."""

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT

_log = logging.getLogger(__name__)


class PlainRouter:
    """Serves many DEALERs. As ``Router``.

    A peer that does not read its answers is not read from either, so that no more than the answers to what it has asked
    already wait for it.

    Args:
        listeners: Sockets that listen; closed by ``close``.
        max_request: Largest legal body of a request, in bytes.
        ticket: What a peer must show that comes by tcp; empty where it need not. One that comes by a Unix socket must
            be this user's.
    """

    def __init__(self, listeners: Sequence[socket.socket], max_request: int, ticket: str = "") -> None:
        frames = (_STRAY, MAX_EXT, max(max_request, MAX_EXT))  # larger than legal, to be refused with an answer
        assert len(frames) == FRAME_COUNT
        self._limits = frames + (_STRAY,) * _STRAYS
        self._ticket = ticket
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._by_fd: dict[int, Connection] = {}
        self._by_peer: dict[bytes, Connection] = {}
        self._blocked: set[Connection] = set()  # they have something to send, and are not read from
        self._line: deque[Connection] = deque()  # to be received from, each once before any of them again
        self._unread: list[Connection] = []  # of whose bytes more than one message may be left
        self._accepted = self._refused = self._fruitless = 0
        self._flooded = False
        self._next_tidy = 0.0
        self._heard: set[int] = set()  # listeners that are listened to
        self._epoll = select.epoll()
        for listener in listeners:
            listener.setblocking(False)
        self._listen()
        self.fds = (self._epoll.fileno(),)

    def _listen(self) -> None:
        for fd in self._listeners.keys() - self._heard:
            self._epoll.register(fd, _IN)
            self._heard.add(fd)

    def has_message(self) -> bool:
        """Whether some peer has sent something."""
        return bool(self._line) or self._look()

    def _look(self) -> bool:
        knocks = []  # last, for they may end connections
        for fd, events in self._epoll.poll(0, _EVENTS):
            conn = self._by_fd.get(fd)
            if conn is None:
                knocks.append(fd)
            elif events & _OUT or conn.unsent:  # or its end, which shows when it is written to
                self._flush(conn)
            else:
                self._line_up(conn)
        for fd in knocks:
            self._accept(self._listeners[fd])
        for conn in self._unread:
            self._line_up(conn)
        self._unread.clear()
        now = monotonic()
        if now >= self._next_tidy:
            self._tidy(now)
        return bool(self._line)

    def _line_up(self, conn: Connection) -> None:
        if not conn.in_line:
            conn.in_line = True
            self._line.append(conn)

    def receive(self) -> Message | None:
        """Take a message of the next peer that has one."""
        if not self._line:
            self._look()  # once: whoever sends bytes without end must not keep the caller here
        while self._line:
            conn = self._line.popleft()
            conn.in_line = False
            if conn.unsent or conn.peer not in self._by_peer:
                continue
            frames = self._received(conn)
            if frames is not None:
                return conn.peer, frames, b""
        return None

    def _received(self, conn: Connection) -> Sequence[Buffer] | None:
        try:
            frames = conn.receive()
        except (OSError, VecServerError, MemoryError) as error:
            self._end(conn, error)
            return None
        if conn.unsent:
            self._block(conn)
        elif frames is None:
            self._make_way(conn)
        elif conn.unread:
            self._unread.append(conn)
        return frames

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it has left already
        except OSError as error:
            # no descriptor is free, for example: the listener would be readable for as long as that lasts
            _log.warning("cannot accept a connection: %s", error)
            self._stop_listening(self._listeners)
            return
        sock.setblocking(False)
        is_local = sock.family == socket.AF_UNIX
        if is_local and not _is_own(sock):
            sock.close()
            return
        if not self._has_room():
            self._refused += 1
            sock.close()
            self._note_fruitless(is_local=is_local)
            return
        if not is_local:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _IN_FLIGHT)
        self._accepted += 1
        ticket = "" if is_local else self._ticket
        conn = Connection(sock, self._accepted.to_bytes(8, "big"), self._limits, ticket)
        self._by_fd[sock.fileno()] = self._by_peer[conn.peer] = conn
        self._epoll.register(sock, _IN)
        try:
            conn.greet()
        except OSError as error:
            self._end(conn, error)
            return
        if conn.unsent:
            self._block(conn)

    def _has_room(self) -> bool:
        """Whether one more connection may be made; ends that of a stranger for it."""
        strangers = [conn for conn in self._by_fd.values() if conn.is_stranger]
        if len(strangers) >= _MAX_STRANGERS:
            self._end(min(strangers, key=lambda conn: conn.deadline), "others come")
        return len(self._by_fd) < _MAX_CONNECTIONS

    def _stop_listening(self, fds: Iterable[int]) -> None:
        for fd in self._heard.intersection(fds):
            self._epoll.unregister(fd)
            self._heard.remove(fd)

    def send(self, reply: Reply) -> None:
        """Send a reply as far as the socket has room, and the rest when it has."""
        for blocked in self._blocked:
            blocked.own_unsent()
        conn = self._by_peer.get(reply.peer)
        if conn is None:
            return
        try:
            conn.send((reply.header, reply.ext, reply.body))
        except OSError as error:
            self._end(conn, error)
            return
        if conn.unsent:
            self._block(conn)

    def _block(self, conn: Connection) -> None:
        if conn not in self._blocked:
            self._blocked.add(conn)
            self._epoll.modify(conn.sock, _OUT)
        self._make_way(conn)

    def _flush(self, conn: Connection) -> None:
        try:
            conn.flush()
        except OSError as error:
            self._end(conn, error)
            return
        if not conn.unsent:
            self._blocked.remove(conn)
            self._epoll.modify(conn.sock, _IN)
            if conn.unread:
                self._line_up(conn)

    def _make_way(self, conn: Connection) -> None:
        """Keep what unfinished messages take within bounds, by ending others than this one."""
        if conn.held <= _SMALL:
            return
        large = [other for other in self._by_fd.values() if other.held > _SMALL and other is not conn]
        large.sort(key=lambda other: other.deadline, reverse=True)
        held = conn.held + sum(other.held for other in large)
        while large and held > _MAX_HELD:
            held -= large[-1].held
            self._end(large.pop(), "others need the memory")

    def _tidy(self, now: float) -> None:
        self._next_tidy = now + _TIDY_S
        for conn in [conn for conn in self._by_fd.values() if conn.deadline < now]:
            self._end(conn, "nothing moves")
        if self._refused:
            _log.warning("refused %d connections beyond %d", self._refused, _MAX_CONNECTIONS)
            self._refused = 0
        flooded, self._flooded = self._flooded, self._fruitless > _MAX_FRUITLESS
        if self._flooded and not flooded:
            _log.warning("%d connections in a second were none of this pool's clients'", self._fruitless)
        self._fruitless = 0
        self._listen()

    def _end(self, conn: Connection, why: object) -> None:
        _log.debug("connection %d ends: %s", conn.sock.fileno(), why)
        self._blocked.discard(conn)
        self._epoll.unregister(conn.sock)
        del self._by_fd[conn.sock.fileno()], self._by_peer[conn.peer]
        if conn.is_stranger:
            self._note_fruitless(is_local=conn.sock.family == socket.AF_UNIX)
        conn.close()

    def _note_fruitless(self, *, is_local: bool) -> None:
        if is_local:  # a program of this user's
            return
        self._fruitless += 1
        if self._fruitless > _MAX_FRUITLESS:
            self._stop_listening(fd for fd, each in self._listeners.items() if each.family != socket.AF_UNIX)

    def close(self, linger: float) -> None:
        """Give what could not be sent yet ``linger`` seconds, and close everything."""
        self._stop_listening(self._listeners)
        for listener in self._listeners.values():
            listener.close()
        for conn in [conn for conn in self._by_fd.values() if not conn.unsent]:
            self._end(conn, "the pool ends")
        deadline = monotonic() + linger
        while self._blocked and (left := deadline - monotonic()) > 0:
            for fd, _ in self._epoll.poll(left, _EVENTS):
                self._close_sent(self._by_fd[fd])
        for conn in [*self._by_fd.values()]:
            self._end(conn, "the pool ends")
        self._epoll.close()

    def _close_sent(self, conn: Connection) -> None:
        self._flush(conn)
        if conn.peer in self._by_peer and not conn.unsent:
            self._end(conn, "the pool ends")


def _is_own(sock: socket.socket) -> bool:
    try:
        check_same_user(peer_of(sock))
    except PermissionError as error:
        _log.warning("not let in: %s", error)
        return False
    return True
