"""``/ws``: one connection is one session; each text message is answered by one, in order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from vecserver.pools.sessions.answers import Answer, Ask, Kind, error_data, to_message
from vecserver.wire.errors import SessionLost, VecServerError

if TYPE_CHECKING:
    from vecserver.control.openenv.sessions import Session, Sessions

__all__ = ["websocket_route"]

_NORMAL, _TRY_AGAIN_LATER, _INTERNAL = 1000, 1013, 1011
_GONE: Final = (WebSocketDisconnect, RuntimeError)
"""What a send raises when the client went away: RuntimeError where the close was seen already."""


def websocket_route(sessions: Sessions) -> APIRouter:
    """The route.

    Args:
        sessions: Where sessions are opened.
    """
    router = APIRouter()

    @router.websocket("/ws")
    async def play(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            session = await sessions.open()
        except VecServerError as error:
            await _leave(websocket, error, _TRY_AGAIN_LATER)
            return
        try:
            await _converse(websocket, session)
        except VecServerError as error:  # it is lost, or needs a process and there is none
            await _leave(websocket, error, _INTERNAL)
        finally:
            session.on_lost = None
            sessions.close_session(session)

    return router


async def _converse(websocket: WebSocket, session: Session) -> None:
    """Answer messages until the client goes, or says so."""
    farewells: set[asyncio.Task[None]] = set()

    def say_why(reason: str) -> None:
        farewells.add(asyncio.ensure_future(_leave(websocket, SessionLost(reason), _INTERNAL)))

    session.on_lost = say_why
    while True:
        message = await websocket.receive()
        if message["type"] != "websocket.receive":
            break
        text = message.get("text")
        answer = await session.ask(Ask.MESSAGE, message["bytes"] if text is None else text.encode(errors="replace"))
        if answer.kind == Kind.CLOSE:
            with suppress(*_GONE):
                await websocket.close(_NORMAL)
            break
        try:
            await websocket.send({"type": "websocket.send", "text": to_message(answer).decode()})
        except _GONE:
            break
    if farewells:
        await asyncio.wait(farewells)


async def _leave(websocket: WebSocket, error: VecServerError, code: int) -> None:
    with suppress(*_GONE):
        await websocket.send(
            {"type": "websocket.send", "text": to_message(Answer(Kind.ERROR, error_data(error))).decode()}
        )
        await websocket.close(code)
