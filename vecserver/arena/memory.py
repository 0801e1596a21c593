"""Unnamed shared memory: made empty, sized once, sealed, passed on as a file descriptor. Linux only.

A memfd has no name in any file system, so nothing can be left behind whatever dies, and nobody can open it who was not
given its descriptor. Descriptors reach others by ``fork``, by ``pass_fds`` of a new interpreter, or as ancillary
data of a Unix socket (``arena.passing``).
"""

from __future__ import annotations

import fcntl
import mmap
import os

__all__ = ["create", "map_memory", "size_and_seal"]


def create(name: str) -> int:
    """Make an empty, unsealed memory; returns its descriptor, which the caller closes.

    Args:
        name: Shown in ``/proc/<pid>/maps``; means nothing else.
    """
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def size_and_seal(fd: int, size: int) -> None:
    """Give the memory its size for good: nobody can shrink it under another's feet afterwards."""
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def map_memory(fd: int, size: int, *, writable: bool = True) -> mmap.mmap:
    """Map the whole memory, shared, for reading and, if so wished, writing."""
    return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
