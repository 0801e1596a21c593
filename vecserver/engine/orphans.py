"""No orphans: a child that is killed with its parent, even when that is SIGKILLed, and an end to what children leave.

An environment may start processes of its own, and its process may be killed before it ends them. The kernel then gives
them to the nearest ancestor that said it keeps orphans. A process of environments says so, and has whatever its own
descendants leave for as long as it lives; so does whoever started it, who thus has all of it, and nothing of anybody
else, from when that process is gone.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Orphans", "die_with_parent", "keep_orphans"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

_LAST_MOMENT_S: Final = 0.5
"""Seconds from SIGTERM to SIGKILL: multiprocessing's resource tracker heeds only the end of its pipe, and has shared
memory to remove."""

_LOOK_MS: Final = 50


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Args:
        parent: The process id of the parent; if that process is gone already, this one ends at once. In the parent
            itself the call does nothing.
    """
    if os.getpid() == parent:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def keep_orphans() -> None:
    """Have the kernel give this process, and not the init process, what its descendants leave when they end."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Orphans:
    """Ends what this process's children leave running; keeps them from when it is made.

    For a process whose children keep their own descendants' orphans, and which has no children but those that it names.
    """

    def __init__(self) -> None:
        keep_orphans()
        self._kill_at: dict[int, float] = {}

    def end_some(self, own: Collection[int]) -> list[int]:
        """Go on with ending them; never blocks.

        Args:
            own: The process ids of the children that are to stay.

        Returns:
            Those that are still there: call this again soon.
        """
        now, ended = monotonic(), False
        for pid in _children().difference(
            own
        ):  # nobody else waits for them: a number is that child's until it is reaped
            if pid not in self._kill_at:
                self._kill_at[pid] = now + _LAST_MOMENT_S
                _signal(pid, signal.SIGTERM)
            elif now >= self._kill_at[pid]:
                _signal(pid, signal.SIGKILL)
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._kill_at[pid]
                ended = True
        return self.end_some(own) if ended else [*self._kill_at]  # what those left is here by now

    def end_all(self, own: Collection[int] = ()) -> None:
        """End them and wait until they are gone, or a second is over: what then stays, the kernel does not let go."""
        deadline = monotonic() + 2 * _LAST_MOMENT_S
        while (left := self.end_some(own)) and monotonic() < deadline:
            with ExitStack() as stack:
                poll = select.poll()
                for pid in left:
                    pidfd = os.pidfd_open(pid)
                    stack.callback(os.close, pidfd)
                    poll.register(pidfd, select.POLLIN)
                poll.poll(_LOOK_MS)


def _signal(pid: int, number: int) -> None:
    with suppress(PermissionError):  # it has become another user's
        os.kill(pid, number)


def _children() -> set[int]:
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):  # a child is listed under one of the threads
        with suppress(OSError):  # that thread has ended
            found.update(map(int, listed.read_text().split()))
    return found
