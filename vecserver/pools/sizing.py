"""How many workers a pool has: what a batch costs with each number of them, from what a row's step costs.

A batch takes as long as its longest shard, and the longer the more workers have to be called and waited for.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

from vecserver.engine.table import VECTORISED, WHOLE_POOL, resolve

if TYPE_CHECKING:
    from vecserver.pools.spec import Caps, PoolSpec

__all__ = ["RowCosts", "best_workers", "is_measured", "most_workers"]

WORKER_US: Final = 4.0
"""What one more worker adds to a batch: the driver rings one after the other, and each ring wakes a process. It is what
decides where rows are light and cores many, see docs/decisions/0012."""

_MOST_KEPT: Final = 256
"""Environments whose costs a server remembers."""

HEAVY_US: Final = 1e6
"""What a row's step is said to take where it could not be measured: a core for each row pays."""


def most_workers(spec: PoolSpec, caps: Caps) -> int:
    """The most workers that could pay: a core each, a row at least."""
    return min(len(os.sched_getaffinity(0)), spec.num_envs, caps.max_workers)


def is_measured(spec: PoolSpec, caps: Caps) -> bool:
    """Whether the number of workers depends on what a row costs."""
    engine = resolve(spec.engine)
    return spec.workers is None and engine not in WHOLE_POOL | VECTORISED and most_workers(spec, caps) > 1


def best_workers(num_envs: int, most: int, row_us: float | None) -> int:
    """The number of workers whose batches are the shortest.

    Args:
        num_envs: Rows.
        most: The most workers that are allowed.
        row_us: Microseconds of a row's step; None where nobody knows, which is taken for a heavy one.
    """
    if row_us is None:
        return most
    return min(range(1, most + 1), key=lambda workers: WORKER_US * workers + row_us * -(-num_envs // workers))


@dataclass(slots=True)
class RowCosts:
    """What rows cost that a server has measured, by what they are made of. Thread-safe."""

    _known: OrderedDict[str, float | None]  # None: it could not be measured, once
    _lock: Lock

    def __init__(self) -> None:
        self._known, self._lock = OrderedDict(), Lock()

    def get(self, spec: PoolSpec) -> float | None:
        """Microseconds of a row's step; None where nothing is known."""
        with self._lock:
            return self._known.get(_key(spec))

    def note(self, spec: PoolSpec, row_us: float | None) -> None:
        """Remember it; the oldest is forgotten where there are too many.

        Args:
            spec: What the rows are made of.
            row_us: What was measured; None where it could not be. It is tried once more, as the first environment of a
                kind may take long only to load its modules, and from then on taken for a heavy one.
        """
        key = _key(spec)
        with self._lock:
            if row_us is None and key in self._known:
                row_us = self._known[key] or HEAVY_US
            self._known[key] = row_us
            if len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)


def _key(spec: PoolSpec) -> str:
    return json.dumps([spec.env_id, spec.env_kwargs, spec.wrappers, spec.render_mode], sort_keys=True)
