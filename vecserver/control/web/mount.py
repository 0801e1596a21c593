"""The page at ``/web`` as an ASGI app that costs nothing until somebody asks for it. Imports nothing of NiceGUI."""

from __future__ import annotations

import asyncio
import gc
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from vecserver.control.openenv.sessions import Sessions
    from vecserver.pools.registry import Registry

__all__ = ["PATH", "WebPage", "prefix_of", "to_page"]

PATH: Final = "/web"

_HOW_TO_GET_IT: Final = "This page needs the extra `web`: pip install 'vecserver[web]', then start the server again.\n"
_NOT_IMPLEMENTED: Final = 501


def prefix_of(request: Request) -> str:
    """What a proxy in front of this server puts before its paths; empty where there is none."""
    forwarded = request.headers.get("x-forwarded-prefix", "").rstrip("/")
    sane = forwarded.startswith("/") and not forwarded.startswith("//") and forwarded.isprintable()
    below: str = request.scope.get("root_path", "")
    return (quote(forwarded) if sane else "") + below.removesuffix(PATH)


def to_page(request: Request) -> RedirectResponse:
    """Where a browser that asks for something else is sent."""
    return RedirectResponse(f"{prefix_of(request)}{PATH}/", status_code=307)


class WebPage:
    """The page of one server, started with the first request for it.

    Args:
        registry: The pools.
        sessions: Where environments are played.
        everybody_plays: Whether playing takes no log-in.
    """

    def __init__(self, registry: Registry, sessions: Sessions, *, everybody_plays: bool = False) -> None:
        self._everybody_plays = everybody_plays
        self._registry = registry
        self._sessions = sessions
        self._site: Any = None
        self._starting = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hold a browser's socket."""
        app = await self._app()
        await app(scope, receive, send)

    async def _app(self) -> ASGIApp:
        if find_spec("nicegui") is None:
            return PlainTextResponse(_HOW_TO_GET_IT, status_code=_NOT_IMPLEMENTED)
        async with self._starting:
            if self._site is None:
                # a quarter of a second in which the loop has others to answer
                module = await asyncio.to_thread(import_module, "vecserver.control.web.site")
                gc.freeze()  # as the server does with what it has imported itself
                self._site = await module.Site.start(
                    self._registry, self._sessions, everybody_plays=self._everybody_plays
                )
        app: ASGIApp = self._site.app
        return app

    def stop(self) -> None:
        """End what the page does by itself. Called in the event loop, when the server begins to end."""
        if self._site is not None:
            self._ending = asyncio.get_running_loop().create_task(self._site.stop())
