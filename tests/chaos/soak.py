"""A soak: pools are made, stepped and deleted for a long time, and the server must not grow: ``make soak``.

Over HTTP alone, tcp, ipc, shm and ws in turn, against one server process. Between pools, when none is there, the server's
memory, descriptors, threads and files are counted; what counts is the second half of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import vecserver_client as vs
from tests import leaks
from tests.chaos.kills import Say
from tests.chaos.trend import Trend, trend
from vecserver_client import ControlClient, LocalServer

ROWS = 8
STEPS = 20
WAYS = ("http", "tcp", "ipc", "shm", "ws")
BETWEEN_SAMPLES_S = 5.0
SETTLED_S = 30.0
"""So long the processes of a pool may take to be gone."""
CONNECTIONS_S = 2.0
"""So long connections that their clients have closed may take to be seen as such; what is there then is counted."""
MOST_MB_PER_H = 1.0
FIGURES = (
    ("rss", "resident memory, MB", 1e6, ".2f"),
    ("own", "of it shared with nobody, MB", 1e6, ".2f"),
    ("descriptors", "descriptors", 1, ".0f"),
    ("threads", "threads", 1, ".0f"),
    ("files", "files", 1, ".0f"),
)
"""What is reported: names, titles, units, formats."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server has while it has no pool.

    Attributes:
        seconds: Since the beginning.
        pools: That were made and deleted so far.
        rss: Resident memory, in bytes, as ``own`` (what no other process shares).
        files: In its runtime directory.
    """

    seconds: float
    pools: int
    rss: int
    own: int
    descriptors: int
    threads: int
    children: int
    files: int


def sample(server: int, seconds: float, pools: int) -> Sample:
    """Counts; waits for nothing."""
    proc = Path(f"/proc/{server}")
    memory = {}
    for line in (proc / "smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes, *_ = line.split()
        memory[name.rstrip(":")] = int(kilobytes) * 1024
    threads = [*(proc / "task").iterdir()]
    children = sum(len((thread / "children").read_text().split()) for thread in threads)
    return Sample(
        seconds=seconds,
        pools=pools,
        rss=memory["Rss"],
        own=memory["Private_Clean"] + memory["Private_Dirty"],
        descriptors=len([*(proc / "fd").iterdir()]),
        threads=len(threads),
        children=children,
        files=sum(1 for _ in Path(os.environ[leaks.RUNTIME_DIR]).rglob("*")),
    )


def one_pool(url: str, control: ControlClient, way: str, number: int) -> None:
    """Makes a pool, steps it and deletes it."""
    actions = np.arange(ROWS) % 2
    if way == "http":
        pool = control.create_pool(env_id="CartPole-v1", num_envs=ROWS, workers=1)["pool"]
        control.reset_pool(pool, number, key="reset")
        for step in range(STEPS):
            control.step_pool(pool, actions, key=f"step {step}")
        control.delete_pool(pool)
        return
    with closing(vs.make_vec("CartPole-v1", ROWS, url=url, transport=way, workers=1)) as envs:
        envs.reset(seed=number)
        for _ in range(STEPS):
            envs.step(actions)
        control.list_pools()


def soak(
    server: LocalServer, control: ControlClient, seconds: float, between_s: float, rounds: int = 1
) -> Iterator[Sample]:
    """Makes pools for so long, each way so often at least; a sample now and then, the first when each was gone once."""
    began, pools, due, calm = time.monotonic(), 0, 0.0, sys.maxsize
    while (now := time.monotonic() - began) < seconds or pools < rounds * len(WAYS):
        one_pool(server.url, control, WAYS[pools % len(WAYS)], pools)
        pools += 1
        if now >= due and pools >= len(WAYS):
            due = now + between_s
            yield (counted := settled(server.pid, began, pools, calm))
            calm = min(calm, counted.descriptors)


def settled(server: int, began: float, pools: int, calm: int) -> Sample:
    """A sample once the last pool's processes are gone, and its clients' connections, of which ``calm`` are usual."""
    now = time.monotonic()
    while (counted := sample(server, time.monotonic() - began, pools)).children:
        assert time.monotonic() < now + SETTLED_S, f"a pool's processes are left: {counted}"
    while counted.descriptors > calm and time.monotonic() < now + CONNECTIONS_S:
        counted = sample(server, time.monotonic() - began, pools)
    return counted


def second_half(samples: list[Sample]) -> list[Sample]:
    """What is judged: by then every cache is filled and every arena of the heap is there."""
    middle = (samples[0].seconds + samples[-1].seconds) / 2
    return [each for each in samples if each.seconds >= middle]


def slopes(samples: list[Sample]) -> dict[str, Trend]:
    """How fast each figure of the second half rises, an hour; memory in MB."""
    half = second_half(samples)
    seconds = np.array([each.seconds for each in half])
    return {
        name: trend(seconds, np.array([getattr(each, name) / scale for each in half])) for name, _, scale, _ in FIGURES
    }


def tell(say: Say, samples: list[Sample]) -> None:
    """Says how it went, and fails where the server has grown."""
    half, found = second_half(samples), slopes(samples)
    pools = half[-1].pools - half[0].pools
    say(
        f"{samples[-1].pools:,} pools in {samples[-1].seconds / 60:.1f} minutes, over {', '.join(WAYS)} in turn, "
        f"{ROWS} rows and {STEPS} steps each; {len(samples)} samples of the server between pools. Of the second half "
        f"({pools:,} pools):"
    )
    say("")
    say("| | first | last | least | most | slope an hour | 95 % interval |")
    say("|---|---|---|---|---|---|---|")
    for name, title, scale, form in FIGURES:
        values = [getattr(each, name) / scale for each in half]
        slope, low, high = found[name]
        figures = " | ".join(format(value, form) for value in (values[0], values[-1], min(values), max(values)))
        say(f"| {title} | {figures} | {slope:+.2f} | {low:+.2f} to {high:+.2f} |")
    assert found["rss"].slope < MOST_MB_PER_H, "the server's memory grows"
    for name in ("descriptors", "threads", "files"):
        assert len({getattr(each, name) for each in half}) == 1, f"{name} come and go"


@contextmanager
def runtime_directory(name: str) -> Iterator[None]:
    """A directory of this program's own for the server's files, which must be empty at the end."""
    before = os.environ.get(leaks.RUNTIME_DIR)
    path = Path(f"/tmp/vs-{name}-{os.getpid()}")
    path.mkdir(mode=0o700)
    os.environ[leaks.RUNTIME_DIR] = str(path)
    try:
        yield
        path.rmdir()
    finally:
        if before is None:
            del os.environ[leaks.RUNTIME_DIR]
        else:
            os.environ[leaks.RUNTIME_DIR] = before


def run(say: Say, minutes: float, path: Path | None = None) -> None:
    """Soaks a server of its own.

    Args:
        say: Takes the lines of the report.
        minutes: So long.
        path: Where every sample is written, a line of JSON each.
    """
    samples = []
    with runtime_directory("soak"), closing(LocalServer()) as server, ControlClient(server.url) as control:
        for each in soak(server, control, minutes * 60, min(BETWEEN_SAMPLES_S, minutes)):
            samples.append(each)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(asdict(each)) + "\n")
    tell(say, samples)


def main() -> None:
    """Soaks, and says how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--samples", type=Path, help="where every sample is written, a line of JSON each")
    options = parser.parse_args()
    run(print, options.minutes, options.samples)


if __name__ == "__main__":
    main()
