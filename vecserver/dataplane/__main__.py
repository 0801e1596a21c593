"""A pool's host process: ``python -m vecserver.dataplane CONTROL_FD``.

Its server writes one line of JSON to the control socket, says by it what to make, and reads one line back: the pool is
ready, or why not. From then on it says which clients' keys to let in, a line each; the end of the socket means stop.
"""

from __future__ import annotations

import gc
import os
import secrets
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vecserver import connection_file, logs
from vecserver.dataplane.door import Door
from vecserver.dataplane.endpoints import open_door, open_router
from vecserver.dataplane.keyring import Keyring
from vecserver.dataplane.loop import HostLoop
from vecserver.dataplane.server_line import ServerLine
from vecserver.dataplane.splitting import PoolDispatcher
from vecserver.dataplane.stats import pool_stats
from vecserver.outlet import outlive_everywhere
from vecserver.pools.handshake import (
    EXPIRED,
    OWNER_FILE,
    HostFailed,
    HostReady,
    HostStart,
    receive_start,
    send_line,
)
from vecserver.pools.host import Host
from vecserver.wire.errors import HostStartFailed, VecServerError
from vecserver.wire.stacks import StackFormat

if TYPE_CHECKING:
    from types import FrameType

    from vecserver.dataplane.router import Router

__all__ = ["main"]

_LEAST_KEY_TTL_S = 60.0
"""How long a client may be silent before its key is forgotten, at least: between two words it may be connecting."""

_LAST_REPLY_S = 0.2
"""How long the answer to the last batch may take to leave."""

_SERVERS_END_MS = 1000
"""How long a server that has closed its sockets may take to be gone."""


def _heed_signals(control: socket.socket) -> None:
    """Take SIGTERM for the server's word to stop: every wait ends as it does when that word comes."""

    def on_terminate(_number: int, _frame: FrameType | None) -> None:
        with suppress(OSError):  # closed already: on its way out
            control.shutdown(socket.SHUT_RD)

    # Ctrl-C in a terminal reaches every process of the group; only the server decides about pools
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_terminate)


def main(control_fd: int) -> int:
    """Run a host process; returns its exit status."""
    server = os.getppid()
    with socket.socket(fileno=control_fd) as control:
        _heed_signals(control)
        try:
            start = receive_start(control)
        except EOFError:
            return 1
        outlive_everywhere()
        logs.configure("json", start.log_level, pool=start.pool)
        host = Host(start.pool, start.spec, start.caps, row_us=start.row_us, limits=start.limits)
        try:
            return _serve(host, start, control)
        finally:
            host.stop(start.grace)
            for path in (start.ipc_path, start.shm_path):
                Path(path).unlink(missing_ok=True)
            if _is_closed(control):
                _clear_away(Path(start.log_path), server)


def _is_closed(control: socket.socket) -> bool:
    """Whether the server is gone: a server that only says stop keeps its end for reading."""
    poll = select.poll()
    poll.register(control, 0)  # a hang-up is reported in any case
    return bool(poll.poll(0))


def _clear_away(log_path: Path, server: int) -> None:
    """Remove what the server would have removed: it is gone, or about to be."""
    _await_end(server)
    log_path.unlink(missing_ok=True)
    directory = log_path.parent
    with suppress(OSError):  # other pools of that server are still leaving; the last one succeeds
        if [path.name for path in directory.iterdir()] == [OWNER_FILE]:
            (directory / OWNER_FILE).unlink(missing_ok=True)
        directory.rmdir()
    connection_file.sweep()


def _await_end(server: int) -> None:
    """Wait for the end of a process: until then it holds the locks of its files."""
    with suppress(ProcessLookupError):
        end = os.pidfd_open(server)
        try:
            poll = select.poll()
            poll.register(end, select.POLLIN)
            poll.poll(_SERVERS_END_MS)
        finally:
            os.close(end)


def _open(host: Host, start: HostStart, keyring: Keyring) -> tuple[Router, socket.socket | None, dict[str, str]]:
    """The sockets of the pool, the one at its door where it has one, and their endpoints: all of them, or none."""
    router, endpoints = open_router(
        ipc_path=Path(start.ipc_path),
        bind_host=start.bind_host,
        port_range=start.port_range,
        max_request=host.info.max_request,
        gate=start.gate,
        keyring=keyring,
    )
    if not host.lendable:
        return router, None, endpoints
    try:
        listener, endpoints["shm"] = open_door(Path(start.shm_path))
    except BaseException:
        router.close(0.0)
        raise
    return router, listener, endpoints


def _serve(host: Host, start: HostStart, control: socket.socket) -> int:
    try:
        host.start(start.start_timeout, abort_fd=control.fileno(), fork=True)
        if host.last_core is not None:
            # beside the worker that is rung last: to hand over on one core takes a fraction of waking another
            os.sched_setaffinity(0, {host.last_core})
        epoch = secrets.randbits(63) | 1
        stacks = StackFormat.of(host.layout, host.described.observation_space)
        dispatcher = PoolDispatcher(host, epoch, time.monotonic_ns, pool_stats(host), stacks)
        line = ServerLine(control)
        key_ttl = max(start.spec.lease_ttl, _LEAST_KEY_TTL_S)
        keyring = Keyring(line.new_keys, key_ttl, time.monotonic, lambda: dispatcher.driver_key)
        router, listener, endpoints = _open(host, start, keyring)
    except VecServerError as error:
        send_line(control, HostFailed(error.code, error.message, error.details))
        return 0
    except OSError as error:  # no process, descriptor or memory is left
        message = f"a host process could not make its pool: {error}"
        send_line(control, HostFailed(HostStartFailed.code, message, {}))
        return 0
    send_line(control, HostReady(host.info, endpoints, epoch, host.memory_bytes, host.row_us))
    gc.collect()
    gc.freeze()
    door = None if listener is None else Door(listener, host, dispatcher)
    loop = HostLoop(host, dispatcher, router, control.fileno(), door, line.is_over)
    try:
        expired = loop.run()
        loop.drain(start.grace)
    finally:
        if door is not None:
            door.close()
        router.close(_LAST_REPLY_S)
    return EXPIRED if expired else 0


if __name__ == "__main__":
    os.set_blocking(int(sys.argv[1]), True)
    sys.exit(main(int(sys.argv[1])))
