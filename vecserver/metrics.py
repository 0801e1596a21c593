"""What is counted of a pool: the names, meanings and sources of its Prometheus families.

Requests, batches and environment steps are separate families: a batch of 64 rows is one request, one batch and up to 64
steps, and a row that only reset itself in it is no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.wire.messages import Stats

__all__ = ["POOL_FAMILIES", "PoolFamily"]


@dataclass(frozen=True, slots=True)
class PoolFamily:
    """One family with a sample a pool.

    Attributes:
        name: Its name; a counter's samples end in ``_total`` besides.
        kind: ``counter`` only grows while the pool lives; ``gauge`` goes both ways.
        help: What it counts, with the unit.
        read: Takes it from a pool's counters.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    read: Callable[[Stats], float]


POOL_FAMILIES: Final = (
    PoolFamily("vecserver_pool_batches", "counter", "STEP requests finished.", lambda s: s.batches),
    PoolFamily(
        "vecserver_pool_env_steps",
        "counter",
        "Rows stepped in these batches, autoreset steps left out.",
        lambda s: s.env_steps,
    ),
    PoolFamily("vecserver_pool_episodes", "counter", "Episodes that ended.", lambda s: s.episodes),
    PoolFamily("vecserver_pool_resets", "counter", "RESET requests finished.", lambda s: s.resets),
    PoolFamily("vecserver_pool_refused_requests", "counter", "Data plane requests refused.", lambda s: s.refused),
    PoolFamily("vecserver_pool_driven", "gauge", "1 while a driver holds the lease.", lambda s: bool(s.driver)),
    PoolFamily(
        "vecserver_pool_driver_silent_seconds", "gauge", "Seconds since the driver was heard.", lambda s: s.idle_s
    ),
    PoolFamily("vecserver_pool_arena_bytes", "gauge", "Shared memory of the pool, in bytes.", lambda s: s.arena_bytes),
    PoolFamily(
        "vecserver_pool_host_resident_bytes",
        "gauge",
        "Resident memory of the host process.",
        lambda s: s.host_rss_bytes,
    ),
    PoolFamily(
        "vecserver_pool_workers_resident_bytes",
        "gauge",
        "Resident memory of all workers together.",
        lambda s: sum(s.rss_bytes),
    ),
)
"""Families read from a pool's ``Stats``; a pool whose host does not answer has no sample in them."""
