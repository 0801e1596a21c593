"""A process that is asked by lines on its stdin and answers by lines on its stdout."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LineProcess"]

_LEAVE_S: Final = 3.0
"""Seconds to close the environments; then the process is killed."""

_CHUNK: Final = 1 << 16


class LineProcess:
    """Starts the process in a group of its own, so that Ctrl-C is for the program alone, which ends it in order.

    Args:
        command: Its argv; the process leaves when its stdin ends.
        env: Its environment; None for this process's.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a request
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            # not a session of its own: the kernel shares the cores evenly between sessions, not between processes
            process_group=0,
        )
        self._read = bytearray()

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    def ask(self, line: str) -> None:
        """Send a line. Nothing happens when the process has ended: ``answer`` tells."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, timeout: float | None = None) -> str:
        """Wait for a line.

        Args:
            timeout: Seconds; None for as long as it takes.

        Raises:
            EOFError: The process has ended.
            TimeoutError: No line came.
        """
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = None if timeout is None else monotonic() + timeout
        while b"\n" not in self._read:
            if not _is_ready(fd, None if deadline is None else max(0.0, deadline - monotonic())):
                raise TimeoutError
            chunk = os.read(fd, _CHUNK)
            if not chunk:
                raise EOFError
            self._read += chunk
        line, _, rest = bytes(self._read).partition(b"\n")
        self._read[:] = rest
        return line.decode()

    def hang_up(self) -> None:
        """Have it leave, without waiting."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """End it, and with it whatever it has left behind in its group; may be called again."""
        assert self._process.stdout is not None
        self.hang_up()
        if self._process.returncode is None:
            ended = os.pidfd_open(self._process.pid)
            _is_ready(ended, _LEAVE_S)
            os.close(ended)
            os.killpg(self._process.pid, signal.SIGKILL)  # before it is waited for: the number is its own until then
            self._process.wait()
        self._process.stdout.close()


def _is_ready(fd: int, timeout: float | None) -> bool:
    """Wait until a descriptor is readable; returns whether it is."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))
