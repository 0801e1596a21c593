"""The search behind ``vecserver bench --autotune``: a pool for each number of workers, measured in turns."""

from __future__ import annotations

import os
import statistics
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from vecserver_client import LocalServer, make_vec

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver_client import RemoteVectorEnv

__all__ = ["COLUMNS", "Candidate", "Search", "candidates", "search", "table_rows"]

COLUMNS: Final = ("workers", "batches/s", "ms", "of the best", "creation picks")
_SEED: Final = 42
_BATCHES: Final = 64


@dataclass(slots=True)
class Candidate:
    """A number of workers.

    Attributes:
        rates: Batches a second, a round each.
        picked: Whether a pool has so many that is made without ``workers``.
    """

    workers: int
    rates: list[float] = field(default_factory=list)
    picked: bool = False


@dataclass(slots=True)
class Search:
    """What was found.

    Attributes:
        picked: The workers of a pool that is made without ``workers``.
        best: The candidate whose median rate is the highest.
    """

    env_id: str
    num_envs: int
    transport: str
    picked: int
    best: int
    candidates: list[Candidate]


def candidates(num_envs: int, cores: int) -> list[int]:
    """One, two, four, … workers, up to a core and a row each."""
    most = min(num_envs, cores)
    return sorted({1 << power for power in range(most.bit_length())} | {most})


def search(
    env_id: str,
    num_envs: int,
    transport: str,
    *,
    seconds: float,
    rounds: int,
    url: str | None,
    progress: Callable[[str], None],
) -> Search:
    """Measure. Whatever was started is gone when this returns or raises.

    Raises:
        VecServerError: What ``make_vec`` raises.
    """
    with ExitStack() as stack:
        if url is None:
            server = LocalServer()
            stack.callback(server.close)
            url = server.url

        def make(workers: int | None) -> RemoteVectorEnv:
            return make_vec(env_id, num_envs, url=url, transport=transport, workers=workers)

        with closing(make(None)) as envs:
            picked = len(envs.stats().worker_pids)
        numbers = sorted({*candidates(num_envs, len(os.sched_getaffinity(0))), picked})
        progress(f"a pool each of {', '.join(map(str, numbers))} workers; creation picks {picked}")
        pools = {workers: stack.enter_context(closing(make(workers))) for workers in numbers}
        found = [Candidate(workers, picked=workers == picked) for workers in numbers]
        for envs in pools.values():
            envs.reset(seed=_SEED)
            _rate(envs, seconds / 2)
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            first = number % len(found)
            for candidate in found[first:] + found[:first]:
                candidate.rates.append(_rate(pools[candidate.workers], seconds))
    best = max(found, key=lambda candidate: statistics.median(candidate.rates)).workers
    return Search(env_id, num_envs, transport, picked, best, found)


def _rate(envs: Any, seconds: float) -> float:
    """Batches a second; the actions are the same for every pool."""
    envs.action_space.seed(_SEED)
    batches = [envs.action_space.sample() for _ in range(_BATCHES)]
    began = perf_counter()
    for count, actions in enumerate(cycle(batches), 1):
        envs.step(actions)
        if (elapsed := perf_counter() - began) >= seconds:
            return count / elapsed
    raise AssertionError("batches never end")


def table_rows(found: Search) -> list[tuple[str, ...]]:
    """The candidates as texts under ``COLUMNS``."""
    medians = [statistics.median(candidate.rates) for candidate in found.candidates]
    return [
        (
            str(candidate.workers),
            f"{rate:,.0f}",
            f"{1e3 / rate:.3f}",
            f"{rate / max(medians):.2f}",
            "yes" if candidate.picked else "",
        )
        for candidate, rate in zip(found.candidates, medians, strict=True)
    ]
