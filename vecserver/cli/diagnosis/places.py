"""Where a server listens and writes: ports and folders."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from vecserver.cli.diagnosis.finding import Finding, fail, ok, warn
from vecserver.pools.store import PoolStore
from vecserver.wire.errors import StateUnavailable

if TYPE_CHECKING:
    from vecserver.config import Settings

__all__ = ["check_data_ports", "check_http_port", "check_runtime_dir", "check_state_dir"]


def check_http_port(settings: Settings) -> Finding:
    """Whether the HTTP port can be listened on."""
    name = f"port {settings.port}"
    error = _why_not_free(settings.host, settings.port)
    if error is None:
        return ok(name, f"free on {settings.host}")
    if error.errno == errno.EADDRINUSE:
        advice = f"choose another with --port, or end what listens there (`ss -ltnp sport = :{settings.port}` names it)"
    else:
        advice = "choose another --port or --host"
    return fail(name, f"cannot be listened on at {settings.host}: {error.strerror or error}", advice)


def check_data_ports(settings: Settings) -> Finding:
    """Whether the range of the pools' ports has one for each."""
    name = "data ports"
    if settings.data_port_range is None:
        return ok(name, "any free ones")
    first, last = settings.data_port_range
    free = sum(_why_not_free(settings.host, port) is None for port in range(first, last + 1))
    found = f"{free} of {first}-{last} are free; there may be {settings.max_pools} pools"
    if free == 0:
        return fail(name, found, "choose another range with --data-ports, or end what listens there")
    if free < settings.max_pools:
        return warn(name, found, "widen --data-ports, or lower --max-pools")
    return ok(name, found)


def _why_not_free(host: str, port: int) -> OSError | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(1)
    except OSError as error:
        return error
    return None


def check_runtime_dir(settings: Settings) -> Finding:
    """Whether the folder for sockets and logs can be written to, and a socket bound in it."""
    name = "runtime folder"
    base = settings.runtime_dir
    try:
        base.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="vecserver-", dir=base) as folder,
            socket.socket(socket.AF_UNIX) as sock,
        ):
            sock.bind(str(Path(folder) / "1000.sock"))
        room = os.statvfs(base)
    except OSError as error:
        return fail(
            name, f"{base} does not take sockets: {error}", "set VECSERVER_RUNTIME_DIR to a folder of this user's"
        )
    free = room.f_bavail * room.f_frsize
    if free < 64 << 20:
        return warn(name, f"{base} has {free >> 20} MiB left", "make room there, or set VECSERVER_RUNTIME_DIR")
    return ok(name, f"{base} takes sockets")


def check_state_dir(settings: Settings) -> Finding:
    """Whether durable pools can be kept."""
    name = "state folder"
    folder = settings.state_dir
    try:
        with closing(PoolStore(folder)) as store:
            count = len(store.load())
    except StateUnavailable as error:
        return warn(name, error.message, "a server starts all the same, without the durable pools of this file")
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(nearest, os.W_OK | os.X_OK) or not nearest.is_dir():
        return warn(name, f"{folder} cannot be written to: durable pools are refused", "choose another --state-dir")
    return ok(name, f"{folder}, with {count} durable pools")
