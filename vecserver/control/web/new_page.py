"""``/web/new``: make a pool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from nicegui import ui

from vecserver.control.access.scopes import Scope
from vecserver.control.web.choosing import EnvironmentChoice
from vecserver.control.web.more_options import MoreOptions
from vecserver.control.web.shell import Banner, address_of, code, heading, section, shell
from vecserver.control.web.snippets import make_code
from vecserver.pools.spec import AUTORESET_MODES, ENGINES, PoolSpec

if TYPE_CHECKING:
    from fastapi import Request

    from vecserver.control.web.shell import Place

__all__ = ["new_page"]

_DENSE: Final = "dense outlined"


async def new_page(place: Place, request: Request) -> None:
    """Build the page."""
    caps = place.registry.caps
    with shell(request, "New pool"):
        heading("New pool")
        banner = Banner()
        with section("Environment"), ui.element("div").classes("vs-form"):
            choice = EnvironmentChoice(place.environments, banner, place.sessions.options.play.env_id, seen=True)
        with section("Pool"), ui.element("div").classes("vs-form"):
            rows = ui.number("Rows", value=8, min=1, max=caps.max_num_envs, precision=0, step=1).props(_DENSE)
            workers = ui.number(
                "Workers", min=1, max=caps.max_workers, precision=0, step=1, placeholder="as many as pay"
            ).props(f"{_DENSE} clearable stack-label")
            engine = ui.select(list(ENGINES), value="auto", label="Engine").props(_DENSE)
            mode = ui.select(list(AUTORESET_MODES), value="NextStep", label="Autoreset mode").props(_DENSE)
            name = ui.input("Name", placeholder="one is made up").props(f"{_DENSE} stack-label")
            statistics = ui.switch("Send statistics of episodes")
            more = MoreOptions()

        def options() -> dict[str, Any]:
            return {
                "env_id": choice.env_id,
                "num_envs": int(rows.value or 0),
                "engine": engine.value,
                "workers": None if workers.value is None else int(workers.value),
                "autoreset_mode": mode.value,
                "render_mode": choice.render_mode,
                "env_kwargs": choice.kwargs(),
                "episode_statistics": statistics.value,
                **more.values(),
            }

        async def create() -> None:
            button.disable()
            try:
                with banner.explaining():
                    place.require(Scope.CREATE)
                    spec = PoolSpec(**options())
                    view = await asyncio.to_thread(
                        place.registry.create, spec, (name.value or "").strip() or None, durable=more.durable
                    )
                    ui.navigate.to(f"/pools/{view.pool}")
            finally:
                button.enable()

        def as_code() -> None:
            with banner.explaining():
                shown.set_content(make_code(address_of(request), options() | {"durable": more.durable}))
                box.set_visibility(True)

        with ui.element("div").classes("vs-actions"):
            button = ui.button("Create pool", icon="add", on_click=create).props("unelevated no-caps")
            ui.button("Show as Python", on_click=as_code).props("flat no-caps")
        with ui.element("div") as box:
            shown = code("")
        box.set_visibility(False)
        await choice.describe()
