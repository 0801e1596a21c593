"""The limits of a process of environments: in which order they come, and what their exceptions are called."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from vecserver.engine import limits
from vecserver.engine.limits import WorkerLimits, WorkerUser, named, restrict

USER = WorkerUser("player", 1234, 5678, "/home/player")


class NotedSystem:
    """Stands for ``os`` and ``resource``, and notes what is asked of them."""

    environ: dict[str, str]
    RLIM_INFINITY = resource.RLIM_INFINITY

    def __init__(self, hard: int = RLIM_INFINITY) -> None:
        self.environ, self.calls, self._hard = {}, [], hard

    def getrlimit(self, number: int) -> tuple[int, int]:
        return 1, self._hard

    def __getattr__(self, name: str):
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def system(monkeypatch):
    """Puts one in the place of both."""

    def install(**options) -> NotedSystem:
        noted = NotedSystem(**options)
        monkeypatch.setattr(limits, "os", noted)
        monkeypatch.setattr(limits, "resource", noted)
        return noted

    return install


def test_groups_go_first_and_the_user_last(system):
    """Behind the change of the user nothing of this could be done; all three numbers of each are set, for good."""
    noted = system()
    restrict(WorkerLimits(core=None, user=USER))
    assert noted.calls == [("setgroups", []), ("setresgid", 5678, 5678, 5678), ("setresuid", 1234, 1234, 1234)]
    assert noted.environ == {"HOME": "/home/player", "USER": "player", "LOGNAME": "player"}


def test_limits_are_set_soft_and_hard_before_the_user_changes(system):
    """None leaves what was inherited; what was lower before stays so."""
    noted = system()
    restrict(WorkerLimits(memory=10, files=20, processes=30, core=0, user=USER))
    assert [call[:2] + (call[2:] if call[0] == "setrlimit" else ()) for call in noted.calls[:4]] == [
        ("setrlimit", resource.RLIMIT_AS, (10, 10)),
        ("setrlimit", resource.RLIMIT_NOFILE, (20, 20)),
        ("setrlimit", resource.RLIMIT_NPROC, (30, 30)),
        ("setrlimit", resource.RLIMIT_CORE, (0, 0)),
    ]
    assert [call[0] for call in noted.calls[4:]] == ["setgroups", "setresgid", "setresuid"]
    lower = system(hard=15)
    restrict(WorkerLimits(files=20, core=None))
    assert lower.calls == [("setrlimit", resource.RLIMIT_NOFILE, (15, 15))]


def test_by_default_a_crash_leaves_no_file_and_nothing_else_is_limited(system):
    """A core file would hold whatever the process had in memory."""
    noted = system()
    restrict(WorkerLimits())
    assert noted.calls == [("setrlimit", resource.RLIMIT_CORE, (0, 0))]


def test_an_exception_of_a_limit_is_called_by_it(monkeypatch):
    """Only where there is one, and only what it looks like."""
    monkeypatch.setattr(limits.resource, "getrlimit", lambda number: (4096, 4096))
    assert "4096 bytes of memory" in named(MemoryError())
    assert "worker_memory" in named(MemoryError())
    assert "worker_files" in named(OSError(errno.EMFILE, "Too many open files"))
    assert named(OSError(errno.ENOENT, "no")) == named(ValueError()) == ""
    monkeypatch.setattr(limits.resource, "getrlimit", lambda number: (resource.RLIM_INFINITY,) * 2)
    assert named(MemoryError()) == ""


def test_limits_hold_in_a_copy_of_this_process():
    """And nowhere else."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid = os.fork()
    if pid == 0:
        restrict(WorkerLimits(files=64))
        os._exit(
            resource.getrlimit(resource.RLIMIT_NOFILE) != (64, 64) or resource.getrlimit(resource.RLIMIT_CORE)[1] != 0
        )
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
