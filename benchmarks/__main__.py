"""``python -m benchmarks [all | waiting | idle | row]``: the README's comparisons, and what lies below them.

``all`` keeps what it finds in ``benchmarks/results``, in files named by the number of cores: a run on a machine of
another size stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import idle, waiting
from benchmarks.cases import CASES, reached
from benchmarks.row_overhead import row_overhead_us
from vecserver.cli.measure.display import where_columns, where_rows
from vecserver.cli.measure.matrix import as_json, compare_all
from vecserver.cli.measure.peers import PACKAGES, chosen_peers, not_installed, parse_interpreters
from vecserver.cli.measure.question import Question
from vecserver.cli.measure.report import Report, table
from vecserver.wire.errors import VecServerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.cases import Reached
    from vecserver.cli.measure.matrix import CannotRun

RESULTS: Final = Path(__file__).parent / "results"


def markdown(results: Sequence[Report | CannotRun], aims: Sequence[Reached] = ()) -> list[str]:
    """Comparisons as a page: what was aimed at first, then each of them."""
    lines = []
    if aims:
        lines += ["", "## Aims", "", _row(["case", "transport", "beside", "aim", "median", "rounds", ""])]
        lines += [_row([":--", ":--", ":--", "--:", "--:", "--:", ":--"]), *map(_aim, aims)]
    for result in results:
        lines += ["", f"## {result.env_id} × {result.num_envs}", ""]
        lines += _report(result) if isinstance(result, Report) else [f"Not measured: {result.message}"]
    return lines


def _aim(aim: Reached) -> str:
    figures = ["–", "–", "not measured"]
    if aim.median is not None:
        met = "reached" if aim.met else "not reached"
        figures = [f"{aim.median:.2f}", f"{aim.lowest:.2f} to {aim.highest:.2f}", met]
    return _row([aim.case, aim.transport, aim.beside, f"{aim.aim:g}", *figures])


def _report(report: Report) -> list[str]:
    headings, rows = table(report)
    lines = [f"{report.rounds} rounds of {report.seconds:g} s, load {report.machine['load_1m']} before.", ""]
    lines += [_row(headings), _row([":--", *["--:"] * (len(headings) - 1)]), *map(_row, rows)]
    if report.where:
        lines += ["", "Where a batch's time goes, in µs and per cent:", "", _row(where_columns(report.where))]
        lines += [_row([":--", *["--:"] * len(report.where), ":--"]), *map(_row, where_rows(report.where))]
    lines += [""] + [f"* {subject.name}: {subject.setting}" for subject in report.subjects if subject.setting]
    lines += [f"* {pool.subject}: engine {pool.engine}, {pool.workers} workers" for pool in report.pools]
    lines += [f"* {left_out.subject}: not measured: {left_out.reason}" for left_out in report.left_out]
    return lines


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine(report: Report) -> str:
    machine = report.machine
    return ", ".join(
        [
            machine["cpu"],
            f"{machine['cores']} cores (may use {len(machine['affinity'])})",
            machine["kernel"],
            *(f"{name} {number}" for name, number in report.versions.items()),
        ]
    )


def _compare(options: argparse.Namespace) -> tuple[list[Report | CannotRun], list[Reached], list[str]]:
    chosen = chosen_peers(parse_interpreters(options.peer), native=True)
    results: list[Report | CannotRun] = []
    aims: list[Reached] = []
    questions = [
        Question(
            env_id=case.env_id,
            num_envs=case.num_envs,
            transports=case.transports,
            parts=case.parts,
            engines=(case.engine,),
            seconds=options.seconds,
            rounds=options.rounds,
            where=case.where,
            peers={
                name: python
                for name, python in chosen.interpreters.items()
                if name in case.peers or (case.every_peer and name in PACKAGES)
            },
        )
        for case in CASES
    ]
    for case, result in zip(CASES, compare_all(questions, _say), strict=True):
        results.append(result)
        aims += reached(case, result if isinstance(result, Report) else None)
    return results, aims, chosen.missing


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr)


def _all(options: argparse.Namespace) -> None:
    # first: a process is copied for each of its figures, which must have no threads yet
    found: dict[str, Any] = {"wakes": waiting.wakes(), "costs": waiting.costs()}
    row_us = row_overhead_us()
    at_rest = [idle.idle(case, options.idle_seconds) for case in idle.CASES]
    results, aims, missing = _compare(options)
    page = markdown(results, aims)
    if missing:
        page += ["", f"Not installed: {not_installed(missing)}"]
    page += ["", "## A row in the worker's loop", "", f"CartPole-v1: {row_us:.2f} µs beyond its environment."]
    page += ["", "## Pools that nobody steps", "", *idle.markdown(at_rest)]
    page += ["", "## Waiting and waking", "", *waiting.markdown(found["wakes"], found["costs"])]
    measured = next((_machine(result) for result in results if isinstance(result, Report)), "")
    text = "\n".join(["# What `make bench` measured", "", measured, *page]) + "\n"
    values = {
        "comparisons": as_json(results),
        "aims": [asdict(aim) for aim in aims],
        "not_installed": missing,
        "row_overhead_us": row_us,
        "idle": [asdict(one) for one in at_rest],
        **{name: [asdict(one) for one in each] for name, each in found.items()},
    }
    print(text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{len(os.sched_getaffinity(0))}-cores"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _say(f"kept in {path}.md and .json")


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "waiting", "idle", "row"), default="all")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each subject's turn in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--idle-seconds", type=float, default=3.0, help="how long an idle pool is looked at")
    parser.add_argument("--peer", action="append", default=[], help="NAME=PYTHON, as for `vecserver bench`")
    options = parser.parse_args()
    if options.what == "waiting":
        print("\n".join(waiting.markdown(waiting.wakes(), waiting.costs())))
    elif options.what == "idle":
        print("\n".join(idle.markdown([idle.idle(case, options.idle_seconds) for case in idle.CASES])))
    elif options.what == "row":
        print(f"CartPole-v1: {row_overhead_us():.2f} µs a row beyond its environment")
    else:
        _all(options)


if __name__ == "__main__":
    try:
        main()
    except VecServerError as error:
        sys.exit(f"error [{error.code}]: {error.message}")
