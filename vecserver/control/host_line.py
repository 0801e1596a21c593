"""A line to a pool's host from the event loop: messages over the pool's ipc endpoint, one connection a conversation.

It speaks ZeroMQ's protocol on a plain socket, as the host does: neither end needs a thread, and what the host does not
take is not taken from whoever sends it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from vecserver.wire import zmtp
from vecserver.wire.errors import DeadlineExceeded
from vecserver.wire.frames import HEADER_SIZE, MAX_EXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.pools.registry import HostAddress
    from vecserver.wire.frames import Buffer

__all__ = ["HostLine"]

_GREETING_S: Final = 5.0
"""Seconds for a host to greet: it does so between any two of its deeds."""


class HostLine:
    """A connection to a host. One task sends and one receives; a call that is cancelled leaves it of no more use.

    Args:
        sock: The connected socket, which is closed with the line.
        max_body: Largest legal body of an answer, in bytes.
    """

    def __init__(self, sock: socket.socket, max_body: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._incoming = zmtp.Incoming((HEADER_SIZE, MAX_EXT, max_body))

    @classmethod
    async def open(cls, address: HostAddress) -> HostLine:
        """Connect to a host.

        Raises:
            OSError: Nobody listens there, or the host takes no more connections.
            DeadlineExceeded: The host does not greet.
        """
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            line = cls(sock, address.info.layout["slot_size"])
            async with asyncio.timeout(_GREETING_S):
                await line._loop.sock_connect(sock, address.path)
                await line._greet()
        except TimeoutError:
            sock.close()
            raise DeadlineExceeded(f"the pool's host does not greet within {_GREETING_S:g} s") from None
        except BaseException:
            sock.close()
            raise
        return line

    async def _greet(self) -> None:
        await self._loop.sock_sendall(self._socket, zmtp.GREETING + zmtp.READY)
        while not self._incoming.greeting():
            await self._read()
        while self._incoming.message() is None and not self._incoming.commands:
            await self._read()  # until it says READY
        self._incoming.commands.clear()

    async def _read(self) -> None:
        count = await self._loop.sock_recv_into(self._socket, self._incoming.room())
        if not count:
            raise ConnectionResetError("the host ended the connection")
        self._incoming.received(count)

    async def send(self, frames: Sequence[Buffer]) -> None:
        """Send a message; returns when the host has taken it.

        Raises:
            OSError: The connection is lost.
        """
        await self._loop.sock_sendall(self._socket, b"".join(zmtp.encode(frames)))

    async def receive(self) -> Sequence[Buffer]:
        """Wait for a message.

        Raises:
            OSError: The connection is lost.
            ProtocolError: What came is no message.
        """
        while (frames := self._incoming.message()) is None:
            await self._read()
        return frames

    def close(self) -> None:
        """Close the connection; no task may be at it."""
        self._socket.close()
