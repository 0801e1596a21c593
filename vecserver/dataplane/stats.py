"""A pool's counters as the answer to PING."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

from vecserver.arena.views import WorkerLine
from vecserver.wire.figures import BATCH_BOUNDS_S, EpisodeFigures, Histogram
from vecserver.wire.messages import Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.arena.tally import Tally
    from vecserver.dataplane.counts import Counts, Moment
    from vecserver.pools.host import Host

__all__ = ["pool_stats"]

_RECENT: Final = 64
"""Episodes that are told one by one, of all workers together."""


def pool_stats(host: Host) -> Callable[[Counts, Moment], Stats]:
    """Make the function that gathers a pool's statistics."""

    def gather(counts: Counts, moment: Moment) -> Stats:
        pids, tallies = host.worker_pids, host.tallies
        latencies = [tally.latency_counts for tally in tallies]
        return Stats(
            state="ready" if host.broken is None else "broken",
            reason="" if host.broken is None else host.broken.message,
            batches=host.batches,
            env_steps=host.counted(WorkerLine.STEPS),
            episodes=host.counted(WorkerLine.EPISODES),
            resets=host.resets,
            refused=sum(counts.refusals.values()),
            lease=moment.lease,
            driver=moment.driver,
            idle_s=moment.idle_s,
            arena_bytes=host.memory_bytes,
            worker_pids=pids,
            rss_bytes=[_rss(pid) for pid in pids],
            host_rss_bytes=_rss(os.getpid()),
            worker_rows=list(host.shards),
            worker_batches=[tally.batches for tally in tallies],
            worker_busy_s=[tally.busy_s for tally in tallies],
            worker_last=[sum(each) for each in latencies],
            batch_seconds=Histogram(
                list(BATCH_BOUNDS_S),
                [sum(each) for each in zip(*latencies, strict=True)],
                sum(tally.latency_s for tally in tallies),
            ),
            episode_figures=_episodes(tallies),
            requests=counts.by_kind(),
            refusals=dict(counts.refusals),
            replayed=counts.replayed,
            in_progress=counts.in_progress,
            waiting=moment.waiting,
            received_bytes=counts.received_bytes,
            sent_bytes=counts.sent_bytes,
            lent=moment.lent,
            restarts=dict(host.restarts),
            infos_dropped=sum(tally.infos_dropped for tally in tallies),
            rebuilt_rows=host.replacements.rebuilt_rows,
        )

    return gather


def _episodes(tallies: Sequence[Tally]) -> EpisodeFigures:
    count, left_out, steps, gained, lost = (sum(each) for each in zip(*(tally.sums for tally in tallies), strict=True))
    now = perf_counter()
    recent = sorted((entry for tally in tallies for entry in tally.recent()), key=lambda entry: entry[0])[-_RECENT:]
    return EpisodeFigures(
        count=int(count),
        left_out=int(left_out),
        gained=gained,
        lost=lost,
        steps=int(steps),
        recent=[(max(0.0, now - at), gained, length) for at, gained, length in recent],
    )


def _rss(pid: int) -> int:
    """Resident memory of a process in bytes; 0 when it is gone."""
    try:
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
