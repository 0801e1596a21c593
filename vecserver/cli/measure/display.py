"""Reports as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vecserver.cli.measure.peers import not_installed
from vecserver.cli.measure.report import table
from vecserver.cli.output import print_pairs, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vecserver.cli.measure.report import Report
    from vecserver.cli.measure.where import WhereTimeGoes

__all__ = ["facts", "print_report", "where_columns", "where_rows"]


def print_report(report: Report) -> None:
    """Print a report's tables, and below them what was measured on."""
    pace = "" if report.rate is None else f", {report.rate:g} steps/s due"
    typer.echo(f"\n{report.env_id} × {report.num_envs}, {report.rounds} rounds of {report.seconds:g} s{pace}\n")
    print_table(*table(report), empty="")
    if report.where:
        typer.echo("\nwhere a batch's time goes, in µs and per cent\n")
        print_table(where_columns(report.where), where_rows(report.where), empty="")
    typer.echo()
    print_pairs(facts(report))


def where_columns(where: list[WhereTimeGoes]) -> tuple[str, ...]:
    """The headings of ``where_rows``."""
    return ("part", *(one.subject for one in where), "found")


def where_rows(where: list[WhereTimeGoes]) -> Iterator[tuple[str, ...]]:
    """A line a part, the whole batch below, and how many batches could not be taken apart, if any."""
    for parts in zip(*(one.parts for one in where), strict=True):
        yield parts[0].name, *(f"{part.us:8.1f} {part.per_cent:4.0f}%" for part in parts), parts[0].found
    yield "batch", *(f"{one.batch_us:8.1f}  100%" for one in where), "measured"
    if any(one.left_out for one in where):
        yield "left out", *(f"{one.left_out} of {one.batches + one.left_out}" for one in where), "contradictory"


def facts(report: Report) -> dict[str, str]:
    """What was measured, what was not, and on what, by name."""
    machine = report.machine
    affinity = ",".join(map(str, machine["affinity"]))
    pairs = {
        "machine": f"{machine['cpu']}, {machine['cores']} cores, may use {affinity}, load {machine['load_1m']}",
        "kernel": machine["kernel"],
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
        "±": "half the way from the lowest to the highest round",
    }
    if report.rate is not None:
        pairs["±"] = "times count from when a batch was due, not from when it was begun"
    pairs |= {subject.name: subject.setting for subject in report.subjects if subject.setting}
    for pool in report.pools:
        workers = " + ".join(_mib(size) for size in pool.worker_rss_bytes)
        pairs[pool.subject] = (
            f"engine {pool.engine}, workers {pool.workers}, first batch after {pool.first_batch_s:.2f} s, "
            f"arena {pool.arena_bytes >> 10} KiB, resident MiB: host {_mib(pool.host_rss_bytes)}, workers {workers}"
        )
    if report.server_rss_bytes is not None:
        pairs["server"] = f"resident MiB: {_mib(report.server_rss_bytes)}"
    for left_out in report.left_out:
        pairs[left_out.subject] = f"not measured: {left_out.reason}"
    if report.not_installed:
        pairs["not installed"] = not_installed(report.not_installed)
    return pairs


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f}"
