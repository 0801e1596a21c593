"""Frames of pools' rows as pictures, for whoever looks: rendered between two steps, so seldom that no driver minds."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Query, Response

from vecserver.control.problems import problems
from vecserver.pools.pictures import reduced, to_png
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvFault,
    InvalidSpec,
    PoolBroken,
    PoolLost,
    PoolSplit,
    PoolStopping,
    StillRunning,
    UnknownPool,
    VecServerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.pools.registry import Registry

__all__ = ["Frames", "Pace", "frame_routes"]

_SHARE: Final = 0.005
"""Of a pool's time that its frames may take, at most: a driver that takes every core feels twice as much of it."""

_SHORTEST_S, _LONGEST_S = 0.25, 5.0
"""Between two frames of a pool: nobody looks faster, and a row that takes long to render is still seen now and then."""

_CREDIT_S: Final = 0.1
"""Of rendering that a pool may have saved up when somebody begins to look: a dozen rows are seen at once."""

_FRESH_S: Final = 0.5
"""How old a frame may be that a second viewer is given."""

_MAX_WAITING: Final = 16
"""Requests that may wait for a pool's next frames."""

_MAX_KEPT: Final = 64
"""Frames, and pools, that are remembered."""

_Key = tuple[str, int, int | None]

_NOT_RENDERED: Final = problems(
    UnknownPool, InvalidSpec, EnvFault, PoolBroken, PoolLost, PoolSplit, PoolStopping, StillRunning, DeadlineExceeded
)


class Pace:
    """When the next frame of a pool may be rendered. Pure: the caller says what time it is."""

    def __init__(self) -> None:
        self._credit = _CREDIT_S
        self._ended: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until the next frame may begin."""
        if self._ended is None:
            return 0.0
        saved = min(_LONGEST_S, max(_SHORTEST_S, -self._credit / _SHARE))
        return max(0.0, self._ended + saved - now)

    def rendered(self, began: float, ended: float, beside: float = 0.0) -> None:
        """Note what a frame took.

        Args:
            began: When its pool was asked.
            ended: When it had answered.
            beside: Seconds of a core that were used after that.
        """
        passed = 0.0 if self._ended is None else began - self._ended
        self._credit = min(_CREDIT_S, self._credit + _SHARE * passed) - (ended - began) - beside
        self._credit = max(self._credit, -_SHARE * _LONGEST_S)  # beyond it there is no longer wait
        self._ended = ended


class _Gallery:
    """The frames of one pool."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.turn = asyncio.Lock()
        self.waiting = 0
        self.kept: dict[_Key, tuple[float, bytes]] = {}

    def fresh(self, key: _Key, now: float) -> bytes | None:
        """A frame that another viewer was given just now."""
        found = self.kept.get(key)
        return found[1] if found is not None and now - found[0] < _FRESH_S else None

    def keep(self, key: _Key, now: float, png: bytes) -> None:
        self.kept.pop(key, None)
        self.kept[key] = (now, png)
        if len(self.kept) > _MAX_KEPT:
            del self.kept[next(iter(self.kept))]


class Frames:
    """Renders rows at a pace that all viewers of a pool share. Belongs to the event loop's thread.

    Args:
        registry: The pools.
        clock: Seconds, never going back.
    """

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._galleries: dict[str, _Gallery] = {}

    async def get(self, pool: str, row: int, width: int | None = None) -> bytes:
        """What a row looks like, as PNG; waits until it may be rendered.

        Args:
            pool: The pool's id.
            row: Its number.
            width: Pixels that the picture is to have at most, from side to side; None for as rendered.

        Raises:
            StillRunning: Many wait already.
            VecServerError: As of ``Registry.address`` and ``Registry.render``.
        """
        try:
            self._registry.address(pool)  # a name that somebody made up is not remembered
        except VecServerError:
            self._galleries.pop(pool, None)
            raise
        gallery = self._gallery(pool)
        if gallery.waiting >= _MAX_WAITING:
            raise StillRunning(f"{_MAX_WAITING} requests wait for frames of pool {pool} already: ask again later")
        gallery.waiting += 1
        try:
            async with gallery.turn:
                return await self._render(gallery, (pool, row, width))
        finally:
            gallery.waiting -= 1

    async def _render(self, gallery: _Gallery, key: _Key) -> bytes:
        known = gallery.fresh(key, self._clock())
        if known is not None:
            return known
        await asyncio.sleep(gallery.pace.wait(self._clock()))
        # a thread of its own: pools that answer late must not take those in which the page's buttons wait for theirs
        own = ThreadPoolExecutor(1, "frame")
        try:
            png = await asyncio.get_running_loop().run_in_executor(own, self._picture, gallery.pace, *key)
        finally:
            own.shutdown(wait=False)
        gallery.keep(key, self._clock(), png)
        return png

    def _picture(self, pace: Pace, pool: str, row: int, width: int | None) -> bytes:
        began, beside = self._clock(), 0.0
        ended = began
        try:
            try:
                picture = self._registry.render(pool, row)
            finally:
                ended = self._clock()
            used = time.thread_time()
            png = to_png(picture if width is None else reduced(picture, width))
            beside = time.thread_time() - used
        finally:
            pace.rendered(began, ended, beside)
        return png

    def _gallery(self, pool: str) -> _Gallery:
        gallery = self._galleries.pop(pool, None) or _Gallery()
        if len(self._galleries) >= _MAX_KEPT:
            del self._galleries[next(iter(self._galleries))]
        self._galleries[pool] = gallery  # behind those that nobody asked for since
        return gallery


def frame_routes(registry: Registry) -> APIRouter:
    """The route of a row's picture.

    Args:
        registry: The pools.
    """
    router = APIRouter(prefix="/v1/pools", tags=["pools"])
    frames = Frames(registry)

    @router.get(
        "/{pool}/frame",
        summary="What a row looks like, as PNG",
        response_class=Response,
        responses=_NOT_RENDERED | {200: {"content": {"image/png": {}}}},
    )
    async def show_frame(
        pool: str,
        row: Annotated[int, Query(ge=0, le=2**31, description="Which row")] = 0,
        width: Annotated[int | None, Query(ge=16, le=4096, description="Pixels from side to side, at most")] = None,
    ) -> Response:
        png = await frames.get(pool, row, width)
        return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})

    return router
