"""What a batch costs beyond its environments' steps, fitted to measurements: ``python -m benchmarks.cost_model``.

A pool of environments that cost nothing is stepped over each transport with several numbers of rows and of bytes a row,
and with no more workers than cores, for those on one core take turns. The time of a batch is then taken to be

    batch + worker · W + shard · ceil(N / W) + row · N + byte · bytes

What calling one more worker costs the driver is measured by itself, with workers that do nothing; the other four costs
are fitted by least squares of relative errors, to two shapes in three: the errors that are printed are those of the
others. ``docs/performance.md`` says what they mean, and what follows from them
for other machines; this prints both.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from gymnasium import spaces

import vecserver_client as vs
from vecserver.arena.doorbell import Doorbell, FinishLine, make_bell, make_tokens
from vecserver.arena.driver import ArenaDriver
from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.plan import ArenaPlan, even_shards
from vecserver.arena.views import ArenaViews, WorkerLine
from vecserver.wire.actions import ActionFormat
from vecserver.wire.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ENV: Final = "benchmarks.environments:Free-v0"
TRANSPORTS: Final = ("shm", "ipc", "tcp")
ROWS: Final = (4, 16, 64, 256)
WORKERS: Final = tuple(range(1, len(os.sched_getaffinity(0)) + 1))
CALLED: Final = 64
"""Workers that are called to measure what one costs."""
BYTES: Final = (16, 4096, 28224)
"""A row's observation: a few numbers, a small image, four planes of 84 × 84."""
_EVERY: Final = 3
"""Of so many shapes one is kept from the fit."""
NAMES: Final = ("batch", "worker", "shard", "row", "byte")

STEP_US: Final = 5.8
"""A step of CartPole-v1 in a bare loop, on the machine of docs/performance.md."""
LINKS: Final = (None, 25.0, 10.0, 1.0)
"""Gb/s between trainer and server; None on one machine."""


class Point(NamedTuple):
    """One measurement: a pool's shape and the median time of its batch in µs."""

    rows: int
    workers: int
    row_bytes: int
    batch_us: float

    @property
    def factors(self) -> list[float]:
        """What each cost is multiplied with."""
        return factors(self.rows, self.workers, self.row_bytes)


def factors(rows: int, workers: int, row_bytes: int) -> list[float]:
    """What each cost is multiplied with, in the order of ``NAMES``."""
    return [1.0, workers, -(-rows // workers), rows, rows * row_bytes]


def shapes() -> Iterator[tuple[int, int, int]]:
    """The pools to measure: rows, workers, bytes a row."""
    for rows in ROWS:
        for workers in WORKERS:
            for row_bytes in BYTES:
                if workers <= rows:
                    yield rows, workers, row_bytes


def measure(server: vs.LocalServer, transport: str, shape: tuple[int, int, int], seconds: float) -> Point:
    """The median time of a batch of one pool."""
    rows, workers, row_bytes = shape
    with vs.make_vec(ENV, num_envs=rows, url=server.url, transport=transport, workers=workers, size=row_bytes) as envs:
        envs.reset(seed=0)
        actions = cycle([envs.action_space.sample() for _ in range(16)])
        times = list(_times(envs, actions, seconds))
    return Point(rows, workers, row_bytes, float(np.median(times[len(times) // 5 :])) * 1e6)


def _times(envs: Any, actions: Iterable[Any], seconds: float) -> Iterator[float]:
    before = perf_counter()
    end = before + seconds
    for batch in actions:
        envs.step(batch)
        now = perf_counter()
        yield now - before
        if now > end:
            return
        before = now


def worker_us() -> float:
    """What a driver's turn costs for each worker that it calls, the worker being awake: it watches for the call."""
    layout, actions = Layout.of(spaces.Discrete(2), CALLED), ActionFormat(spaces.Discrete(2), CALLED)
    plan = ArenaPlan.of(layout, actions, even_shards(CALLED, CALLED))
    memory, bell, tokens = create("cost-model"), make_bell(), make_tokens()
    size_and_seal(memory, plan.size)
    views = ArenaViews(plan, layout, map_memory(memory, plan.size))
    done = Doorbell(bell)
    driver = ArenaDriver(views, actions, [done] * CALLED, FinishLine(tokens, done))
    batch = [np.zeros(CALLED, np.int64)]
    times = []
    for _ in range(300):
        before = perf_counter()
        driver.start_step(batch)
        driver.words_done()
        driver.left_nothing()
        times.append(perf_counter() - before)
        for line in views.worker_lines:
            line[WorkerLine.DONE] = driver.seq
        FinishLine(tokens, done).clear()
    for fd in (memory, bell, tokens):
        os.close(fd)
    return float(np.median(times)) * 1e6 / CALLED


def fit(points: dict[str, list[Point]], worker: float) -> dict[str, dict[str, float]]:
    """The costs in µs that explain the measurements best, none of them negative.

    Args:
        points: The measurements over each transport.
        worker: The cost of a worker, which is known.

    Returns:
        The costs by name, for each transport; a row of a shard costs the same over all: it is the worker's.
    """
    every = [(transport, point) for transport, mine in points.items() for point in mine]
    own = [(transport, name) for transport in points for name in ("batch", "row", "byte")]
    factor = np.zeros((len(every), 1 + len(own)))
    for line, (transport, point) in zip(factor, every, strict=True):
        known = dict(zip(NAMES, point.factors, strict=True))
        line[0] = known["shard"]
        for column, (mine, name) in enumerate(own, 1):
            line[column] = known[name] if mine == transport else 0.0
    times = np.array([point.batch_us for _, point in every])
    rest = 1 - worker * np.array([point.workers for _, point in every]) / times
    used = [*range(factor.shape[1])]
    while True:
        costs, *_ = np.linalg.lstsq(factor[:, used] / times[:, None], rest, rcond=None)
        if (costs >= 0).all():
            break
        del used[int(np.argmin(costs))]
    found = dict(zip(used, map(float, costs), strict=True))
    fitted = {transport: {"worker": worker, "shard": found.get(0, 0.0)} for transport in points}
    for column, (transport, name) in enumerate(own, 1):
        fitted[transport][name] = found.get(column, 0.0)
    return fitted


def held_out(points: list[Point]) -> tuple[list[Point], list[Point]]:
    """The points to fit to, and every third one: what the model says of those it has not seen.

    Of each number of rows and of workers one of the three sizes of a row is among them, not always the same.
    """
    kept: tuple[list[Point], list[Point]] = [], []
    for point in points:
        at = ROWS.index(point.rows) + WORKERS.index(point.workers) + BYTES.index(point.row_bytes)
        kept[at % _EVERY == _EVERY - 1].append(point)
    return kept


def errors(points: list[Point], costs: dict[str, float]) -> tuple[float, float]:
    """Median and largest of the relative errors."""
    each = [abs(predicted(costs, point.factors) / point.batch_us - 1) for point in points]
    return float(np.median(each)), max(each)


def predicted(costs: dict[str, float], factor: list[float]) -> float:
    """Microseconds of a batch of environments that cost nothing."""
    return sum(costs[name] * each for name, each in zip(NAMES, factor, strict=True))


def of_ceiling(costs: dict[str, float], rows: int, cores: int, row_bytes: int, gbit: float | None) -> float:
    """The part of the ceiling that CartPole's steps would reach with a worker a core, over a link of so many Gb/s."""
    bare_us = STEP_US * -(-rows // cores)
    wire_us = 0.0 if gbit is None else rows * row_bytes * 8 / (gbit * 1e3)
    return bare_us / (bare_us + predicted(costs, factors(rows, cores, row_bytes)) + wire_us)


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_model", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each pool")
    options = parser.parse_args()
    points = {}
    with closing(vs.LocalServer()) as server:
        for transport in TRANSPORTS:
            print(f"measuring {transport}", file=sys.stderr)
            points[transport] = [measure(server, transport, shape, options.seconds) for shape in shapes()]
    split = {transport: held_out(mine) for transport, mine in points.items()}
    fitted = fit({transport: seen for transport, (seen, _) in split.items()}, worker_us())
    print("| µs | " + " | ".join((*NAMES[:-1], "KiB", "median error", "worst")) + " |\n|" + " --- |" * (len(NAMES) + 3))
    for transport, costs in fitted.items():
        cells = [f"{costs[name]:.3g}" for name in NAMES[:-1]]
        cells += [f"{costs['byte'] * 1024:.3g}", *(f"{each:.0%}" for each in errors(split[transport][1], costs))]
        print(f"| {transport} | " + " | ".join(cells) + " |")
    print("\nof the ceiling, CartPole-v1 (16 bytes a row), as the model has it:\n")
    print("| rows | cores | " + " | ".join((*TRANSPORTS, "tcp 25 Gb/s", "tcp 1 Gb/s")) + " |")
    print("|" + " --: |" * 7)
    for cores in (2, 16, 64, 256):
        for per_core in (4, 32, 128):
            rows = cores * per_core
            cells = [of_ceiling(fitted[transport], rows, cores, 16, None) for transport in TRANSPORTS]
            cells += [of_ceiling(fitted["tcp"], rows, cores, 16, gbit) for gbit in (25.0, 1.0)]
            print(f"| {rows} | {cores} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
