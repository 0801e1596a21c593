"""ZeroMQ's protocol on an event loop: one connection to one pool.

The loop reads whatever comes, whether anybody waits for it or not. So a wait that is cancelled loses nothing, and a
pool that asks for a sign of life gets one while the program is busy with something else in the same loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from vecserver.wire import zmtp
from vecserver.wire.errors import MalformedMessage, ServerUnreachable, VecServerError
from vecserver.wire.frames import HEADER_SIZE, MAX_EXT
from vecserver.wire.opening import ClientOpening
from vecserver_client.aio.waited import Waited
from vecserver_client.direct import address_of, checked_message, unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.wire.frames import Buffer
    from vecserver_client.passes import Credentials
    from vecserver_client.transport import Frames

__all__ = ["AsyncTransport", "LoopTransport"]

_KNOCK_S: Final = 0.05
"""Pause between two tries to connect to an address where nobody listens."""
_MAX_WAITING: Final = 16
"""Messages that may wait to be taken: one is the answer, a few are of repeats of its request. Then nothing is read."""


class AsyncTransport(Protocol):
    """Carries messages to one pool and back. One task uses it at a time; a call that is cancelled leaves it whole."""

    async def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``Transport.send``."""

    async def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``Transport.receive``."""

    def moved(self) -> bool:
        """As ``Transport.moved``."""

    def close(self) -> None:
        """Let go of everything; may be called again."""


class LoopTransport:
    """A connection to one pool; connects when it is first used, and again after it was lost.

    Args:
        endpoint: ``tcp://…`` or ``ipc://…``.
        max_body: Largest legal body of an answer, in bytes.
        credentials: What the pool's tcp port asks for; None for nothing.
    """

    def __init__(self, endpoint: str, max_body: int, *, credentials: Credentials | None = None) -> None:
        self._endpoint = endpoint
        self._ticket = "" if credentials is None else credentials.ticket
        self._limits = (HEADER_SIZE, MAX_EXT, max_body)
        self._wire: _Wire | None = None

    async def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``Transport.send``."""
        buffers = zmtp.encode((header, ext, body))
        deadline = monotonic() + timeout
        perhaps_sent = False
        if self._wire is not None:
            if await self._wire.write(buffers, deadline):
                return
            perhaps_sent = self._wire.took
        # not connected yet, or not any more: a fresh connection tells whether the pool is still there
        self.close()
        try:
            wire = await self._connect(deadline, timeout)
            if await wire.write(buffers, deadline):
                return
            perhaps_sent |= wire.took
            self.close()
            raise self._unreachable("does not take a message", timeout)
        except ServerUnreachable as error:
            error.details["perhaps_sent"] = perhaps_sent
            raise

    async def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``Transport.receive``."""
        if self._wire is None:
            raise ConnectionResetError("there is no connection")
        frames = await self._wire.message(monotonic() + timeout)
        return None if frames is None else checked_message(frames)

    def moved(self) -> bool:
        """As ``Transport.moved``."""
        return self._wire is not None and self._wire.moved()

    async def _connect(self, deadline: float, timeout: float) -> _Wire:
        while True:
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    self._wire = wire = await self._opened()
                    await wire.greeted()
            except OSError:
                self.close()
                if monotonic() + _KNOCK_S >= deadline:
                    raise self._unreachable("does not answer", timeout) from None
                await asyncio.sleep(_KNOCK_S)
                continue
            except BaseException:
                self.close()
                raise
            return wire

    async def _opened(self) -> _Wire:
        loop, address = asyncio.get_running_loop(), address_of(self._endpoint)
        if isinstance(address, str):
            _, wire = await loop.create_unix_connection(self._new_wire, address)
        else:
            _, wire = await loop.create_connection(self._new_wire, *address)
        return wire

    def _new_wire(self) -> _Wire:
        return _Wire(self._limits, ClientOpening(self._ticket))

    def _unreachable(self, what: str, timeout: float) -> ServerUnreachable:
        return unreachable(self._endpoint, what, timeout)

    def close(self) -> None:
        """Close the connection; may be called again."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort()


class _Wire(Waited, asyncio.BufferedProtocol):
    """The bytes of one connection: what the loop calls when they come, and what a transport waits for.

    Args:
        limits: The largest frames of a message, as for ``zmtp.Incoming``.
        opening: What is said before the first message.
    """

    def __init__(self, limits: tuple[int, ...], opening: ClientOpening) -> None:
        super().__init__()
        self._opening = opening
        self._greeting = bytearray(len(opening.greeting))
        self._heard = 0  # of the peer's greeting
        self._incoming = zmtp.Incoming(limits)
        self._inbox: deque[Sequence[Buffer]] = deque()
        self._moved = False

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # the rest later: a peer that demands another mechanism hangs up on it before it has said which
        self._transport.write(self._opening.greeting[: zmtp.OPENING_SIZE])

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        if self._heard < len(self._greeting):
            return memoryview(self._greeting)[self._heard :]
        return self._incoming.room()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._heard < len(self._greeting):
                self._greet(nbytes)
            else:
                self._moved = True
                self._incoming.received(nbytes)
                self._take_in()
        except VecServerError as error:
            self._fail(error)
            self._transport.abort()
        self._wake()

    # What came

    def _greet(self, count: int) -> None:
        self._heard += count
        self._opening.check(bytes(self._greeting[: self._heard]))
        if self._heard == len(self._greeting):
            self._transport.write(self._opening.greeting[zmtp.OPENING_SIZE :] + self._opening.greeted())

    def _take_in(self) -> None:
        while len(self._inbox) < _MAX_WAITING and (frames := self._incoming.message()) is not None:
            self._inbox.append(frames)
        if self._inbox and not self._opening.is_open:
            raise MalformedMessage("what listens there is no pool: it speaks before it is asked")
        for name, data in self._incoming.commands:
            if not self._opening.is_open:
                if answer := self._opening.heard(name, data):
                    self._transport.write(answer)
            elif name == b"PING" and not self._is_full:  # a peer that asks and does not read gets no answers
                self._transport.write(zmtp.pong(data))
            elif name == b"ERROR":
                raise MalformedMessage(f"the peer refuses the connection: {data[1:].decode('utf-8', 'replace')}")
        self._incoming.commands.clear()
        if len(self._inbox) == _MAX_WAITING:
            self._transport.pause_reading()

    # What a transport waits for

    def moved(self) -> bool:
        """Whether a part of a message has come since this was asked last."""
        moved, self._moved = self._moved and self._incoming.held > 0, False
        return moved

    async def greeted(self) -> None:
        """Wait until messages may be sent."""
        while not self._opening.is_open:
            await self._change()

    async def write(self, buffers: list[Buffer], deadline: float) -> bool:
        """Send all of it, unless the connection is lost or the peer does not read until the deadline."""
        self.took = self._failure is None
        if not self.took:
            return False
        for buffer in buffers:  # not writelines, which pauses nobody in some releases of Python 3.12 and 3.13
            self._transport.write(buffer)
        left = deadline - monotonic()
        while self._is_full and self._failure is None and left > 0:
            await self._change(left)
            left = deadline - monotonic()
        return self._failure is None and not self._is_full

    async def message(self, deadline: float) -> Sequence[Buffer] | None:
        """The next message; None where none comes until the deadline.

        Raises:
            ConnectionError: The connection is lost.
            ProtocolError: What came is no message.
        """
        left = max(0.0, deadline - monotonic())  # the loop looks at least once
        while not self._inbox:
            if self._failure is not None:
                raise self._failure
            if left < 0:
                return None
            await self._change(left)
            left = deadline - monotonic()
        frames = self._inbox.popleft()
        if len(self._inbox) == _MAX_WAITING - 1 and self._failure is None:
            self._transport.resume_reading()
            self.buffer_updated(0)  # what was received with the last ones
        return frames
