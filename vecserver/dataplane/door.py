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
from vecserver.wire.errors import LeaseLost, VecServerError
from vecserver.wire.loan import Borrow, Fetch, Fetched, Lent, Recalled

if TYPE_CHECKING:
    import socket
    from collections.abc import Container

    from vecserver.dataplane.dispatch import Dispatcher
    from vecserver.pools.host import Host
    from vecserver.pools.loan import Loan

__all__ = ["Door"]

_log = logging.getLogger(__name__)

_MAX_STRANGERS: Final = 8
"""Connections that have not proved a lease yet; a further one takes the place of the oldest."""

_DEAF_S: Final = 1.0
"""Seconds that nobody is let in when no descriptor is left: a connection that waits would keep the loop awake."""


class _Borrower:
    """The driver that has the arena, or waits for it."""

    def __init__(self, sock: socket.socket, pid: int, request: Borrow) -> None:
        self.sock = sock
        self.request = request
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
    """Lends a pool's arena. One thread owns it: the loop's.

    Args:
        listener: The listening socket, in a folder of this user's alone; the door's to close.
        host: The pool.
        dispatcher: Knows who drives.
    """

    def __init__(self, listener: socket.socket, host: Host, dispatcher: Dispatcher) -> None:
        self._listener = listener
        self._host = host
        self._dispatcher = dispatcher
        self._strangers: dict[int, tuple[socket.socket, Peer]] = {}
        self._borrower: _Borrower | None = None
        self._deaf_until = 0.0

    @property
    def fds(self) -> set[int]:
        """What to watch now."""
        fds = set(self._strangers)
        if monotonic() >= self._deaf_until:
            fds.add(self._listener.fileno())
        if self._borrower is not None:
            fds.add(self._borrower.sock.fileno())
            if self._borrower.pidfd is not None:
                fds.add(self._borrower.pidfd)
        turn = self._host.lending.turn_fd
        return fds if turn is None else {*fds, turn}

    def attend(self, ready: Container[object]) -> None:
        """Look after whoever is at the door.

        Args:
            ready: The descriptors that are readable.
        """
        if self._borrower is not None:
            self._look_after(self._borrower, ready)
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
        refusal = self._refusal(request)
        if refusal is not None:
            _tell(sock, refusal)
            sock.close()
            return
        if self._borrower is not None:  # the same driver again
            self._borrower.close()
        self._borrower = borrower = _Borrower(sock, peer.pid, request)
        self._host.lending.lend(lambda loan: self._lent(borrower, loan))

    def _refusal(self, request: Borrow) -> VecServerError | None:
        if not self._dispatcher.drives(request.lease, request.epoch):
            return LeaseLost("this lease does not drive the pool: attach again")
        return self._dispatcher.unfit

    def _lent(self, borrower: _Borrower, loan: Loan | VecServerError) -> None:
        if borrower is not self._borrower:
            self._host.lending.recall()
            return
        if isinstance(loan, VecServerError):
            self._end(loan)
            return
        host, refusal = self._host, self._refusal(borrower.request)
        if refusal is not None:  # another took the pool while the workers were told
            host.lending.recall()
            self._end(refusal)
            return
        message = Lent(host.shards, host.arena_bytes, loan.orders_size, host.lending.recalls)
        try:
            send(borrower.sock, message, host.lent_fds(loan))
        except OSError as error:
            _log.warning("the arena could not be handed over: %s", error)
            host.lending.recall()
            self._end(None)
            return
        borrower.got_it = True

    def _look_after(self, borrower: _Borrower, ready: Container[object]) -> None:
        if self._host.broken is not None:
            self._host.lending.recall()
            self._end(self._host.broken)
        elif borrower.got_it and not self._host.lending.lent:
            self._end(LeaseLost("another client drives this pool now, or none: attach again"))
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
            self._host.lending.fetch(lambda payloads: self._fetched(borrower, request.seq, payloads))

    def _give_up(self, borrower: _Borrower) -> None:
        if borrower.got_it:
            self._host.lending.recall()
        self._end(None)

    def _fetched(self, borrower: _Borrower, seq: int, payloads: list[bytes | memoryview]) -> None:
        memory = None
        try:
            memory = create("vecserver-payloads")
            for payload in payloads:
                _write(memory, payload)
            send(borrower.sock, Fetched(seq, [len(payload) for payload in payloads]), [memory])
        except OSError as error:  # it is gone, or there is no memory or descriptor: it goes on without the arena
            _log.warning("payloads could not be handed over: %s", error)
            if borrower is self._borrower:
                self._give_up(borrower)
        finally:
            if memory is not None:
                os.close(memory)

    def _end(self, error: VecServerError | None) -> None:
        borrower, self._borrower = self._borrower, None
        if borrower is not None:
            if error is not None:
                _tell(borrower.sock, error)
            borrower.close()

    def close(self) -> None:
        """Close every connection: whoever has the arena hears that the pool is gone."""
        self._end(None)
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
