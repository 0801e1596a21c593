"""Every refusal as problem+json (RFC 9457), with the code of the error tree.

``vecserver.wire.errors.ERRORS`` is the one table of code, exception and HTTP status; nothing here adds to it. What
FastAPI and Starlette raise by themselves is turned into an error of the tree first.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from vecserver.control.rendering import JsonResponse
from vecserver.wire.errors import (
    InternalError,
    InvalidSpec,
    MalformedMessage,
    MethodRefused,
    UnknownRoute,
    VecServerError,
)
from vecserver.wire.json_values import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import Scope

__all__ = ["CODE_KEY", "Problem", "ProblemResponse", "answer", "install", "problems"]

_FAULTS: Final = 16
"""Faults of one body that are told."""

CODE_KEY: Final = "vecserver.code"
"""Where a refused request's scope holds the error's code, for the metrics."""


class Problem(BaseModel):
    """A refusal; the error's details are further members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", description="Always about:blank: `code` says which problem it is")
    title: str = Field(description="The status in words")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What happened and what to do about it")
    instance: str = Field(description="Path of the request")
    code: str = Field(description="Stable name of the error, the same as on the data plane; see docs/errors.md")


class ProblemResponse(JsonResponse):
    """A response with a problem in it."""

    media_type = "application/problem+json"


def answer(error: VecServerError, scope: Scope, headers: Mapping[str, str] | None = None) -> ProblemResponse:
    """The response to a request that an error ended.

    Args:
        error: The error; its details become members of the problem, except where a standard member has that name.
        scope: The request's ASGI scope.
        headers: Further headers.
    """
    scope[CODE_KEY] = error.code
    problem = {
        **error.details,
        "type": "about:blank",
        "title": HTTPStatus(error.http_status).phrase,
        "status": error.http_status,
        "detail": error.message,
        "instance": scope["path"],
        "code": error.code,
    }
    return ProblemResponse(to_json(problem), error.http_status, headers)


def problems(*errors: type[VecServerError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of a route that may end in these errors."""
    by_status: dict[int | str, list[str]] = {}
    for error in errors:
        by_status.setdefault(error.http_status, []).append(f"`{error.code}`")
    return {status: _response(" or ".join(codes)) for status, codes in sorted(by_status.items())} | {
        "default": _response("Any other error of docs/errors.md")
    }


def _response(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {ProblemResponse.media_type: {"schema": schema}}}


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer every error of an app with a problem.

    Args:
        app: The app.
        routes: All its routes: a refused method names those that the path takes.
    """

    def refuse_http(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, HTTPException)
        if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
            return answer(_from_http(request, error), request.scope)
        allowed = ", ".join(sorted(_methods(routes, request.scope["path"])))
        refused = MethodRefused(f"{request.scope['path']} takes {allowed}, not {request.method}", allowed=allowed)
        return answer(refused, request.scope, {"Allow": allowed})

    app.add_exception_handler(VecServerError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(Exception, _report_defect)


def _refuse(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, VecServerError)
    return answer(error, request.scope)


def _refuse_invalid(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    return answer(_from_validation(error), request.scope)


def _report_defect(request: Request, error: Exception) -> ProblemResponse:
    # Starlette raises the error again behind this answer, and the server logs it with its traceback
    defect = InternalError(f"a defect of the server ended this request ({type(error).__name__}); its log says where")
    return answer(defect, request.scope)


def _from_http(request: Request, error: HTTPException) -> VecServerError:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return UnknownRoute(f"nothing is at {request.scope['path']}: /docs lists the routes")
    return MalformedMessage(f"the request cannot be read: {error.detail}")


def _from_validation(error: RequestValidationError) -> VecServerError:
    found = error.errors()
    for each in found:
        named = each.get("ctx", {}).get("error")
        if isinstance(named, VecServerError):
            return named
    first = found[0]
    if first["type"] == "json_invalid":
        return MalformedMessage(f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
    if tuple(first["loc"]) == ("body",):
        return MalformedMessage(
            "the body is a JSON object, {} at least, sent with Content-Type: application/json (curl --json)"
        )
    faults = [{"field": ".".join(map(str, each["loc"][1:])), "message": str(each["msg"])} for each in found[:_FAULTS]]
    text = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
    return InvalidSpec(text, field=faults[0]["field"], faults=faults)


def _methods(routes: Sequence[BaseRoute], path: str) -> set[str]:
    return {
        method
        for route in routes
        if (pattern := getattr(route, "path_regex", None)) and pattern.match(path)
        for method in getattr(route, "methods", None) or ()
    }
