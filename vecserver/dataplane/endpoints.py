"""The ROUTER socket of a pool: hygiene first, then a tcp and an ipc address."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import zmq

from vecserver.arena.passing import new_socket
from vecserver.wire.errors import PortUnavailable
from vecserver.wire.frames import HEADER_SIZE, MAX_EXT

if TYPE_CHECKING:
    import socket
    from pathlib import Path

__all__ = ["MAX_IPC_PATH", "open_door", "open_router"]

MAX_IPC_PATH: Final = 107
"""Bytes that the path of a Unix socket may have."""

_HIGH_WATER: Final = 64
"""Messages a peer may have queued: a driver has one in flight, an observer a few."""

_MAX_CALLERS: Final = 64
"""Connections that may wait to be accepted: there is one driver, and now and then one that takes its place."""

_HANDSHAKE_MS: Final = 5000
_HEARTBEAT_MS: Final = 10_000
_HEARTBEAT_TIMEOUT_MS: Final = 60_000
"""A trainer's interpreter may stand still for long, in a debugger say; its I/O thread answers heartbeats anyway."""


def open_router(
    context: zmq.Context[zmq.Socket[bytes]],
    *,
    ipc_path: Path,
    bind_host: str,
    port_range: tuple[int, int] | None,
    max_request: int,
) -> tuple[zmq.Socket[bytes], dict[str, str]]:
    """Open the pool's socket and bind it.

    Args:
        context: The process's ZeroMQ context.
        ipc_path: The Unix socket to make.
        bind_host: Address of the interface for tcp.
        port_range: First and last tcp port to try; None for any free one.
        max_request: Largest legal body of a request, in bytes.

    Returns:
        The socket, and transport → endpoint.

    Raises:
        PortUnavailable: No port of the range is free, or the address is not this machine's.
    """
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.SNDHWM, _HIGH_WATER)
    router.setsockopt(zmq.RCVHWM, _HIGH_WATER)
    router.setsockopt(zmq.MAXMSGSIZE, max(max_request, MAX_EXT, HEADER_SIZE))
    router.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    router.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    if ":" in bind_host:
        router.setsockopt(zmq.IPV6, 1)
    try:
        endpoints = {"tcp": _bind_tcp(router, bind_host, port_range), "ipc": _bind_ipc(router, ipc_path)}
    except BaseException:
        router.close()
        raise
    return router, endpoints


def open_door(path: Path) -> tuple[socket.socket, str]:
    """Open the socket at which drivers on this machine ask for the arena.

    Args:
        path: The Unix socket to make, in a folder of this user's alone.

    Returns:
        The socket, and its endpoint.

    Raises:
        PortUnavailable: The path is too long.
    """
    _check_length(path)
    door = new_socket()
    try:
        door.bind(os.fspath(path))
        door.listen(_MAX_CALLERS)
        door.setblocking(False)
    except BaseException:
        door.close()
        raise
    return door, f"shm://{path}"


def _bind_tcp(router: zmq.Socket[bytes], bind_host: str, port_range: tuple[int, int] | None) -> str:
    host = f"[{bind_host}]" if ":" in bind_host else bind_host
    ports = [0] if port_range is None else range(port_range[0], port_range[1] + 1)
    for port in ports:
        try:
            router.bind(f"tcp://{host}:{port}" if port else f"tcp://{host}:*")
        except zmq.ZMQError as error:
            if error.errno in (zmq.EADDRINUSE, errno.EACCES):
                continue
            raise PortUnavailable(f"cannot bind tcp on {bind_host}: {error.strerror}", host=bind_host) from None
        return router.getsockopt_string(zmq.LAST_ENDPOINT)
    where = "no port is free" if port_range is None else f"no port from {port_range[0]} to {port_range[1]} is free"
    raise PortUnavailable(
        f"{where} on {bind_host}: delete a pool, or start the server with a wider range of data ports", host=bind_host
    )


def _bind_ipc(router: zmq.Socket[bytes], path: Path) -> str:
    _check_length(path)
    router.bind(f"ipc://{path}")
    return f"ipc://{path}"


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_IPC_PATH:
        raise PortUnavailable(
            f"the socket path {path} is longer than {MAX_IPC_PATH} bytes: set VECSERVER_RUNTIME_DIR to a shorter folder"
        )
