"""Keeps a driver's lease while its program computes: a thread that says a word now and then, on a socket of its own."""

from __future__ import annotations

import threading
import weakref
from contextlib import closing
from typing import TYPE_CHECKING, Final, Protocol

import zmq

from vecserver.wire.errors import VecServerError
from vecserver.wire.frames import Header, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver_client.transport import Transport

__all__ = ["KeepAlive", "Renewed"]

_SHARE: Final = 1 / 3
"""Of the lease's time to live between two words: one may be lost."""

_WORD_S: Final = 2.0
"""Seconds that one word may take."""


class Renewed(Protocol):
    """Whose lease is kept."""

    @property
    def standing(self) -> tuple[int, int, int]:
        """Lease, epoch, and the number of the last request; a lease of 0 is none."""


class KeepAlive:
    """Renews a lease while no request does. Ends by ``close``, and when whose lease it is was collected.

    Args:
        driver: Whose lease; asked from the thread.
        open_transport: Opens a connection to the pool, for the thread alone.
        ttl: Seconds that the lease lasts without a word.
    """

    def __init__(self, driver: Renewed, open_transport: Callable[[], Transport], ttl: float) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=_renew,
            # not this object nor the driver: the thread must keep neither
            args=(weakref.ref(driver), open_transport, ttl * _SHARE, self._over),
            name="vecserver keep-alive",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end soon, without waiting for it; may be called again."""
        self._over.set()

    def close(self) -> None:
        """End the thread; may be called again."""
        self.stop()
        if self._thread is not threading.current_thread():  # which collects garbage too
            self._thread.join(_WORD_S)


def _renew(
    driver: weakref.ref[Renewed], open_transport: Callable[[], Transport], pause: float, over: threading.Event
) -> None:
    before = 0
    while not over.wait(pause):
        whose = driver()
        if whose is None:
            return
        lease, epoch, seq = whose.standing
        del whose
        if seq == before and lease:
            _say_a_word(open_transport, Header(Kind.PING, lease=lease, epoch=epoch))
        before = seq


def _say_a_word(open_transport: Callable[[], Transport], word: Header) -> None:
    """Send a PING and hear the answer; who does not hear it is asked the next time."""
    try:
        with closing(open_transport()) as transport:
            transport.send(word.pack(), b"", b"", _WORD_S)
            transport.receive(_WORD_S)
    except (VecServerError, OSError, zmq.ZMQError):
        return  # the pool is out of reach or gone, which the driver's next request will say; or the driver is closing
