"""The protocol's messages over a WebSocket of the server's HTTP port, on an event loop."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.wire.errors import ServerUnreachable, TransportUnavailable, VecServerError
from vecserver_client.aio.waited import Waited
from vecserver_client.direct import unreachable
from vecserver_client.ws import KNOCK_S, WebSocketWire, address_of, checked_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vecserver.wire.frames import Buffer
    from vecserver_client.transport import Frames

__all__ = ["LoopWebSocket"]

_MAX_WAITING: Final = 16
"""Messages that may wait to be taken: one is the answer, a few are of repeats of its request. Then nothing is read."""


class LoopWebSocket:
    """A WebSocket to one pool; connects when it is first used, and again after it was lost. As ``AsyncTransport``.

    Args:
        url: ``ws://…`` or ``wss://…``.
        headers: Sent with the request for the WebSocket.
        max_body: Largest legal body of an answer, in bytes.
    """

    def __init__(self, url: str, headers: Mapping[str, str], max_body: int) -> None:
        self._url = url
        self._address = address_of(url)
        self._arguments = url, headers, max_body
        self._connection: _Connection | None = None

    async def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``WebSocketTransport.send``."""
        message = checked_request(header, ext, body)
        deadline = monotonic() + timeout
        perhaps_sent = False
        if self._connection is not None:
            if await self._connection.write(message, deadline):
                return
            perhaps_sent = self._connection.took
        self.close()
        try:
            connection = await self._connect(deadline, timeout)
            if await connection.write(message, deadline):
                return
            perhaps_sent |= connection.took
            self.close()
            raise unreachable(self._url, "does not take a message", timeout)
        except ServerUnreachable as error:
            error.details["perhaps_sent"] = perhaps_sent
            raise

    async def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``WebSocketTransport.receive``."""
        if self._connection is None:
            raise ConnectionResetError("there is no connection")
        return await self._connection.message(monotonic() + timeout)

    async def _connect(self, deadline: float, timeout: float) -> _Connection:
        while True:
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    host, port, context = self._address
                    loop = asyncio.get_running_loop()
                    make = partial(_Connection, WebSocketWire(*self._arguments))
                    _, self._connection = await loop.create_connection(make, host, port, ssl=context)
                    await self._connection.opened()
            except VecServerError:
                self.close()
                raise
            except OSError as error:
                self.close()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise TransportUnavailable(f"{self._url}: {error.verify_message}") from None
                if monotonic() + KNOCK_S >= deadline:
                    raise unreachable(self._url, "does not answer", timeout) from None
                await asyncio.sleep(KNOCK_S)
                continue
            except BaseException:
                self.close()
                raise
            return self._connection

    def moved(self) -> bool:
        """As ``Transport.moved``."""
        return self._connection is not None and self._connection.moved()

    def close(self) -> None:
        """Close the connection; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


class _Connection(Waited, asyncio.Protocol):
    """What the loop calls when bytes come, and what a transport waits for.

    Args:
        wire: The WebSocket.
    """

    def __init__(self, wire: WebSocketWire) -> None:
        super().__init__()
        self._wire = wire
        self._is_paused = False

    def moved(self) -> bool:
        """As ``Transport.moved``."""
        return self._wire.moved()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport.write(self._wire.to_send())

    def data_received(self, data: bytes) -> None:
        try:
            self._wire.received(data)
        except (OSError, VecServerError) as error:
            self._fail(error)
            self._transport.abort()
        else:
            if answer := self._wire.to_send():
                self._transport.write(answer)
            if len(self._wire) >= _MAX_WAITING and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        try:
            self._wire.received(b"")
        except (OSError, VecServerError) as error:
            self._fail(error)
        self._wake()

    async def opened(self) -> None:
        """Wait until messages may be sent."""
        while not self._wire.is_open:
            await self._change()

    async def write(self, message: bytes, deadline: float) -> bool:
        """Send all of it, unless the connection is lost or the peer does not read until the deadline."""
        self.took = self._failure is None and self._wire.send(message)
        if not self.took:
            return False
        self._transport.write(self._wire.to_send())
        left = deadline - monotonic()
        while self._is_full and self._failure is None and left > 0:
            await self._change(left)
            left = deadline - monotonic()
        return self._failure is None and not self._is_full

    async def message(self, deadline: float) -> Frames | None:
        """The next message; None where none comes until the deadline. Errors as ``WebSocketWire.message``."""
        left = max(0.0, deadline - monotonic())  # the loop looks at least once
        while (frames := self._wire.message()) is None:
            if self._failure is not None:
                raise self._failure
            if left < 0:
                return None
            await self._change(left)
            left = deadline - monotonic()
        if self._is_paused and self._failure is None:
            self._is_paused = False
            self._transport.resume_reading()
        return frames
