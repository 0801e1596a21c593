"""What this process has freed, given back to the system."""

from __future__ import annotations

import ctypes

__all__ = ["give_back"]


def give_back() -> None:
    """Have the C library return its free pages; does nothing where it has no way to, as musl.

    By itself glibc returns what lies at the end of its heap only. A server's grew by half a kilobyte with each pool
    that was made and deleted: none of it in use, but small things that stay lay between the pages that were free.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
