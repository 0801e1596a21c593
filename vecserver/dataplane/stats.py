"""A pool's counters as the answer to PING."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vecserver.arena.views import WorkerLine
from vecserver.wire.messages import Stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.pools.host import Host

__all__ = ["pool_stats"]


def pool_stats(host: Host) -> Callable[[int, int, str, float], Stats]:
    """Make the function that gathers a pool's statistics."""

    def gather(refused: int, lease: int, driver: str, idle_s: float) -> Stats:
        pids = host.worker_pids
        return Stats(
            state="ready" if host.broken is None else "broken",
            reason="" if host.broken is None else host.broken.message,
            batches=host.batches,
            env_steps=host.counted(WorkerLine.STEPS),
            episodes=host.counted(WorkerLine.EPISODES),
            resets=host.resets,
            refused=refused,
            lease=lease,
            driver=driver,
            idle_s=idle_s,
            arena_bytes=host.arena_bytes,
            worker_pids=pids,
            rss_bytes=[_rss(pid) for pid in pids],
            host_rss_bytes=_rss(os.getpid()),
            restarts=dict(host.restarts),
        )

    return gather


def _rss(pid: int) -> int:
    """Resident memory of a process in bytes; 0 when it is gone."""
    try:
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
