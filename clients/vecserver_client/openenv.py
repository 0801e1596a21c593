"""An OpenEnv client for Gymnasium environments, with the calls of the project that OpenEnv's ``gym_env`` came from.

::

    from vecserver_client.openenv import GymAction, GymEnvironment

    env = GymEnvironment(base_url="http://localhost:8000")
    result = env.reset()
    result = env.step(GymAction(action=[1]))
    print(result.observation.state, result.reward, result.done)
    env.close()

It speaks OpenEnv's WebSocket protocol, so it plays on any OpenEnv server since 0.2 whose actions are ``{"action": …}``.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import msgspec
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import connect

from vecserver.wire.errors import (
    DeadlineExceeded,
    MalformedMessage,
    RemoteError,
    ServerUnreachable,
    SessionLost,
    TransportUnavailable,
    VecServerError,
    from_code,
)
from vecserver_client.credentials import authorization, choose, tls_context

if TYPE_CHECKING:
    from types import TracebackType

    from websockets.sync.client import ClientConnection

__all__ = ["GymAction", "GymEnvironment", "GymObservation", "GymState", "StepResult"]

_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_CONNECT_S: Final = 10.0
_CLOSE_S: Final = 5.0
_FAREWELLS: Final = frozenset({"CAPACITY_REACHED", "FACTORY_ERROR", "SESSION_ERROR"})
"""Codes behind which the server closes the connection."""

_MAX_MESSAGE: Final = 100 << 20
"""Bytes of an answer: a picture of a million numbers, as text."""


@dataclass(frozen=True, slots=True)
class GymAction:
    """One action.

    Attributes:
        action: A number, a list, an array, or dicts and lists of these. A list of one number is taken for that number
            where the space is Discrete, and a number for every element of a Box.
        metadata: Sent along; a vecserver does not look at it.
    """

    action: Any
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GymObservation:
    """What a reset or a step returned.

    Attributes:
        state: The environment's observation, as numbers and lists.
        legal_actions: The actions of a Discrete space; ``{"low", "high"}`` of a Box.
        episode_length: Steps of this episode.
        total_reward: Their rewards' sum.
        metadata: ``terminated``, ``truncated`` and ``info``.
        done: Whether the episode is over.
        reward: Of this step; None after a reset.
    """

    state: Any
    legal_actions: Any = None
    episode_length: int = 0
    total_reward: float | None = 0.0
    metadata: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """An observation, with reward and done beside it."""

    observation: GymObservation
    reward: float | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class GymState:
    """The episode under way."""

    episode_id: str | None = None
    step_count: int = 0
    env_id: str = ""
    render_mode: str | None = None
    max_steps: int | None = None
    seed: int | None = None
    episode_length: int = 0
    total_reward: float | None = 0.0


class GymEnvironment:
    """One environment on an OpenEnv server. One thread uses it; close it, or use it as a context manager.

    It connects at the first call. Every call raises the error that the server answered with, ``ServerUnreachable``
    where nobody answers, ``DeadlineExceeded`` where no answer came in time, and ``SessionLost`` where the
    environment's process is gone; the next reset after one of the last two connects anew.

    Args:
        base_url: Address of the server, as in ``http://localhost:8000``.
        request_timeout_s: Seconds to wait for an answer.
        token: Of a server that asks for one; None for ``$VECSERVER_TOKEN``, and if that is not set for that of this
            user's own server on this machine, which is found by itself. A vecserver asks for none on its own machine.
        env_id: The environment to play; None for the server's own choice.
        kwargs: Passed to ``gymnasium.make`` with ``env_id``.

    Raises:
        TransportUnavailable: The address is none.
    """

    def __init__(
        self,
        base_url: str,
        request_timeout_s: float = 60.0,
        *,
        token: str | None = None,
        env_id: str | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        chosen, token = choose(base_url, token)
        parts = urlsplit(chosen)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise TransportUnavailable(f"{base_url!r} is no address of a server; one is http://localhost:8000")
        self._url = parts._replace(scheme=_SCHEMES[parts.scheme], path=parts.path.rstrip("/") + "/ws").geturl()
        self._headers = authorization(token)
        self._timeout = request_timeout_s
        self._chosen = {"env_id": env_id, "kwargs": kwargs} if env_id is not None else {}
        self._connection: ClientConnection | None = None
        self._stack = ExitStack()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **data: Any) -> StepResult:
        """Begin an episode.

        Args:
            seed: Its seed; None for a fresh one.
            episode_id: Its name in ``state()``; None for one that the server makes up.
            **data: What else a server may take: ``env_id``, ``kwargs`` and ``options`` of a vecserver.
        """
        given = {**self._chosen, "seed": seed, "episode_id": episode_id, **data}
        chosen = {name: value for name, value in given.items() if value is not None}
        return _result(self._ask("reset", chosen))

    def step(self, action: GymAction) -> StepResult:
        """Take a step."""
        fields = {"action": action.action}
        if action.metadata:
            fields["metadata"] = action.metadata
        return _result(self._ask("step", fields))

    def state(self) -> GymState:
        """The episode under way."""
        found = self._ask("state")
        return GymState(**{name: found[name] for name in GymState.__slots__ if name in found})

    def close(self) -> None:
        """End the session; may be called again."""
        self._connection = None
        with suppress(ConnectionClosed):  # by the server, before
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> ClientConnection:
        if self._connection is None:
            try:
                self._connection = self._stack.enter_context(
                    connect(
                        self._url,
                        additional_headers=self._headers,
                        ssl=tls_context() if self._url.startswith("wss") else None,
                        open_timeout=_CONNECT_S,
                        close_timeout=_CLOSE_S,
                        max_size=_MAX_MESSAGE,
                        compression=None,
                        proxy=None,
                    )
                )
            except (OSError, InvalidHandshake, InvalidURI) as error:
                raise ServerUnreachable(f"nobody plays OpenEnv at {self._url}: {error}", url=self._url) from None
        return self._connection

    def _ask(self, kind: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        message = {"type": kind} if data is None else {"type": kind, "data": data}
        connection = self._connected()
        with suppress(ConnectionClosed):  # a server that ends a session says why before it does
            connection.send(msgspec.json.encode(message, enc_hook=_to_builtins).decode())
        try:
            answer = msgspec.json.decode(connection.recv(self._timeout), type=dict[str, Any])
        except TimeoutError:
            self.close()  # its answer would be taken for the next one's
            raise DeadlineExceeded(f"{self._url} did not answer {kind} within {self._timeout:g} s") from None
        except ConnectionClosed as error:
            self.close()
            raise SessionLost(f"{self._url} ended the session: {error}") from None
        except msgspec.DecodeError as error:
            raise MalformedMessage(f"{self._url} does not speak OpenEnv: {error}") from None
        found: dict[str, Any] = answer.get("data") or {}
        if answer.get("type") == "error":
            if found.get("code") in _FAREWELLS:
                self.close()
            raise _error_of(found)
        return found


def _result(found: dict[str, Any]) -> StepResult:
    seen, reward, done = found.get("observation") or {}, found.get("reward"), bool(found.get("done"))
    fields = ("legal_actions", "episode_length", "total_reward", "metadata")
    known = {name: seen[name] for name in fields if name in seen}
    return StepResult(GymObservation(seen.get("state"), **known, done=done, reward=reward), reward, done)


def _error_of(found: dict[str, Any]) -> VecServerError:
    """What an error message says: the server's own error where it is a vecserver, a RemoteError of another."""
    message = str(found.get("message", "no reason was given"))
    first = next(iter(found.get("errors") or ()), None)
    if isinstance(first, dict) and "type" in first:
        details = {name: value for name, value in first.items() if name not in ("type", "msg")}
        return from_code(str(first["type"]), message, details)
    return RemoteError(message, openenv_code=found.get("code"))


def _to_builtins(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}, which JSON cannot carry")
