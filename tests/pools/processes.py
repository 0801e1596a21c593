"""Processes that a test starts by way of others: who they are, and when they are gone."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

GONE_WITHIN_S = 15.0
TRUE_WITHIN_S = 30.0


def wait_for(condition: Callable[[], object]) -> None:
    """Waits for what another process does and nobody announces."""
    deadline, pause = monotonic() + TRUE_WITHIN_S, threading.Event()
    while not condition():
        assert monotonic() < deadline
        pause.wait(0.002)


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


class Watched:
    """Processes held by descriptors, so that a later process with the same id is not mistaken for one of them.

    A context manager: after a test that failed, what still runs is killed.
    """

    def __init__(self, *pids: int) -> None:
        assert pids
        self._stack = ExitStack()
        self._fds = {}
        for pid in pids:
            self._fds[pid] = os.pidfd_open(pid)
            self._stack.callback(os.close, self._fds[pid])

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        for pid in self.running(0) if failed else ():
            self.signal(pid, signal.SIGKILL)
        self._stack.close()

    def signal(self, pid: int, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fds[pid], number)

    def running(self, timeout: float = GONE_WITHIN_S) -> list[int]:
        """Those that still run after waiting at most ``timeout`` seconds for them to end."""
        poll, deadline = select.poll(), monotonic() + timeout
        left = {fd: pid for pid, fd in self._fds.items()}
        for fd in left:
            poll.register(fd, select.POLLIN)
        while left and (ended := poll.poll(max(0.0, deadline - monotonic()) * 1000)):
            for fd, _ in ended:
                poll.unregister(fd)
                del left[fd]
        return [*left.values()]
