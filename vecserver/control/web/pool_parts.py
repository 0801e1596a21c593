"""The parts of a pool's page. Each is built once and then shows a history again and again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from nicegui import ui

from vecserver.control.web.charts import Points, chart_options, chart_series, with_gaps
from vecserver.control.web.mount import prefix_of
from vecserver.control.web.shell import code
from vecserver.control.web.wording import NOTHING, ago_text, number_text, restarts_text, seconds_text
from vecserver.pools.pictures import RENDER_MODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import Request

    from vecserver.control.web.history import History
    from vecserver.pools.results import PoolView

__all__ = ["Charts", "Events", "Figures", "Wall", "Workers", "how_to_see", "options_of"]

_ROWS_A_WALL: Final = 12
"""Rows that are shown together: one at a time is rendered again, when it is its turn."""

_CHART_LOOKS: Final = 2
"""A chart is drawn at every second look: to draw is the dearest thing that the browser does here."""

_NOT_RESET: Final = "There is nothing to see before the first reset."
_NO_FRAME: Final = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""A transparent pixel."""

_EVENTS_SHOWN: Final = 12
_MEBI: Final = 1 << 20


class Figures:
    """The numbers at the top."""

    _NAMES: Final = (
        "Env steps/s",
        "Batches/s",
        "Batch, p50",
        "Batch, p99",
        "Return",
        "Length",
        "Episodes",
        "Restarts",
    )

    def __init__(self) -> None:
        with ui.element("dl").classes("vs-tiles"):
            self._values = {name: self._tile(name) for name in self._NAMES}
        self._driver = ui.label().classes("vs-muted vs-driver")

    @staticmethod
    def _tile(name: str) -> ui.label:
        with ui.element("div").classes("vs-tile"):
            with ui.element("dt"):
                ui.label(name)
            with ui.element("dd"):
                return ui.label(NOTHING)

    def show(self, history: History) -> None:
        """Write the newest."""
        stats, last = history.view.stats, history.last
        texts = (
            number_text(last.env_steps if last else None),
            number_text(last.batches if last else None),
            seconds_text(last.latency_s if last else None),
            seconds_text(last.slow_s if last else None),
            number_text(history.mean_return),
            number_text(history.mean_length),
            number_text(stats.episodes if stats else None),
            restarts_text(history.view),
        )
        for label, text in zip(self._values.values(), texts, strict=True):
            label.set_text(text)
        self._driver.set_text(_driver_text(history.view))


def _driver_text(view: PoolView) -> str:
    stats = view.stats
    if stats is None:
        return "Its host does not answer."
    if not stats.driver:
        return "Nobody drives it."
    how = "in shared memory" if stats.lent else f"last heard of {ago_text(stats.idle_s)} ago"
    return f"Driven by {stats.driver}, {how}."


class Wall:
    """Frames of some rows. The browser asks for them one by one; see ``page.js`` and ``control/frames.py``."""

    def __init__(self, request: Request, view: PoolView) -> None:
        self._view = view
        self._first = 0
        address = f"{prefix_of(request)}/v1/pools/{quote(view.pool)}/frame"
        self._note = ui.label(_NOT_RESET).classes("vs-wall-note vs-muted").props('role="status"')
        ui.label().classes("vs-wall-error vs-muted").props('role="status"')  # written by page.js
        self._wall = ui.element("div").classes("vs-wall").props(f'data-frames="{address}" data-ready=no')
        self._fill()
        if view.info.num_envs > _ROWS_A_WALL:
            pages = -(-view.info.num_envs // _ROWS_A_WALL)
            ui.pagination(1, pages, direction_links=True, on_change=lambda event: self._turn(event.value)).props(
                'max-pages=5 aria-label="Which rows"'
            )
        ui.context.client.on_connect(lambda: ui.run_javascript(f'vecserver.wall("{self._wall.html_id}")'))

    def _turn(self, page: int) -> None:
        self._first = (page - 1) * _ROWS_A_WALL
        self._wall.clear()
        self._fill()

    def _fill(self) -> None:
        rows = range(self._first, min(self._first + _ROWS_A_WALL, self._view.info.num_envs))
        with self._wall:
            for row in rows:
                with ui.element("figure").props(f"data-row={row}"):
                    ui.element("img").props(f'alt="Row {row} of {self._view.pool}" src="{_NO_FRAME}"')
                    with ui.element("figcaption"):
                        ui.label(f"row {row}")

    def show(self, history: History) -> None:
        """Say whether there is anything to see; the browser asks for the frames itself."""
        stats = history.view.stats
        if stats is None or stats.state != "ready":
            self.rest("")
        elif not stats.resets:
            self.rest(_NOT_RESET)
        else:
            self._tell("yes", "")

    def rest(self, why: str) -> None:
        """Have the browser ask for no frames, and say why."""
        self._tell("no", why)

    def _tell(self, ready: str, note: str) -> None:
        self._note.set_text(note)
        if self._wall.props["data-ready"] != ready:
            self._wall.props["data-ready"] = ready
            self._wall.update()


def how_to_see(view: PoolView) -> None:
    """In the place of the wall of a pool that was made without a render mode."""
    ui.label(
        f"This pool was made with render mode {view.info.render_mode!r}, so its rows cannot be seen. Make it with:"
    )
    code(f"vs.make_vec({view.info.env_id!r}, num_envs={view.info.num_envs}, render_mode={RENDER_MODE!r})")


class Charts:
    """Lines over the last minutes."""

    _KINDS: Final = (
        ("Env steps a second", ("env steps/s",), ()),
        ("Batch, milliseconds", ("p50", "p99"), ()),
        ("Return of episodes", ("mean", "an episode"), ("an episode",)),
        ("Length of episodes, steps", ("mean", "an episode"), ("an episode",)),
    )

    def __init__(self) -> None:
        self._looks = 0
        self._charts: list[ui.echart] = []
        with ui.element("div").classes("vs-charts"):
            for title, names, dots in self._KINDS:
                with ui.element("div").classes("vs-chart"):
                    ui.label(title).classes("vs-chart-title")
                    self._charts.append(ui.echart(chart_options(title, names, dots=dots)))

    def show(self, history: History) -> None:
        """Draw what there is."""
        self._looks += 1
        if self._looks % _CHART_LOOKS != 1 or not (history.samples or history.episodes):
            return
        now = history.seen
        for chart, points in zip(self._charts, _points(history, now), strict=True):
            series = [chart_series(each) for each in points]
            for drawn, data in zip(chart.options["series"], series, strict=True):
                drawn["data"] = data
            first = min((each[0][0] or 0.0 for each in series if each), default=-60.0)
            chart.options["xAxis"]["min"] = min(-60, first)


def _points(history: History, now: float) -> list[list[Points]]:
    samples, episodes = history.samples, history.episodes

    def over(values: Sequence[float | None]) -> Points:
        return with_gaps([(each.at - now, value) for each, value in zip(samples, values, strict=True)])

    def known(values: Sequence[float | None]) -> Points:
        return [point for point in over(values) if point[1] is not None]

    def milli(seconds: float | None) -> float | None:
        return None if seconds is None else 1000 * seconds

    return [
        [over([each.env_steps for each in samples])],
        [over([milli(each.latency_s) for each in samples]), over([milli(each.slow_s) for each in samples])],
        [
            known([each.mean_return for each in samples]),
            [(each.at - now, each.gain) for each in episodes if each.gain is not None],
        ],
        [known([each.mean_length for each in samples]), [(each.at - now, each.length) for each in episodes]],
    ]


class Workers:
    """Which worker keeps the others waiting."""

    _HEAD: Final = ("rows", "a batch", "was last", "memory", "pid")

    def __init__(self) -> None:
        self._table = ui.html("", sanitize=False)

    def show(self, history: History) -> None:
        """Write the newest."""
        slowest = max((each.batch_s for each in history.workers if each.batch_s is not None), default=None)
        lines = []
        for each in history.workers:
            first, last = each.rows
            share = NOTHING if each.last is None else f"{100 * each.last:.0f} %"
            cells = (
                str(first) if first == last else f"{first}–{last}",
                seconds_text(each.batch_s),
                share,
                f"{each.rss_bytes / _MEBI:.0f} MiB",
                str(each.pid),
            )
            is_slowest = slowest is not None and each.batch_s == slowest and len(history.workers) > 1
            lines.append(_line(cells, "vs-slowest" if is_slowest else ""))
        head = "".join(f"<th scope=col>{name}</th>" for name in self._HEAD)
        self._table.set_content(
            f"<table class=vs-table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        )


def _line(cells: Sequence[str], css: str) -> str:
    return f'<tr class="{css}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


class Events:
    """What happened, newest first."""

    def __init__(self) -> None:
        with ui.element("ol").classes("vs-events"):
            self._lines = [self._line() for _ in range(_EVENTS_SHOWN)]

    @staticmethod
    def _line() -> tuple[ui.element, ui.label, ui.label]:
        with ui.element("li") as line:
            return line, ui.label().classes("vs-muted vs-when"), ui.label()

    def show(self, history: History) -> None:
        """Write the newest."""
        for i, (line, when, text) in enumerate(self._lines):
            line.set_visibility(i < len(history.events))
            if i < len(history.events):
                event = history.events[i]
                when.set_text(f"{ago_text(history.seen - event.at)} ago")
                text.set_text(event.text)


def options_of(view: PoolView) -> None:
    """Everything the pool was made with, and where it is."""
    info, spec = view.info, view.spec
    shown: dict[str, Any] = {
        "engine": info.engine,
        "autoreset mode": info.autoreset_mode,
        "render mode": info.render_mode or "none",
        "parameters": json.dumps(spec.env_kwargs) if spec.env_kwargs else "none",
        "wrappers": json.dumps(spec.wrappers) if spec.wrappers else "none",
        "when a worker dies": spec.on_failure,
        "infos": spec.info if isinstance(spec.info, str) else ", ".join(spec.info),
        "shared memory": f"{view.arena_bytes / _MEBI:.1f} MiB",
        "host": f"pid {view.host_pid}",
        **{f"{name} address": address for name, address in view.endpoints.items()},
    }
    with ui.element("dl").classes("vs-facts"):
        for name, value in shown.items():
            with ui.element("dt"):
                ui.label(name)
            with ui.element("dd"):
                ui.label(str(value))
