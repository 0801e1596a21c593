"""What a comparison found, as plain values, and as the lines of a table."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vecserver import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vecserver.cli.measure.subjects import Sample

__all__ = [
    "ASYNC",
    "CEILING",
    "COLUMNS",
    "PoolFacts",
    "Report",
    "SubjectReport",
    "machine_facts",
    "resident_bytes",
    "subject_reports",
    "table_rows",
    "versions",
]

CEILING: Final = "ceiling"
ASYNC: Final = "AsyncVectorEnv"

COLUMNS: Final = ("subject", "steps/s", "min", "max", "p50 ms", "p99 ms", "of ceiling", "× Async")


@dataclass(frozen=True, slots=True)
class SubjectReport:
    """One subject over all rounds.

    Attributes:
        name: The subject.
        rates: Environment steps a second, a round each; the three figures after it are theirs.
        p50_ms: Milliseconds of a batch, median over all rounds; None for the ceiling, which steps none.
        of_ceiling: Median of each round's ratio to the ceiling.
        of_async: Likewise to ``AsyncVectorEnv``; None where it was left out.
        first_batch_s: Seconds from nothing to the first batch.
    """

    name: str
    rates: list[float]
    median: float
    lowest: float
    highest: float
    p50_ms: float | None
    p99_ms: float | None
    of_ceiling: float
    of_async: float | None
    first_batch_s: float


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool that was measured, and the resident memory of its processes after the last round."""

    subject: str
    engine: str
    workers: int
    creation_s: float
    arena_bytes: int
    host_rss_bytes: int
    worker_rss_bytes: list[int]


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison.

    Attributes:
        seconds: Of each subject's turn in a round.
        subjects: The ceiling first.
        server_rss_bytes: Resident memory of the private server; None for one that ran before.
    """

    env_id: str
    num_envs: int
    seconds: float
    rounds: int
    ceiling_processes: int
    subjects: list[SubjectReport]
    pools: list[PoolFacts]
    server_rss_bytes: int | None
    machine: dict[str, Any]
    versions: dict[str, str]


def subject_reports(samples: Mapping[str, Sequence[Sample]], first_batch_s: Mapping[str, float]) -> list[SubjectReport]:
    """Sum up the rounds.

    Args:
        samples: Subject → its sample of each round; the ceiling is among them.
        first_batch_s: Subject → seconds from nothing to the first batch.
    """
    rates = {name: [sample.steps_per_s for sample in each] for name, each in samples.items()}
    return [_subject_report(name, samples[name], rates, first_batch_s[name]) for name in samples]


def _subject_report(
    name: str, samples: Sequence[Sample], rates: Mapping[str, list[float]], first_batch_s: float
) -> SubjectReport:
    own = rates[name]
    batch_ns = [nanoseconds for sample in samples for nanoseconds in sample.batch_ns]
    p50, p99 = (float(ns) / 1e6 for ns in np.percentile(batch_ns, [50, 99])) if batch_ns else (None, None)
    return SubjectReport(
        name=name,
        rates=own,
        median=statistics.median(own),
        lowest=min(own),
        highest=max(own),
        p50_ms=p50,
        p99_ms=p99,
        of_ceiling=_median_ratio(own, rates[CEILING]),
        of_async=_median_ratio(own, rates[ASYNC]) if ASYNC in rates else None,
        first_batch_s=first_batch_s,
    )


def _median_ratio(own: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, other, strict=True))


def table_rows(report: Report) -> list[tuple[str, ...]]:
    """The subjects as texts under ``COLUMNS``; figures are padded to stand under figures."""
    rows = [
        (
            subject.name,
            *(f"{rate:,.0f}" for rate in (subject.median, subject.lowest, subject.highest)),
            *(_figure(value, 3) for value in (subject.p50_ms, subject.p99_ms, subject.of_ceiling)),
            _figure(subject.of_async, 1),
        )
        for subject in report.subjects
    ]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    return [(name, *map(str.rjust, figures, widths[1:])) for name, *figures in rows]


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
