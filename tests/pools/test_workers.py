"""A worker process as its host has it: all of it, or nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from vecserver.pools.starting import Started
from vecserver.pools.workers import WorkerProcess


def make(start) -> WorkerProcess:
    return WorkerProcess(0, (0, 1), 0, (1, 2), start)


def open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_a_worker_that_cannot_be_started_leaves_no_descriptor():
    """Its socket and its bell are closed before the error is heard of."""

    def start(_fds):
        raise BlockingIOError("no process is left")

    before = open_descriptors()
    with pytest.raises(BlockingIOError):
        make(start)
    assert open_descriptors() == before


def test_a_worker_that_cannot_be_watched_is_ended(monkeypatch):
    """No process stays behind that nobody has the descriptor of."""
    statuses = []

    def start(_fds) -> Started:
        pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
        return Started(pid, lambda: statuses.append(os.waitpid(pid, 0)[1]))

    def refuse(_pid):
        raise OSError("no descriptor is left")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    before = open_descriptors()
    with pytest.raises(OSError, match="no descriptor"):
        make(start)
    assert statuses == [signal.SIGKILL]
    assert open_descriptors() == before
