"""What is counted of a pool: the names, meanings and sources of its Prometheus families.

Requests, batches and environment steps are separate families: a batch of 64 rows is one request, or none where its
driver has the arena; one batch; and up to 64 steps, for a row that only reset itself in it is no step.

The labels ``pool`` and ``env_id`` have as many values as there are pools, of which a server has a limited number, and
end with their pool. The values of the others come from tables of the code, or are the numbers of a pool's workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vecserver.wire.messages import Stats

__all__ = ["POOL_FAMILIES", "PoolFamily"]


@dataclass(frozen=True, slots=True)
class PoolFamily:
    """One family of pools.

    Attributes:
        name: Its name; a counter's samples end in ``_total`` besides.
        kind: ``counter`` only grows while the pool lives; ``gauge`` goes both ways; ``histogram`` counts by size.
        help: What it counts, with the unit.
        read: Takes it from a pool's figures: a number; with a label, a mapping of its values to numbers; for a
            histogram, a ``wire.figures.Histogram``.
        label: The label besides ``pool`` and ``env_id``; empty for none.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Stats], Any]
    label: str = ""


def _by_worker(values: Iterable[float]) -> dict[str, float]:
    return {str(worker): value for worker, value in enumerate(values)}


def _counter(name: str, text: str, read: Callable[[Stats], Any], label: str = "") -> PoolFamily:
    return PoolFamily(f"vecserver_pool_{name}", "counter", text, read, label)


def _gauge(name: str, text: str, read: Callable[[Stats], Any]) -> PoolFamily:
    return PoolFamily(f"vecserver_pool_{name}", "gauge", text, read)


POOL_FAMILIES: Final = (
    _counter("requests", "Whole messages that reached the pool's host, by kind.", lambda s: s.requests, "kind"),
    _counter("refused_requests", "Messages that were refused before they did anything.", lambda s: s.refusals, "code"),
    _counter("replayed_answers", "Answers that were sent again.", lambda s: s.replayed),
    _counter("dropped_infos", "Values of infos that were left out.", lambda s: s.infos_dropped),
    _counter("in_progress_answers", "Answers that a request was still running.", lambda s: s.in_progress),
    _gauge("waiting_requests", "Requests that wait for the arena.", lambda s: s.waiting),
    _counter("received_bytes", "Bytes of all messages' frames.", lambda s: s.received_bytes),
    _counter("sent_bytes", "Bytes of all answers' frames.", lambda s: s.sent_bytes),
    _counter("batches", "Batches begun, by whomever.", lambda s: s.batches),
    PoolFamily(
        "vecserver_pool_batch_seconds",
        "histogram",
        "Seconds from a batch's order to the end of the last worker.",
        lambda s: s.batch_seconds,
    ),
    _counter("env_steps", "Rows stepped in batches, autoreset steps left out.", lambda s: s.env_steps),
    _counter("resets", "RESET requests begun.", lambda s: s.resets),
    _counter("episodes", "Episodes that ended.", lambda s: s.episodes),
    _counter("scored_episodes", "Episodes in the sums of returns and lengths.", lambda s: s.episode_figures.count),
    _counter("unscored_episodes", "Episodes whose return was no number.", lambda s: s.episode_figures.left_out),
    _counter("returns_gained", "Sum of the returns above zero.", lambda s: s.episode_figures.gained),
    _counter("returns_lost", "Sum of the returns below zero, without the sign.", lambda s: s.episode_figures.lost),
    _counter("scored_steps", "Steps in scored episodes.", lambda s: s.episode_figures.steps),
    _counter(
        "worker_busy_seconds",
        "Seconds in which a worker stepped batches.",
        lambda s: _by_worker(s.worker_busy_s),
        "worker",
    ),
    _counter(
        "worker_last", "Batches that a worker was the last to finish.", lambda s: _by_worker(s.worker_last), "worker"
    ),
    _counter("restarts", "Workers that were replaced, by cause.", lambda s: s.restarts, "cause"),
    _counter("rebuilt_rows", "Rows that went on as they were with another worker.", lambda s: s.rebuilt_rows),
    _counter("leases", "Drivers that were given the lease.", lambda s: s.lease),
    _gauge("driven", "1 while a driver holds the lease.", lambda s: bool(s.driver)),
    _gauge("lent", "1 while a driver on this machine steps in the arena itself.", lambda s: s.lent),
    _gauge("driver_silent_seconds", "Seconds since the driver was heard.", lambda s: s.idle_s),
    _gauge("arena_bytes", "Shared memory of the pool, in bytes.", lambda s: s.arena_bytes),
    _gauge("host_resident_bytes", "Resident memory of the host process, in bytes.", lambda s: s.host_rss_bytes),
    _gauge("workers_resident_bytes", "Resident memory of all workers together.", lambda s: sum(s.rss_bytes)),
)
"""Families read from a pool's ``Stats``; a pool whose host does not answer has no sample in them."""
