"""An event loop that looks again at once, for a moment, instead of sleeping: what a host does between two batches.

To wake a core that sleeps takes as long as relaying a small batch, and a relay would be woken twice a batch.
"""

from __future__ import annotations

import asyncio
import os
from time import perf_counter
from typing import Final

__all__ = ["Watch"]

_WATCH_S: Final = 600e-6
"""How long the next message is watched for: by then a quick host has stepped, and a quick trainer has decided."""


class Watch:
    """Keeps its event loop awake for a moment after each message. Belongs to the loop's thread."""

    def __init__(self) -> None:
        self._until = 0.0
        self._is_on = False

    def go_on(self) -> None:
        """A message was relayed: watch for the next one."""
        self._until = perf_counter() + _WATCH_S
        if not self._is_on:
            self._is_on = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Offer the core to whoever else can run on it, and look again."""
        self._is_on = perf_counter() < self._until
        if self._is_on:
            os.sched_yield()
            asyncio.get_running_loop().call_soon(self._look)
