"""The ways to a pool: which of its endpoints this machine reaches, and whether one is open."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from vecserver.wire.errors import TransportUnavailable

if TYPE_CHECKING:
    from vecserver_client.passes import Credentials

__all__ = ["LOOPBACK", "check_way", "reachable_endpoint"]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""This machine, as addresses name it."""

_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised in an address, not bound

_KNOCK_TIMEOUT: Final = 2.0
"""Seconds for a port to take a connection where there is another way: a firewall that drops it says nothing."""


def reachable_endpoint(name: str, endpoints: dict[str, str], url: str) -> str:
    """The pool's endpoint for a transport, as this machine reaches it.

    Args:
        name: ``shm``, ``ipc``, ``tcp`` or ``ws``.
        endpoints: What the server says of the pool's addresses.
        url: The server's own address.

    Raises:
        TransportUnavailable: There is none, or no way to it.
    """
    endpoint = endpoints.get(name)
    if endpoint is None:
        raise TransportUnavailable(f"the pool has no {name} endpoint")
    if name == "ws":  # behind the address as this machine knows it, whatever lies in between
        return f"ws{url.removeprefix('http')}{endpoint}"
    host = urlsplit(url).hostname or ""
    if name in ("ipc", "shm"):
        path = Path(endpoint.removeprefix(f"{name}://"))
        if host not in LOOPBACK or not os.access(path, os.W_OK):
            raise TransportUnavailable("the pool's socket is on another machine, or another user's")
        return endpoint
    address = urlsplit(endpoint)
    bound = address.hostname or ""
    if bound in LOOPBACK and host not in LOOPBACK:
        raise TransportUnavailable(f"the pool listens on {bound} only; start the server with another --host")
    if bound in _WILDCARDS or host not in LOOPBACK:
        return f"tcp://[{host}]:{address.port}" if ":" in host else f"tcp://{host}:{address.port}"
    return endpoint


def check_way(name: str, endpoint: str, url: str, credentials: Credentials | None = None) -> None:
    """Find out soon that a transport's way is closed, where another one may be tried.

    Args:
        name: The transport.
        endpoint: The pool's, as this machine reaches it.
        url: The server's own address.
        credentials: What the pool's tcp port asks for.

    Raises:
        TransportUnavailable: It is, or it is none to take unasked.
    """
    if name != "tcp":
        return
    if urlsplit(url).scheme == "https" and not (credentials is not None and credentials.encrypts):
        raise TransportUnavailable("the server's address is https://, and the pool's tcp port encrypts nothing")
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname, address.port), _KNOCK_TIMEOUT).close()
    except OSError as error:
        raise TransportUnavailable(f"the pool's port takes no connection: {error}") from None
