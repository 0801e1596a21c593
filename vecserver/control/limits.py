"""How much of a server its HTTP callers may have: the rate of their requests, open WebSockets, sizes and times."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vecserver.control.problems import answer
from vecserver.wire.errors import CapExceeded, TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HttpLimits", "RateLimit", "Rates", "WebSocketLimit"]

_BURST_S: Final = 2.0
"""Seconds' worth of requests that may come at once after a quiet time."""

_MOST_CLIENTS: Final = 4096
"""Addresses whose rates are remembered; the one that was silent for longest is forgotten first."""

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Limits of the HTTP side of one server.

    Attributes:
        body_bytes: Length of a request's body, and of a WebSocket's message.
        total_body_bytes: Of all bodies that are under way or worked on.
        body_timeout: Seconds for a body to arrive.
        header_timeout: Seconds for a request's headers to arrive, from the first byte of them, and of a new connection.
        connections: Open connections, WebSockets included.
        websockets: Open WebSockets.
        rate: Requests a second that change something, from one address; WebSockets that are opened count too.
        total_rate: The same from all addresses together.
    """

    body_bytes: int = 8 << 20
    total_body_bytes: int = 256 << 20
    body_timeout: float = 60.0
    header_timeout: float = 10.0
    connections: int = 2048
    websockets: int = 1024
    rate: float = 2000.0
    total_rate: float = 5000.0


class Rates:
    """Token buckets: one of all callers, and one of each address. One thread owns it.

    Args:
        each: Requests a second of an address.
        total: Of all together.
        clock: Seconds, never going back.
    """

    def __init__(self, each: float, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = each
        self._total = total
        self._clock = clock
        self._all = (_full(total), clock())
        self._by_client: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Let one request of an address through.

        Raises:
            TooManyRequests: It is one too many.
        """
        now = self._clock()
        mine = _filled(self._by_client.pop(client, (_full(self._each), now)), self._each, now)
        everyone = _filled(self._all, self._total, now)
        is_mine_low, is_total_low = mine < 1.0, everyone < 1.0
        spent = 0.0 if is_mine_low or is_total_low else 1.0
        self._by_client[client] = (mine - spent, now)
        self._all = (everyone - spent, now)
        while len(self._by_client) > _MOST_CLIENTS:
            self._by_client.popitem(last=False)
        if is_mine_low:
            raise _refusal("request_rate", "from one address", self._each, mine)
        if is_total_low:
            raise _refusal("total_request_rate", "in all", self._total, everyone)


def _full(rate: float) -> float:
    return max(1.0, _BURST_S * rate)


def _filled(bucket: tuple[float, float], rate: float, now: float) -> float:
    left, since = bucket
    return min(_full(rate), left + (now - since) * rate)


def _refusal(cap: str, whose: str, rate: float, left: float) -> TooManyRequests:
    wait = (1.0 - left) / rate
    return TooManyRequests(
        f"more than {rate:g} requests a second {whose}, which is {cap} of this server: come again in {wait:.3g} s, or "
        "step over ZeroMQ, which it does not count",
        cap=cap,
        limit=rate,
        retry_after=wait,
    )


class RateLimit:
    """Middleware that refuses requests that come too fast and are no mere reading."""

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self.app = app
        self.rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request, or refuse it."""
        if scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in _SAFE):
            try:
                self.rates.take(_client_of(scope))
            except TooManyRequests as error:
                headers = {"Retry-After": str(math.ceil(error.details["retry_after"]))}
                await answer(error, scope, headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _client_of(scope: Scope) -> str:
    """Whom a request counts for: an address, of which IPv6 gives each of its users 2**64."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((int(address), 64), strict=False))


class WebSocketLimit:
    """Middleware that refuses a WebSocket where as many are open as may be."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request, or refuse it."""
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        if self._open >= self.limit:
            refusal = CapExceeded(
                f"{self._open} WebSockets are open, as many as max_websockets of this server allows: come later",
                cap="max_websockets",
                limit=self.limit,
                asked=self._open + 1,
            )
            await answer(refusal, scope)(scope, receive, send)
            return
        self._open += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._open -= 1
