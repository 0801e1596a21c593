"""``/web/pools/{pool}``: one pool, live: its figures, its rows' frames, and what can be done to it."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from nicegui import ui

from vecserver.control.access.scopes import Scope
from vecserver.control.web.pool_parts import Charts, Events, Figures, Wall, Workers, how_to_see, options_of
from vecserver.control.web.shell import Banner, address_of, code, heading, section, shell, while_seen
from vecserver.control.web.snippets import attach_code
from vecserver.pools.pictures import RENDER_MODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import Request, Response

    from vecserver.control.web.shell import Place
    from vecserver.pools.results import PoolView

__all__ = ["pool_page"]

_LARGEST_SEED: Final = 2**62


async def pool_page(place: Place, request: Request, pool: str) -> Response | None:
    """Build the page; an answer of its own where there is no such pool."""
    await place.sampler.look()
    found = place.sampler.histories.find(pool)
    with shell(request, "Pools"):
        if found is None:
            heading("No such pool")
            ui.label(f"There is no pool {pool!r} here: it was deleted, or never made.")
            ui.link("All pools", "/")
            return ui.context.client.build_response(request, HTTPStatus.NOT_FOUND)
        epoch = found.view.epoch
        state = _title(pool, found.view)
        condition, banner = Banner(), Banner()  # the pool's own, and that of the last button
        figures = Figures()
        _actions(place, pool, banner)
        with section("Rows"):
            wall = Wall(request, found.view) if found.view.info.render_mode == RENDER_MODE else None
            if wall is None:
                how_to_see(found.view)
        with section("The last minutes"):
            charts = Charts()
        with ui.element("div").classes("vs-two"):
            with section("Workers"):
                workers = Workers()
            with section("Events"):
                events = Events()
        with section("In Python"):
            code(attach_code(address_of(request), pool))
        with section("Made with"):
            options_of(found.view)
        parts = [part for part in (figures, wall, charts, workers, events) if part is not None]

        def refresh() -> None:
            history = place.sampler.histories.find(pool)
            if history is None:
                condition.say("This pool is gone: it was deleted.")
                _show_state(state, "gone")
                if wall is not None:
                    wall.rest("")
                return
            if history.view.epoch != epoch:  # made again, perhaps with other rows
                ui.navigate.reload()
                return
            _show_state(state, history.view.state)
            if history.view.reason:
                condition.say(history.view.reason)
            else:
                condition.clear()
            for part in parts:
                part.show(history)

        refresh()
        while_seen(place, refresh)
    return None


def _title(pool: str, view: PoolView) -> ui.label:
    with ui.element("div").classes("vs-title"):
        heading(pool)
        state = ui.label()
        ui.label(view.info.env_id).classes("vs-muted")
    _show_state(state, view.state)
    return state


def _show_state(label: ui.label, state: str) -> None:
    label.set_text(state)
    label.classes(replace=f"vs-state vs-state-{state}")


def _actions(place: Place, pool: str, banner: Banner) -> None:
    with ui.element("div").classes("vs-actions"):
        seed = (
            ui.number("Seed", value=42, min=0, max=_LARGEST_SEED, precision=0)
            .props("dense outlined")
            .classes("vs-seed")
        )

        async def reset() -> None:
            chosen = None if seed.value is None else int(seed.value)
            with banner.explaining():
                place.require(Scope.USE)
                await asyncio.to_thread(place.registry.reset, pool, seed=chosen)
                banner.say("Every row was reset.", "good")

        ui.button("Reset", icon="restart_alt", on_click=reset).props("outline no-caps")
        dialog = _deletion(place, pool, banner)
        ui.button("Delete", icon="delete", on_click=dialog).props("outline no-caps color=negative")


def _deletion(place: Place, pool: str, banner: Banner) -> Callable[[], object]:
    async def delete() -> None:
        dialog.close()
        with banner.explaining():
            place.require(Scope.CREATE)
            await asyncio.to_thread(place.registry.delete, pool)
            ui.navigate.to("/")

    with ui.dialog() as dialog, ui.card().classes("vs-dialog"):
        ui.label(f"Delete pool {pool}?").classes("vs-strong")
        ui.label("Its processes end, and whoever drives it loses it. It cannot be had back.")
        with ui.element("div").classes("vs-actions"):
            ui.button("Keep it", on_click=dialog.close).props("flat no-caps")
            ui.button("Delete it", on_click=delete).props("unelevated no-caps color=negative")
    return dialog.open
