"""Where a driver on this machine asks for the arena: it proves its lease, and gets the descriptors.

The connection stays open as long as the loan: its end tells each side that the other is gone.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from vecserver.arena.memory import create
from vecserver.arena.passing import Peer, check_same_user, close_all, peer_of, receive, send
from vecserver.wire.errors import VecServerError
from vecserver.wire.loan import Borrow, Fetch, Fetched, Lent, Recalled

if TYPE_CHECKING:
    import socket
    from collections.abc import Container

    from vecserver.dataplane.dispatch import Dispatcher
    from vecserver.dataplane.splitting import PoolDispatcher
    from vecserver.pools.crew import Crew
    from vecserver.pools.host import Host
    from vecserver.pools.loan import Loan

__all__ = ["Door"]

_log = logging.getLogger(__name__)

_MAX_STRANGERS: Final = 8
"""Connections that have not proved a lease yet; a further one takes the place of the oldest."""

_DEAF_S: Final = 1.0
"""Seconds that nobody is let in when no descriptor is left: a connection that waits would keep the loop awake."""


class _Borrower:
    """The driver that has an arena, or waits for it: the pool's, or that of a part."""

    def __init__(self, sock: socket.socket, pid: int, request: Borrow, host: Crew) -> None:
        self.sock = sock
        self.request = request
        self.host = host
        self.pidfd: int | None = None
        self.got_it = False
        with suppress(OSError):  # another namespace's: the end of its socket alone tells then
            # a child that it forked may keep its socket open
            self.pidfd = os.pidfd_open(pid) if pid else None

    def close(self) -> None:
        self.sock.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


class Door:
    """Lends a pool's arena, and those of its parts. One thread owns it: the loop's.

    Args:
        listener: The listening socket, in a folder of this user's alone; the door's to close.
        host: The pool.
        dispatcher: Knows who drives.
    """

    def __init__(self, listener: socket.socket, host: Host, dispatcher: PoolDispatcher) -> None:
        self._listener = listener
        self._host = host
        self._dispatcher = dispatcher
        self._strangers: dict[int, tuple[socket.socket, Peer]] = {}
        self._borrowers: list[_Borrower] = []  # one an arena
        self._deaf_until = 0.0

    @property
    def fds(self) -> set[int]:
        """What to watch now."""
        fds = set(self._strangers)
        if monotonic() >= self._deaf_until:
            fds.add(self._listener.fileno())
        for borrower in self._borrowers:
            turn = borrower.host.lending.turn_fd
            fds |= {fd for fd in (borrower.sock.fileno(), borrower.pidfd, turn) if fd is not None}
        return fds

    def attend(self, ready: Container[object]) -> None:
        """Look after whoever is at the door.

        Args:
            ready: The descriptors that are readable.
        """
        for borrower in [*self._borrowers]:
            self._look_after(borrower, ready)
        for fd in [fd for fd in self._strangers if fd in ready]:
            self._hear(*self._strangers.pop(fd))
        if self._listener.fileno() in ready:
            self._accept()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # gone again, or no descriptor is left for it, and none will be at once
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._deaf_until = monotonic() + _DEAF_S
            return
        sock.setblocking(False)
        peer = peer_of(sock)
        try:
            check_same_user(peer)
        except PermissionError as error:
            _log.warning("the arena is not lent: %s", error)
            sock.close()
            return
        if len(self._strangers) >= _MAX_STRANGERS:
            self._strangers.pop(next(iter(self._strangers)))[0].close()
        self._strangers[sock.fileno()] = sock, peer

    def _hear(self, sock: socket.socket, peer: Peer) -> None:
        try:
            request = _received(sock, Borrow)
        except (EOFError, OSError, ValueError) as error:
            _log.debug("not lent: %s", error)
            sock.close()
            return
        host = self._driven_by(request)
        if isinstance(host, VecServerError):
            _tell(sock, host)
            sock.close()
            return
        for other in [other for other in self._borrowers if other.host is host]:  # the same driver again
            self._forget(other)
        borrower = _Borrower(sock, peer.pid, request, host)
        self._borrowers.append(borrower)
        host.lending.lend(lambda loan: self._lent(borrower, loan))

    def _driven_by(self, request: Borrow) -> Crew | VecServerError:
        """Who has the arena that this lease drives: the pool, or a part of it; or why it is not lent."""
        parts = self._host.parts
        whole: list[tuple[Crew, Dispatcher]] = [(self._host, self._dispatcher)]
        for host, dispatcher in zip(parts, self._dispatcher.drivers, strict=False) if parts else whole:
            if dispatcher.drives(request.lease, request.epoch):
                return dispatcher.unfit or host
        if self._dispatcher.drives(request.lease, request.epoch) and self._dispatcher.unfit is not None:
            return self._dispatcher.unfit  # broken while it was split: only a reset makes it whole
        return self._dispatcher.lease_lost(request.lease)

    def _lent(self, borrower: _Borrower, loan: Loan | VecServerError) -> None:
        host = borrower.host
        if borrower not in self._borrowers:
            host.lending.recall()
            return
        if isinstance(loan, VecServerError):
            self._end(borrower, loan)
            return
        driven = self._driven_by(borrower.request)
        if isinstance(driven, VecServerError):  # another took the pool while the workers were told
            host.lending.recall()
            self._end(borrower, driven)
            return
        message = Lent(list(host.shards), host.arena_bytes, loan.orders_size, host.lending.recalls)
        try:
            send(borrower.sock, message, host.lent_fds(loan))
        except OSError as error:
            _log.warning("the arena could not be handed over: %s", error)
            host.lending.recall()
            self._end(borrower, None)
            return
        borrower.got_it = True

    def _look_after(self, borrower: _Borrower, ready: Container[object]) -> None:
        lending = borrower.host.lending
        if borrower.host.broken is not None:
            lending.recall()
            self._end(borrower, borrower.host.broken)
        elif borrower.got_it and not lending.lent:
            self._end(borrower, self._dispatcher.lease_lost(borrower.request.lease))
        elif borrower.pidfd is not None and borrower.pidfd in ready:
            self._give_up(borrower)
        elif borrower.sock.fileno() in ready:
            self._serve(borrower)

    def _serve(self, borrower: _Borrower) -> None:
        try:
            request = _received(borrower.sock, Fetch)
        except (EOFError, OSError, ValueError):
            self._give_up(borrower)
            return
        if borrower.got_it:
            borrower.host.lending.fetch(lambda payloads: self._fetched(borrower, request.seq, payloads))

    def _give_up(self, borrower: _Borrower) -> None:
        if borrower.got_it:
            borrower.host.lending.recall()
        self._end(borrower, None)

    def _fetched(self, borrower: _Borrower, seq: int, payloads: list[bytes | memoryview]) -> None:
        memory = None
        try:
            memory = create("vecserver-payloads")
            for payload in payloads:
                _write(memory, payload)
            send(borrower.sock, Fetched(seq, [len(payload) for payload in payloads]), [memory])
        except OSError as error:  # it is gone, or there is no memory or descriptor: it goes on without the arena
            _log.warning("payloads could not be handed over: %s", error)
            if borrower in self._borrowers:
                self._give_up(borrower)
        finally:
            if memory is not None:
                os.close(memory)

    def _end(self, borrower: _Borrower, error: VecServerError | None) -> None:
        if error is not None:
            _tell(borrower.sock, error)
        self._forget(borrower)

    def _forget(self, borrower: _Borrower) -> None:
        self._borrowers.remove(borrower)
        borrower.close()

    def close(self) -> None:
        """Close every connection: whoever has the arena hears that the pool is gone."""
        for borrower in [*self._borrowers]:
            self._forget(borrower)
        for sock, _ in self._strangers.values():
            sock.close()
        self._strangers.clear()
        self._listener.close()


def _received(sock: socket.socket, kind: Any) -> Any:
    message, fds = receive(sock, kind)
    close_all(fds)
    return message


def _tell(sock: socket.socket, error: VecServerError) -> None:
    with suppress(OSError):  # it is gone
        send(sock, Recalled(error.code, error.message, error.details))


def _write(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
