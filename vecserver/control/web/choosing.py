"""The widgets that choose an environment: its id with search, and the parameters that it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nicegui import ui

from vecserver.control.web.forms import kwargs_of, parameters_of
from vecserver.pools.pictures import RENDER_MODE
from vecserver.wire.errors import VecServerError

if TYPE_CHECKING:
    from vecserver.control.web.forms import Parameter
    from vecserver.control.web.game import Environments
    from vecserver.control.web.shell import Banner

__all__ = ["EnvironmentChoice"]

_DENSE: Final = "dense outlined"
_NO_FRAMES: Final = "none"


class EnvironmentChoice:
    """Which environment, and what it is made with.

    Args:
        environments: Where to ask what it may be made with.
        banner: Where errors are said.
        env_id: What is chosen first.
        seen: Whether frames are wanted, where the environment has any.
    """

    def __init__(self, environments: Environments, banner: Banner, env_id: str, *, seen: bool) -> None:
        self._environments = environments
        self._banner = banner
        self._seen = seen
        self._parameters: list[Parameter] = []
        self._fields: dict[str, Any] = {}
        ids = environments.offered()
        self._env = (
            ui.select(
                [*ids, *([] if env_id in ids else [env_id])],
                value=env_id,
                label="Environment",
                with_input=True,
                new_value_mode="add-unique",
                on_change=self.describe,
            )
            .props(_DENSE)
            .classes("vs-wide")
        )
        self._summary = ui.label().classes("vs-muted vs-wide")
        self._render = ui.select([_NO_FRAMES], value=_NO_FRAMES, label="Render mode").props(_DENSE)
        with ui.expansion("Parameters of the environment").classes("vs-wide vs-expansion").props("dense") as self._more:
            self._place = ui.element("div").classes("vs-form")
            self._others = (
                ui.textarea("Other parameters, as a JSON object", placeholder='{"name": 1}')
                .props(f"{_DENSE} autogrow")
                .classes("vs-wide")
            )

    @property
    def env_id(self) -> str:
        """The chosen id."""
        return str(self._env.value or "")

    @property
    def render_mode(self) -> str | None:
        """The chosen render mode."""
        return None if self._render.value == _NO_FRAMES else str(self._render.value)

    def kwargs(self) -> dict[str, Any]:
        """What the environment is made with, but for the render mode.

        Raises:
            InvalidSpec: A text is no JSON.
        """
        values = {name: field.value for name, field in self._fields.items()}
        return kwargs_of(self._parameters, values, self._others.value or "")

    async def describe(self) -> None:
        """Ask what the chosen environment may be made with, and show fields for it."""
        self._banner.clear()
        about: dict[str, Any] = {"parameters": [], "render_modes": [], "summary": "", "any": True}
        try:
            about = await self._environments.about(self.env_id)
        except VecServerError as error:
            self._banner.say(error.message)
        modes = [_NO_FRAMES, *(mode for mode in about["render_modes"] if mode != "human")]
        self._render.set_options(modes, value=RENDER_MODE if self._seen and RENDER_MODE in modes else _NO_FRAMES)
        self._summary.set_text(about["summary"])
        self._parameters = parameters_of(about)
        self._fields = {}
        self._place.clear()
        with self._place:
            for each in self._parameters:
                self._fields[each.name] = _field(each)
        self._others.set_visibility(about["any"] or not self._parameters)
        self._more.set_text(f"Parameters of the environment ({len(self._parameters)})")


def _field(parameter: Parameter) -> Any:
    label = f"{parameter.name}{' (needed)' if parameter.required else ''}"
    match parameter.kind:
        case "switch":
            return ui.switch(label, value=parameter.default)
        case "whole":
            return ui.number(label, value=parameter.default, precision=0, step=1).props(_DENSE)
        case "number":
            return ui.number(label, value=parameter.default).props(f"{_DENSE} step=any")
        case "text":
            return ui.input(label, value=parameter.default).props(_DENSE)
    default = "" if parameter.required else f", {parameter.default!s:.40} if empty"
    return ui.input(f"{label}: JSON{default}").props(_DENSE)
