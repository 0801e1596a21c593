"""Floods of one kind each, against a pool or against HTTP, while somebody drives another pool.

A flood is a process that has what the others leave of the cores (``SCHED_IDLE``), as it would come from other machines;
it runs until its standard input ends: so the driver's rate with it and without it can be taken in turns.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

import numpy as np

import vecserver_client as vs
from tests.security.live import own_memory
from vecserver.wire.zmtp import GREETING, READY
from vecserver_client.direct import address_of

HALF_OPEN = 2_000
REFUSED = 1_000
"""Connections on which requests are refused, each again and again."""
SLOW = 200
"""Connections of a flood of slow requests."""
PAUSE_MS = 1
"""Between two sends of a slow flood: it has slow peers to be, and not to keep a core of this machine busy itself."""
CHUNK = bytes(64 << 10)


def _opened(address: str | tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.settimeout(1.0)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


class _Many:
    """Connections of which a few are opened, and all are fed, at each step; those that were ended are opened anew."""

    def __init__(self, address: str | tuple[str, int], count: int, first: bytes, more: bytes, undo: ExitStack) -> None:
        self._address, self._count, self._first, self._more = address, count, first, more
        self._socks: list[socket.socket] = []
        self.count = 0
        undo.callback(self._close)

    def step(self) -> None:
        """Open up to ten, feed up to ten."""
        for _ in range(min(10, self._count - len(self._socks))):
            sock = _opened(self._address)
            self._socks.append(sock)
            sock.setblocking(False)
            self.count += 1
            with suppress(OSError):
                sock.send(self._first)
        for sock in [self._socks.pop(0) for _ in range(min(10, len(self._socks)))]:
            try:
                if self._more:
                    sock.send(self._more)
                with suppress(BlockingIOError):
                    while data := sock.recv(4096):
                        del data
                    sock.close()  # it was ended
                    continue
            except BlockingIOError:
                pass
            except OSError:
                sock.close()
                continue
            self._socks.append(sock)

    def _close(self) -> None:
        for sock in self._socks:
            sock.close()


def endless_message(endpoint: str, undo: ExitStack) -> _Many:
    """A multipart message of empty frames and large ones that never ends, on four connections."""
    frames = b"\x01\x40" + bytes(64) + (b"\x03" + (60 << 20).to_bytes(8, "big")) + CHUNK[:4096]
    return _Many(address_of(endpoint), 4, GREETING + READY + frames, CHUNK, undo)


def endless_frames(endpoint: str, undo: ExitStack) -> _Many:
    """One with an endless number of small frames: the connection is ended, and opened again, over and over."""
    return _Many(address_of(endpoint), 4, GREETING + READY, b"\x01\x01x" * 2000, undo)


def half_open(endpoint: str, undo: ExitStack) -> _Many:
    """Two thousand handshakes at a time of which no more than a few bytes ever come."""
    return _Many(address_of(endpoint), HALF_OPEN, GREETING[:11], b"", undo)


def _http(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def slow_headers(url: str, undo: ExitStack) -> _Many:
    """Requests whose headers come byte by byte."""
    return _Many(_http(url), SLOW, b"GET /v1/pools HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X", undo)


def slow_bodies(url: str, undo: ExitStack) -> _Many:
    """Requests whose bodies do."""
    head = b"POST /v1/pools HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    return _Many(_http(url), SLOW, head, b"{", undo)


class _Refused:
    """Requests without a token, on many connections at a time: the next one goes out when one was refused."""

    def __init__(self, url: str, undo: ExitStack) -> None:
        self._address = _http(url)
        self._connections: deque[socket.socket] = deque()
        self._open = 0
        self.count = 0
        undo.callback(self._close)

    def step(self) -> None:
        """Open up to ten, look at up to forty."""
        for _ in range(min(10, REFUSED - self._open)):
            self._ask(_opened(self._address))
            self._open += 1
        for _ in range(min(40, len(self._connections))):
            sock = self._connections.popleft()
            try:
                answer = sock.recv(1 << 16)
            except BlockingIOError:
                self._connections.append(sock)
                continue
            except OSError:
                answer = b""
            if not answer:
                sock.close()
                self._open -= 1
                continue
            assert answer[9:12] in (b"401", b"503"), answer
            self._ask(sock)

    def _ask(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.count += 1
        with suppress(OSError):
            sock.send(b"GET /v1/pools HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self._connections.append(sock)

    def _close(self) -> None:
        for sock in self._connections:
            sock.close()


FLOODS: dict[str, Callable[[str, str, ExitStack], _Many | _Refused]] = {
    "an endless large frame": lambda endpoint, _, undo: endless_message(endpoint, undo),
    "an endless multipart message": lambda endpoint, _, undo: endless_frames(endpoint, undo),
    f"{HALF_OPEN:,} half-open handshakes": lambda endpoint, _, undo: half_open(endpoint, undo),
    f"{SLOW} slow headers": lambda _, url, undo: slow_headers(url, undo),
    f"{SLOW} slow bodies": lambda _, url, undo: slow_bodies(url, undo),
    f"{REFUSED:,} refused requests at a time": lambda _, url, undo: _Refused(url, undo),
}
"""What a flood is called → makes it, given the flooded pool's endpoint and the server's URL."""


def main(name: str, endpoint: str, url: str) -> None:
    """Flood until the standard input ends; say how many connections or requests there were."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN)
    with ExitStack() as undo:
        flood = FLOODS[name](endpoint, url, undo)
        flood.step()
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        while not poll.poll(PAUSE_MS):
            with suppress(OSError):
                flood.step()
        sys.stdout.write(f"{flood.count}\n")


@contextmanager
def flooding(name: str, endpoint: str, url: str) -> Iterator[list[int]]:
    """Flood during the block; how many connections or requests there were is known behind it."""
    command = [sys.executable, "-m", "tests.security.floods", name, endpoint, url]
    count: list[int] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"begun\n"
        try:
            yield count
        finally:
            process.stdin.close()
            count.append(int(process.stdout.readline() or 0))
    assert process.returncode == 0, f"the flood of {name} has failed"


@dataclass
class Ratio:
    """What a flood did.

    Attributes:
        kept: The driver's rate with it, as a part of that without: the median of pairs taken in turns.
        middle: Between which two the middle half of these pairs is.
        growth: Bytes by which the flooded host's and the server's own memory had grown at most, together.
        batches: Of the driver.
        count: Connections that were opened, or requests refused.
    """

    kept: float
    middle: tuple[float, float]
    growth: int
    batches: int
    count: int


def rate(envs: vs.RemoteVectorEnv, seconds: float) -> tuple[float, int]:
    """Batches a second, and how many there were."""
    actions = np.zeros(envs.num_envs, np.int64)
    count, began = 0, monotonic()
    while (now := monotonic()) < began + seconds:
        envs.step(actions)
        count += 1
    return count / (now - began), count


@contextmanager
def two_pools(server: vs.LocalServer, control: vs.ControlClient) -> Iterator[tuple[vs.RemoteVectorEnv, dict]]:
    """An honest driver's environment, and a pool to flood."""
    flooded = control.create_pool(env_id="CartPole-v1", num_envs=2, workers=1)
    honest = control.create_pool(env_id="CartPole-v1", num_envs=64, workers=1)
    envs = vs.attach(server.url, honest["pool"], transport="ipc")
    try:
        envs.reset(seed=1)
        yield envs, flooded
    finally:
        envs.close()
        for pool in (flooded, honest):
            control.delete_pool(pool["pool"], force=True)


def flooded_rate(name: str, server: vs.LocalServer, control: vs.ControlClient, *, pairs: int, seconds: float) -> Ratio:
    """Take a driver's rate without and with a flood, in turns."""
    with two_pools(server, control) as (envs, pool):
        before = own_memory(pool["host_pid"]) + own_memory(server.pid)
        ratios, most, batches, count = [], 0, 0, 0
        rate(envs, seconds)
        for _ in range(pairs):
            quiet, _ = rate(envs, seconds)
            with flooding(name, pool["endpoints"]["tcp"], server.url) as came:
                loud, stepped = rate(envs, seconds)
                most = max(most, own_memory(pool["host_pid"]) + own_memory(server.pid))
            ratios.append(loud / quiet)
            batches += stepped
            count += came[0]
        assert control.get_pool(pool["pool"])["state"] == "ready", "the flooded pool is gone"
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, (low, high), max(0, most - before), batches, count)


if __name__ == "__main__":
    main(*sys.argv[1:])
