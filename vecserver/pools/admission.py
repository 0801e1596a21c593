"""How many pools are made at a time, and how many requests may wait for it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from vecserver.wire.errors import CapExceeded, PoolStopping

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Admission"]

MAX_WAITING: Final = 16
"""Requests that may wait for their turn to make a pool: each holds a thread of the control plane, which has 40."""


class Admission:
    """Lets so many makers in at a time. Any thread may use it.

    Args:
        at_once: How many.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._inside = 0
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, timeout: float | None) -> Iterator[None]:
        """Wait for one's turn, and have it.

        Args:
            timeout: Seconds to wait, if the queue has room; None for one who waits as long as it takes, in no queue.

        Raises:
            CapExceeded: Too many wait already, or it took too long.
            PoolStopping: The server is shutting down.
        """
        self._enter(timeout)
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _enter(self, timeout: float | None) -> None:
        with self._changed:
            if timeout is not None and self._is_full() and self._waiting >= MAX_WAITING:
                raise self._refusal(f"and {self._waiting} requests wait for it: ask again later")
            self._waiting += timeout is not None
            try:
                came = self._changed.wait_for(lambda: self._closed or not self._is_full(), timeout)
            finally:
                self._waiting -= timeout is not None
            if self._closed:
                raise PoolStopping("the server is shutting down: it makes no new pools")
            if not came:
                raise self._refusal(f"and this one's turn did not come within {timeout:g} s: ask again later")
            self._inside += 1

    def _is_full(self) -> bool:
        return self._inside >= self._at_once

    def _refusal(self, rest: str) -> CapExceeded:
        return CapExceeded(
            f"{self._inside} pools are being made, as many as max_creations allows, {rest}",
            cap="max_creations",
            limit=self._at_once,
        )

    def close(self) -> None:
        """Send away who waits, and who comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
