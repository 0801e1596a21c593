"""A socket of libzmq on an event loop: for tcp that is encrypted."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.wire.errors import ServerUnreachable

if TYPE_CHECKING:
    from vecserver.wire.frames import Buffer
    from vecserver_client.transport import Frames, ZmqTransport

__all__ = ["LoopCurve"]

_LOOK_S: Final = 0.1
"""How often a peer that takes nothing is looked at: that it refuses a connection rings no bell."""


class LoopCurve:
    """As ``AsyncTransport``, over a transport whose calls never wait here.

    Args:
        transport: Closed by ``close``.
    """

    def __init__(self, transport: ZmqTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``Transport.send``."""
        deadline = monotonic() + timeout
        while True:
            self._check_open()
            try:
                self._transport.send(header, ext, body, 0.0)
            except ServerUnreachable:
                left = deadline - monotonic()
                if left <= 0:
                    raise
                await self._change(min(left, _LOOK_S))
            else:
                return

    async def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``Transport.receive``."""
        deadline = monotonic() + timeout
        while True:
            self._check_open()
            frames = self._transport.receive(0.0)
            left = deadline - monotonic()
            if frames is not None or left <= 0:
                return frames
            await self._change(left)

    async def _change(self, timeout: float) -> None:
        """Wait until libzmq has something to say; the descriptor is watched here alone: only a call makes it silent."""
        changed, fd = asyncio.Event(), self._transport.fd
        self._loop.add_reader(fd, changed.set)
        try:
            async with asyncio.timeout(timeout):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            self._loop.remove_reader(fd)

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionResetError("the connection was closed")

    def moved(self) -> bool:
        """Never: ZeroMQ keeps a message to itself until it is whole."""
        return False

    def close(self) -> None:
        """Close the connection; any thread may do so, and again."""
        self._closed = True
        if self._loop.is_closed() or self._is_here():
            self._transport.close()
        else:
            self._loop.call_soon_threadsafe(self._transport.close)

    def _is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False
