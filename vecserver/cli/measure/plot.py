"""Rates as a picture: over the rows, and over the workers. Needs the extra ``plot``."""

from __future__ import annotations

import os
from collections import defaultdict
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

from vecserver.cli.measure.peers import ASYNC
from vecserver.cli.measure.report import CEILING
from vecserver.wire.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vecserver.cli.measure.report import Report, SubjectReport

__all__ = ["check_can_plot", "draw"]

_FORMATS: Final = (".png", ".svg", ".pdf")
_WIDTH, _HEIGHT, _DPI = 7.0, 4.0, 130
_STYLES: Final = {CEILING: ("black", "--"), ASYNC: ("firebrick", ":")}
_PEER_STYLE: Final = ("0.6", ":")
_MARKERS: Final = "osD^vPX*"
_COLORS: Final = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")

_Lines = dict[str, list[tuple[int, "SubjectReport"]]]


def check_can_plot(path: Path) -> None:
    """Before anything is measured: whether the picture can be drawn in the end.

    Raises:
        LocalError: Matplotlib is not installed, knows no such format, or the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise LocalError("--plot needs Matplotlib: pip install 'vecserver[plot]'")
    if not path.parent.is_dir():
        raise LocalError(f"--plot {path}: there is no folder {path.parent}")
    if path.suffix.lower() not in _FORMATS:
        raise LocalError(f"--plot {path}: a picture's name ends in {', '.join(_FORMATS)}")
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        raise LocalError(f"--plot {path}: it cannot be written")


def draw(reports: Sequence[Report], path: Path) -> None:
    """Draw a picture of comparisons; an environment each has a line of panels.

    Args:
        reports: With rows or workers that differ.
        path: The file; its ending says which format.
    """
    import_module("matplotlib").use("Agg")  # draws into files, and needs no screen
    pyplot = import_module("matplotlib.pyplot")
    by_env: dict[str, list[Report]] = defaultdict(list)
    for report in sorted(reports, key=lambda report: report.num_envs):
        by_env[report.env_id].append(report)
    over_workers = any(len(_worker_counts(report)) > 1 for report in reports)
    panels = 2 if over_workers else 1
    figure, axes = pyplot.subplots(
        len(by_env), panels, squeeze=False, figsize=(_WIDTH * panels, _HEIGHT * len(by_env)), layout="constrained"
    )
    for row, (env_id, each) in zip(axes, by_env.items(), strict=True):
        _panel(row[0], _over_rows(each), f"{env_id}, over rows", "rows")
        if over_workers:
            largest = each[-1]
            _panel(row[1], _over_workers(largest), f"{env_id} × {largest.num_envs}, over workers", "workers")
    figure.savefig(path, dpi=_DPI)
    pyplot.close(figure)


def _worker_counts(report: Report) -> list[int]:
    return sorted({pool.workers for pool in report.pools})


def _over_rows(reports: Sequence[Report]) -> _Lines:
    lines: _Lines = defaultdict(list)
    for report in reports:
        for subject in report.subjects:
            lines[subject.name].append((report.num_envs, subject))
    return lines


def _over_workers(report: Report) -> _Lines:
    """Pools that were asked for in the same way but for their workers are one line; what has none is level.

    One whose workers or engine were left to be chosen is a line of its own: it may have as many as one of the others.
    """
    subjects = {subject.name: subject for subject in report.subjects}
    counts = _worker_counts(report)
    lines: _Lines = defaultdict(list)
    for subject in report.subjects:
        if subject.name in _STYLES:
            lines[subject.name] = [(count, subject) for count in (counts[0], counts[-1])]
    for pool in sorted(report.pools, key=lambda pool: pool.workers):
        lines[_but_for_workers(pool.subject)].append((pool.workers, subjects[pool.subject]))
    return lines


def _but_for_workers(subject: str) -> str:
    return " ".join(word for word in subject.split() if not (word[0] == "w" and word[1:].isdecimal()))


def _panel(axes: Any, lines: _Lines, title: str, axis: str) -> None:
    markers, colors = cycle(_MARKERS), cycle(_COLORS)
    for name, points in lines.items():
        at = [x for x, _ in points]
        rates = [subject.median for _, subject in points]
        kind = points[0][1].kind
        if kind == "pool":
            color, style = next(colors), "-"
            lowest, highest = zip(*((subject.lowest, subject.highest) for _, subject in points), strict=True)
            axes.fill_between(at, lowest, highest, color=color, alpha=0.15, linewidth=0)
        else:
            color, style = _STYLES.get(name, _PEER_STYLE)
        axes.plot(at, rates, marker=next(markers), markersize=5, color=color, linestyle=style, label=name)
    ticks = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g} k")
    axes.set(title=title, xlabel=axis, ylabel="environment steps a second")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
