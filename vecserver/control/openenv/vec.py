"""``/vec/{pool}/ws``: a pool for OpenEnv's clients. One connection drives it; each text message is answered by one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, WebSocket

from vecserver.control.host_driver import HostDriver
from vecserver.control.openenv.vector_play import VectorPlay
from vecserver.control.relay import GONE, open_line, why_lost
from vecserver.pools.sessions.answers import Answer, Kind, code_of, error_data, to_message
from vecserver.wire.errors import LeaseHeld, SessionLost, VecServerError

if TYPE_CHECKING:
    from vecserver.pools.registry import Registry

__all__ = ["vec_routes"]

_NORMAL, _TRY_AGAIN_LATER, _INTERNAL = 1000, 1013, 1011

_ENDS: Final = "SESSION_ERROR"
"""OpenEnv's code for what ends a session."""


def vec_routes(registry: Registry) -> APIRouter:
    """The route.

    Args:
        registry: The pools.
    """
    router = APIRouter()

    @router.websocket("/vec/{pool}/ws")
    async def play(websocket: WebSocket, pool: str) -> None:
        await websocket.accept()
        try:
            await _drive(websocket, registry, pool)
        except VecServerError as error:
            await _leave(websocket, error)
        except OSError:
            why = await why_lost(registry, pool)
            await _leave(websocket, why if isinstance(why, VecServerError) else SessionLost(str(why)))

    return router


async def _drive(websocket: WebSocket, registry: Registry, pool: str) -> None:
    """Be the pool's driver until the client goes, or says so.

    Raises:
        VecServerError: What ends the session, or kept it from beginning.
        OSError: The host ended the connection.
    """
    info = registry.address(pool).info
    line = await open_line(registry, pool)
    try:
        driver = HostDriver(line, info)
        try:
            await driver.attach()
            await _converse(websocket, VectorPlay(info, driver.run))
        finally:
            await driver.detach()
    finally:
        line.close()


async def _converse(websocket: WebSocket, play: VectorPlay) -> None:
    while True:
        event = await websocket.receive()
        if event["type"] != "websocket.receive":
            return
        text = event.get("text")
        answer, error = await play.answer(event["bytes"] if text is None else text.encode(errors="replace"))
        if error is not None and code_of(error) == _ENDS:
            raise error
        with suppress(*GONE):
            if answer.kind == Kind.CLOSE:
                await websocket.close(_NORMAL)
            else:
                await websocket.send({"type": "websocket.send", "text": to_message(answer).decode()})
                continue
        return


async def _leave(websocket: WebSocket, error: VecServerError) -> None:
    code = _TRY_AGAIN_LATER if isinstance(error, LeaseHeld) else _INTERNAL
    with suppress(*GONE):
        text = to_message(Answer(Kind.ERROR, error_data(error))).decode()
        await websocket.send({"type": "websocket.send", "text": text})
        await websocket.close(code)
