"""One driver's conversation with a pool, from an event loop. Its rules are in ``conversation``."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from vecserver.wire.errors import LocalError, ServerUnreachable, Unauthorized, VecServerError
from vecserver.wire.frames import Kind
from vecserver_client.conversation import CHECK_S, FIRST_RETRY_S, CheckPool, Conversation, Pause, Receive, Reopen, Send
from vecserver_client.keepalive import KeepAlive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vecserver.wire import messages
    from vecserver.wire.frames import Buffer
    from vecserver.wire.session import ResumePoint
    from vecserver_client.aio.transport import AsyncTransport
    from vecserver_client.conversation import Deed, Exchange
    from vecserver_client.transport import Frames, Transport

__all__ = ["AsyncConnection"]


class AsyncConnection(Conversation):
    """Drives one pool as ``Connection`` does, with coroutines. One task uses it at a time.

    A ``begin`` or ``finish`` that is cancelled leaves its request pending: ``finish`` goes on waiting for the answer.

    Args:
        name: Who drives, for people and for the pool.
        open_transport: Opens a fresh transport to the pool.
        check_pool: Raises PoolLost or UnknownPool when the pool is known to be gone; asked when it is silent.
    """

    def __init__(
        self, name: str, open_transport: Callable[[], AsyncTransport], check_pool: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(name)
        self._open_transport = open_transport
        self._check_pool = check_pool
        self._transport = open_transport()
        self._closed = False
        self._keeps: tuple[Callable[[], Transport], float] | None = None  # until it is begun
        self._keep_alive: KeepAlive | None = None

    async def attach(
        self, timeout: float, *, force: bool = False, resume: ResumePoint | None = None
    ) -> messages.Attached:
        """Become the pool's driver; as ``Connection.attach``."""
        request = self._attach_request(force=force, resume=resume)
        attached = self._attached((await self.ask(Kind.ATTACH, request, timeout))[1], resume)
        if self._pending is not None:
            await self._send(self._pending.header, b"", b"", timeout)
        return attached

    def keep(self, open_transport: Callable[[], Transport], ttl: float, *, at_once: bool = False) -> None:
        """As ``Connection.keep``: a program may compute in the event loop, too."""
        self._keeps = open_transport, ttl
        if at_once:
            self._keep()

    def _keep(self) -> None:
        assert self._keeps is not None
        (open_transport, ttl), self._keeps = self._keeps, None
        self._keep_alive = KeepAlive(self, open_transport, ttl)

    async def ask(self, kind: Kind, ext: bytes, timeout: float) -> Frames:
        """Send a request without a number and wait for its answer; as ``Connection.ask``."""
        try:
            return await self._carry_out(self._asking(kind, ext, timeout))
        except asyncio.CancelledError:
            if not self._closed:
                self._reopen()  # a late answer must not be taken for the answer to the next request of this kind
            raise

    async def begin(self, kind: Kind, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send a sequenced request; as ``Connection.begin``. It is noted before anything is awaited."""
        if self._keeps is not None:
            self._keep()
        pending = self._note(kind, ext, body)
        try:
            await self._send(pending.header, ext, pending.body, timeout)
        except VecServerError as error:
            if not error.details.get("perhaps_sent"):  # nothing has left
                self._forget()
            raise

    async def finish(self, timeout: float) -> Frames:
        """Wait for the answer to the request that ``begin`` sent; as ``Connection.finish``."""
        pending = self._pending
        if pending is None:
            raise LocalError("no request is pending")
        deadline = monotonic() + timeout
        frames = await self._receive(min(timeout, self._first_patience()))
        return await self._carry_out(self._waiting(pending, frames, deadline, timeout))

    async def _carry_out(self, exchange: Exchange) -> Frames:
        """Do what an exchange wants done until it has its answer."""
        try:
            deed = next(exchange)
            while True:
                try:
                    result = await self._do(deed)
                except BaseException as error:  # noqa: BLE001 - the exchange's to judge
                    deed = exchange.throw(error)
                else:
                    deed = exchange.send(result)
        except StopIteration as end:
            frames: Frames = end.value
            return frames

    async def _do(self, deed: Deed) -> Frames | None:
        match deed:
            case Receive(timeout):
                return await self._receive(timeout)
            case Send(header, ext, body, timeout):
                await self._send(header, ext, body, timeout, checks=timeout > CHECK_S)
            case Reopen():
                self._reopen()
            case CheckPool():
                await self._check_pool()
            case Pause(seconds):
                await asyncio.sleep(seconds)
        return None

    async def _receive(self, timeout: float) -> Frames | None:
        try:
            frames = await self._transport.receive(timeout)
        except ConnectionError:
            self._reopen()
            self._lost = True
            return None
        except VecServerError as error:  # what came is no message, and neither is what follows it
            self._note_end(error)
            self._reopen()
            raise
        if frames is None:
            self._moved |= self._transport.moved()
        return frames

    def _reopen(self) -> None:
        self._check_open()
        old, self._transport = self._transport, self._open_transport()
        old.close()

    async def _send(self, header: bytes, ext: bytes, body: Buffer, timeout: float, *, checks: bool = True) -> None:
        deadline, perhaps_sent, is_refused = monotonic() + timeout, False, False
        while True:
            self._check_open()
            remaining = deadline - monotonic()
            try:
                return await self._transport.send(header, ext, body, max(0.0, min(remaining, FIRST_RETRY_S)))
            except (ServerUnreachable, Unauthorized) as error:
                perhaps_sent |= bool(error.details.get("perhaps_sent"))
                error.details["perhaps_sent"] = perhaps_sent
                if checks:
                    await self._check_pool()  # which asks for access again
                if is_refused or (remaining <= FIRST_RETRY_S and isinstance(error, ServerUnreachable)):
                    raise
                if isinstance(error, Unauthorized):
                    is_refused = True
                    self._reopen()

    def _check_open(self) -> None:
        if self._closed:
            raise LocalError("the connection was closed")

    async def close(self, timeout: float) -> None:
        """Give the lease back if the pool answers in time, and close the transport."""
        try:
            if self._lease and not self._gone and not self._closed:
                await self.ask(Kind.DETACH, b"", timeout)
        except (VecServerError, OSError):
            pass  # it ends with its time to live
        finally:
            self.abort()
            if self._keep_alive is not None:
                await asyncio.to_thread(self._keep_alive.close)

    def abort(self) -> None:
        """Close the transport at once; a task that waits gets a LocalError. Any thread may do so."""
        self._closed = True
        if self._keep_alive is not None:
            self._keep_alive.stop()
        self._transport.close()
