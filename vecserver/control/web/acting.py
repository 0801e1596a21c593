"""The widgets of an action: made from the fields of ``forms``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from nicegui import ui

from vecserver.control.web.forms import Choice, Group, Json, Number, Text, read_action, starting_value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vecserver.control.web.forms import Field

__all__ = ["ActionForm"]

_DENSE: Final = "dense outlined"
_STEPS: Final = 200
"""Places of a slider."""


class ActionForm:
    """Asks for one action and takes it.

    Args:
        field: Its form.
        act: Called with the action.
    """

    def __init__(self, field: Field, act: Callable[[Any], Awaitable[None]]) -> None:
        self._act = act
        if isinstance(field, Choice):
            self._buttons(field)
            return
        with ui.element("div").classes("vs-form vs-action-form"):
            read = _widget(field)

        async def take() -> None:
            await act(read())

        ui.button("Step", icon="play_arrow", on_click=take).props("unelevated no-caps")

    def _buttons(self, field: Choice) -> None:
        with ui.element("div").classes("vs-actions").props('role="group" aria-label="Actions"'):
            for value in range(field.first, field.last + 1):
                ui.button(str(value), on_click=lambda value=value: self._act(value)).props(
                    f'unelevated no-caps aria-label="Action {value}"'
                )


def _widget(field: Field) -> Callable[[], Any]:
    """Show a field; returns what reads it."""
    match field:
        case Group():
            return _group(field)
        case Choice():
            options = list(range(field.first, field.last + 1))
            chosen = ui.select(options, value=field.first, label=field.label).props(_DENSE)
            return lambda: chosen.value
        case Number():
            return _number(field)
        case Text():
            text = ui.input(field.label, value=starting_value(field)).props(_DENSE)
            return lambda: text.value
        case Json():
            area = ui.textarea(f"{field.label}, as JSON", value=json.dumps(field.start)).props(_DENSE)
            area.classes("vs-wide")
            return lambda: read_action(area.value)


def _group(field: Group) -> Callable[[], Any]:
    readers = [_widget(part) for part in field.fields]
    names = field.names
    if names is None:
        return lambda: [read() for read in readers]
    return lambda: {name: read() for name, read in zip(names, readers, strict=True)}


def _number(field: Number) -> Callable[[], Any]:
    start = starting_value(field)
    with ui.element("div").classes("vs-number"):
        number = ui.number(
            f"{field.label}{_bounds(field)}",
            value=start,
            min=field.low,
            max=field.high,
            precision=0 if field.whole else None,
        ).props(_DENSE if field.whole else f"{_DENSE} step=any")
        if field.low is not None and field.high is not None:
            step = 1 if field.whole else (field.high - field.low) / _STEPS
            slider = ui.slider(min=field.low, max=field.high, step=step, value=start).bind_value(number)
            slider.props["aria-label"] = field.label  # an environment may have any text in it
    return lambda: int(number.value) if field.whole and number.value is not None else number.value


def _bounds(field: Number) -> str:
    low = "−∞" if field.low is None else f"{field.low:g}"
    high = "∞" if field.high is None else f"{field.high:g}"
    return f" ({low} … {high})"
