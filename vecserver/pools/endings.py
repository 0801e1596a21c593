"""How a process ended, in words."""

from __future__ import annotations

import signal
from typing import Final

__all__ = ["how_it_ended"]

_OF_NATIVE_CODE: Final = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGTRAP, signal.SIGILL}
"""What native code ends with that is refused memory and does not expect it."""


def how_it_ended(exitcode: int, memory: int | None = None) -> str:
    """What follows "the process …".

    Args:
        exitcode: As ``subprocess`` has it: negative for a signal.
        memory: Bytes that it could have; None for any number.
    """
    if exitcode >= 0:
        return f"left with exit code {exitcode}"
    limit = f", perhaps for want of memory: worker_memory of this server is {memory} bytes" if memory else ""
    try:
        which = signal.Signals(-exitcode)
    except ValueError:
        return f"was killed by signal {-exitcode}"
    return f"was killed by {which.name}{limit if which in _OF_NATIVE_CODE else ''}"
