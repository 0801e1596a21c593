"""A line to a pool's host from the event loop: messages over the pool's ipc endpoint, one connection a conversation.

It speaks ZeroMQ's protocol on a plain socket, as the host does: neither end needs a thread. What nobody takes here is
not read from the host, and what the host does not take makes a sender wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, cast

from vecserver.wire import zmtp
from vecserver.wire.errors import DeadlineExceeded, VecServerError
from vecserver.wire.frames import HEADER_SIZE, MAX_EXT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.pools.registry import HostAddress
    from vecserver.wire.frames import Buffer

__all__ = ["HostLine"]

_GREETING_S: Final = 5.0
"""Seconds for a host to greet: it does so between any two of its deeds."""

_MAX_WAITING: Final = 4
"""Messages that may wait to be taken: one is the answer, others are of repeats of its request. Then nothing is read."""


class HostLine(asyncio.BufferedProtocol):
    """A connection to a host; made by ``open``. One task sends and one receives.

    Args:
        max_body: Largest legal body of an answer, in bytes.
    """

    def __init__(self, max_body: int) -> None:
        self._incoming = zmtp.Incoming((HEADER_SIZE, MAX_EXT, max_body))
        self._inbox: deque[Sequence[Buffer]] = deque()
        self._is_greeted = self._is_full = False
        self._failure: Exception | None = None
        self._taker: Callable[[Sequence[Buffer]], bool] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, address: HostAddress) -> HostLine:
        """Connect to a host.

        Raises:
            OSError: Nobody listens there, or the host takes no more connections.
            DeadlineExceeded: The host does not greet.
        """
        max_body = address.info.layout["slot_size"]
        line: HostLine | None = None
        try:
            async with asyncio.timeout(_GREETING_S):
                loop = asyncio.get_running_loop()
                _, line = await loop.create_unix_connection(lambda: cls(max_body), address.path)
                await line.greeted()
        except BaseException as error:
            if line is not None:
                line.close()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"the pool's host does not greet within {_GREETING_S:g} s") from None
            raise
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop has connected: greet."""
        self._loop, self._transport = asyncio.get_running_loop(), cast("asyncio.Transport", transport)
        self._transport.write(zmtp.GREETING + zmtp.READY)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop puts what comes."""
        del sizehint
        return self._incoming.room()

    def buffer_updated(self, nbytes: int) -> None:
        """The loop has put bytes there: take messages out of them."""
        try:
            self._incoming.received(nbytes)
            self._take_in()
        except VecServerError as error:
            self._fail(error)
            self._transport.abort()
        if self._inbox or self._incoming.commands:
            _wake(self._reader)

    def pause_writing(self) -> None:
        """The loop holds as much unsent as it likes to."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It has room again."""
        self._is_full = False
        _wake(self._writer)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, and nothing else comes."""
        del exc
        self._fail(ConnectionResetError("the host ended the connection"))

    def _take_in(self) -> None:
        if not self._is_greeted and not self._incoming.greeting():
            return
        self._is_greeted = True
        while len(self._inbox) < _MAX_WAITING and (frames := self._incoming.message()) is not None:
            if self._inbox or self._taker is None or not self._taker(frames):
                self._inbox.append(frames)
        if len(self._inbox) == _MAX_WAITING:
            self._transport.pause_reading()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        _wake(self._reader)
        _wake(self._writer)

    async def greeted(self) -> None:
        """Wait until the host has said that it is one."""
        while not self._incoming.commands:
            await self._read()
        self._incoming.commands.clear()

    def take(self, taker: Callable[[Sequence[Buffer]], bool]) -> None:
        """Have messages handed to a function from here on, where they are read.

        Args:
            taker: Says whether it took a message; it raises nothing. Called while no earlier one waits to be received.
        """
        self._taker = taker

    def pass_on(self, frames: Sequence[Buffer]) -> bool:
        """Send a message now; False where it cannot be: earlier ones wait for the host, or it is gone."""
        if self._is_full or self._failure is not None:
            return False
        self._transport.write(b"".join(zmtp.encode(frames)))
        return True

    async def send(self, frames: Sequence[Buffer]) -> None:
        """Send a message; returns when the host has taken most of it.

        Raises:
            OSError: The connection is lost.
        """
        if self._failure is None:
            self._transport.write(b"".join(zmtp.encode(frames)))
        while self._is_full and self._failure is None:
            self._writer = self._loop.create_future()
            await self._writer
        if self._failure is not None:
            raise self._failure

    async def receive(self) -> Sequence[Buffer]:
        """Wait for a message.

        Raises:
            OSError: The connection is lost.
            ProtocolError: What came is no message.
        """
        while not self._inbox:
            await self._read()
        frames = self._inbox.popleft()
        if len(self._inbox) == _MAX_WAITING - 1 and self._failure is None:
            self._transport.resume_reading()
            self.buffer_updated(0)  # what was received with the last ones
        return frames

    async def _read(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._reader = self._loop.create_future()
        await self._reader

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
