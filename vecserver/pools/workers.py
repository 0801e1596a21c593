"""One worker process as its host sees it: started, spoken to, watched, ended."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import ExitStack, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.arena.doorbell import Doorbell, make_bell
from vecserver.engine.channel import receive, receive_bytes, send
from vecserver.pools.endings import how_it_ended
from vecserver.wire.errors import HostStartFailed, PoolStopping, WorkerDied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.engine.channel import Message
    from vecserver.pools.starting import Started

__all__ = ["WorkerProcess"]

_SEND_TIMEOUT: Final = 10.0
"""Seconds a worker may take to read a message it was called for; only a stuck one takes longer."""


class WorkerProcess:
    """Starts a worker and owns its socket, bell and process descriptor.

    Made by a thread that lives as long as the pool: the kernel kills a worker when the thread that started it ends.

    Args:
        shard: Its number.
        rows: First and end row of its shard.
        memory_fd: The arena's memory; stays the caller's.
        finish_fds: The tokens and the bell of the finish line; stay the caller's.
        start: How it is started.

    Raises:
        OSError: The system has no process or descriptor left for it; nothing of it is left.
    """

    def __init__(
        self,
        shard: int,
        rows: tuple[int, int],
        memory_fd: int,
        finish_fds: tuple[int, int],
        start: Callable[[Sequence[int]], Started],
    ) -> None:
        self.shard = shard
        self.rows = rows
        self.exitcode: int | None = None
        """How it ended; None as long as nobody saw its end."""
        with ExitStack() as undo:
            self._bell_fd = make_bell()
            undo.callback(os.close, self._bell_fd)
            self._sock, theirs = socket.socketpair()
            undo.callback(self._sock.close)
            with theirs:
                self.pid, self._reap = start((theirs.fileno(), memory_fd, self._bell_fd, *finish_fds))
            undo.callback(self._reap)
            undo.callback(os.kill, self.pid, signal.SIGKILL)  # before it is reaped: nobody else has its number yet
            self.pidfd = os.pidfd_open(self.pid)
            undo.pop_all()
        self._own_fds = [self._bell_fd, self.pidfd]  # to close
        self.bell = Doorbell(self._bell_fd)
        self._sock.settimeout(_SEND_TIMEOUT)

    def send(self, message: Message, timeout: float = _SEND_TIMEOUT, fds: Sequence[int] = ()) -> None:
        """Send a message, and descriptors behind it, which stay the caller's.

        Raises:
            WorkerDied: The worker is gone, or does not read it within ``timeout`` seconds.
        """
        try:
            self._sock.settimeout(timeout)
            send(self._sock, message)
            if fds:
                socket.send_fds(self._sock, [b"+"], fds)
            self._sock.settimeout(_SEND_TIMEOUT)
        except OSError:
            raise self.died() from None

    def receive(self, deadline: float, abort_fd: int) -> Message:
        """Wait for a message while the worker starts.

        Args:
            deadline: On the monotonic clock.
            abort_fd: Readable when the pool is not wanted any more.

        Raises:
            PoolStopping: It is not.
            HostStartFailed: Nothing came in time.
            WorkerDied: The worker is gone.
        """
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(abort_fd, select.POLLIN)
        events = poll.poll(max(0.0, deadline - monotonic()) * 1000)
        if any(fd == abort_fd for fd, _ in events):
            raise PoolStopping("the pool was given up while its environments were made")
        if not events:
            raise HostStartFailed(
                f"the environments of rows {self.rows[0]} to {self.rows[1] - 1} were not made in time",
                rows=list(self.rows),
            )
        try:
            return receive(self._sock)
        except (EOFError, OSError):
            raise self.died() from None

    def receive_bytes(self) -> bytearray:
        """Take a payload that did not fit the side area.

        Raises:
            WorkerDied: The worker is gone, or stuck.
        """
        try:
            return receive_bytes(self._sock)
        except (EOFError, OSError):
            raise self.died() from None

    def died(self) -> WorkerDied:
        """The error that says how this worker ended; waits a moment for its exit code."""
        exitcode = self._wait(1.0)
        how = "does not answer" if exitcode is None else how_it_ended(exitcode)
        first, last = self.rows[0], self.rows[1] - 1
        return WorkerDied(
            f"worker {self.shard} (rows {first} to {last}, pid {self.pid}) {how}",
            shard=self.shard,
            rows=[first, last],
            exitcode=exitcode,
        )

    def _wait(self, timeout: float) -> int | None:
        """The exit code; None when it has not ended within ``timeout`` seconds."""
        if self.exitcode is None:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            if poll.poll(timeout * 1000):
                self.exitcode = self._reap()
        return self.exitcode

    def ask_to_close(self) -> None:
        """Have the worker close its environments and leave, once it has finished the command it runs."""
        with suppress(OSError):  # one that is gone already needs no asking
            self._sock.shutdown(socket.SHUT_WR)

    def end(self, deadline: float) -> None:
        """Wait for the worker to leave; kill it at the deadline. Afterwards nothing of it is left."""
        if self._wait(max(0.0, deadline - monotonic())) is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.exitcode = self._reap()
        self._sock.close()
        while self._own_fds:  # forgotten before it is closed: its number may be another's by the next call
            os.close(self._own_fds.pop())
