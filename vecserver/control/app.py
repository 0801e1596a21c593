"""The HTTP app: routes, guards and metrics around a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CollectorRegistry

from vecserver import __version__
from vecserver.control.environments import environment_routes
from vecserver.control.frames import frame_routes
from vecserver.control.guards import BodyLimit, LoopbackHosts, OwnFrames, SameOrigin
from vecserver.control.limits import HttpLimits, RateLimit, Rates, WebSocketLimit
from vecserver.control.observe import HttpMetrics, RequestObserver, observe_routes
from vecserver.control.openenv.http import http_routes
from vecserver.control.openenv.vec import vec_routes
from vecserver.control.openenv.websocket import websocket_route
from vecserver.control.pools import pool_routes
from vecserver.control.problems import Problem, install
from vecserver.control.relay import relay_routes
from vecserver.control.web.mount import PATH, to_page

if TYPE_CHECKING:
    from vecserver.control.openenv.sessions import Sessions
    from vecserver.control.web.mount import WebPage
    from vecserver.pools.registry import Registry

__all__ = ["create_app"]

_API_VERSION = "1.0"
"""Of the HTTP interface, as its prefix says it; the package's own is another."""

_DESCRIPTION = (
    "Pools of Gymnasium environments. Trainers step them over ZeroMQ; this is how pools are made and watched."
)


def create_app(
    registry: Registry,
    sessions: Sessions | None = None,
    *,
    page: WebPage | None = None,
    loopback_only: bool = True,
    limits: HttpLimits | None = None,
) -> FastAPI:
    """Build the app of one server.

    Args:
        registry: The pools; whoever made it closes it.
        sessions: OpenEnv's sessions; whoever made them closes them. None for a server without them.
        page: What is at ``/web``; None for a server that no person looks at.
        loopback_only: Refuse requests whose Host header is no loopback name, and to be shown in frames of other sites.
        limits: How much its callers may have of it; the defaults where it is None.

    Returns:
        An ASGI app.
    """
    app = FastAPI(
        title="vecserver", version=_API_VERSION, description=_DESCRIPTION, redoc_url=None, redirect_slashes=False
    )
    metrics = CollectorRegistry()
    routers = [
        pool_routes(registry),
        frame_routes(registry),
        environment_routes(registry.rules),
        observe_routes(registry, metrics, sessions),
        _index_routes(browsers_to_page=page is not None),
    ]
    routers += [relay_routes(registry), vec_routes(registry)]
    if sessions is not None:
        routers += [http_routes(sessions), websocket_route(sessions)]
    for router in routers:
        app.include_router(router)
    if page is not None:
        app.add_route(PATH, to_page, include_in_schema=False)
        app.mount(PATH, page)
    install(app, [*app.routes, *(route for router in routers for route in router.routes)])
    # the middleware added last is the outermost
    limits = limits or HttpLimits()
    app.add_middleware(BodyLimit, limit=limits.body_bytes, timeout=limits.body_timeout)
    app.add_middleware(WebSocketLimit, limit=limits.websockets)
    app.add_middleware(RateLimit, rates=Rates(limits.rate, limits.total_rate))
    app.add_middleware(SameOrigin)
    if loopback_only:
        app.add_middleware(OwnFrames)
        app.add_middleware(LoopbackHosts)
    app.add_middleware(RequestObserver, metrics=HttpMetrics(metrics))
    _describe_problems(app)
    return app


def _index_routes(*, browsers_to_page: bool) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/", summary="Where things are; a browser is sent to the page", response_model=dict[str, str])
    async def index(request: Request) -> Any:
        if browsers_to_page and "text/html" in request.headers.get("accept", ""):
            return to_page(request)
        return {
            "name": "vecserver",
            "version": __version__,
            "pools": "/v1/pools",
            "envs": "/v1/envs",
            "docs": "/docs",
            "openapi": "/openapi.json",
            "health": "/healthz",
            "ready": "/readyz",
            "metrics": "/metrics",
        }

    return router


def _describe_problems(app: FastAPI) -> None:
    """Add the schema that the routes' problem responses refer to."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents for extending it
