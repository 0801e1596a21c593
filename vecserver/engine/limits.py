"""What a process of environments may use of its machine, and as whom it runs: set once, before any of them is made."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = ["WorkerLimits", "WorkerUser", "become", "named", "restrict"]


class WorkerUser(NamedTuple):
    """An account of this machine.

    Attributes:
        name: Its name.
        uid: Its number.
        gid: Of its group; the process is in no other.
        home: Its home.
    """

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """The limits of each process that runs environments; None for what it inherits.

    Attributes:
        memory: Bytes of its address space: its modules and the arena that it maps included.
        files: Descriptors that it may have open.
        processes: Processes and threads that its user may have, this one's and all others together.
        core: Bytes of the file that a crash leaves.
        user: Whom it runs as; None for the server's own user.
    """

    memory: int | None = None
    files: int | None = None
    processes: int | None = None
    core: int | None = 0
    user: WorkerUser | None = None


_RESOURCES: Final = {
    "memory": resource.RLIMIT_AS,
    "files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
}


def restrict(limits: WorkerLimits) -> None:
    """Apply limits to this process, for good: what was lower before stays so.

    Raises:
        OSError: The system does not let it.
    """
    for name, number in _RESOURCES.items():
        wanted = getattr(limits, name)
        if wanted is not None:
            _, hard = resource.getrlimit(number)
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(number, (limit, limit))
    if limits.user is not None:
        become(limits.user)


def become(user: WorkerUser) -> None:
    """Run as another user from here on, without a way back.

    The groups first: who is no superuser any more cannot give them up. The kernel forgets at this that the process is
    to die with its parent, which therefore is said afterwards.

    Raises:
        OSError: This process is not the superuser's.
    """
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    os.environ.update(HOME=user.home, USER=user.name, LOGNAME=user.name)


def named(error: BaseException) -> str:
    """Which limit of this process an exception looks like, in words; empty where it looks like none."""
    if isinstance(error, MemoryError):
        return _said("worker_memory", resource.RLIMIT_AS, "bytes of memory")
    if isinstance(error, OSError) and error.errno == _EMFILE:
        return _said("worker_files", resource.RLIMIT_NOFILE, "open files")
    return ""


_EMFILE: Final = 24


def _said(setting: str, number: int, what: str) -> str:
    soft, _ = resource.getrlimit(number)
    if soft == resource.RLIM_INFINITY:
        return ""
    return f"a process of environments may have {soft} {what} at this server: see {setting}"
