"""What pools cost that nobody steps: the processor time of all their processes, as the kernel counts it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

import gymnasium

from vecserver_client import ControlClient, LocalServer, LocalVectorEnv, make_vec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gymnasium.vector import VectorEnv

__all__ = ["CASES", "Idle", "idle", "markdown", "processor_seconds"]

_STEPS: Final = 20
_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class Idle:
    """One kind of pool while nobody steps it.

    Attributes:
        pool_per_cent: Of one core, the host and its workers together.
        server_per_cent: Of one core, the server, whose HTTP loop looks up ten times a second; None without one.
        driver_per_cent: Of one core, the process that drives it and only sleeps.
    """

    case: str
    processes: int
    pool_per_cent: float
    server_per_cent: float | None
    driver_per_cent: float


def _server(stack: ExitStack) -> LocalServer:
    server = LocalServer()
    stack.callback(server.close)
    return server


def _no_driver(stack: ExitStack) -> int:
    server = _server(stack)
    client = stack.enter_context(ControlClient(server.url))
    client.create_pool(name="idle", env_id="CartPole-v1", num_envs=_ROWS)
    return server.pid


def _driven(transport: str) -> Callable[[ExitStack], int]:
    def start(stack: ExitStack) -> int:
        server = _server(stack)
        _step(stack.enter_context(make_vec("CartPole-v1", _ROWS, url=server.url, transport=transport)))
        return server.pid

    return start


def _local(stack: ExitStack) -> None:
    _step(stack.enter_context(LocalVectorEnv([lambda: gymnasium.make("CartPole-v1")] * _ROWS)))


def _step(envs: VectorEnv) -> None:
    envs.reset(seed=1)
    for _ in range(_STEPS):
        envs.step(envs.action_space.sample())


CASES: Final[dict[str, Callable[[ExitStack], int | None]]] = {
    "a pool without a driver": _no_driver,
    **{f"{transport}, a driver that does nothing": _driven(transport) for transport in ("shm", "ipc", "tcp")},
    "LocalVectorEnv": _local,
}


def idle(case: str, seconds: float) -> Idle:
    """Start a pool, step it a little, and see what its processes do while nobody asks for anything.

    Args:
        case: Of ``CASES``.
        seconds: How long to look.
    """
    before = set(_descendants(os.getpid()))
    with ExitStack() as stack:
        server = CASES[case](stack)
        own = os.getpid()
        pool = [pid for pid in _descendants(own) if pid not in before and pid != server]
        groups = [pool, [] if server is None else [server], [own]]
        began, used = perf_counter(), [processor_seconds(pids) for pids in groups]
        sleep(seconds)
        took = perf_counter() - began
        per_cent = [100 * (processor_seconds(pids) - then) / took for pids, then in zip(groups, used, strict=True)]
    return Idle(case, len(pool), per_cent[0], None if server is None else per_cent[1], per_cent[2])


def processor_seconds(pids: Iterable[int]) -> float:
    """What the threads of processes have had of a core, to the nanosecond where the kernel says so."""
    total = 0.0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            schedule = task / "schedstat"
            if schedule.exists():
                total += int(schedule.read_text(encoding="ascii").split()[0]) / 1e9
            else:
                fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, look = [], [root]
    while look:
        children = parents.get(look.pop(), [])
        found += children
        look += children
    return found


def markdown(found: list[Idle]) -> list[str]:
    """As a table."""
    lines = ["| nobody steps; % of a core | host and workers | server | driver |", "| :-- | --: | --: | --: |"]
    for one in found:
        server = "–" if one.server_per_cent is None else f"{one.server_per_cent:.3f}"
        lines.append(f"| {one.case} | {one.pool_per_cent:.3f} | {server} | {one.driver_per_cent:.3f} |")
    return lines
