"""The HTTP app: routes, guards and metrics around a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CollectorRegistry

from vecserver import __version__
from vecserver.control.access.gate import Gate
from vecserver.control.access.routes import access_routes
from vecserver.control.access.scopes import Door, rule_for
from vecserver.control.environments import environment_routes
from vecserver.control.frames import frame_routes
from vecserver.control.guards import LOOPBACK_NAMES, AllowedHosts, BodyLimit, LastAnswers, OwnFrames, SameOrigin
from vecserver.control.limits import HttpLimits, RateLimit, Rates, WebSocketLimit
from vecserver.control.observe import HttpMetrics, RequestObserver, observe_routes
from vecserver.control.openenv.http import http_routes
from vecserver.control.openenv.vec import vec_routes
from vecserver.control.openenv.websocket import websocket_route
from vecserver.control.pools import pool_routes
from vecserver.control.problems import Problem, install, problems
from vecserver.control.relay import relay_routes
from vecserver.control.web.mount import PATH, to_page
from vecserver.wire.errors import Forbidden, TooManyAttempts, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Collection

    from vecserver.control.access.gate import Access
    from vecserver.control.access.scopes import Rule
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
    access: Access | None = None,
    loopback_only: bool = True,
    allowed_hosts: Collection[str] = (),
    limits: HttpLimits | None = None,
) -> FastAPI:
    """Build the app of one server.

    Args:
        registry: The pools; whoever made it closes it.
        sessions: OpenEnv's sessions; whoever made them closes them. None for a server without them.
        page: What is at ``/web``; None for a server that no person looks at.
        access: What is asked of whoever asks for something; None for a server that asks nothing, in tests.
        loopback_only: Refuse requests whose Host header is no loopback name, and to be shown in frames of other sites.
        allowed_hosts: Names besides, or beyond loopback the only ones; none of them there for any.
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
    if access is not None:
        routers.append(access_routes(access))
    for router in routers:
        app.include_router(router)
    if page is not None:
        app.add_route(PATH, to_page, include_in_schema=False)
        app.mount(PATH, page)
    install(app, [*app.routes, *(route for router in routers for route in router.routes)])
    # the middleware added last is the outermost
    limits = limits or HttpLimits()
    app.add_middleware(BodyLimit, limit=limits.body_bytes, timeout=limits.body_timeout, total=limits.total_body_bytes)
    app.add_middleware(WebSocketLimit, limit=limits.websockets)
    app.add_middleware(RateLimit, rates=Rates(limits.rate, limits.total_rate))
    if access is not None:
        app.add_middleware(Gate, access=access)
    app.add_middleware(SameOrigin)
    if loopback_only:
        app.add_middleware(OwnFrames)
    names = {name.lower() for name in allowed_hosts} | (LOOPBACK_NAMES if loopback_only or allowed_hosts else set())
    app.add_middleware(AllowedHosts, names=names or None)
    app.add_middleware(LastAnswers)
    app.add_middleware(RequestObserver, metrics=HttpMetrics(metrics))
    _describe(app, asks_for_tokens=access is not None)
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


def _describe(app: FastAPI, *, asks_for_tokens: bool) -> None:
    """Add the schema that the routes' problem responses refer to, and which routes take a token of which scope."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        if asks_for_tokens:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _describe_access(rule_for(method.upper(), path), operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents for extending it


def _describe_access(rule: Rule, operation: dict[str, Any]) -> None:
    if rule.door is Door.OPEN:
        return
    without: list[dict[str, list[str]]] = [] if rule.door is Door.CLOSED else [{}]
    operation["security"] = [{"token": []}, *without]
    operation["x-scope"] = str(rule.scope)
    refused = problems(Unauthorized, Forbidden, TooManyAttempts)
    del refused["default"]
    operation["responses"] |= {str(status): response for status, response in refused.items()}
