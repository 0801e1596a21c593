"""What a comparison found, as plain values, and as the lines of a table."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from vecserver import __version__
from vecserver.cli.measure.peers import ASYNC

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vecserver.cli.measure.subjects import Sample
    from vecserver.cli.measure.where import WhereTimeGoes

__all__ = [
    "CEILING",
    "LeftOut",
    "Measured",
    "PoolFacts",
    "Report",
    "SubjectReport",
    "machine_facts",
    "resident_bytes",
    "subject_reports",
    "table",
    "versions",
]

CEILING: Final = "ceiling"

_COLUMNS: Final = ("subject", "steps/s", "±", "p50 ms", "p90", "p99", "ceiling", "±", "×Async", "±")
_COLUMNS_AT_A_RATE: Final = ("subject", "steps/s", "batches", "kept", "p50 ms", "p90", "p99", "max")

_KEPT: Final = 0.99
"""Part of the batches that were due which must have been begun in time for a rate that was kept."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a subject is.

    Attributes:
        setting: How it was made; empty for pools, of which ``PoolFacts`` says more.
    """

    kind: Literal["ceiling", "peer", "pool"]
    setting: str = ""


@dataclass(frozen=True, slots=True)
class SubjectReport:
    """One subject over all rounds.

    Attributes:
        name: The subject.
        kind: ``ceiling``, ``peer`` or ``pool``.
        setting: How a peer was made.
        rates: Environment steps a second, a round each; the three figures after it are theirs.
        p50_ms: Milliseconds of a batch, median over all rounds; None for the ceiling, which steps none. At a fixed rate
            they count from when the batch was due; None where the rate was not kept: they would say how long the round
            was. The three after it likewise.
        of_ceiling: Median of each round's ratio to the ceiling; None at a fixed rate.
        of_async: Likewise to ``AsyncVectorEnv``; None where it was left out.
        of_ceiling_rounds: The lowest and the highest of these ratios.
        of_async_rounds: Likewise.
        due: Batches that were due, at a fixed rate.
        begun: Those of them that were begun before their round was over.
        kept: Whether the rate was kept.
    """

    name: str
    kind: str
    setting: str
    rates: list[float]
    median: float
    lowest: float
    highest: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    of_ceiling: float | None
    of_ceiling_rounds: tuple[float, float] | None
    of_async: float | None
    of_async_rounds: tuple[float, float] | None
    due: int | None
    begun: int | None
    kept: bool | None


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool that was measured, and the resident memory of its processes after the last round.

    Attributes:
        creation_s: Seconds that the server took to make it.
        first_batch_s: Seconds from the call of ``make_vec``, the server running, to the return of the first step: its
            creation, the attachment, the reset and the step; of a split pool the first step of all parts.
    """

    subject: str
    transport: str
    engine: str
    workers: int
    creation_s: float
    first_batch_s: float
    arena_bytes: int
    host_rss_bytes: int
    worker_rss_bytes: list[int]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A subject that was not measured, and why."""

    subject: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A comparison.

    Attributes:
        seconds: Of each subject's turn in a round.
        rate: Environment steps a second that were due; None where each batch began when the one before it was there.
        subjects: The ceiling first.
        where: Where a batch's time goes, a pool each, if that was asked.
        left_out: What was to be measured and was not.
        not_installed: Peers, by the names of ``--peer``.
        server_rss_bytes: Resident memory of the private server; None for one that ran before.
    """

    env_id: str
    num_envs: int
    seconds: float
    rounds: int
    rate: float | None = None
    ceiling_processes: int
    subjects: list[SubjectReport]
    pools: list[PoolFacts]
    where: list[WhereTimeGoes] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    not_installed: list[str] = field(default_factory=list)
    server_rss_bytes: int | None
    machine: dict[str, Any]
    versions: dict[str, str]


def subject_reports(samples: Mapping[str, Sequence[Sample]], measured: Mapping[str, Measured]) -> list[SubjectReport]:
    """Sum up the rounds.

    Args:
        samples: Subject → its sample of each round.
        measured: Subject → what it is.
    """
    rates = {name: [sample.steps_per_s for sample in each] for name, each in samples.items()}
    return [_subject_report(name, samples[name], rates, measured[name]) for name in samples]


def _subject_report(
    name: str, samples: Sequence[Sample], rates: Mapping[str, list[float]], measured: Measured
) -> SubjectReport:
    own = rates[name]
    batch_ns = [nanoseconds for sample in samples for nanoseconds in sample.batch_ns]
    at_a_rate = samples[0].due is not None
    due, begun = sum(sample.due or 0 for sample in samples), sum(sample.begun or 0 for sample in samples)
    kept = begun >= _KEPT * due if at_a_rate else None
    times: list[float | None] = [None] * 4
    if batch_ns and kept is not False:
        times = [float(ns) / 1e6 for ns in np.percentile(batch_ns, [50, 90, 99, 100])]
    of_ceiling = _ratios(own, None if at_a_rate else rates.get(CEILING))
    of_async = _ratios(own, None if at_a_rate else rates.get(ASYNC))
    return SubjectReport(
        name=name,
        kind=measured.kind,
        setting=measured.setting,
        rates=own,
        median=statistics.median(own),
        lowest=min(own),
        highest=max(own),
        p50_ms=times[0],
        p90_ms=times[1],
        p99_ms=times[2],
        max_ms=times[3],
        of_ceiling=statistics.median(of_ceiling) if of_ceiling else None,
        of_ceiling_rounds=(min(of_ceiling), max(of_ceiling)) if of_ceiling else None,
        of_async=statistics.median(of_async) if of_async else None,
        of_async_rounds=(min(of_async), max(of_async)) if of_async else None,
        due=due if at_a_rate else None,
        begun=begun if at_a_rate else None,
        kept=kept,
    )


def _ratios(own: Sequence[float], other: Sequence[float] | None) -> list[float]:
    """Each round's; none where there is nothing to compare with, or a round in which that made no step."""
    return [] if other is None else [a / b for a, b in zip(own, other, strict=True) if b]


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """The subjects as headings and lines; figures are padded to stand under figures.

    ± is half the way from the lowest to the highest round, of rates in per cent.
    """
    headings, row = (_COLUMNS, _row) if report.rate is None else (_COLUMNS_AT_A_RATE, _row_at_a_rate)
    lines = [headings, *((subject.name, *row(subject)) for subject in report.subjects)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[name, *map(str.rjust, figures, widths[1:])] for name, *figures in lines]
    return padded[0], padded[1:]


def _row(subject: SubjectReport) -> tuple[str, ...]:
    return (
        f"{subject.median:,.0f}",
        f"{50 * (subject.highest - subject.lowest) / subject.median:.0f}%" if subject.median else "–",
        *(_figure(value, 2) for value in (subject.p50_ms, subject.p90_ms, subject.p99_ms)),
        _figure(subject.of_ceiling, 3),
        _half(subject.of_ceiling_rounds, 2),
        _figure(subject.of_async, 1),
        _half(subject.of_async_rounds, 1),
    )


def _row_at_a_rate(subject: SubjectReport) -> tuple[str, ...]:
    return (
        f"{subject.median:,.0f}",
        f"{subject.begun} of {subject.due}",
        "yes" if subject.kept else "no",
        *(_figure(value, 2) for value in (subject.p50_ms, subject.p90_ms, subject.p99_ms, subject.max_ms)),
    )


def _half(ends: tuple[float, float] | None, digits: int) -> str:
    return _figure(ends and (ends[1] - ends[0]) / 2, digits)


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def machine_facts() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_1m": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()  # arm64 kernels name no model


def versions() -> dict[str, str]:
    """What was measured."""
    installed = {name: version(name) for name in ("gymnasium", "numpy", "pyzmq")}
    return {"vecserver": __version__, "python": platform.python_version(), **installed}


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
