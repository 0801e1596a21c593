"""How a server and a pool's host process greet each other: one line of JSON each way over a socket pair."""

from __future__ import annotations

import select
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import msgspec

from vecserver.engine.limits import WorkerLimits
from vecserver.pools.gate import Gate  # noqa: TC001 - msgspec reads the annotations
from vecserver.pools.spec import Caps, PoolSpec  # noqa: TC001
from vecserver.wire.messages import PoolInfo  # noqa: TC001

if TYPE_CHECKING:
    import socket

__all__ = [
    "EXPIRED",
    "OWNER_FILE",
    "HostFailed",
    "HostReady",
    "HostStart",
    "receive_answer",
    "receive_start",
    "send_line",
]

EXPIRED: Final = 86
"""Exit status of a host whose pool has ended with its driver's lease."""

OWNER_FILE: Final = "owner"
"""In a server's directory: it keeps this file locked while it lives."""

_CHUNK: Final = 65536


class HostStart(msgspec.Struct, frozen=True):
    """Server to host: what to make, and where to listen.

    Attributes:
        gate: What it asks of those who come by tcp.
        start_timeout: Seconds until the environments must exist.
        grace: Seconds that a batch in flight, and then the environments' closing, may take at the end.
        row_us: Microseconds of a row's step where they are known: they need not be measured again.
        log_level: The least that the host and its workers log.
        limits: What each of its workers may use.
    """

    pool: str
    spec: PoolSpec
    caps: Caps
    ipc_path: str
    shm_path: str
    log_path: str
    bind_host: str
    gate: Gate
    port_range: tuple[int, int] | None
    start_timeout: float
    grace: float
    row_us: float | None = None
    log_level: str = "WARNING"
    limits: WorkerLimits = WorkerLimits()


class HostReady(msgspec.Struct, frozen=True, tag=True):
    """Host to server: the pool can be stepped."""

    info: PoolInfo
    endpoints: dict[str, str]
    epoch: int
    arena_bytes: int
    row_us: float | None = None


class HostFailed(msgspec.Struct, frozen=True, tag=True):
    """Host to server: the pool could not be made; an error of the tree."""

    code: str
    message: str
    details: dict[str, Any]


def send_line(sock: socket.socket, message: msgspec.Struct, flags: int = 0) -> None:
    """Send one message as a line of JSON; ``flags`` are for the call, as ``MSG_DONTWAIT`` for a short line."""
    sock.sendall(msgspec.json.encode(message) + b"\n", flags)


def receive_start(sock: socket.socket) -> HostStart:
    """Receive the server's line.

    Raises:
        EOFError: The server is gone.
    """
    return msgspec.json.decode(_line(sock, None), type=HostStart)


def receive_answer(sock: socket.socket, timeout: float) -> HostReady | HostFailed:
    """Receive the host's line.

    Raises:
        EOFError: The host is gone.
        TimeoutError: No line came in time.
    """
    return msgspec.json.decode(_line(sock, monotonic() + timeout), type=HostReady | HostFailed)


def _line(sock: socket.socket, deadline: float | None) -> bytes:
    data = bytearray()
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while not data.endswith(b"\n"):
        if not poll.poll(None if deadline is None else max(0.0, deadline - monotonic()) * 1000):
            raise TimeoutError
        chunk = sock.recv(_CHUNK)
        if not chunk:
            raise EOFError("the process at the other end of the socket is gone")
        data += chunk
    return bytes(data)
