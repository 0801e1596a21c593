"""One thread that watches the host processes of a registry: passes on what they write, and notes their ends."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.pools.hosts import HostProcess

__all__ = ["Supervisor"]

_LOG_EVERY_S: Final = 0.5
"""How late what hosts and environments write may be in the server's log."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Watches processes and clocks in a thread of its own. Any thread may call its methods; close it.

    Args:
        on_end: Called in its thread with a process that has ended, once.
    """

    def __init__(self, on_end: Callable[[HostProcess], None]) -> None:
        self._on_end = on_end
        self._lock = threading.Lock()
        self._watched: dict[int, HostProcess] = {}  # by pidfd
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._poll = select.poll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._bell, select.POLLIN)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="host-supervisor", daemon=True)
        self._thread.start()

    def watch(self, process: HostProcess) -> None:
        """Pass on what a process writes until it has ended; one that somebody ended already is left alone."""
        fd = process.give_pidfd()
        if fd < 0:
            return
        with self._lock:
            if self._closing:
                os.close(fd)
                return
            self._watched[fd] = process
            self._ring()  # only its own thread touches what is polled

    def call_in(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function in the supervisor's thread; it must not block. Not called after ``close``."""
        with self._lock:
            if self._closing:
                return
            heapq.heappush(self._due, (monotonic() + seconds, next(self._numbers), function))
            self._ring()

    def close(self) -> None:
        """End the thread; may be called again."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._ring()
        self._thread.join()
        os.close(self._bell)
        for fd in self._watched:
            os.close(fd)

    def _ring(self) -> None:
        """Wake the thread; the lock is held, so that the bell is not closed meanwhile."""
        os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        registered: set[int] = set()
        while True:
            with self._lock:
                if self._closing:
                    return
                watched = dict(self._watched)
            for fd in watched.keys() - registered:
                self._poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in self._poll.poll(self._pause_ms())}
            registered = watched.keys() - ready
            if self._bell in ready:
                os.eventfd_read(self._bell)
            for fd, process in watched.items():
                if fd in ready:
                    self._forget(fd)
                    self._guarded(partial(self._on_end, process))
                else:
                    self._guarded(process.log.pass_on)
            for function in self._take_due():
                self._guarded(function)

    def _pause_ms(self) -> float | None:
        with self._lock:
            pauses = [_LOG_EVERY_S] if self._watched else []
            if self._due:
                pauses.append(max(0.0, self._due[0][0] - monotonic()))
        return min(pauses) * 1000 if pauses else None

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        with self._lock:
            del self._watched[fd]
        os.close(fd)

    def _take_due(self) -> list[Callable[[], None]]:
        functions = []
        with self._lock:
            while self._due and self._due[0][0] <= monotonic():
                functions.append(heapq.heappop(self._due)[2])
        return functions

    @staticmethod
    def _guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:  # noqa: BLE001 - one pool's trouble must not leave the others unwatched
            _log.exception("a defect of the server: a host process could not be looked after")
