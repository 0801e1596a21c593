"""Looks at all pools about once a second, while somebody looks at the page, and in no other time."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from vecserver.control.web.history import Histories

if TYPE_CHECKING:
    from vecserver.pools.registry import Registry

__all__ = ["Sampler"]

_PERIOD_S: Final = 1.0
_log = logging.getLogger(__name__)


class Sampler:
    """Belongs to the event loop's thread; the looks themselves run in threads, as they wait for hosts.

    Args:
        registry: The pools.

    Attributes:
        histories: What was seen.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.histories = Histories()
        self._watchers: set[object] = set()
        self._task: asyncio.Task[None] | None = None

    def watch(self, who: object) -> None:
        """Begin to look for somebody, if it is not done already."""
        self._watchers.add(who)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="pool sampler")

    def leave(self, who: object) -> None:
        """Somebody looks no more; may be called again."""
        self._watchers.discard(who)
        if not self._watchers and self._task is not None:
            self._task.cancel()
            self._task = None

    @property
    def running(self) -> bool:
        """Whether somebody looks."""
        return self._task is not None

    async def look(self) -> None:
        """Look now."""
        views = await asyncio.to_thread(self._registry.list)
        self.histories.look(views, time.monotonic(), datetime.now(UTC).timestamp())

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - a page that shows what was is better than one that stands still for good
                _log.exception("the pools could not be looked at")
            await asyncio.sleep(_PERIOD_S)
