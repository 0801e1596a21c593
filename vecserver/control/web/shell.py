"""What all pages share: the frame around them, the server behind them, and how they look at it while they are seen."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from nicegui import ui

from vecserver.control.access.gate import granted_to
from vecserver.control.access.scopes import Scope
from vecserver.control.web.mount import prefix_of
from vecserver.wire.errors import Forbidden, VecServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import Request

    from vecserver.control.openenv.sessions import Sessions
    from vecserver.control.web.game import Environments
    from vecserver.control.web.sampler import Sampler
    from vecserver.pools.registry import Registry

__all__ = ["Banner", "Place", "address_of", "code", "heading", "section", "shell", "while_seen"]

_TABS: Final = (("Pools", "/"), ("New pool", "/new"), ("Play", "/play"), ("Help", "/help"))
_THEMES: Final[dict[str, bool]] = {"dark": True, "light": False}
_COOKIE: Final = "vecserver_theme"
_REFRESH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """The server that the pages show."""

    registry: Registry
    sessions: Sessions
    sampler: Sampler
    environments: Environments
    everybody_plays: bool = False
    granted: Scope = Scope.READ

    def seen_by(self, request: Request) -> Place:
        """The same for one page, with what its browser's log-in is good for."""
        return replace(self, granted=granted_to(request.scope))

    def require(self, needed: Scope) -> None:
        """Refuse what the browser's log-in is not good for.

        Raises:
            Forbidden: It takes more.
        """
        if self.granted < needed:
            raise Forbidden(
                f"this needs a log-in of scope {needed}, and this one's is {self.granted}: `vecserver login` on the "
                "server's machine prints a link",
                needed=str(needed),
                granted=str(self.granted),
            )

    def require_play(self) -> None:
        """Refuse to play, unless everybody may or the log-in is good for it.

        Raises:
            Forbidden: It is not.
        """
        if not self.everybody_plays:
            self.require(Scope.USE)


def address_of(request: Request) -> str:
    """The server's address as this browser knows it, for code to copy."""
    return f"{request.url.scheme}://{request.headers.get('host', '127.0.0.1')}{prefix_of(request)}"


@contextmanager
def shell(request: Request, current: str) -> Iterator[None]:
    """The header and the place below it for a page's contents.

    Args:
        request: The request for the page.
        current: The label of its tab.
    """
    ui.colors(primary="#0f766e", negative="#b42318", positive="#15803d", warning="#b45309")
    theme = _THEMES.get(request.cookies.get(_COOKIE, ""))
    ui.dark_mode(theme)
    with ui.header(fixed=False, elevated=False).classes("vs-header"):
        with ui.element("nav").classes("vs-nav").props('aria-label="Pages"'):
            ui.link("vecserver", "/").classes("vs-brand")
            for label, path in _TABS:
                link = ui.link(label, path).classes("vs-tab")
                if label == current:
                    link.classes("vs-tab-here").props('aria-current="page"')
        ui.button(icon="contrast").props('flat round dense aria-label="Switch between light and dark"').classes(
            "vs-theme"
        ).on("click", js_handler="() => vecserver.switchTheme()")
    with ui.element("div").classes("vs-page"):
        yield


def heading(text: str) -> None:
    """The page's title."""
    with ui.element("h1").classes("vs-h1"):
        ui.label(text)


@contextmanager
def section(title: str) -> Iterator[None]:
    """A part of a page, with a title."""
    with ui.element("section").classes("vs-card"):
        with ui.element("h2").classes("vs-h2"):
            ui.label(title)
        yield


def code(text: str, language: Literal["python", "json"] = "python") -> ui.code:
    """Code to copy."""
    return ui.code(text, language=language).classes("vs-code")


class Banner:
    """A place for one sentence: what went wrong, or what was done."""

    def __init__(self) -> None:
        self._label = ui.label().classes("vs-banner").props('role="alert"')
        self.clear()

    def clear(self) -> None:
        """Say nothing."""
        self._label.set_visibility(False)

    def say(self, text: str, kind: Literal["bad", "good"] = "bad") -> None:
        """Say something."""
        self._label.set_text(text)
        self._label.classes(replace=f"vs-banner vs-{kind}")
        self._label.set_visibility(True)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Say what a server's error says, and go on."""
        self.clear()
        try:
            yield
        except VecServerError as error:
            self.say(error.message)


def while_seen(place: Place, refresh: Callable[[], Any]) -> None:
    """Keep a page fresh while its tab is there and shown, and have the pools looked at for it meanwhile.

    Args:
        place: The server.
        refresh: Called now and then; writes what is known into the page.
    """
    client = ui.context.client
    timer = ui.timer(_REFRESH_S, refresh)

    def seen() -> None:
        place.sampler.watch(client.id)
        timer.activate()

    def unseen() -> None:
        place.sampler.leave(client.id)
        timer.deactivate()

    def gone() -> None:
        place.sampler.leave(client.id)

    client.on_connect(seen)
    client.on_disconnect(gone)
    client.on_delete(gone)
    ui.on("vecserver_seen", lambda event: seen() if event.args else unseen())
