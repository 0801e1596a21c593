"""The two ways to start a worker: a copy of this process, where it may be copied, and a new interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ONE_THREAD", "Started", "by_exec", "by_fork"]

ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS"), "1"
)
"""There is a worker a core already: more threads in each would only take turns. A host has none of them either, for a
process with threads cannot be copied."""


class Started(NamedTuple):
    """A child process.

    Attributes:
        pid: Its process id.
        reap: Waits until it has ended; returns its exit code, negative for a signal.
    """

    pid: int
    reap: Callable[[], int]


def by_fork(fds: Sequence[int]) -> Started:
    """Copy this process, which has one thread.

    Args:
        fds: The worker's descriptors, as ``vecserver.engine.worker.main`` takes them.
    """
    from vecserver.engine.forked import fork_worker

    pid = fork_worker(fds)
    return Started(pid, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def by_exec(fds: Sequence[int], *, own_program: bool = False) -> Started:
    """Start a new interpreter.

    Args:
        fds: As in ``by_fork``.
        own_program: Whether the environments are this very program's: the worker then finds the same modules, and
            prints where the program prints.
    """
    process = subprocess.Popen(
        [sys.executable, *(["-P"] if own_program else []), "-m", "vecserver.engine", str(os.getpid()), *map(str, fds)],
        stdin=subprocess.DEVNULL,
        # what environments print must not mix with what the host says
        stdout=None if own_program else sys.stderr,
        pass_fds=fds,
        env=_environment(own_program=own_program),
        # a group of its own: a terminal's Ctrl-C is for whoever owns the pool, from the first moment on. Not a session
        # of its own: the kernel's autogroups share a core evenly between sessions, and whoever watches for the end of a
        # batch would take half a core from the worker it watches.
        process_group=0,
    )
    return Started(process.pid, process.wait)


def _environment(*, own_program: bool) -> dict[str, str]:
    environment = {**os.environ, **ONE_THREAD}
    if own_program:  # together with -P exactly the program's own path
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return environment
