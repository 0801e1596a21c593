"""Ends of a connection that a test holds in its hand: a server that follows a script, a relay that cuts."""

from __future__ import annotations

import itertools
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from vecserver.wire import zmtp
from vecserver.wire.zmtp import GREETING

READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER"
LONG_S = 30.0

Script = Callable[[socket.socket], None]


def exactly(conn: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer when the other side is gone."""
    data = b""
    while len(data) < count and (chunk := conn.recv(count - len(data))):
        data += chunk
    return data


def greet(conn: socket.socket) -> None:
    """What a ROUTER does before anything else."""
    conn.sendall(GREETING + READY)
    assert exactly(conn, len(GREETING + zmtp.READY)) == GREETING + zmtp.READY


@contextmanager
def serve(*scripts: Script) -> Iterator[str]:
    """Listens, and plays one script a connection, the last one for all that follow; gives the endpoint.

    A script's own failure is the test's.
    """
    failures: list[BaseException] = []

    def play() -> None:
        for turn in itertools.count():
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            conn.settimeout(LONG_S)
            with conn:
                try:
                    scripts[min(turn, len(scripts) - 1)](conn)
                except (ConnectionError, TimeoutError):
                    continue  # the client left
                except BaseException as failure:
                    failures.append(failure)
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=play, name="script")
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(LONG_S)
            assert not thread.is_alive()
    if failures:
        raise failures[0]


class Relay:
    """Passes bytes between clients and a pool; ends each connection after so many bytes of either direction.

    Args:
        target: The pool's tcp endpoint.
        patience: Bytes after which a connection is cut, one figure a connection; uncut when they are used up.
    """

    def __init__(self, target: str, patience: Iterator[int]) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._patience = patience
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open = ExitStack()
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="relay")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for sock in (near, far):
                self._open.callback(sock.close)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            left = [next(self._patience, 1 << 60)]
            for source, sink in ((near, far), (far, near)):
                self._start(self._pass_on, source, sink, left)

    def _pass_on(self, source: socket.socket, sink: socket.socket, left: list[int]) -> None:
        with suppress(OSError):
            while data := source.recv(min(1 << 16, max(1, left[0]))):
                left[0] -= len(data)
                sink.sendall(data)
                if left[0] <= 0:
                    self.cuts += 1
                    break
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(LONG_S)
        self._listener.close()
        self._open.close()
        for thread in self._threads:
            thread.join(LONG_S)
            assert not thread.is_alive()


@contextmanager
def signals(every_s: float) -> Iterator[list[int]]:
    """Signals to the main thread, whose handler only notes them, while the block runs."""
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _frame: heard.append(number))
    over, main = threading.Event(), threading.main_thread().ident

    def send() -> None:
        while not over.wait(every_s):
            signal.pthread_kill(main, signal.SIGUSR2)

    thread = threading.Thread(target=send, name="signals")
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR2, before)
