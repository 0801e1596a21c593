"""What is refused before any route sees it: requests for another host's name or by another page, and large bodies.

And what browsers are told: who may show this server's pages in a frame.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders

from vecserver.control.limits import HttpLimits
from vecserver.control.problems import answer
from vecserver.wire.errors import MalformedMessage, MessageTooLarge, PoolStopping, RequestTooSlow, TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "LOOPBACK_NAMES",
    "MAX_BODY_BYTES",
    "AllowedHosts",
    "BodyLimit",
    "LastAnswers",
    "OwnFrames",
    "SameOrigin",
    "without_port",
]

MAX_BODY_BYTES: Final = HttpLimits().body_bytes
"""4096 rows of 100 numbers fit, and parsing them takes tenths of a second; larger batches belong on the data plane."""

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "0.0.0.0"})  # noqa: S104 - compared, not bound
"""The last one reaches this machine too, and OpenEnv's own examples use it. It is an address: no page can give it
another meaning."""

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class AllowedHosts:
    """Middleware that takes requests for certain names only, and with one Host header only.

    A page elsewhere may point its own name at this server and would then be of the same origin; the Host header still
    has that name.

    Args:
        app: What is behind it.
        names: The names, without ports; None for any, where nobody said by which this server is known.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] | None) -> None:
        self.app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request for one of the names, refuse any other."""
        if scope["type"] != "lifespan":
            hosts = Headers(scope=scope).getlist("host")  # not every parser refuses two
            if len(hosts) != 1 or not self._is_own(without_port(hosts[0]).lower()):
                refusal = MalformedMessage(
                    f"the Host header is {', '.join(hosts)!r}; it is to be {self._expected()}, or a name that "
                    "--allowed-hosts has"
                )
                await answer(refusal, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_own(self, host: str) -> bool:
        return self._names is None or host in self._names

    def _expected(self) -> str:
        return "one" if self._names is None else ", ".join(sorted(self._names))


class LastAnswers:
    """Middleware that answers the requests that the end of the server interrupts, by cancelling them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request; it is answered in any case, and nothing is raised where the server ends."""
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, noting if scope["type"] == "http" else send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not has_begun:
                await answer(PoolStopping("the server has ended before this was done"), scope)(scope, receive, send)


class OwnFrames:
    """Middleware of a server that listens on loopback: has browsers show its pages in frames of its own pages only.

    Another's page could lay its own over one of these, and have a person press a button that is not seen. Beyond
    loopback it may be meant: Hugging Face shows its Spaces in a frame.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on any request, and say so with an answer that is HTML."""

        async def saying(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    headers.append("Content-Security-Policy", "frame-ancestors 'self'")
            await send(message)

        await self.app(scope, receive, saying if scope["type"] == "http" else send)


class SameOrigin:
    """Middleware that refuses what a page of another origin makes a browser do: to open a WebSocket, to post, to get.

    Browsers let any page do so to any address, without a look at what comes back or, for a WebSocket, with one.
    Programs send no Origin header, and none of those that say where a browser's request comes from.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request that no other origin makes, refuse any other."""
        headers = Headers(scope=scope)
        if scope["type"] == "http" and headers.get("sec-fetch-site") == "cross-site" and _is_embedded(headers):
            refusal = MalformedMessage("a page of another server asks for this: open the address itself")
            await answer(refusal, scope)(scope, receive, send)
            return
        if scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in _READING):
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != headers.get("host"):
                refusal = MalformedMessage(
                    f"the Origin header is {origin!r}, a page of another server than this, {headers.get('host')!r}"
                )
                await answer(refusal, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_embedded(headers: Headers) -> bool:
    """Whether a browser asks for what a page embeds, an image or a script say, and not for a link that was followed."""
    return headers.get("sec-fetch-mode") != "navigate"


def without_port(host: str) -> str:
    """A Host header's name."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


class BodyLimit:
    """Middleware that reads a request's body up to a limit and hands it on whole.

    It reads ahead of the routes because a refusal in the middle of their reading would come out as theirs.

    Args:
        app: What is behind it.
        limit: Bytes of a body.
        timeout: Seconds for it to arrive.
        total: Bytes of all bodies, from their first one until the answer is there.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: int = MAX_BODY_BYTES,
        timeout: float = HttpLimits().body_timeout,
        total: int = HttpLimits().total_body_bytes,
    ) -> None:
        self.app = app
        self.limit = limit
        self.timeout = timeout
        self.total = total
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request with its whole body, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        try:
            whole = await self._read_in_time(scope, receive, body)
        except (MessageTooLarge, RequestTooSlow, TooManyRequests) as error:
            self._held -= len(body)
            headers = {"Retry-After": "1"} if isinstance(error, TooManyRequests) else {}
            await answer(error, scope, {"Connection": "close", **headers})(scope, receive, send)
            return
        except BaseException:
            self._held -= len(body)
            raise
        pending: list[Message] = [whole]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        try:
            await self.app(scope, replay, send)
        finally:
            self._held -= len(body)

    async def _read_in_time(self, scope: Scope, receive: Receive, body: bytearray) -> Message:
        try:
            async with asyncio.timeout(self.timeout):
                return await self._read(scope, receive, body)
        except TimeoutError:
            raise RequestTooSlow(
                f"the body was not all here within {self.timeout:g} s, which is body_timeout of this server",
                cap="body_timeout",
                limit=self.timeout,
            ) from None

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> Message:
        declared = Headers(scope=scope).get("content-length", "0")
        self._check(int(declared) if declared.isdecimal() else 0)
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the client went away
                return message
            part = message.get("body", b"")
            body += part
            self._held += len(part)
            self._check(len(body))
            if self._held > self.total:
                raise TooManyRequests(
                    f"the bodies of all requests that are under way have more than {self.total} bytes, which is "
                    "max_total_body_bytes of this server: come again later, or step over ZeroMQ",
                    cap="max_total_body_bytes",
                    limit=self.total,
                    retry_after=1.0,
                )
            if not message.get("more_body", False):
                return {"type": "http.request", "body": bytes(body), "more_body": False}

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise MessageTooLarge(
                f"the body has {size} bytes or more, max_body_bytes of this server is {self.limit}: step large batches "
                "over ZeroMQ",
                cap="max_body_bytes",
                limit=self.limit,
            )
