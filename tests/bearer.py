"""The token of a server that a test started, for requests that no client of this project makes."""

from __future__ import annotations

from vecserver_client.credentials import authorization, choose


def headers(url: str, token: str | None = None) -> dict[str, str]:
    """What a request to a server of this user's is to have."""
    return authorization(choose(url, token)[1])
