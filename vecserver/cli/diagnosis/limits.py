"""What the machine and its limits leave for pools: descriptors, processes, cores, memory."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Final

from vecserver.cli.diagnosis.finding import Finding, fail, ok, warn
from vecserver.pools.machine import core_limit, group_memory, memory_limit, process_limit

if TYPE_CHECKING:
    from vecserver.config import Settings

__all__ = ["check_cores", "check_descriptors", "check_memory", "check_processes"]

_FILES_OF_SERVER: Final = 512
_FILES_OF_POOL: Final = 4
_FILES_OF_SESSION: Final = 4
_FILES_OF_HOST: Final = 256
"""A host: its peers, and four a worker."""


def check_descriptors(settings: Settings) -> Finding:
    """Whether as many files may be open as the caps on pools, sessions and connections need."""
    name = "open files"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_OF_SERVER + _FILES_OF_POOL * settings.max_pools + _FILES_OF_SESSION * settings.openenv_sessions
    wanted += settings.max_connections
    most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    found = (
        f"{soft}, and {most} at most; {settings.max_pools} pools, {settings.openenv_sessions} sessions and "
        f"{settings.max_connections} connections need {wanted}"
    )
    if hard == resource.RLIM_INFINITY or hard >= max(wanted, _FILES_OF_HOST):
        return ok(name, found)
    advice = (
        f"raise it (`ulimit -Hn {wanted}`, or LimitNOFILE={wanted} in systemd), or lower --max-pools or "
        "VECSERVER_MAX_CONNECTIONS"
    )
    return (fail if hard < _FILES_OF_HOST else warn)(name, found, advice)


def check_processes(settings: Settings) -> Finding:
    """Whether as many processes may run as the caps allow pools."""
    name = "processes"
    each = 1 + len(os.sched_getaffinity(0))
    wanted = settings.max_pools * each
    allowed = process_limit()
    if allowed is None:
        return ok(name, "no limit was found")
    found = f"{allowed} at most; {settings.max_pools} pools of {each} need {wanted}"
    if allowed >= wanted:
        return ok(name, found)
    advice = "raise `ulimit -u` or the container's --pids-limit, or lower --max-pools"
    return (fail if allowed < each else warn)(name, found, advice)


def check_cores() -> Finding:
    """How many cores there are, and whether their time is limited further."""
    name = "cores"
    mine, all_cores, limit = len(os.sched_getaffinity(0)), os.cpu_count(), core_limit()
    found = f"{mine} of {all_cores} may be used"
    if limit is not None and limit < mine:
        return warn(
            name,
            f"{found}, but the control group gives the time of {limit:g}",
            f"pools would start {mine} workers and be held up by turns: give the container whole cores "
            f"(--cpuset-cpus), or start the server under `taskset -c 0-{max(0, int(limit) - 1)}`",
        )
    return ok(name, found)


def check_memory(settings: Settings) -> Finding:
    """Whether the pools' memory may grow as far as the caps say."""
    name = "memory"
    free, total, group = memory_limit(), settings.max_total_arena_bytes, group_memory()
    found = f"{_mib(free)} free" + (f" of a limit of {_mib(group[0])}" if group else "")
    found += f"; pools' shared memory may have {_mib(total)}"
    if total > free:
        return warn(name, found, "processes may be killed for memory: lower VECSERVER_MAX_TOTAL_ARENA_BYTES")
    return ok(name, found)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
