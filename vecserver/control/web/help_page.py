"""``/web/help``: what this server is, and what to do with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from nicegui import ui

from vecserver import __version__
from vecserver.control.web.mount import prefix_of
from vecserver.control.web.shell import address_of, shell

if TYPE_CHECKING:
    from fastapi import Request

    from vecserver.control.web.shell import Place

__all__ = ["help_page"]

_TEXT: Final = Path(__file__).with_name("help.md")


async def help_page(place: Place, request: Request) -> None:
    """Build the page."""
    values = {
        "ADDRESS": address_of(request),
        "PREFIX": prefix_of(request),
        "VERSION": __version__,
        "ENVIRONMENT": place.sessions.options.play.env_id,
    }
    text = _TEXT.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    with shell(request, "Help"), ui.element("div").classes("vs-card"):
        ui.markdown(text).classes("vs-prose")
