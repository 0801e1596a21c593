"""The long form of the chaos tests: ``make chaos``. Shows and writes a report, and fails where anything was lost.

It needs half an hour, most of it the soak, and is a program and no test so that its figures are those of one run from its
begin to its end.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests import leaks
from tests.chaos import soak
from tests.chaos.driving import behind, drive, network
from tests.chaos.faults import Faults
from tests.chaos.full_disk import endure
from tests.chaos.kills import Say, client_kills, ends_under_load, pool_of_oracles, replay_kills, worker_kills
from tests.chaos.small_disk import server_on_a_small_disk, why_not
from vecserver_client import ControlClient, LocalServer

ROWS = 512
NETWORK = Faults(
    lose=0.01, double=0.01, delay=0.01, repeat_old=0.01, cut=0.002, cut_inside=0.002, half_close=0.001, stall=0.0005
)
CLIENTS = ("tcp", "tcp", "tcp", "tcp", "ipc", "ws", "ws", "asyncio tcp", "asyncio ipc", "asyncio ws")


def exactly_once(say: Say, server: LocalServer, control: ControlClient, steps: int, seed: int) -> None:
    """Drives millions of oracle steps through a bad network."""
    say(f"`{NETWORK}`")
    say("")
    say(
        "| client | oracle steps | batches | s | slowest batch | lost | doubled | late | repeated old | cut | stalled |"
    )
    say("|---|---|---|---|---|---|---|---|---|---|---|")
    batches = -(-steps // len(CLIENTS) // ROWS)
    for number, client in enumerate(CLIENTS):
        began = time.monotonic()
        with pool_of_oracles(control, ROWS) as pool:
            with (
                network(server, pool, client.split()[-1], NETWORK, seed + number) as proxy,
                behind(proxy, server, control, pool, client) as envs,
            ):
                record = drive(envs, batches, seed=number)
            taken = control.get_pool(pool["pool"])["stats"]["batches"]
            assert taken == batches, f"{taken} batches were taken, {batches} were asked for"
        count: Counter[str] = proxy.counts
        cuts = count["cut"] + count["cut_inside"] + count["half_close"]
        say(
            f"| {client} | {batches * ROWS:,} | {batches} | {time.monotonic() - began:.1f} | {max(record.times):.2f} s | "
            f"{count['lose']} | {count['double']} | {count['delay']} | {count['repeat_old']} | {cuts} | {count['stall']} |"
        )
    total = batches * ROWS * len(CLIENTS)
    say("")
    say(f"{total:,} steps: every batch was the oracle's, in its place. 0 lost, 0 doubled, 0 swapped.")


def machine() -> str:
    """What the figures are of."""
    cores = len(os.sched_getaffinity(0))
    return (
        f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}, "
        f"Gymnasium {version('gymnasium')}"
    )


class Report:
    """Lines, shown as they come; what failed is one of them.

    Attributes:
        failed: Parts that did.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.failed: list[str] = []

    def say(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def part(self, title: str, run: Callable[..., None], *arguments: Any) -> None:
        """Add what a part of the tests says."""
        self.say(f"\n## {title}\n")
        try:
            run(self.say, *arguments)
        except Exception as error:  # whatever it is, the other parts and the report go on
            traceback.print_exc()
            self.failed.append(title)
            self.say(f"\n**FAILED**: {type(error).__name__}: {error}")

    def text(self) -> str:
        """All of it."""
        return "\n".join([*self._lines, ""])


def disk_full(say: Say) -> None:
    """Fills the disk of a server that has trainers."""
    if reason := why_not():
        say(f"Left out: this machine gives a server no disk of its own ({reason}).")
        return
    with server_on_a_small_disk(Path(os.environ[leaks.RUNTIME_DIR]) / "disk") as disk:
        endured = endure(disk)
    say(
        f"A server whose files, logs and durable pools lie on a full disk: {endured.steps} batches were stepped, each the "
        f"oracle's, while the environments printed. A durable pool was refused and not there:"
    )
    say(f"\n> {endured.refusal}\n")
    say("With room again it was made, and the log says what it lacks:\n")
    for loss in endured.losses:
        say(f"> {loss}\n")


def nothing_left(say: Say, before: leaks.Snapshot) -> None:
    """Compares what there is with what there was."""
    left = leaks.left_over(before).texts()
    for text in left or ["Nothing: no process, thread, descriptor, shared memory or file."]:
        say(text)
    assert not left, "something is left"


def main() -> None:
    """Runs everything and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000_000, help="oracle steps: rows x batches")
    parser.add_argument("--workers", type=int, default=1000, help="workers to kill")
    parser.add_argument("--kills", type=int, default=200, help="trainers to kill")
    parser.add_argument("--servers", type=int, default=10, help="servers to end under load")
    parser.add_argument("--soak", type=float, default=20.0, metavar="MINUTES", help="0 to leave it out")
    parser.add_argument("--seed", type=int, default=1, help="of the network's faults")
    parser.add_argument("--out", type=Path, default=Path("chaos-report.md"), help="where the report is written")
    options = parser.parse_args()
    report = Report()
    report.say("# Chaos report\n")
    report.say(f"{machine()}; seed {options.seed}.")
    began = time.monotonic()
    with soak.runtime_directory("chaos"):
        before = leaks.Snapshot.take()
        with closing(LocalServer()) as server, ControlClient(server.url) as control:
            report.part("Exactly once", exactly_once, server, control, options.steps, options.seed)
            report.part("Workers", worker_kills, server, control, options.workers)
            report.part("Workers whose rows are rebuilt", replay_kills, server, control, options.workers)
            report.part("Trainers", client_kills, server, control, options.kills)
        report.part("Servers", ends_under_load, options.servers)
        report.part("Disk", disk_full)
        report.part("Left behind", nothing_left, before)
    if options.soak:
        report.part("Soak", soak.run, options.soak)
    report.say(f"\n{time.monotonic() - began:.0f} s in all.")
    options.out.write_text(report.text())
    sys.exit(bool(report.failed))


if __name__ == "__main__":
    main()
