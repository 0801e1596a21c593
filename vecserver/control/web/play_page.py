"""``/web/play``: choose an environment and play it, with buttons, a form or the keyboard."""

from __future__ import annotations

from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Final

from nicegui import ui

from vecserver.control.web.acting import ActionForm
from vecserver.control.web.choosing import EnvironmentChoice
from vecserver.control.web.forms import Choice, action_field, choice_keys
from vecserver.control.web.game import Game
from vecserver.control.web.shell import Banner, address_of, code, heading, section, shell
from vecserver.control.web.snippets import play_code
from vecserver.control.web.wording import NOTHING, reward_text, value_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import Request
    from nicegui.events import KeyEventArguments

    from vecserver.control.web.game import Turn
    from vecserver.control.web.shell import Place

__all__ = ["play_page"]

_DENSE: Final = "dense outlined"
_TURNS_SHOWN: Final = 50
_LARGEST_SEED: Final = 2**53 - 1
"""The largest whole number that a browser keeps exactly."""


async def play_page(place: Place, request: Request) -> None:
    """Build the page."""
    with shell(request, "Play"):
        heading("Play")
        page = _PlayPage(place, address_of(request))
        await page.choice.describe()


class _PlayPage:
    """One tab's game and the widgets around it."""

    def __init__(self, place: Place, address: str) -> None:
        self._place = place
        self._game = Game(place.sessions)
        self._address = address
        self._busy = False
        self._keys: dict[str, int] = {}
        ui.context.client.on_delete(self._game.close)
        self._banner = Banner()
        with section("Environment"), ui.element("div").classes("vs-form"):
            default = place.sessions.options.play.env_id
            self.choice = EnvironmentChoice(place.environments, self._banner, default, seen=True)
            self._seed = ui.number("Seed", min=0, max=_LARGEST_SEED, precision=0, placeholder="a fresh one").props(
                f"{_DENSE} clearable stack-label"
            )
            ui.button("Reset", icon="restart_alt", on_click=self._reset).props("unelevated no-caps")
        with ui.element("div").classes("vs-two") as self._stage:
            with section("What it looks like"):
                self._picture = ui.element("img").classes("vs-frame").props('alt="The environment"')
                self._unseen = ui.label().classes("vs-muted")
                self._figures = self._tiles()
            with section("Action"):
                self._actions = ui.element("div")
                self._hint = ui.label().classes("vs-muted vs-hint")
                with ui.element("h2").classes("vs-h2"):
                    ui.label("Observation")
                self._observation = ui.element("pre").classes("vs-value").props('aria-label="Observation"')
                with self._observation:
                    self._observed = ui.label()
                self._info = ui.label().classes("vs-muted vs-value")
        with section("Episode"):
            self._history = ui.html("", sanitize=False)
        with section("In Python"):
            self._code = code("")
        self._stage.set_visibility(False)
        ui.keyboard(self._on_key, repeating=True)

    def _tiles(self) -> dict[str, ui.label]:
        tiles = {}
        with ui.element("dl").classes("vs-tiles"):
            for name in ("Step", "Reward", "Return", "Episode"):
                with ui.element("div").classes("vs-tile"):
                    with ui.element("dt"):
                        ui.label(name)
                    with ui.element("dd"):
                        tiles[name] = ui.label(NOTHING)
        return tiles

    async def _reset(self) -> None:
        with self._alone() as alone:
            if not alone:
                return
            self._place.require_play()
            kwargs = self.choice.kwargs()
            if self.choice.render_mode is not None:
                kwargs["render_mode"] = self.choice.render_mode
            seed = None if self._seed.value is None else int(self._seed.value)
            turn = await self._game.reset(self.choice.env_id, kwargs, seed)
            self._stage.set_visibility(True)
            self._make_form()
            await self._show(turn)

    def _make_form(self) -> None:
        field = action_field(self._game.schema)
        self._keys = choice_keys(field) if isinstance(field, Choice) else {}
        self._actions.clear()
        with self._actions:
            ActionForm(field, self._step)
        arrows = [key.removeprefix("Arrow").lower() for key in self._keys if key.startswith("Arrow")]
        digits = [key for key in self._keys if key.isdigit()]
        self._hint.set_text(
            f"Keys: {digits[0]} to {digits[-1]}, or the arrows {', '.join(arrows)}; r resets." if digits else ""
        )

    async def _on_key(self, event: KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        name = str(event.key.name)
        if name in self._keys:
            await self._step(self._keys[name])
        elif name == "r" and self._game.turns and not event.action.repeat:
            await self._reset()

    async def _step(self, action: Any) -> None:
        with self._alone() as alone:
            if alone:
                await self._show(await self._game.step(action))

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether nothing else is under way: a key that is held down repeats faster than some environments step."""
        if self._busy:
            yield False
            return
        self._busy = True
        try:
            with self._banner.explaining():
                yield True
        finally:
            self._busy = False

    async def _show(self, turn: Turn) -> None:
        frame = await self._game.frame()
        self._picture.set_visibility(frame is not None)
        if frame is not None:
            self._picture.props["src"] = frame
            self._picture.update()
        self._unseen.set_text("" if frame else "Choose render mode rgb_array, where the environment has it, to see it.")
        texts = {
            "Step": str(turn.number),
            "Reward": reward_text(turn.reward),
            "Return": reward_text(turn.total),
            "Episode": turn.end or "under way",
        }
        for name, text in texts.items():
            self._figures[name].set_text(text)
        self._observed.set_text(value_text(turn.observation))
        self._info.set_text(f"info {value_text(turn.info, 500)}" if turn.info else "")
        self._history.set_content(_table(self._game.turns))
        game = self._game
        self._code.set_content(play_code(self._address, game.env_id, game.kwargs, game.seed, game.actions))


def _table(turns: list[Turn]) -> str:
    """The last turns, newest first, as HTML."""
    lines = [_line(turn) for turn in reversed(turns[-_TURNS_SHOWN:])]
    head = "".join(f"<th scope=col>{name}</th>" for name in ("step", "action", "reward", "return", "end"))
    return (
        f"<div class=vs-scroll><table class=vs-table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _line(turn: Turn) -> str:
    action = escape(value_text(turn.action, 80)) if turn.number else "reset"
    cells = (str(turn.number), action, reward_text(turn.reward), reward_text(turn.total), turn.end)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
