"""How many wrong tokens an address may try: counted in windows of a minute, for as many addresses as there is room."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST_ATTEMPTS", "WINDOW_S", "Attempts"]

MOST_ATTEMPTS: Final = 10
"""Wrong tokens in a window: a person who mistypes one stays far below."""
WINDOW_S: Final = 60.0
_MOST_ADDRESSES: Final = 4096
_HOME_PREFIX: Final = 64
"""Bits of an IPv6 address that tell whose it is; whoever has one has all of those behind them."""


class Attempts:
    """Counts failures by address. Belongs to the event loop's thread.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait_for(self, address: str) -> float:
        """Seconds until an address may try again; 0 where it may now."""
        since, count = self._failures.get(_home_of(address), (0.0, 0))
        left = since + WINDOW_S - self._clock()
        return left if count >= MOST_ATTEMPTS and left > 0 else 0.0

    def failed(self, address: str) -> int:
        """Count a failure; returns how many there are in this window."""
        home, now = _home_of(address), self._clock()
        since, count = self._failures.pop(home, (now, 0))
        if now - since >= WINDOW_S:
            since, count = now, 0
        self._failures[home] = (since, count + 1)  # the last in line
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)
        return count + 1


def _home_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), _HOME_PREFIX), strict=False))
