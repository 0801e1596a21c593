"""The addresses of a pool: a tcp port and a Unix socket, and who speaks ZeroMQ's protocol on them."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeVar

from vecserver.arena.passing import new_socket
from vecserver.dataplane.plain_router import PlainRouter
from vecserver.dataplane.router import JoinedRouter
from vecserver.wire.errors import PortUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vecserver.dataplane.keyring import Keyring
    from vecserver.dataplane.router import Router
    from vecserver.pools.gate import Gate

__all__ = ["MAX_IPC_PATH", "open_door", "open_router"]

MAX_IPC_PATH: Final = 107
"""Bytes that the path of a Unix socket may have."""

_Bound = TypeVar("_Bound")

_BACKLOG: Final = 64
"""Peers that may wait to be accepted while a batch runs."""


def open_router(
    *,
    ipc_path: Path,
    bind_host: str,
    port_range: tuple[int, int] | None,
    max_request: int,
    gate: Gate,
    keyring: Keyring,
) -> tuple[Router, dict[str, str]]:
    """Open the pool's sockets and bind them.

    Args:
        ipc_path: The Unix socket to make.
        bind_host: Address of the interface for tcp.
        port_range: First and last tcp port to try; None for any free one.
        max_request: Largest legal body of a request, in bytes.
        gate: What is asked of whoever comes by tcp: a ticket, or CURVE.
        keyring: Which keys may come in, where it is that.

    Returns:
        The sockets, and transport → endpoint.

    Raises:
        PortUnavailable: No port of the range is free, or the address is not this machine's.
    """
    _check_length(ipc_path)
    if _is_loopback(bind_host) and not gate.secret_key:
        listener = _first_free(bind_host, port_range, lambda port: _listen_tcp(bind_host, port))
        with ExitStack() as stack:
            stack.enter_context(listener)
            local = stack.enter_context(_listen_ipc(ipc_path))
            stack.pop_all()
        host, port = listener.getsockname()[:2]
        tcp = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        return PlainRouter([listener, local], max_request, gate.ticket), {"tcp": tcp, "ipc": f"ipc://{ipc_path}"}

    from vecserver.dataplane.zmq_router import ZmqRouter  # its library and threads only where there is a network

    network = ZmqRouter(max_request, gate, keyring)
    try:
        tcp = _first_free(bind_host, port_range, lambda port: network.bind(bind_host, port))
        beside = PlainRouter([_listen_ipc(ipc_path)], max_request)
    except BaseException:
        network.close(0.0)
        raise
    return JoinedRouter([beside, network]), {"tcp": tcp, "ipc": f"ipc://{ipc_path}"}


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
    path.unlink(missing_ok=True)  # of a host that was killed
    door = new_socket()
    try:
        door.bind(os.fspath(path))
        door.listen(_BACKLOG)
        door.setblocking(False)
    except BaseException:
        door.close()
        raise
    return door, f"shm://{path}"


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_IPC_PATH:
        raise PortUnavailable(
            f"the socket path {path} is longer than {MAX_IPC_PATH} bytes: set VECSERVER_RUNTIME_DIR to a shorter folder"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # another name, of whatever
        return False


def _first_free(bind_host: str, port_range: tuple[int, int] | None, bind: Callable[[int], _Bound]) -> _Bound:
    ports = [0] if port_range is None else range(port_range[0], port_range[1] + 1)
    for port in ports:
        try:
            return bind(port)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            raise PortUnavailable(f"cannot bind tcp on {bind_host}: {error.strerror}", host=bind_host) from None
    where = "no port is free" if port_range is None else f"no port from {port_range[0]} to {port_range[1]} is free"
    raise PortUnavailable(
        f"{where} on {bind_host}: delete a pool, or start the server with a wider range of data ports", host=bind_host
    )


def _listen_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _listen_ipc(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # of a host that was killed
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(path))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
