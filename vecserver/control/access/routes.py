"""The routes of browsers' log-in, and what the server says of itself to whoever has a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from vecserver import __version__
from vecserver.control.access.gate import count_failure, granted_to, peer_of
from vecserver.control.access.logins import CODE_S, SESSION_S
from vecserver.control.access.scopes import LOGIN_PATH
from vecserver.control.access.wording import logged_in_page, login_page
from vecserver.control.problems import problems
from vecserver.control.web.mount import PATH, prefix_of
from vecserver.wire.errors import Forbidden, Unauthorized

if TYPE_CHECKING:
    from vecserver.control.access.gate import Access

__all__ = ["access_routes"]


class ServerAnswer(BaseModel):
    """What a server says of itself."""

    name: str
    version: str
    scope: str = Field(description="What the token of this request is good for")
    insecure: bool = Field(description="Whether it was started with --insecure: batches cross networks unencrypted")
    openenv_public: bool = Field(description="Whether OpenEnv's routes and the page, to look at, need no token")


class LoginAnswer(BaseModel):
    """A link for a browser."""

    path: str = Field(description="To be opened behind the server's address; whoever opens it first is logged in")
    expires_s: float = Field(description="Seconds that it is good for")


def access_routes(access: Access) -> APIRouter:
    """The routes.

    Args:
        access: Where codes and sessions are kept.
    """
    router = APIRouter(tags=["operation"])

    @router.get("/v1", summary="What this server is, and what this token is good for", responses=problems())
    async def about(request: Request) -> ServerAnswer:
        return ServerAnswer(
            name="vecserver",
            version=__version__,
            scope=str(granted_to(request.scope)),
            insecure=access.insecure,
            openenv_public=access.openenv_public,
        )

    @router.post("/v1/logins", status_code=201, summary="Make a link that logs a browser in", responses=problems())
    async def make_link(request: Request) -> LoginAnswer:
        code = access.logins.new_code(granted_to(request.scope))
        return LoginAnswer(path=f"{LOGIN_PATH}?code={code}", expires_s=CODE_S)

    @router.delete(
        "/v1/logins",
        status_code=204,
        summary="Log every browser out",
        response_class=Response,
        responses=problems(Forbidden),
    )
    async def log_out() -> None:
        access.logins.end_all()

    @router.get(LOGIN_PATH, include_in_schema=False)
    async def log_in(request: Request, code: Annotated[str, Query()] = "") -> Response:
        session = access.logins.redeem(code)
        if session is None:
            count_failure(access.attempts, peer_of(request.scope))
            refusal = Unauthorized("This link is no longer good: it was opened before, or is too old.", link="stale")
            return login_page(refusal, request.scope, {})
        answer = logged_in_page(f"{prefix_of(request)}{PATH}/")
        answer.set_cookie(
            access.cookie, session, max_age=int(SESSION_S), httponly=True, samesite="strict", secure=access.secure
        )
        return answer

    return router
