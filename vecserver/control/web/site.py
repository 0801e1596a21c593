"""NiceGUI set up for this server: its pages, what they share, and its life."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from fastapi import FastAPI, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from nicegui import app as nicegui_app
from nicegui import core, ui

from vecserver.control.web.game import Environments
from vecserver.control.web.help_page import help_page
from vecserver.control.web.new_page import new_page
from vecserver.control.web.play_page import play_page
from vecserver.control.web.pool_page import pool_page
from vecserver.control.web.pools_page import pools_page
from vecserver.control.web.sampler import Sampler
from vecserver.control.web.shell import Place

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from starlette.types import ASGIApp

    from vecserver.control.openenv.sessions import Sessions
    from vecserver.pools.registry import Registry

__all__ = ["Site"]

_HERE = Path(__file__).parent


class Site:
    """The running pages. NiceGUI has one app a process, so there is one.

    Attributes:
        app: What answers requests below ``/web``.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app: ASGIApp = app
        self._life: AbstractAsyncContextManager[object] = app.router.lifespan_context(app)

    @classmethod
    async def start(cls, registry: Registry, sessions: Sessions, *, everybody_plays: bool) -> Self:
        """Register the pages and begin to serve them."""
        outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        _register(Place(registry, sessions, Sampler(registry), Environments(sessions), everybody_plays))
        ui.add_css(_HERE / "page.css", shared=True)
        ui.add_body_html(f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>", shared=True)
        nicegui_app.config.socket_io_js_transports = ["websocket"]
        # the guards in front know which pages may open a socket here, and NiceGUI need not tell others that they may
        core.sio.eio.cors_allowed_origins = []
        ui.run_with(
            outer,
            title="vecserver",
            favicon=_HERE / "favicon.svg",
            dark=None,
            language="en-US",
            binding_refresh_interval=None,
            tailwind=False,
            show_welcome_message=False,
            gzip_middleware_factory=lambda app: GZipMiddleware(app, minimum_size=1000, compresslevel=4),
        )
        site = cls(outer)
        await site._life.__aenter__()
        return site

    async def stop(self) -> None:
        """End the pages' timers and tasks."""
        await self._life.__aexit__(None, None, None)


def _register(place: Place) -> None:
    @ui.page("/", title="Pools – vecserver")
    async def pools(request: Request) -> None:
        await pools_page(place.seen_by(request), request)

    @ui.page("/pools/{pool}", title="Pool – vecserver")
    async def pool(request: Request, pool: str) -> Response | None:
        return await pool_page(place.seen_by(request), request, pool)

    @ui.page("/new", title="New pool – vecserver")
    async def new(request: Request) -> None:
        await new_page(place.seen_by(request), request)

    @ui.page("/play", title="Play – vecserver")
    async def play(request: Request) -> None:
        await play_page(place.seen_by(request), request)

    @ui.page("/help", title="Help – vecserver")
    async def show_help(request: Request) -> None:
        await help_page(place.seen_by(request), request)
