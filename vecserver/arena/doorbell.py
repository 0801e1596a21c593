"""How one process wakes another: write the data, then the word that announces it, then ring.

The bell is an eventfd. Its counter sits behind a kernel lock, so whoever reads a ring sees all that was written before
it, on every architecture; the words in the arena are only hints to spin on and facts to report. Rings are counted,
never lost.
"""

from __future__ import annotations

import os
import select
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_SPIN_US", "Doorbell", "FinishLine", "make_bell", "make_tokens", "spin_until"]

MAX_SPIN_US: Final = 1000
"""No wait watches longer than this before it blocks, whatever it was asked for."""


def make_bell() -> int:
    """Make the eventfd of a bell; the caller closes it."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def make_tokens() -> int:
    """Make the eventfd of a finish line's tokens; the caller closes it."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)


class Doorbell:
    """One bell. Any process that holds the descriptor may ring; one waits.

    Args:
        fd: The eventfd; stays the caller's to close.
        hangup_fd: A socket whose other end belongs to the process that rings: its end ends every wait.
    """

    def __init__(self, fd: int, hangup_fd: int | None = None) -> None:
        self.fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        if hangup_fd is not None:
            self._poll.register(hangup_fd, select.POLLRDHUP)

    def ring(self) -> None:
        """Announce that something was written."""
        os.eventfd_write(self.fd, 1)

    def take(self) -> int:
        """The rings since the last call; 0 if there were none."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    def wait(self, timeout: float | None = None) -> int:
        """Block until somebody rings.

        Args:
            timeout: Seconds; None to wait until a ring or a hang-up.

        Returns:
            The rings since the last call; 0 when the time is over.

        Raises:
            EOFError: The other process is gone.
        """
        while True:
            events = self._poll.poll(None if timeout is None else timeout * 1000)
            rings = self.take()
            if rings or (timeout is not None and not events):
                return rings
            if any(fd != self.fd for fd, _ in events):
                raise EOFError("the process that rings this bell is gone")


class FinishLine:
    """Where W workers end a command: the last one over it rings, once, and nobody is woken before.

    A semaphore holds W − 1 tokens for each command. Whoever finds a token was not the last. The kernel's lock around
    the tokens makes what each worker wrote visible to the last one, and its ring makes all of it visible to the driver.

    Args:
        tokens_fd: The semaphore; stays the caller's to close.
        bell: Rung by the last worker.
    """

    def __init__(self, tokens_fd: int, bell: Doorbell) -> None:
        self._tokens_fd = tokens_fd
        self.bell = bell

    def arm(self, workers: int) -> None:
        """Lay out the tokens of one command; the driver does, before it rings the workers."""
        if workers > 1:
            os.eventfd_write(self._tokens_fd, workers - 1)

    def clear(self) -> None:
        """Take away what is left of a command whose start was interrupted."""
        try:
            while True:
                os.eventfd_read(self._tokens_fd)
        except BlockingIOError:
            self.bell.take()

    def cross(self) -> bool:
        """Say that one worker has finished.

        Returns:
            Whether it was the last one, and has rung.
        """
        try:
            os.eventfd_read(self._tokens_fd)
        except BlockingIOError:
            self.bell.ring()
            return True
        return False


def spin_until(ready: Callable[[], bool], spin_us: float) -> bool:
    """Watch a condition instead of sleeping, at most ``spin_us`` microseconds.

    The core is offered to whoever else can run on it at every look, so that a watcher delays nobody; what it saves is
    the wake of an idle core.

    Returns:
        Whether the condition came true.
    """
    if ready():
        return True
    if spin_us <= 0:
        return False
    end = perf_counter_ns() + int(min(spin_us, MAX_SPIN_US) * 1000)
    while perf_counter_ns() < end:
        if ready():
            return True
        os.sched_yield()
    return False
