"""What pools need of the kernel: shared memory, bells, process descriptors, peers that can be told apart."""

from __future__ import annotations

import os
import platform
import socket
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.cli.diagnosis.finding import Finding, fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check_clock", "check_descriptors_of_processes", "check_peers", "check_shared_memory"]

_PROBE_BYTES: Final = 1 << 20
_COARSE_S: Final = 1e-4


def check_shared_memory() -> Finding:
    """Whether anonymous memory can be made, sealed, mapped and shared."""
    name = "shared memory"
    with ExitStack() as undo:
        try:
            fd = create("vecserver-doctor")
            undo.callback(os.close, fd)
            size_and_seal(fd, _PROBE_BYTES)
            memory = map_memory(fd, _PROBE_BYTES)
            memory[:1] = b"x"
            memory.close()
        except (OSError, AttributeError, ValueError) as error:
            return fail(
                name,
                f"an anonymous memory (memfd_create) cannot be made and sealed: {error}",
                "run on Linux 3.17 or newer, and allow memfd_create where a sandbox filters system calls",
            )
    return ok(name, "anonymous memory can be made, sealed and mapped")


def check_descriptors_of_processes() -> Finding:
    """Whether the ends of processes can be waited for, and bells rung, by descriptor."""
    name = "kernel"
    release = f"{platform.system()} {platform.release()} on {platform.machine()}"
    calls: dict[str, Callable[[], int]] = {
        "pidfd_open": lambda: os.pidfd_open(os.getpid()),
        "eventfd": lambda: os.eventfd(0),
    }
    for call, make in calls.items():
        try:
            os.close(make())
        except (OSError, AttributeError) as error:
            advice = f"run on Linux 5.3 or newer, and allow {call} where a sandbox filters system calls"
            return fail(name, f"{release}: {call} does not work: {error}", advice)
    return ok(name, release)


def check_peers() -> Finding:
    """Whether a socket says whose process is at its other end, as lending memory needs."""
    name = "peer credentials"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            data = ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            _, user, _ = struct.unpack("3i", data)
        except (OSError, AttributeError) as error:
            return warn(name, f"SO_PEERCRED does not work: {error}", "use transport='ipc' instead of 'shm'")
    if user != os.geteuid():
        return warn(
            name,
            f"the kernel says user {user} where it is {os.geteuid()}",
            "transport='shm' is refused in this user namespace: use 'ipc'",
        )
    return ok(name, "transport='shm' can tell whose process asks")


def check_clock() -> Finding:
    """Whether the clock of leases and deadlines is fine enough and never jumps."""
    info = time.get_clock_info("monotonic")
    found = f"{info.implementation}, resolution {info.resolution:g} s"
    if not info.monotonic or info.resolution > _COARSE_S:
        return warn("clock", found, "batches are timed coarsely: choose a better clock source for this machine")
    return ok("clock", found)
