"""``/web/``: all pools, live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nicegui import ui

from vecserver.control.web.shell import heading, shell, while_seen
from vecserver.control.web.wording import NOTHING, number_text, restarts_text, seconds_text, sparkline

if TYPE_CHECKING:
    from fastapi import Request

    from vecserver.control.web.history import History
    from vecserver.control.web.shell import Place

__all__ = ["pools_page"]

_COLUMNS: Final = ("Pool", "State", "Rows / workers", "Env steps/s", "Batch", "Return", "Length", "Restarts", "Driver")
_WITH_LINE: Final = "Env steps/s"
_DRAWN: Final = 60
"""Samples in a small line."""


class _Row:
    """One pool's line."""

    def __init__(self, history: History) -> None:
        view = history.view
        with ui.element("li").classes("vs-pool") as self.element:
            with ui.element("div").classes("vs-cell vs-cell-name"):
                ui.link(view.pool, f"/pools/{view.pool}").classes("vs-pool-name")
                ui.label(view.info.env_id).classes("vs-muted")
            cells = {}
            for name in _COLUMNS[1:]:
                with _cell(name):
                    cells[name] = ui.label(NOTHING)
                    if name == _WITH_LINE:
                        self._spark = ui.html("", sanitize=False)
        self._state = cells["State"]
        self._texts = {name: label for name, label in cells.items() if name != "State"}

    def show(self, history: History) -> None:
        view, stats, sample = history.view, history.view.stats, history.last
        self._state.set_text(view.state)
        self._state.classes(replace=f"vs-state vs-state-{view.state}")
        texts = {
            "Rows / workers": f"{view.info.num_envs} / {view.info.workers}",
            "Env steps/s": number_text(sample.env_steps if sample else None),
            "Batch": seconds_text(sample.latency_s if sample else None),
            "Return": number_text(history.mean_return),
            "Length": number_text(history.mean_length),
            "Restarts": restarts_text(view),
            "Driver": (stats.driver if stats else "") or "none",
        }
        for name, text in texts.items():
            self._texts[name].set_text(text)
        drawn = [each.env_steps for each in list(history.samples)[-_DRAWN:]]
        self._spark.set_content(sparkline(drawn, f"env steps a second of {view.pool} in the last minute"))


def _cell(name: str) -> ui.element:
    css = name.partition(" ")[0].lower()
    return ui.element("div").classes(f"vs-cell vs-cell-{css}").props(f'data-name="{name}"')


async def pools_page(place: Place, request: Request) -> None:
    """Build the page."""
    rows: dict[tuple[str, int], _Row] = {}
    await place.sampler.look()
    with shell(request, "Pools"):
        with ui.element("div").classes("vs-title"):
            heading("Pools")
            ui.button("New pool", icon="add", on_click=lambda: ui.navigate.to("/new")).props("unelevated no-caps")
        with ui.element("div").classes("vs-card vs-empty") as empty:
            ui.label("This server has no pools.").classes("vs-strong")
            ui.label("A trainer makes one with vecserver_client.make_vec, or you do: New pool.")
        listed = ui.element("ul").classes("vs-pools vs-card").props('aria-label="Pools"')
        with listed, ui.element("li").classes("vs-pool vs-pool-head").props('aria-hidden="true"'):
            for name in _COLUMNS:
                ui.label(name).classes("vs-cell")

        def refresh() -> None:
            histories = place.sampler.histories.all()
            keys = {(each.view.pool, each.view.epoch): each for each in histories}
            for key in rows.keys() - keys.keys():
                rows.pop(key).element.delete()
            for key, history in keys.items():
                if key not in rows:
                    with listed:
                        rows[key] = _Row(history)
                rows[key].show(history)
            empty.set_visibility(not keys)
            listed.set_visibility(bool(keys))

        refresh()
        while_seen(place, refresh)
