"""The comparisons of the README's table: prints them, and keeps them in ``benchmarks/results``, machine and all."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vecserver.cli.measure.compare import Question, compare
from vecserver.cli.measure.report import COLUMNS, table_rows

if TYPE_CHECKING:
    from vecserver.cli.measure.report import Report

CASES: Final = (("CartPole-v1", 64), ("CartPole-v1", 8), ("Acrobot-v1", 64), ("LunarLander-v3", 64))
"""Cheap steps, in batches that are large and small, then dearer ones; the last needs the extra ``box2d``."""

TRANSPORTS: Final = ("shm", "tcp", "ipc")
RESULTS: Final = Path(__file__).parent / "results"


def markdown(reports: list[Report]) -> str:
    """The reports as one page."""
    machine, versions = reports[0].machine, reports[0].versions
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores (may use {len(machine['affinity'])}), {machine['kernel']}, "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
    ]
    for report in reports:
        lines += [
            "",
            f"## {report.env_id} × {report.num_envs}",
            "",
            f"{report.rounds} rounds of {report.seconds:g} s.",
            "",
        ]
        lines += [_row(COLUMNS), _row([":--", *["--:"] * (len(COLUMNS) - 1)]), *map(_row, table_rows(report))]
    return "\n".join(lines) + "\n"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each subject's turn in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    options = parser.parse_args()
    reports = []
    for env_id, num_envs in CASES:
        print(f"{env_id} × {num_envs}", file=sys.stderr)
        question = Question(
            env_id=env_id,
            num_envs=num_envs,
            transports=TRANSPORTS,
            seconds=options.seconds,
            rounds=options.rounds,
        )
        reports.append(compare(question, progress=lambda text: print(f"  {text}", file=sys.stderr)))
    page = markdown(reports)
    print(page)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now().astimezone():%Y-%m-%d-%H%M%S}"
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps([asdict(report) for report in reports], indent=2), encoding="utf-8")
    print(f"kept in {path}.md and .json", file=sys.stderr)


if __name__ == "__main__":
    main()
