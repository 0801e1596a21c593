"""What every connection on an event loop does for the task that waits for it, whatever protocol it speaks."""

from __future__ import annotations

import asyncio
from typing import cast

__all__ = ["Waited"]


class Waited(asyncio.BaseProtocol):
    """A connection that one task at a time waits for: the loop calls, and the task looks at what has changed.

    Attributes:
        took: Whether bytes of the last message were handed to the loop: the peer may have them all, whatever came then.
    """

    def __init__(self) -> None:
        self.took = False
        self._failure: Exception | None = None
        self._is_full = False  # the loop holds as much unsent as it likes to
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop, as the next three."""
        self._loop, self._transport = asyncio.get_running_loop(), cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        """Note that the loop takes no more for now."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Note that it does again."""
        self._is_full = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nothing more will come."""
        del exc
        self._fail(ConnectionResetError("the connection was lost"))
        self._wake()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error

    async def _change(self, timeout: float | None = None) -> None:
        """Wait until the loop has called, at most so many seconds."""
        if timeout is None and self._failure is not None:
            raise self._failure
        waiter = self._waiter = self._loop.create_future()
        timer = None if timeout is None else self._loop.call_later(timeout, self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def abort(self) -> None:
        """End the connection; any thread may do so."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._transport.abort)
