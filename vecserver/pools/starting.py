"""The two ways to start a worker: a copy of this process, where it may be copied, and a new interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from vecserver.engine.orphans import Orphans

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from vecserver.engine.limits import WorkerLimits

__all__ = ["ONE_THREAD", "Forks", "Started", "by_exec", "for_environments"]

ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS"), "1"
)
"""There is a worker a core already: more threads in each would only take turns. A host has none of them either, for a
process with threads cannot be copied."""


_OWN: Final = "VECSERVER_*"
_NEVER: Final = "VECSERVER_TOKEN"

SECRET_NAMES: Final = (
    *(
        "*TOKEN*",
        "*SECRET*",
        "*PASSWORD*",
        "*PASSWD*",
        "*PASSPHRASE*",
        "*CREDENTIAL*",
        "*COOKIE*",
        "*_AUTH",
        "*_AUTH_*",
    ),
    *("*API_KEY*", "*APIKEY*", "*ACCESS_KEY*", "*PRIVATE_KEY*", "*_DSN", "DATABASE_URL", "*_DATABASE_URL", "NETRC"),
    *("SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "KRB5CCNAME", "PGPASSFILE", "KUBECONFIG"),
)
"""Globs of variables that hold or name credentials, by their usual names; upper and lower case are the same."""


def for_environments(passed: Collection[str], variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a process that runs environments, or is copied into one that does.

    Left out are the server's own settings and what looks like credentials; the server's token always is. It has to be
    done before a process begins: what it began with can be read in ``/proc`` as long as it lives.

    Args:
        passed: Globs of variables that are not left out.
        variables: To choose from; this process's own where it is None.
    """
    chosen = {}
    for name, value in (os.environ if variables is None else variables).items():
        upper = name.upper()
        is_secret = any(fnmatchcase(upper, glob) for glob in (_OWN, *SECRET_NAMES))
        if upper != _NEVER and (not is_secret or any(fnmatchcase(name, glob) for glob in passed)):
            chosen[name] = value
    return {**chosen, **ONE_THREAD}


class Started(NamedTuple):
    """A child process.

    Attributes:
        pid: Its process id.
        reap: Waits until it has ended, and ends what it left running; returns its exit code, negative for a signal.
        memory: Bytes that it may have; None for any number.
    """

    pid: int
    reap: Callable[[], int]
    memory: int | None = None


class Forks:
    """Starts workers as copies of this process, which has one thread and no other children.

    Args:
        limits: What each may use.
    """

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._pids: set[int] = set()
        self._orphans = Orphans()

    def __call__(self, fds: Sequence[int]) -> Started:
        """Start a worker.

        Args:
            fds: Its descriptors, as ``vecserver.engine.worker.main`` takes them.
        """
        from vecserver.engine.forked import fork_worker

        pid = fork_worker(fds, self._limits)
        self._pids.add(pid)
        return Started(pid, partial(self._reap, pid), self._limits.memory)

    def _reap(self, pid: int) -> int:
        exitcode = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._pids.discard(pid)
        self._orphans.end_all(self._pids)
        return exitcode


def by_exec(fds: Sequence[int], *, own_program: bool = False) -> Started:
    """Start a new interpreter. What its environments leave running ends with it, as far as SIGTERM and its group reach.

    Args:
        fds: As those of ``Forks``.
        own_program: Whether the environments are this very program's: the worker then finds the same modules, and
            prints where the program prints.
    """
    process = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a request
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
    return Started(process.pid, partial(_reap_with_group, process))


def _reap_with_group(process: subprocess.Popen[bytes]) -> int:
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # until it is waited for, its number is nobody else's
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    return process.wait()


def _environment(*, own_program: bool) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != _NEVER} | ONE_THREAD
    if own_program:  # together with -P exactly the program's own path
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return environment
