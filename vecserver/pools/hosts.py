"""A host process as its server sees it: started, greeted, asked, ended."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.pools.endings import how_it_ended
from vecserver.pools.handshake import HostFailed, HostReady, HostStart, receive_answer, send_line
from vecserver.pools.hostlog import HostLog
from vecserver.wire.errors import DeadlineExceeded, HostStartFailed, PoolLost, from_code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vecserver.pools.gate import AllowKey, Gate

__all__ = ["HostProcess", "NoHost"]

_HANDSHAKE_SLACK: Final = 10.0
"""Seconds on top of the environments' time: an interpreter that starts on a busy machine."""


class HostProcess:
    """Starts one host process and owns its control socket and log. Thread-safe once it is ready.

    Args:
        command: The argv prefix of a host process.
        start: What it makes, and where it and its workers write their log: read for errors, removed at the end.
        variables: Its environment, which its workers have too: see ``starting.for_environments``.

    Raises:
        HostStartFailed: The operating system starts no process.
    """

    def __init__(self, command: Sequence[str], start: HostStart, variables: Mapping[str, str]) -> None:
        self._start = start
        self.log = HostLog(Path(start.log_path), start.pool)
        try:
            self._control, theirs = socket.socketpair()
        except OSError as error:
            raise HostStartFailed(f"a host process could not be started: {error}") from None
        try:
            with theirs, self.log.path.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a request
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs.fileno(),),
                    env=variables,
                    # a group of its own: the terminal's Ctrl-C is for the server, which ends its pools in order. Not a
                    # session of its own: see pools/starting.py
                    process_group=0,
                )
        except OSError as error:
            self._control.close()
            self.log.close()
            raise HostStartFailed(f"a host process could not be started: {error}") from None
        self.pid = self._process.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            self._process.kill()
            self._pidfd = -1
            self.end(0.0)
            raise HostStartFailed(f"a host process could not be watched: {error}") from None

    def give_pidfd(self) -> int:
        """A descriptor that is readable when the process has ended; the caller's from here on. Once."""
        given, self._pidfd = self._pidfd, -1
        return given

    def greet(self) -> HostReady:
        """Have it make the pool, and wait until it has.

        Raises:
            VecServerError: Whatever kept the pool from being made, or HostStartFailed when the process says nothing.
        """
        try:
            send_line(self._control, self._start)
            answer = receive_answer(self._control, self._start.start_timeout + _HANDSHAKE_SLACK)
        except TimeoutError:
            raise HostStartFailed(
                f"the pool was not ready within {self._start.start_timeout:g} s: make fewer rows, or start the server "
                "with a longer start_timeout"
            ) from None
        except (EOFError, OSError):
            raise HostStartFailed(f"the pool's host process {self.ending()}") from None
        if isinstance(answer, HostFailed):
            raise from_code(answer.code, answer.message, answer.details)
        return answer

    @property
    def gate(self) -> Gate:
        """What it asks of those who come by tcp."""
        return self._start.gate

    def allow(self, key: AllowKey) -> None:
        """Have it let a client in; it has heard of it before it hears of that client.

        Raises:
            DeadlineExceeded: It has not taken in what it was told for long.
            PoolLost: It is gone.
        """
        try:
            send_line(self._control, key, socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise DeadlineExceeded("the pool's host process does not listen to its server: ask again") from None
        except OSError:
            self.check_alive()
            raise PoolLost("the pool is ending", pool=self._start.pool) from None

    def check_alive(self, prospect: str = "") -> None:
        """Make sure that the process runs.

        Args:
            prospect: What will become of its pool if it does not.

        Raises:
            PoolLost: It does not; says how it ended, and has the end of its log.
        """
        if self._process.poll() is not None:
            raise PoolLost(
                f"the pool's host process {self.ending(prospect)}",
                pool=self._start.pool,
                host_pid=self.pid,
                exitcode=self.exitcode,
            )

    @property
    def exitcode(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def ending(self, prospect: str = "") -> str:
        """How the process ended, what will become of its pool, and the end of its log."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        how = "does not answer" if code is None else how_it_ended(code)
        tail = self.log.tail()
        parts = [how, prospect, "the end of its log:" if tail else ""]
        return "\n".join(["; ".join(filter(None, parts)), *tail])

    def ask_to_stop(self) -> None:
        """Ask it to finish its batch and leave; returns at once."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Kill it, without waiting."""
        self._process.kill()

    def end(self, deadline: float) -> None:
        """Wait for it to leave, kill it at the deadline, and clear away what a killed one leaves behind."""
        try:
            self._process.wait(max(0.0, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()  # its workers go with it
            self._process.wait()
        self._control.close()
        pidfd = self.give_pidfd()
        if pidfd >= 0:
            os.close(pidfd)
        self.clear_away()

    def clear_away(self) -> None:
        """Remove the files of a process that has ended; may be called again. The end of its log is kept in memory."""
        self.log.close()
        for path in (self._start.ipc_path, self._start.shm_path):
            Path(path).unlink(missing_ok=True)


class NoHost:
    """Stands where a pool's host process would, of a pool that has none.

    Args:
        pool: Whose.
        reason: Why it has none.
    """

    pid = 0
    exitcode: int | None = None

    def __init__(self, pool: str, reason: str) -> None:
        self._pool = pool
        self.reason = reason

    def check_alive(self, prospect: str = "") -> None:
        """Make sure that there is one.

        Args:
            prospect: What will become of its pool.

        Raises:
            PoolLost: Always; says why.
        """
        raise PoolLost("; ".join(filter(None, (self.reason, prospect))), pool=self._pool)

    def ask_to_stop(self) -> None:
        """Nothing is to be asked."""

    def kill(self) -> None:
        """Nothing is to be killed."""

    def end(self, deadline: float) -> None:
        """Nothing is to be waited for."""
