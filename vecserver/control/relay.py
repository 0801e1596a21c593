"""``/v1/pools/{pool}/ws``: the messages of the data plane over the HTTP port, for where no other port is open.

Each binary WebSocket message is one message of the protocol; it is handed to the pool's host as it is, and so are the
host's answers. Nothing here decides anything about steps: the host judges numbers and leases as over any transport.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from vecserver.control.host_line import HostLine
from vecserver.control.shortcut import SHORTCUT
from vecserver.control.watch import Watch
from vecserver.wire.errors import MalformedMessage, VecServerError
from vecserver.wire.websocket import close_of, join, part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.control.shortcut import ShortcutProtocol
    from vecserver.pools.registry import Registry
    from vecserver.wire.frames import Buffer

__all__ = ["GONE", "open_line", "relay_routes", "why_lost"]

GONE: Final = (WebSocketDisconnect, RuntimeError)
"""What a send to a client raises that went away: RuntimeError where the close was seen already."""

_TRY_AGAIN_LATER: Final = 1013

_LOOKS: Final = 20
_LOOK_S: Final = 0.05
"""How often, and with which pause, a host that ended a connection is looked for: its socket ends before itself."""


def relay_routes(registry: Registry) -> APIRouter:
    """The route.

    Args:
        registry: The pools.
    """
    router = APIRouter()
    watch = Watch()

    @router.websocket("/v1/pools/{pool}/ws")
    async def relay(websocket: WebSocket, pool: str) -> None:
        await websocket.accept()
        try:
            line = await open_line(registry, pool)
            try:
                await _relay(websocket, line, watch)
            except OSError:
                raise await why_lost(registry, pool) from None
            finally:
                line.close()
        except VecServerError as error:
            code, reason = close_of(error)
        except OSError:
            code, reason = _TRY_AGAIN_LATER, "the pool's host ended the connection; connect again"
        else:
            return  # the client left
        with suppress(*GONE):
            await websocket.close(code, reason)

    return router


async def open_line(registry: Registry, pool: str) -> HostLine:
    """Connect to a pool's host.

    Raises:
        UnknownPool, PoolLost, PoolStopping: There is none.
        DeadlineExceeded: It does not greet.
        ConnectionError: It lives, and takes no connection.
    """
    try:
        return await HostLine.open(registry.address(pool))
    except OSError as error:
        if isinstance(error, VecServerError):
            raise
        raise await why_lost(registry, pool) from None


async def why_lost(registry: Registry, pool: str) -> Exception:
    """What the end of a host's connection means: the error of a pool that is gone, a ConnectionError where it lives."""
    for _ in range(_LOOKS):
        try:
            registry.address(pool)
        except VecServerError as error:
            return error
        await asyncio.sleep(_LOOK_S)
    return ConnectionResetError("the pool's host ended the connection")


async def _relay(websocket: WebSocket, line: HostLine, watch: Watch) -> None:
    """Pass messages both ways until one end is gone; returns where it is the client.

    Raises:
        OSError: The host ended the connection.
        ProtocolError: The client sent what is no message.
    """
    passage = _Passage(websocket, line, watch)
    ways = [asyncio.ensure_future(way()) for way in (passage.pass_in, passage.pass_out)]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)  # the socket may be closed when neither uses it any more
    for way in done:
        way.result()


class _Passage:
    """The ways between a client and a host.

    What the other end can take at once is passed on where it is read. The rest comes to two tasks: the first messages,
    those in parts, those for an end that does not read, what is no message, and the end.
    """

    def __init__(self, websocket: WebSocket, line: HostLine, watch: Watch) -> None:
        self._websocket, self._line, self._watch = websocket, line, watch
        self._is_sending = False
        self._shortcut: ShortcutProtocol | None = websocket.scope.get("extensions", {}).get(SHORTCUT)
        if self._shortcut is not None:
            self._shortcut.take(self._take_in)
            line.take(self._take_out)

    def _take_in(self, message: bytes) -> bool:
        self._watch.go_on()
        try:
            return self._line.pass_on(part(message)[1:])
        except VecServerError:  # the task finds it out again, and ends
            return False

    def _take_out(self, frames: Sequence[Buffer]) -> bool:
        assert self._shortcut is not None
        self._watch.go_on()
        return not self._is_sending and self._shortcut.pass_on(frames)

    async def pass_in(self) -> None:
        while True:
            event = await self._websocket.receive()
            if event["type"] != "websocket.receive":
                return
            message = event.get("bytes")
            if message is None:
                raise MalformedMessage("a text message; the protocol's messages are binary")
            await self._line.send(part(message)[1:])
            self._watch.go_on()

    async def pass_out(self) -> None:
        while True:
            message = join(*await self._line.receive())
            self._is_sending = True
            try:
                await self._websocket.send({"type": "websocket.send", "bytes": message})
            except GONE:
                return
            self._is_sending = False
            self._watch.go_on()
