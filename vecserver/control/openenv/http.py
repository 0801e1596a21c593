"""OpenEnv over HTTP: stateful, one session a client, told apart by a cookie or a header. Bodies are read leniently."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from vecserver import __version__
from vecserver.control.problems import problems
from vecserver.control.rendering import JsonResponse
from vecserver.pools.sessions.answers import Ask, Kind
from vecserver.pools.sessions.jsonrpc import answer_rpc
from vecserver.pools.sessions.play import Play
from vecserver.wire.errors import (
    CapExceeded,
    EnvCreationFailed,
    EnvFault,
    HostStartFailed,
    InvalidAction,
    InvalidSpec,
    MalformedMessage,
    PoolStopping,
    ResetNeeded,
    SessionLost,
    UnknownEnv,
    from_code,
)
from vecserver.wire.json_values import to_json

if TYPE_CHECKING:
    from vecserver.control.openenv.sessions import Session, Sessions
    from vecserver.pools.sessions.answers import Answer

__all__ = ["COOKIE", "HEADER", "http_routes"]

COOKIE: Final = "vecserver_session"
HEADER: Final = "X-Session-Id"
"""A client without a jar for cookies sends the value of its first answer's header back."""

_LONGEST_ID: Final = 128

_NOT_OPENED: Final = (CapExceeded, HostStartFailed, PoolStopping)
_NOT_RESET: Final = (*_NOT_OPENED, InvalidSpec, MalformedMessage, UnknownEnv, EnvCreationFailed, EnvFault, SessionLost)
_NOT_STEPPED: Final = (InvalidAction, InvalidSpec, MalformedMessage, EnvFault, ResetNeeded, SessionLost)

_OBSERVATION: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "`observation`, `reward` and `done`, as GET /schema describes them"}
}


class HealthAnswer(BaseModel):
    """Whether the server lives."""

    status: str = "healthy"


class MetadataAnswer(BaseModel):
    """What is served here."""

    name: str
    description: str
    readme_content: str | None
    version: str
    author: str
    documentation_url: str | None


class _Clients:
    """Whose session is whose.

    Args:
        sessions: Where they are opened.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._by_id: dict[str, Session] = {}

    def find(self, request: Request) -> Session | None:
        """The session of a request's client, if there is one and it lives."""
        return self._by_id.get(_id_of(request))

    async def find_or_open(self, request: Request) -> tuple[str, Session]:
        """The session of a request's client, a new one if it has none.

        Raises:
            CapExceeded, HostStartFailed, PoolStopping: None can be opened.
        """
        name = _id_of(request)
        session = self._by_id.get(name)
        if session is not None and (session.closed or session.process.lost) is not None:
            self.forget(name)
            session = None
        if session is None:
            name, new = _own_name(request) or secrets.token_urlsafe(16), await self._sessions.open()
            new.gives_way = True  # a client over HTTP goes away without a word
            session = self._by_id.setdefault(name, new)
            if session is not new:  # another request of the same client was faster
                self._sessions.close_session(new)
            session.on_lost = lambda _: self.forget(name)
        return name, session

    def forget(self, name: str) -> None:
        """End a session."""
        session = self._by_id.pop(name, None)
        if session is not None:
            self._sessions.close_session(session)

    async def ask(self, name: str, session: Session, message: dict[str, Any]) -> bytes:
        """Have a session answer a message.

        Raises:
            VecServerError: What it answered instead.
        """
        try:
            return _data_of(await session.ask(Ask.MESSAGE, msgspec.json.encode(message)))
        except SessionLost:
            self.forget(name)
            raise


def _own_name(request: Request) -> str:
    """The name that a client chose for its session by sending it in the header."""
    return request.headers.get(HEADER, "")[:_LONGEST_ID]


def _id_of(request: Request) -> str:
    return _own_name(request) or request.cookies.get(COOKIE, "")


def _data_of(answer: Answer) -> bytes:
    if answer.kind is not Kind.ERROR:
        return answer.data
    found = msgspec.json.decode(answer.data)["errors"][0]
    raise from_code(found.pop("type"), found.pop("msg"), found)


async def _body_of(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body, whatever type it says it has; nothing is an empty one.

    Raises:
        MalformedMessage: It is no JSON object.
    """
    raw = await request.body()
    try:
        value = msgspec.json.decode(raw) if raw.strip() else {}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedMessage("the body is a JSON object, {} at least")
    return value


def _documented(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


_RESET_BODY: Final = _documented(
    {
        "type": "object",
        "properties": {
            "seed": {"type": ["integer", "null"], "minimum": 0},
            "episode_id": {"type": ["string", "null"], "maxLength": 255},
            "env_id": {"type": ["string", "null"]},
            "kwargs": {"type": ["object", "null"]},
            "options": {"type": ["object", "null"]},
        },
    }
)
_STEP_BODY: Final = _documented({"type": "object", "properties": {"action": {}}, "required": ["action"]})


def http_routes(sessions: Sessions) -> APIRouter:
    """The routes of OpenEnv's HTTP interface, at the root.

    Args:
        sessions: Where sessions are opened.
    """
    router = APIRouter(tags=["openenv"])
    clients = _Clients(sessions)

    @router.get("/health", summary="Whether the server lives, as OpenEnv asks")
    async def health() -> HealthAnswer:
        return HealthAnswer()

    @router.get("/metadata", summary="What is served here")
    async def metadata() -> MetadataAnswer:
        env_id = sessions.options.play.env_id
        return MetadataAnswer(
            name="vecserver",
            description=f"Gymnasium environments, one a session; {env_id} for whoever names none.",
            readme_content=None,
            version=__version__,
            author="vecserver",
            documentation_url=None,
        )

    @router.get("/schema", summary="JSON schemas of an environment's messages", responses=problems(*_NOT_RESET))
    async def schema(env_id: str = "") -> Response:
        session = await sessions.open()
        try:
            return JsonResponse(_data_of(await session.ask(Ask.SCHEMA, env_id.encode())))
        finally:
            sessions.close_session(session)

    @router.post(
        "/reset",
        summary="Begin an episode",
        openapi_extra=_RESET_BODY,
        responses=problems(*_NOT_RESET) | _OBSERVATION,
    )
    async def reset(request: Request) -> Response:
        body = await _body_of(request)
        had = clients.find(request)
        name, session = await clients.find_or_open(request)
        try:
            answer = JsonResponse(await clients.ask(name, session, {"type": "reset", "data": body}))
        except BaseException:
            if session is not had:  # nobody was told its name
                clients.forget(name)
            raise
        answer.headers[HEADER] = name
        answer.set_cookie(COOKIE, name, httponly=True, samesite="lax")
        return answer

    @router.post(
        "/step",
        summary="Take a step",
        openapi_extra=_STEP_BODY,
        responses=problems(*_NOT_STEPPED) | _OBSERVATION,
    )
    async def step(request: Request) -> Response:
        body = await _body_of(request)
        if "action" not in body:
            raise InvalidSpec('the body has no action: {"action": …}', field="action")
        session = clients.find(request)
        if session is None:
            raise _no_session()
        message = {"type": "step", "data": {"action": body["action"]}}
        return JsonResponse(await clients.ask(_id_of(request), session, message))

    @router.delete("/session", summary="End the session; nothing where there is none", status_code=204)
    async def end(request: Request) -> Response:
        clients.forget(_id_of(request))
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
        return answer

    @router.get("/state", summary="The episode under way", responses=problems(SessionLost))
    async def state(request: Request) -> Response:
        session = clients.find(request)
        if session is None:
            return JsonResponse(Play(sessions.options.play).state())
        return JsonResponse(await clients.ask(_id_of(request), session, {"type": "state"}))

    @router.post("/mcp", summary="JSON-RPC, which environments here have no methods for")
    async def mcp(request: Request) -> Response:
        try:
            body: Any = await _body_of(request)
        except MalformedMessage:
            body = None
        return JsonResponse(to_json(answer_rpc(body)))

    return router


def _no_session() -> ResetNeeded:
    return ResetNeeded(
        "there is no episode, or the session was idle and has been ended: POST /reset first, and send the cookie "
        f"{COOKIE} (curl -c jar -b jar) or the header {HEADER} of its answer with each request"
    )
