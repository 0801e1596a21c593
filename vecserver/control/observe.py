"""Whether the server lives, whether it takes work, and its Prometheus metrics."""

from __future__ import annotations

import time
from itertools import accumulate
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

from vecserver.control.problems import CODE_KEY, problems
from vecserver.metrics import POOL_FAMILIES, PoolFamily
from vecserver.wire.errors import InternalError, NotReady, PoolStopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from vecserver.control.openenv.sessions import Sessions
    from vecserver.pools.registry import Registry
    from vecserver.pools.results import PoolView

__all__ = ["HttpMetrics", "RequestObserver", "observe_routes"]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Other methods are counted together: a label's values come from here, not from whoever asks."""

_SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)
_LABELS: Final = ("pool", "env_id")


class HttpMetrics:
    """Counters of one app's requests.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "vecserver_http_requests", "HTTP requests answered.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "vecserver_http_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._refusals = Counter("vecserver_http_refusals", "Problems answered.", ("code",), registry=registry)
        self._websockets = Gauge("vecserver_websockets", "WebSockets open.", ("route",), registry=registry)
        self._websockets_opened = Counter(
            "vecserver_websockets_opened", "WebSockets accepted.", ("route",), registry=registry
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            scope: Its ASGI scope, as the routes left it.
            status: The status of the answer.
            seconds: How long it took.
        """
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = _route_of(scope)
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        if CODE_KEY in scope:
            self._refusals.labels(scope[CODE_KEY]).inc()

    def accepted(self, scope: Scope) -> Callable[[], None]:
        """Count a WebSocket that was accepted; returns what to call when it is closed."""
        route = _route_of(scope)
        self._websockets_opened.labels(route).inc()
        self._websockets.labels(route).inc()
        return self._websockets.labels(route).dec


def _route_of(scope: Scope) -> str:
    """The route that a request found, as it is written in the code."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


class RequestObserver:
    """Middleware that counts every request, refused ones too; it belongs outermost."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request and count how it ended."""
        if scope["type"] == "websocket":
            await self._watch_websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            # answered further out, where defects become problems
            status = InternalError.http_status
            scope[CODE_KEY] = InternalError.code
            raise
        finally:
            self.metrics.count(scope, status, time.perf_counter() - begin)

    async def _watch_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        closed: list[Callable[[], None]] = []

        async def watch(message: Message) -> None:
            if message["type"] == "websocket.accept":
                closed.append(self.metrics.accepted(scope))
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            for note in closed:
                note()


class _PoolCollector(Collector):
    """Asks for the pools at each scrape; a deleted pool's samples end with it."""

    def __init__(self, pools: Registry) -> None:
        self._pools = pools

    def collect(self) -> Iterable[Metric]:
        views = self._pools.list()
        yield _states(views)
        yield GaugeMetricFamily(
            "vecserver_insecure", "1 where other machines reach pools and nothing is encrypted.", self._pools.insecure
        )
        yield _gauge("vecserver_pool_num_envs", "Rows.", views, lambda view: view.info.num_envs)
        yield _gauge("vecserver_pool_workers", "Worker processes.", views, lambda view: view.info.workers)
        yield _gauge("vecserver_pool_creation_seconds", "Seconds it took to make.", views, lambda view: view.creation_s)
        restarts = CounterMetricFamily("vecserver_pool_host_restarts", "Hosts that were made again.", labels=_LABELS)
        for view in views:
            restarts.add_metric((view.pool, view.info.env_id), view.restarts)
        yield restarts
        for family in POOL_FAMILIES:
            yield _from_stats(family, views)


def _states(views: Sequence[PoolView]) -> Metric:
    metric = GaugeMetricFamily("vecserver_pools", "Pools by state.", labels=("state",))
    for state in ("ready", "broken", "silent", "lost"):
        metric.add_metric((state,), sum(view.state == state for view in views))
    return metric


def _gauge(name: str, text: str, views: Sequence[PoolView], read: Any) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=_LABELS)
    for view in views:
        metric.add_metric((view.pool, view.info.env_id), read(view))
    return metric


def _from_stats(family: PoolFamily, views: Sequence[PoolView]) -> Metric:
    read = [((view.pool, view.info.env_id), family.read(view.stats)) for view in views if view.stats is not None]
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=_LABELS)
        for labels, value in read:
            bounds = [*map(str, value.bounds), "+Inf"]
            histogram.add_metric(labels, [*zip(bounds, accumulate(value.counts), strict=False)], value.sum)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=(*_LABELS, family.label) if family.label else _LABELS)
    for labels, value in read:
        for own, number in value.items() if family.label else [(None, value)]:
            if isfinite(number):  # a sum that is none would be shown as one for ever
                metric.add_metric(labels if own is None else (*labels, own), number)
    return metric


class _SessionCollector(Collector):
    """Asks OpenEnv's sessions at each scrape."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterable[Metric]:
        sessions = self._sessions
        yield GaugeMetricFamily("vecserver_openenv_sessions", "OpenEnv sessions open.", len(sessions))
        yield GaugeMetricFamily("vecserver_openenv_sessions_limit", "OpenEnv sessions at once.", sessions.options.limit)
        yield CounterMetricFamily(
            "vecserver_openenv_sessions_started", "OpenEnv sessions opened.", sessions.counts.started
        )
        yield CounterMetricFamily(
            "vecserver_openenv_sessions_refused", "OpenEnv sessions that found no room.", sessions.counts.refused
        )
        ended = CounterMetricFamily(
            "vecserver_openenv_sessions_ended", "OpenEnv sessions ended, by cause.", labels=("cause",)
        )
        for cause, count in list(sessions.counts.ended.items()):
            ended.add_metric((cause,), count)
        yield ended


def observe_routes(pools: Registry, metrics: CollectorRegistry, sessions: Sessions | None = None) -> APIRouter:
    """The routes that operators and their tools ask.

    Args:
        pools: The pools.
        metrics: Where this app's metrics are registered; the pools' and the process's are added.
        sessions: OpenEnv's, whose metrics are added too; None for a server without them.
    """
    # no moment of birth for each series here: these would be as many again, and nobody asks for them
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the package has no types for it
    metrics.register(_PoolCollector(pools))
    if sessions is not None:
        metrics.register(_SessionCollector(sessions))
    ProcessCollector(registry=metrics)
    router = APIRouter(tags=["operation"])

    # these two wait for nothing, so they answer while every thread is busy with pools
    @router.get("/healthz", summary="Whether the server lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Whether it takes new pools", responses=problems(PoolStopping, NotReady))
    async def readyz() -> dict[str, str | bool]:
        if pools.closing:
            raise PoolStopping("the server is shutting down")
        if pools.restoring:
            raise NotReady(f"durable pools are being made: {', '.join(pools.restoring)}", pools=pools.restoring)
        return {"status": "ready"} | ({"insecure": True} if pools.insecure else {})

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    def scrape() -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    return router
