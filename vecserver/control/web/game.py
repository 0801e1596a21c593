"""One person's game: an environment in a process of its own, asked through an OpenEnv session. No widgets here."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from vecserver.pools.pictures import RENDER_MODE
from vecserver.pools.sessions.answers import Ask, Kind
from vecserver.wire.errors import ResetNeeded, SessionLost, from_code

if TYPE_CHECKING:
    from vecserver.control.openenv.sessions import Session, Sessions
    from vecserver.pools.sessions.answers import Answer

__all__ = ["Environments", "Game", "Turn"]

_MOST_TURNS: Final = 10_000
"""Steps whose course is remembered; a person takes fewer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one reset or step gave.

    Attributes:
        number: The step's in its episode; 0 of a reset.
        action: None of a reset.
        reward: None of a reset, and where it is no finite number.
        total: Of the episode so far; None likewise.
        end: ``terminated``, ``truncated``, both with a comma, or nothing.
    """

    number: int
    action: Any
    reward: float | None
    total: float | None
    end: str
    observation: Any
    info: dict[str, Any]


class Environments:
    """What environments may be made with: asked once each, of a process that may import them.

    Args:
        sessions: Where to ask.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._known: dict[str, dict[str, Any]] = {}

    def offered(self) -> list[str]:
        """The ids that may be chosen, in order."""
        return self._sessions.options.play.rules.offered()

    async def about(self, env_id: str) -> dict[str, Any]:
        """An environment's description, as ``vecserver.pools.sessions.about`` makes it.

        Raises:
            VecServerError: There is no such environment, or no process to ask.
        """
        if env_id not in self._known:
            session = await self._sessions.open()
            try:
                answer = await session.ask(Ask.ABOUT, env_id.encode())
            finally:
                self._sessions.close_session(session)
            self._known[env_id] = _data_of(answer)
        return self._known[env_id]


class Game:
    """An environment that is played. Close it.

    Args:
        sessions: Where it lives.

    Attributes:
        turns: Of the episode under way, oldest first.
        seed: What it began with.
        schema: JSON schema of its actions.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._session: Session | None = None
        self._turn = asyncio.Lock()
        self._closed = False
        self.env_id = ""
        self.kwargs: dict[str, Any] = {}
        self.seed: int | None = None
        self.schema: dict[str, Any] = {}
        self.turns: list[Turn] = []

    @property
    def actions(self) -> list[Any]:
        """Those taken in this episode."""
        return [turn.action for turn in self.turns if turn.number]

    @property
    def is_over(self) -> bool:
        """Whether there is no episode under way."""
        return not self.turns or bool(self.turns[-1].end)

    async def reset(self, env_id: str, kwargs: dict[str, Any], seed: int | None) -> Turn:
        """Begin an episode, in another environment if it is another.

        Raises:
            VecServerError: Why not; the episode under way goes on where the environment could not be made.
        """
        async with self._turn:
            session = await self._opened()
            data = {"env_id": env_id, "kwargs": kwargs, "seed": seed}
            answer = await self._asked(session, {"type": "reset", "data": data})
            self.schema = _data_of(await session.ask(Ask.SCHEMA, b""))["action"]["properties"]["action"]
            self.env_id, self.kwargs, self.seed = env_id, kwargs, seed
            self.turns = [_turn(answer, None)]
            return self.turns[0]

    async def _opened(self) -> Session:
        """Where it is played from now on."""
        if self._session is None or self._session.process.lost is not None:
            self._leave()
            self._check_open()
            session = await self._sessions.open()
            try:
                self._check_open()
            except SessionLost:  # meanwhile: nobody else would ever end it
                self._sessions.close_session(session)
                raise
            self._session = session
        return self._session

    def _check_open(self) -> None:
        if self._closed:
            raise SessionLost("the game was closed")

    async def step(self, action: Any) -> Turn:
        """Take a step.

        Raises:
            VecServerError: Why not.
        """
        if self._session is None:
            raise ResetNeeded("there is no episode: reset first")
        turn = _turn(await self._asked(self._session, {"type": "step", "data": {"action": action}}), action)
        self.turns = [*self.turns[-_MOST_TURNS:], turn]
        return turn

    async def _asked(self, session: Session, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return _data_of(await session.ask(Ask.MESSAGE, msgspec.json.encode(message)))
        except SessionLost:
            self._leave()
            raise

    async def frame(self) -> str | None:
        """What it looks like, as the address of a picture; None where it was made without a render mode.

        Raises:
            VecServerError: It could not be rendered.
        """
        if self._session is None or self.kwargs.get("render_mode") != RENDER_MODE:
            return None
        answer = await self._session.ask(Ask.FRAME, b"")
        if answer.kind is not Kind.FRAME:
            _data_of(answer)
        return "data:image/png;base64," + base64.b64encode(answer.data).decode()

    def close(self) -> None:
        """End it, for good; may be called again."""
        self._closed = True
        self._leave()

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._sessions.close_session(session)


def _turn(answer: dict[str, Any], action: Any) -> Turn:
    seen = answer["observation"]
    metadata = seen["metadata"]
    ends = [name for name in ("terminated", "truncated") if metadata[name]]
    return Turn(
        number=seen["episode_length"],
        action=action,
        reward=answer["reward"],
        total=seen["total_reward"],
        end=", ".join(ends),
        observation=seen["state"],
        info=metadata["info"],
    )


def _data_of(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(answer.data)
    if answer.kind is not Kind.ERROR:
        return found
    first = found["errors"][0]
    raise from_code(first.pop("type"), first.pop("msg"), first)
