"""OpenEnv's messages and what is answered to them. No sockets: text in, kind and JSON out.

Every refusal is an error of the tree in ``vecserver.wire.errors``; ``ERROR_CODES`` is the one table from it to
OpenEnv's codes.
"""

from __future__ import annotations

import logging
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from vecserver.pools.sessions.jsonrpc import answer_rpc
from vecserver.pools.sessions.play import NeedsOwnProcess, ResetData
from vecserver.wire.errors import (
    CapExceeded,
    DeadlineExceeded,
    EnvFault,
    ForbiddenEnv,
    HostStartFailed,
    InternalError,
    InvalidAction,
    InvalidSpec,
    LeaseHeld,
    LeaseLost,
    MalformedMessage,
    PoolBroken,
    PoolLost,
    PoolStopping,
    ResetNeeded,
    SessionLost,
    UnknownEnv,
    UnknownPool,
    VecServerError,
)
from vecserver.wire.json_values import to_json

if TYPE_CHECKING:
    from vecserver.pools.sessions.play import Play

__all__ = [
    "ERROR_CODES",
    "Answer",
    "Ask",
    "Kind",
    "StepData",
    "answer",
    "code_of",
    "convert",
    "error_data",
    "read_message",
    "to_message",
]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Ask(IntEnum):
    """What a session's process is asked for."""

    MESSAGE = 0
    """A message as a client sent it."""
    SCHEMA = 1
    """The schemas of an environment, named in the data; of the default one where they are empty."""
    END = 2
    """Close the session's environment and forget it; not answered."""
    FRAME = 3
    """What the session's environment looks like now."""
    ABOUT = 4
    """What the environment that the data name may be made with."""


class Kind(IntEnum):
    """What an answer is."""

    OBSERVATION = 0
    STATE = 1
    MCP = 2
    ERROR = 3
    CLOSE = 4
    SCHEMA = 5
    ELSEWHERE = 6
    """Nothing was done: this needs a process of its own, where the same message is to be sent."""
    FRAME = 7
    """The data is a PNG."""
    ABOUT = 8


class Answer(NamedTuple):
    """An answer.

    Attributes:
        kind: What it is.
        data: The JSON of its ``data``; of an error ``{"message", "code", "errors"}``; of a frame the picture.
    """

    kind: Kind
    data: bytes


ERROR_CODES: Final[dict[type[VecServerError], str]] = {
    MalformedMessage: "INVALID_JSON",
    InvalidAction: "VALIDATION_ERROR",
    InvalidSpec: "VALIDATION_ERROR",
    UnknownEnv: "VALIDATION_ERROR",
    ForbiddenEnv: "VALIDATION_ERROR",
    ResetNeeded: "EXECUTION_ERROR",
    EnvFault: "EXECUTION_ERROR",
    InternalError: "EXECUTION_ERROR",
    CapExceeded: "CAPACITY_REACHED",
    LeaseHeld: "CAPACITY_REACHED",
    HostStartFailed: "FACTORY_ERROR",
    SessionLost: "SESSION_ERROR",
    LeaseLost: "SESSION_ERROR",
    PoolBroken: "SESSION_ERROR",
    PoolLost: "SESSION_ERROR",
    PoolStopping: "SESSION_ERROR",
    UnknownPool: "SESSION_ERROR",
    DeadlineExceeded: "SESSION_ERROR",
}
"""Error → OpenEnv's code; of a class that is not here its base's. One more is ``UNKNOWN_TYPE``: an InvalidSpec whose
field is ``type``."""

_TYPES: Final = {Kind.OBSERVATION: "observation", Kind.STATE: "state", Kind.MCP: "mcp", Kind.ERROR: "error"}
_HEADS: Final = {kind: f'{{"type":"{name}","data":'.encode() for kind, name in _TYPES.items()}


class StepData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The data of a step message."""

    action: Any
    metadata: dict[str, Any] | None = None


_MAY_HAVE_DATA: Final = {"reset": True, "step": True, "state": False, "close": False, "mcp": True}
"""The types of messages."""
_MUST_HAVE_DATA: Final = frozenset({"step", "mcp"})


def answer(play: Play, ask: int, data: bytes) -> Answer:
    """Answer a message; never raises.

    Args:
        play: The session's environment and episode.
        ask: What is asked for: an ``Ask``.
        data: The message, or what an ``Ask`` says.
    """
    try:
        if ask == Ask.SCHEMA:
            return Answer(Kind.SCHEMA, play.schema(data.decode() or None))
        if ask == Ask.FRAME:
            return Answer(Kind.FRAME, play.frame())
        if ask == Ask.ABOUT:
            return Answer(Kind.ABOUT, play.about(data.decode()))
        return _answer(play, *read_message(data))
    except NeedsOwnProcess:
        return Answer(Kind.ELSEWHERE, b"")
    except VecServerError as error:
        return Answer(Kind.ERROR, error_data(error))
    except Exception as error:  # noqa: BLE001 - a defect here must reach the client, and not end the session
        _log.exception("a message could not be answered")
        return Answer(Kind.ERROR, error_data(InternalError(f"a defect of the server: {type(error).__name__}")))


def to_message(reply: Answer) -> bytes:
    """The text of the WebSocket message that an answer is."""
    return _HEADS[reply.kind] + reply.data + b"}"


def error_data(error: VecServerError) -> bytes:
    """The JSON of an error message's ``data``; ``errors`` holds the error's stable code and its details."""
    return to_json(
        {
            "message": error.message,
            "code": code_of(error),
            "errors": [{**error.details, "type": error.code, "msg": error.message}],
        }
    )


def code_of(error: VecServerError) -> str:
    """OpenEnv's code for an error."""
    if isinstance(error, InvalidSpec) and error.details.get("field") == "type":
        return "UNKNOWN_TYPE"
    return next((ERROR_CODES[cls] for cls in type(error).__mro__ if cls in ERROR_CODES), "EXECUTION_ERROR")


def read_message(data: bytes | str) -> tuple[str, dict[str, Any] | None]:
    """The type and the data of a message.

    Raises:
        MalformedMessage: It is no JSON.
        InvalidSpec: It is no message.
    """
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"the message is no JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidSpec("a message is a JSON object with a type", field="message")
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in _MAY_HAVE_DATA:
        raise InvalidSpec(f"{kind!r:.80} is no type of message: {', '.join(_MAY_HAVE_DATA)} are", field="type")
    for key in raw:
        if key != "type" and not (key == "data" and _MAY_HAVE_DATA[kind]):
            raise InvalidSpec(f"a {kind} message has no {key!r:.80}", field="key")
    if "data" not in raw:
        if kind in _MUST_HAVE_DATA:
            raise InvalidSpec(f"a {kind} message needs data", field="data")
        return kind, None
    if not isinstance(raw["data"], dict):
        raise InvalidSpec(f"the data of a {kind} message is an object", field="data")
    return kind, raw["data"]


def _answer(play: Play, kind: str, data: dict[str, Any] | None) -> Answer:
    match kind:
        case "step":
            return Answer(Kind.OBSERVATION, play.step(convert(data, StepData).action))
        case "reset":
            return Answer(Kind.OBSERVATION, play.reset(convert(data or {}, ResetData)))
        case "state":
            return Answer(Kind.STATE, play.state())
        case "mcp":
            return Answer(Kind.MCP, to_json(answer_rpc(data)))
        case _:
            return Answer(Kind.CLOSE, b"")


def convert(data: Any, kind: type[_T]) -> _T:
    """The data of a message as a struct.

    Raises:
        InvalidSpec: It is none.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"data: {error}", field="data") from None
