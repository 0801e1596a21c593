"""A host process as its server sees it: started, greeted, asked, ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.pools.handshake import HostFailed, HostReady, HostStart, receive_answer, send_line
from vecserver.pools.starting import ONE_THREAD
from vecserver.wire.errors import HostStartFailed, PoolLost, from_code

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HostProcess"]

_HANDSHAKE_SLACK: Final = 10.0
"""Seconds on top of the environments' time: an interpreter that starts on a busy machine."""

_TAIL: Final = 4000
"""Bytes of a host's log that an error may carry."""


class HostProcess:
    """Starts one host process and owns its control socket and log. Thread-safe once it is ready.

    Args:
        command: The argv prefix of a host process.
        start: What it makes, and where it and its workers write their log: read for errors, removed at the end.

    Raises:
        HostStartFailed: The operating system starts no process.
    """

    def __init__(self, command: Sequence[str], start: HostStart) -> None:
        self._start = start
        self._log_path = Path(start.log_path)
        self._control, theirs = socket.socketpair()
        try:
            with theirs, self._log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, **ONE_THREAD},
                    # a group of its own: the terminal's Ctrl-C is for the server, which ends its pools in order. Not a
                    # session of its own: see pools/starting.py
                    process_group=0,
                )
        except OSError as error:
            self._control.close()
            self._log_path.unlink(missing_ok=True)
            raise HostStartFailed(f"a host process could not be started: {error}") from None
        self.pid = self._process.pid

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

    def check_alive(self) -> None:
        """Make sure that the process runs.

        Raises:
            PoolLost: It does not; says how it ended.
        """
        if self._process.poll() is not None:
            raise PoolLost(f"the pool's host process {self.ending()}", host_pid=self.pid)

    @property
    def exitcode(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def ending(self) -> str:
        """How the process ended, with the end of its log."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        how = (
            "does not answer" if code is None else f"was killed by signal {-code}" if code < 0 else f"left with {code}"
        )
        tail = self._log_tail()
        return f"{how}; the end of its log: {tail}" if tail else how

    def _log_tail(self) -> str:
        try:
            with self._log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
                return log.read().decode("utf-8", "replace").strip()
        except OSError:
            return ""

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
        log = self._log_tail()
        if log:
            sys.stderr.write(f"pool {self._start.pool}:\n{log}\n")
        for path in (Path(self._start.ipc_path), Path(self._start.shm_path), self._log_path):
            path.unlink(missing_ok=True)
