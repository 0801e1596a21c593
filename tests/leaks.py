"""What a test left behind: processes, threads, descriptors, shared memory and files in the runtime directory.

A check compares with a ``Snapshot`` that was taken before. What is there already when the snapshot is taken may stay, so
fixtures of module, class or session scope keep their servers as long as they like: pytest sets those up before the
function-scoped fixture that takes the snapshot. A higher-scoped fixture that a test fetches with
``request.getfixturevalue`` comes too late for that; name it as an argument instead.

Three things of the standard library's are not leaks: the resource tracker and the fork server of ``multiprocessing``,
which serve the process until it ends, and the arenas of its heap.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import NamedTuple

MARKER = "VECSERVER_TEST_RUN"
"""Environment variable that the processes of one test run share, so that orphans are found as well."""
RUNTIME_DIR = "VECSERVER_RUNTIME_DIR"
GRACE_S = 20.0
"""How long a thing that is just going away may take, on a machine with more to do than cores."""
SHARED_MEMORY = Path("/dev/shm")
HEAP_ARENA = str(SHARED_MEMORY / "pym-")
ZMQ_THREAD = "ZMQbg"
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What reading about a process raises when it just ended or belongs to somebody else."""

_foreign: set[int] = set()
"""Processes of others; looked at once, because reading every process's environment after every test takes too long."""


class Process(NamedTuple):
    """A process, told from a later one with the same id by when it began."""

    pid: int
    began: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is at one moment; each part maps a thing to its description."""

    processes: dict[Process, str]
    threads: dict[threading.Thread | int, str]
    descriptors: dict[tuple[int, str], str]
    files: dict[str, str]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(_processes(), _threads(), _descriptors(), _files())

    def since(self, before: Snapshot) -> Snapshot:
        """What is here and was not there before."""

        def new(part: str) -> dict:
            old = getattr(before, part)
            return {key: text for key, text in getattr(self, part).items() if key not in old}

        return Snapshot(new("processes"), new("threads"), new("descriptors"), _without_others_files(new("files")))

    def texts(self) -> list[str]:
        return [text for part in (self.processes, self.threads, self.descriptors, self.files) for text in part.values()]


def left_over(before: Snapshot, grace: float | None = None) -> Snapshot:
    """What is new since ``before`` and does not go away by itself within ``grace`` seconds, ``GRACE_S`` if not given."""
    found = Snapshot.take().since(before)
    deadline = time.monotonic() + (GRACE_S if grace is None else grace)
    pause = 0.002
    while found.texts() and time.monotonic() < deadline:
        gc.collect()  # garbage in a cycle still holds its descriptors
        threading.Event().wait(pause)
        pause = min(pause * 2, 0.1)
        found = Snapshot.take().since(before)
    return found


def end_processes(found: Snapshot) -> None:
    """Kills the processes of a finding, so that they do not outlive the run."""
    for process in found.processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _processes() -> dict[Process, str]:
    """The processes of this test run, other than this one, the resource tracker and the fork server."""
    present = {int(name) for name in _names("/proc") if name.isdigit()}
    _foreign.intersection_update(present)
    unknown = {pid: facts for pid in present - _foreign if (facts := _facts(pid)) is not None}
    mark = f"{MARKER}={os.environ.get(MARKER)}".encode()
    found: dict[Process, str] = {}
    for pid, (began, parent, state) in unknown.items():
        if _descends_from_this(pid, unknown):
            why = f"child of {parent}"
        elif mark in _read(f"/proc/{pid}/environ").split(b"\0"):
            why = f"orphan, now child of {parent}"
        else:
            _foreign.add(pid)
            continue
        command = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
        what = "zombie that nobody waited for" if state == "Z" else f"process in state {state}"
        found[Process(pid, began)] = f"{what}: pid {pid}, {why}: {command or '?'}"
    ours = {os.getpid(), resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid}
    return {process: text for process, text in found.items() if process.pid not in ours}


def _facts(pid: int) -> tuple[str, int, str] | None:
    """When a process began, its parent, and its state; None when it is gone."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (fields[19].decode(), int(fields[1]), fields[0].decode()) if len(fields) > 19 else None


def _descends_from_this(pid: int, facts: dict[int, tuple[str, int, str]]) -> bool:
    while pid in facts and pid != os.getpid():
        pid = facts[pid][1]
    return pid == os.getpid()


def _threads() -> dict[threading.Thread | int, str]:
    """Python's threads, and the threads of ZeroMQ contexts, which Python does not list."""
    found: dict[threading.Thread | int, str] = {
        thread: f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}" for thread in threading.enumerate()
    }
    for task in _names("/proc/self/task"):
        name = _read(f"/proc/self/task/{task}/comm").decode(errors="replace").strip()
        if name.startswith(ZMQ_THREAD):
            found[int(task)] = f"thread of a ZeroMQ context that was not terminated: {name}"
    return found


def _descriptors() -> dict[tuple[int, str], str]:
    tolerated = {0, 1, 2}  # pytest puts its own there and takes them away again
    tolerated |= {resource_tracker._resource_tracker._fd, forkserver._forkserver._forkserver_alive_fd}
    found: dict[tuple[int, str], str] = {}
    for number, target in _open_descriptors("self"):
        if number not in tolerated and not target.startswith(HEAP_ARENA):
            found[number, target] = f"descriptor {number}: {target}"
    return found


def _files() -> dict[str, str]:
    found = {f"{SHARED_MEMORY}/{name}": f"shared memory: {SHARED_MEMORY}/{name}" for name in _names(SHARED_MEMORY)}
    runtime_dir = os.environ.get(RUNTIME_DIR)
    if runtime_dir:
        for folder, folders, names in os.walk(runtime_dir):
            found |= {f"{folder}/{name}": f"in the runtime directory: {folder}/{name}" for name in folders + names}
    return found


def _without_others_files(files: dict[str, str]) -> dict[str, str]:
    """Leaves out shared memory that a process of somebody else's has mapped or open: another run on this machine."""
    if not any(name.startswith(str(SHARED_MEMORY)) for name in files):
        return files
    theirs = "".join(_mapped_and_open(pid) for pid in _foreign)
    return {name: text for name, text in files.items() if name not in theirs}


def _mapped_and_open(pid: int) -> str:
    mapped = _read(f"/proc/{pid}/maps").decode(errors="replace")
    return "\n".join([mapped, *(target for _, target in _open_descriptors(str(pid)))])


def _open_descriptors(pid: str) -> Iterator[tuple[int, str]]:
    folder = Path(f"/proc/{pid}/fd")
    for name in _names(folder):
        with contextlib.suppress(*GONE):
            yield int(name), str((folder / name).readlink())


def _names(folder: str | Path) -> list[str]:
    """The names in a folder, in no order; none when it is gone or somebody else's."""
    with contextlib.suppress(*GONE), os.scandir(folder) as entries:
        return [entry.name for entry in entries]
    return []


def _read(path: str) -> bytes:
    with contextlib.suppress(*GONE):
        return Path(path).read_bytes()
    return b""
