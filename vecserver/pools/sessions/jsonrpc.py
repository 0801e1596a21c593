"""The least of MCP: environments here have no tools, and whoever asks is told so."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["answer_rpc"]

_INVALID_REQUEST: Final = -32600
_METHOD_NOT_FOUND: Final = -32601


def answer_rpc(request: Any) -> dict[str, Any]:
    """Answer a JSON-RPC 2.0 request.

    Args:
        request: What was sent, of any form.
    """
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0" or not isinstance(request.get("method"), str):
        return _error(None, _INVALID_REQUEST, "this is no JSON-RPC 2.0 request")
    number = request.get("id")
    if not isinstance(number, str | int | float | None):
        return _error(None, _INVALID_REQUEST, "an id is text or a number")
    if request["method"] == "tools/list":
        return {"jsonrpc": "2.0", "id": number, "result": {"tools": []}}
    return _error(number, _METHOD_NOT_FOUND, f"no method {request['method']!r:.80}: environments here have no tools")


def _error(number: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
