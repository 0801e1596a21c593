"""A proxy that does to connections what bad networks do: message by message where it knows the protocol, else by bytes."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Self

from tests.chaos.faults import Fault, Faults, WebSocketSplitter, ZmtpSplitter

LONG_S = 30.0
CHUNK = 1 << 16
REMEMBERED = 8


class FaultProxy:
    """Stands before one port of this machine; a context manager. Any thread may use it.

    Args:
        target: ``tcp://host:port``, ``ipc://path``, or the address of a server.
        faults: What happens to messages.
        seed: Draws from it.
        splitter: What finds the messages of the protocol that is spoken there; None for every piece of bytes that arrives.
        path: Where to listen, a Unix socket; None for a port of loopback.

    Attributes:
        endpoint: Where clients connect, in the form of ``target``.
        counts: How often each fault struck, ``connections``, and messages ``up`` and ``down``.
    """

    def __init__(
        self,
        target: str,
        faults: Faults | None = None,
        seed: int = 0,
        *,
        splitter: type[ZmtpSplitter | WebSocketSplitter] | None = ZmtpSplitter,
        path: str | None = None,
    ) -> None:
        self._target = target
        self.faults = faults or Faults()
        self._seed, self._splitter, self._path = seed, splitter, path
        self.counts: Counter[str] = Counter()
        self._numbers = count()
        self._old: dict[str, deque[bytes]] = {"up": deque(maxlen=REMEMBERED), "down": deque(maxlen=REMEMBERED)}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault proxy")
        self.endpoint = ""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(LONG_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()
        if self._path is not None:
            Path(self._path).unlink()

    def partition(self) -> None:
        """From now on nothing passes, in either direction and on no connection; nobody is told."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """What was held up goes on, and all that comes."""
        self._loop.call_soon_threadsafe(self._open.set)

    def cut_all(self) -> None:
        """End every connection that there is."""

        def cut() -> None:
            for connection in [*self._connections]:
                connection.abort()

        self._loop.call_soon_threadsafe(cut)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over, self._open = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._connections: set[_Connection] = set()
        if self._path is not None:
            server = await asyncio.start_unix_server(self._accept, self._path)
            self.endpoint = f"ipc://{self._path}"
        else:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.endpoint = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._over.wait()
        server.close()
        for connection in [*self._connections]:
            connection.abort()
            await connection.ended.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        self.counts["connections"] += 1
        connection = _Connection(self, next(self._numbers), (reader, writer), far)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.startswith("ipc://"):
            return await asyncio.open_unix_connection(self._target.removeprefix("ipc://"))
        host, _, port = self._target.rpartition("/")[2].rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def passable(self) -> None:
        """Wait while the network is divided."""
        await self._open.wait()

    def pieces(self, connection: int, direction: str) -> _Pieces:
        """How to divide and to treat one direction of a connection."""
        splitter = self._splitter() if self._splitter else None
        schedule = self.faults.schedule(self._seed, connection, direction)
        return _Pieces(splitter, schedule, self._old[direction], self.counts, direction)


class _Pieces:
    """One direction's stream in pieces, each with its fault."""

    def __init__(
        self,
        splitter: ZmtpSplitter | WebSocketSplitter | None,
        schedule: Iterator,
        old: deque[bytes],
        counts: Counter[str],
        direction: str,
    ) -> None:
        self._splitter, self._schedule = splitter, schedule
        self._counts, self._direction = counts, direction
        self.old = old

    def of(self, data: bytes) -> Iterator[tuple[bytes, Fault, object]]:
        for piece, is_message in self._splitter.feed(data) if self._splitter else [(data, True)]:
            self._counts[self._direction] += is_message
            fault, dice = next(self._schedule) if is_message else (Fault.PASS, None)
            yield piece, fault, dice
            if is_message:
                self.old.append(piece)


class _Connection:
    """Two directions between a client and the target."""

    def __init__(self, proxy: FaultProxy, number: int, near, far) -> None:
        self._proxy, self._number = proxy, number
        self._near, self._far = near, far
        self._stalled = False
        self.ended = asyncio.Event()
        for _, writer in (near, far):
            sock = writer.get_extra_info("socket")
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self) -> None:
        near, far = self._near, self._far
        self._pumps = [
            asyncio.ensure_future(self._pump(near[0], far[1], "up")),
            asyncio.ensure_future(self._pump(far[0], near[1], "down")),
        ]
        try:
            await asyncio.wait(self._pumps)
        finally:
            self.abort()
            for _, writer in (near, far):
                with suppress(OSError):
                    await writer.wait_closed()
            self.ended.set()

    def abort(self) -> None:
        """End both ends at once."""
        for pump in self._pumps:
            pump.cancel()
        for _, writer in (self._near, self._far):
            writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str) -> None:
        pieces = self._proxy.pieces(self._number, direction)
        with suppress(OSError):
            while data := await source.read(CHUNK):
                for piece, fault, dice in pieces.of(data):
                    await self._treat(sink, piece, fault, dice, pieces.old)
            # what has left passes, however: a direction's end is told behind it
            await self._may_pass()
            sink.write_eof()
            return
        self.abort()

    async def _treat(self, sink, piece: bytes, fault: Fault, dice, old: deque[bytes]) -> None:
        if fault is not Fault.PASS:
            self._proxy.counts[fault.name.lower()] += 1
        match fault:
            case Fault.LOSE:
                return
            case Fault.CUT:
                self.abort()
                await asyncio.Event().wait()  # the cancellation comes with the next turn of the loop
            case Fault.CUT_INSIDE:
                await self._write(sink, piece[: dice.randrange(1, len(piece))])
                sink.close()
                self._other_abort(sink)
                raise ConnectionResetError
            case Fault.HALF_CLOSE:
                sink.write_eof()
                await asyncio.Event().wait()
            case Fault.STALL:
                self._stalled = True
            case Fault.DELAY:
                await asyncio.sleep(dice.uniform(0, self._proxy.faults.delay_s))
        await self._write(sink, piece)
        if fault is Fault.DOUBLE:
            await self._write(sink, piece)
        elif fault is Fault.REPEAT_OLD and old:
            await self._write(sink, dice.choice(old))

    def _other_abort(self, sink) -> None:
        for _, writer in (self._near, self._far):
            if writer is not sink:
                writer.transport.abort()

    async def _may_pass(self) -> None:
        await self._proxy.passable()
        if self._stalled:
            await asyncio.Event().wait()

    async def _write(self, sink, piece: bytes) -> None:
        await self._may_pass()
        rate = self._proxy.faults.bytes_per_s
        if rate is None:
            sink.write(piece)
            await sink.drain()
            return
        step = max(1, int(rate / 50))
        for at in range(0, len(piece), step):
            sink.write(piece[at : at + step])
            await sink.drain()
            await asyncio.sleep(1 / 50)
