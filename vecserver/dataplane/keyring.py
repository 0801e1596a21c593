"""Which clients' keys may come in at a port that speaks CURVE. Pure: a clock is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Keyring"]

_MAX_KEYS: Final = 256
"""A driver and its observers have one each; a further one takes the place of the one that was silent for longest."""


class Keyring:
    """Knows the keys that the server has told of, each until it is silent for too long.

    The driver's is kept while it has the lease, and goes when it gives that back.

    Args:
        new_keys: What the server has told of since this was asked last: each once.
        ttl: Seconds of silence after which a key is forgotten that does not drive.
        clock: Monotonic, in seconds.
        driver_key: That of the driver; empty where there is none, or where it came another way.
    """

    def __init__(
        self,
        new_keys: Callable[[], Iterable[bytes]],
        ttl: float,
        clock: Callable[[], float],
        driver_key: Callable[[], bytes],
    ) -> None:
        self._new_keys = new_keys
        self._ttl = ttl
        self._clock = clock
        self._driver_key = driver_key
        self._driver = b""
        self._heard: dict[bytes, float] = {}  # when, the longest ago first

    def __len__(self) -> int:
        return len(self._heard)

    def admits(self, key: bytes) -> bool:
        """Whether a connection with this key may be opened. What the server has told before is known here."""
        for new in self._new_keys():
            self._note(new)
        self.tidy()
        return key in self._heard

    def note(self, key: bytes) -> bool:
        """A message has come from one with this key; whether it may still come in."""
        self._look_at_driver()
        if key not in self._heard:
            return False
        self._note(key)
        return True

    def _note(self, key: bytes) -> None:
        self._heard.pop(key, None)
        self._heard[key] = self._clock()
        if len(self._heard) > _MAX_KEYS:
            driver = self._driver_key()
            self._heard.pop(next(other for other in self._heard if other != driver))

    def tidy(self) -> None:
        """Forget the keys whose time is over; called now and then."""
        self._look_at_driver()
        end = self._clock() - self._ttl
        for key in [key for key, heard in self._heard.items() if heard < end and key != self._driver]:
            del self._heard[key]

    def _look_at_driver(self) -> None:
        before, self._driver = self._driver, self._driver_key()
        if before and not self._driver:  # it has given the pool back
            self._heard.pop(before, None)
