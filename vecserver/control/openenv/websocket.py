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
    from collections.abc import Callable

    from vecserver.control.openenv.sessions import Session, Sessions

__all__ = ["websocket_route"]

_NORMAL, _TRY_AGAIN_LATER, _INTERNAL = 1000, 1013, 1011
_AHEAD: Final = 8
"""Messages that are read before those ahead of them are answered: a client that sends more, and does not wait for its
answers, is noticed later when it goes away."""

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
            await _converse(websocket, sessions, session)
        except VecServerError as error:  # it is lost, or needs a process and there is none
            await _leave(websocket, error, _INTERNAL)
        finally:
            session.on_lost = None
            sessions.close_session(session)

    return router


async def _converse(websocket: WebSocket, sessions: Sessions, session: Session) -> None:
    """Answer messages until the client goes, or says so."""
    ahead: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)

    def end() -> None:
        sessions.close_session(session, "its client went away")

    reading = asyncio.create_task(_read(websocket, ahead, end))
    try:
        await _answer(websocket, session, ahead)
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def _read(websocket: WebSocket, ahead: asyncio.Queue[bytes | None], on_gone: Callable[[], None]) -> None:
    """Read messages while others are being answered, and so see at once when the client goes."""
    while (message := await websocket.receive())["type"] == "websocket.receive":
        text = message.get("text")
        await ahead.put(message["bytes"] if text is None else text.encode(errors="replace"))
    on_gone()
    await ahead.put(None)


async def _answer(websocket: WebSocket, session: Session, ahead: asyncio.Queue[bytes | None]) -> None:
    farewells: set[asyncio.Task[None]] = set()

    def say_why(reason: str) -> None:
        farewells.add(asyncio.ensure_future(_leave(websocket, SessionLost(reason), _INTERNAL)))

    session.on_lost = say_why
    while (message := await ahead.get()) is not None:
        answer = await session.ask(Ask.MESSAGE, message)
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
