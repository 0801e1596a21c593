"""How many wrong tokens an address may try: counted in windows of a minute, for as many addresses as there is room."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST_ATTEMPTS", "WINDOW_S", "Attempts", "Refusals"]

MOST_ATTEMPTS: Final = 10
"""Wrong tokens in a window: a person who mistypes one stays far below."""
WINDOW_S: Final = 60.0
_MOST_ADDRESSES: Final = 4096
_REFUSALS: Final = 30.0
"""A second, and at once after a quiet one: each takes the time of many steps, which drivers on this machine need."""
_LONGEST_REST_S: Final = 5.0
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


class Refusals:
    """Has those who are refused wait for their answers where they are many. Belongs to the event loop's thread.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = -math.inf

    def rest(self) -> float:
        """Seconds for which the answer to one more is to wait."""
        now = self._clock()
        self._next = max(self._next, now - 1.0) + 1.0 / _REFUSALS
        return min(_LONGEST_REST_S, max(0.0, self._next - now))
