"""A thread to start children from, where the kernel is to end them with this process and not sooner.

The signal that ends an orphan is sent when the *thread* that started it ends. A server's hosts start their workers from
their main thread; a program may make a vector environment in any thread of its own.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Anchor"]


class Anchor:
    """Runs one function in a thread that stays until it is released, or until the process ends.

    The first thread of a process stays anyhow: called by it, the function runs in it, and no thread is made.
    """

    def __init__(self) -> None:
        self._released = threading.Event()
        self._finished = threading.Event()
        self._error: BaseException | None = None

    def run(self, start: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Run the function and wait for it.

        Args:
            start: Starts the children; what it raises comes out here.
            give_up: Makes ``start`` return soon; called when the waiting is interrupted.
        """
        if threading.get_native_id() == os.getpid():
            start()
            return
        threading.Thread(target=self._hold, args=(start,), name="vecserver-anchor", daemon=True).start()
        try:
            self._finished.wait()
        except BaseException:
            give_up()
            self._finished.wait()
            raise
        if self._error is not None:
            raise self._error

    def _hold(self, start: Callable[[], None]) -> None:
        try:
            start()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        self._finished.set()
        self._released.wait()

    def release(self) -> None:
        """Let the thread end; children that are still there end with it."""
        self._released.set()
