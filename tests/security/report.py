"""The long form of the security tests: ``make security``. Shows and writes a report, and fails where a limit is passed.

Its parts can be run one by one, as options say, and each writes its own section.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from tests import leaks
from tests.pools.registries import open_registry
from tests.security import floods, live
from tests.security.decoders import decoders, tried
from vecserver_client import ControlClient, LocalServer

GROWTH = 10 << 20
"""Bytes that a host may have grown by after a million mutated messages."""
HELD = 256 << 20
"""Bytes that unfinished messages of all peers of a pool may take, and those of HTTP."""
KEPT = 0.9
"""Of its rate an honest driver on another pool keeps so much."""


def hosts(options: argparse.Namespace) -> list[str]:
    """A million mutated messages against live hosts."""
    with open_registry() as registry:
        outcome = live.run(registry, options.messages, options.seed, say)
    lines = [
        f"{outcome.sent:,} mutated messages in {outcome.seconds:.0f} s; no host ended or was silent.",
        f"{outcome.batches:,} batches of an honest driver beside them were right to the bit.",
        "",
        "| pool | host grew by | what became of the messages |",
        "|---|---|---|",
    ]
    for name, counts in outcome.outcomes.items():
        common = ", ".join(f"{what} {count:,}" for what, count in counts.most_common(12))
        lines.append(f"| {name} | {outcome.growth[name] / 2**20:.1f} MiB | {common} |")
    assert max(outcome.growth.values()) < GROWTH, outcome.growth
    return lines


def inputs(options: argparse.Namespace) -> list[str]:
    """Changed inputs for every decoder."""
    lines = ["| decoder | inputs | taken | refused |", "|---|---|---|---|"]
    for decoder in decoders():
        rng = random.Random(f"{options.seed} {decoder.name}")
        counts: Counter[str] = Counter()
        for number in range(options.inputs):
            counts[tried(decoder, rng, measured=number % 8 == 0)] += 1
        lines.append(
            f"| {decoder.name} | {options.inputs:,} | {counts['taken']:,} | {options.inputs - counts['taken']:,} |"
        )
        say(lines[-1])
    return lines


def http(options: argparse.Namespace) -> list[str]:
    """The OpenAPI document against a server that runs."""
    from tests.security.http_contract import examine, of_server

    with closing(LocalServer()) as server:
        token = getattr(server, "token", None)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        schema = of_server(server.url, headers)
        found = examine(schema, options.requests, headers, seed=options.seed)
    for failure, count in found.failures.most_common():
        say(f"{count} × {failure}")
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(found.statuses.items()))
    assert not found.failures, f"{len(found.failures)} failures"
    return [f"{found.requests:,} requests, every check of schemathesis on: no failure. Statuses: {statuses}."]


def flooded(options: argparse.Namespace) -> list[str]:
    """An honest driver's rate beside each flood."""
    lines = [
        "| flood | connections or requests | the driver's rate | middle half | memory grew by |",
        "|---|---|---|---|---|",
    ]
    slow = []
    with closing(LocalServer()) as server, ControlClient(server.url) as control:
        for name in floods.FLOODS:
            got = floods.flooded_rate(name, server, control, pairs=options.pairs, seconds=options.seconds)
            low, high = got.middle
            lines.append(
                f"| {name} | {got.count:,} | {got.kept:.2f} | {low:.2f} to {high:.2f} | {got.growth / 2**20:.1f} MiB |"
            )
            say(lines[-1])
            assert got.growth < HELD, f"{name}: {got.growth} bytes"
            if got.kept < KEPT:
                slow.append(f"{name}: {got.kept:.2f}")
    assert not slow, slow
    return lines


PARTS: dict[str, tuple[str, Callable[[argparse.Namespace], list[str]]]] = {
    "hosts": ("Mutated messages", hosts),
    "inputs": ("Decoders", inputs),
    "http": ("The HTTP interface", http),
    "floods": ("Floods", flooded),
}


def say(line: str) -> None:
    """Show a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the parts and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="a part to run; all where none is named")
    parser.add_argument("--messages", type=int, default=1_000_000, help="mutated messages to live hosts")
    parser.add_argument("--inputs", type=int, default=5_000, help="changed inputs for each decoder")
    parser.add_argument(
        "--requests", type=int, default=50, help="right and wrong requests each for each HTTP operation"
    )
    parser.add_argument(
        "--pairs", type=int, default=15, help="times that a driver is measured with and without a flood"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of these measurements")
    parser.add_argument("--seed", type=int, default=1, help="of all choices")
    parser.add_argument("--out", type=Path, default=Path("security-report.md"), help="where the report is written")
    options = parser.parse_args()
    os.environ[leaks.RUNTIME_DIR] = f"/tmp/vs-security-{os.getpid()}"
    Path(os.environ[leaks.RUNTIME_DIR]).mkdir(mode=0o700)
    began, failed = time.monotonic(), []
    text = ["# Security report", ""]
    for part in options.part or PARTS:
        title, run = PARTS[part]
        say(f"## {title}")
        try:
            lines = run(options)
        except AssertionError as error:
            lines = [f"FAILED: {error}"]
            failed.append(part)
        text += [f"## {title}", "", *lines, ""]
    Path(os.environ[leaks.RUNTIME_DIR]).rmdir()
    machine = (
        f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}, gymnasium {version('gymnasium')}, {time.monotonic() - began:.0f} s in all, seed "
        f"{options.seed}."
    )
    text[2:2] = [machine, ""]
    options.out.write_text("\n".join(text))
    say(options.out.read_text())
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
