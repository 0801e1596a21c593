"""One worker process as its host sees it: started, spoken to, watched, ended."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import ExitStack, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import numpy as np

from vecserver.arena.doorbell import Doorbell, make_bell
from vecserver.engine.channel import receive, receive_bytes, send
from vecserver.pools.endings import how_it_ended
from vecserver.wire.errors import HostStartFailed, PoolStopping, WorkerDied
from vecserver.wire.frames import MAX_EXT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.engine.channel import Message
    from vecserver.pools.starting import Started

__all__ = ["WorkerProcess"]

_SEND_TIMEOUT: Final = 10.0
"""Seconds a worker may take to read a message it was called for; only a stuck one takes longer."""


class WorkerProcess:
    """Starts a worker and owns its socket, bell and process descriptor; starts another in its place when it has ended.

    Made by a thread that lives as long as the pool: the kernel kills a worker when the thread that started it ends.

    Args:
        shard: Its number.
        rows: First and end row of its shard.
        memory_fd: The arena's memory; stays the caller's.
        finish_fds: The tokens and the bell of the finish line; stay the caller's.
        start: How it is started.
        limit: Bytes of a message of its own: an environment's code may write to its socket.

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
        limit: int = MAX_EXT,
    ) -> None:
        self.shard = shard
        self.limit = limit
        self.rows = rows
        self.exitcode: int | None = None
        """How it ended; None as long as nobody saw its end."""
        self.gone = False
        """Whether its end was noted, and no other process has taken its place."""
        self.hung = ""
        """How it took too long, where it was killed for that."""
        self.restarts = 0
        """How many processes took the place of another here."""
        self.seeds: list[int | None] = [None] * (rows[1] - rows[0])
        """The seed that each row was given last."""
        self._inherited = (memory_fd, *finish_fds)
        with ExitStack() as undo:
            self._bell_fd = make_bell()
            undo.callback(os.close, self._bell_fd)
            self._launch(start)
            undo.pop_all()
        self._bell_fds = [self._bell_fd]  # to close
        self.bell = Doorbell(self._bell_fd)

    def _launch(self, start: Callable[[Sequence[int]], Started]) -> None:
        with ExitStack() as undo:
            sock, theirs = socket.socketpair()
            undo.callback(sock.close)
            with theirs:
                memory_fd, *finish_fds = self._inherited
                started = start((theirs.fileno(), memory_fd, self._bell_fd, *finish_fds))
                self.pid, self._reap, self._memory = started
            undo.callback(self._reap)
            undo.callback(os.kill, self.pid, signal.SIGKILL)  # before it is reaped: nobody else has its number yet
            self.pidfd = os.pidfd_open(self.pid)
            undo.pop_all()
        self._pidfds = [self.pidfd]  # to close
        self.sock = sock
        sock.settimeout(_SEND_TIMEOUT)

    def restart(self, start: Callable[[Sequence[int]], Started]) -> None:
        """Start a process in the place of the one that has ended: with the same bell, and a new socket.

        Raises:
            OSError: The system has no process or descriptor left for it; nothing of it is left.
        """
        self._let_go()
        self._launch(start)
        self.exitcode, self.gone, self.hung = None, False, ""
        self.restarts += 1

    def _let_go(self) -> None:
        self.sock.close()
        while self._pidfds:  # forgotten before it is closed: its number may be another's by the next call
            os.close(self._pidfds.pop())

    def note_seeds(self, seeds: Sequence[int | None]) -> None:
        """Note the seeds of a reset, None where a row has none."""
        self.seeds = [old if new is None else new for old, new in zip(self.seeds, seeds, strict=True)]

    @property
    def next_seeds(self) -> list[int | None]:
        """Seeds for the rows of a new process: none that the rows had before, and the same again in a like run.

        A row that was never given one gets none.
        """
        return [None if seed is None or seed < 0 else _derived(seed, self.restarts + 1) for seed in self.seeds]

    @property
    def has_ended(self) -> bool:
        """Whether its process has; never blocks."""
        return _is_readable(self.pidfd)

    @property
    def has_said_something(self) -> bool:
        """Whether a message is to be read, or there will be no more; never blocks."""
        return _is_readable(self.sock.fileno())

    def kill(self) -> None:
        """End its process at once; ``pidfd`` tells when it is gone."""
        if self._pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def send(self, message: Message, timeout: float = _SEND_TIMEOUT, fds: Sequence[int] = ()) -> None:
        """Send a message, and descriptors behind it, which stay the caller's.

        Raises:
            WorkerDied: The worker is gone, or does not read it within ``timeout`` seconds.
        """
        try:
            self.sock.settimeout(timeout)
            send(self.sock, message)
            if fds:
                socket.send_fds(self.sock, [b"+"], fds)
            self.sock.settimeout(_SEND_TIMEOUT)
        except OSError:
            raise self.died() from None

    def send_fds(self, fds: Sequence[int]) -> None:
        """Send more descriptors behind a message, likewise."""
        try:
            socket.send_fds(self.sock, [b"+"], fds)
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
        poll.register(self.sock, select.POLLIN)
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
            return receive(self.sock, self.limit)
        except (EOFError, OSError):
            raise self.died() from None

    def receive_bytes(self, limit: int) -> bytearray:
        """Take a payload that did not fit the side area; of one that is longer than a limit one byte more than that.

        Raises:
            WorkerDied: The worker is gone, or stuck.
        """
        try:
            return receive_bytes(self.sock, limit)
        except (EOFError, OSError):
            raise self.died() from None

    def died(self) -> WorkerDied:
        """The error that says how this worker ended; waits a moment for its exit code."""
        exitcode = self._wait(1.0)
        how = self.hung or ("does not answer" if exitcode is None else how_it_ended(exitcode, self._memory))
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
            self.sock.shutdown(socket.SHUT_WR)

    def end(self, deadline: float) -> None:
        """Wait for the worker to leave; kill it at the deadline. Afterwards nothing of it is left."""
        if self._wait(max(0.0, deadline - monotonic())) is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.exitcode = self._reap()
        self._let_go()
        while self._bell_fds:  # as above
            os.close(self._bell_fds.pop())


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _derived(seed: int, restarts: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(restarts,)).generate_state(1)[0]) >> 1
