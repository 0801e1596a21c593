"""As much of the HTTP API as it takes to make, find and end a pool, with coroutines."""

from __future__ import annotations

from typing import Any, Final

import httpx

from vecserver_client.control import HttpApi, pool_path

__all__ = ["AsyncControlClient"]

_TIMEOUT: Final = 300.0
"""Seconds to wait for an answer: making a pool of slow environments takes the server a while."""


class AsyncControlClient:
    """Speaks HTTP with one server, and raises what ``ControlClient`` raises. Close it.

    Args:
        url: Address of the server.
        token: As ``ControlClient`` takes it.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._api = HttpApi(url, token, _TIMEOUT)
        self.url = self._api.url
        # no connection is kept: requests are rare, and one of a client that nobody closed could not be closed any more
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.AsyncClient(limits=limits, **self._api.client_options)

    @property
    def headers(self) -> dict[str, str]:
        """What every request has besides."""
        return self._api.headers

    async def create_pool(self, **options: Any) -> dict[str, Any]:
        """Make a pool; as ``ControlClient.create_pool``."""
        return await self._ask("POST", "/v1/pools", options)

    async def get_pool(self, pool: str, *, timeout: float | None = None) -> dict[str, Any]:
        """One pool; as ``ControlClient.get_pool``."""
        return await self._ask("GET", pool_path(pool), timeout=timeout)

    async def ask_access(self, pool: str, key: str | None = None, *, timeout: float | None = None) -> dict[str, Any]:
        """Be let in at a pool's tcp port; as ``ControlClient.ask_access``."""
        return await self._ask("POST", f"{pool_path(pool)}/access", {"key": key}, timeout=timeout)

    async def delete_pool(self, pool: str, *, force: bool = False) -> None:
        """End a pool and its processes; as ``ControlClient.delete_pool``."""
        await self._ask("DELETE", pool_path(pool), params={"force": "true"} if force else None)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        options = self._api.request_options(body, timeout)
        try:
            answer = await self._http.request(method, path, params=params, **options)
        except httpx.TransportError as error:
            raise self._api.failure(error, f"{method} {path}", timeout) from None
        return self._api.read(answer)
