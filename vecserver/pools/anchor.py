"""A thread to start children from, where the kernel is to end them with this process and not sooner.

The signal that ends an orphan is sent when the *thread* that started it ends. A server's hosts start their workers from
their main thread; a program may make a vector environment in any thread of its own.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Anchor"]

T = TypeVar("T")


class Anchor:
    """Runs functions in a thread that stays until it is released, or until the process ends.

    The first thread of a process stays anyhow: called by it, a function runs in it, and no thread is made.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, start: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Run a function and wait for it.

        Args:
            start: Starts the children; what it raises comes out here.
            give_up: Makes ``start`` return soon; called when the waiting is interrupted.
        """
        if threading.get_native_id() == os.getpid():
            start()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._hold, name="vecserver-anchor", daemon=True)
            self._thread.start()
        finished, errors = Event(), []

        def work() -> None:
            try:
                start()
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                errors.append(error)
            finished.set()

        self._work.put(work)
        try:
            finished.wait()
        except BaseException:
            give_up()
            finished.wait()
            raise
        if errors:
            raise errors[0]

    def call(self, start: Callable[[], T]) -> T:
        """As ``run``, for a function that returns soon; returns what it returns."""
        results: list[T] = []
        self.run(lambda: results.append(start()), lambda: None)
        return results[0]

    def _hold(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def release(self) -> None:
        """Let the thread end; children that are still there end with it."""
        self._work.put(None)
