"""A driver of a pool in the event loop: for clients that speak JSON and have no numbers and leases of their own."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from vecserver.pools.batches import decode_batch
from vecserver.wire import messages
from vecserver.wire.errors import DeadlineExceeded, VecServerError
from vecserver.wire.frames import Flag, Header, Kind, digest_of
from vecserver.wire.session import REPLACEMENT_S

if TYPE_CHECKING:
    from vecserver.control.host_line import HostLine
    from vecserver.pools.results import Batch
    from vecserver.wire.frames import Buffer
    from vecserver.wire.messages import PoolInfo

__all__ = ["HostDriver"]

_ASK_S: Final = 5.0
"""Seconds for a host to answer what it answers between batches and while they run."""

_RENEWALS: Final = 3
"""Signs of life within the time to live of a lease."""

_IN_LINE: Final = 256 << 10
"""Bytes of a slot that is read in the event loop; a larger one is read in a thread, for others wait meanwhile."""


class HostDriver:
    """Holds a pool's lease while its line is open. One request at a time; others wait.

    Args:
        line: A line to the pool's host, which stays the caller's to close.
        info: The pool's spaces, layout and limits.
    """

    def __init__(self, line: HostLine, info: PoolInfo) -> None:
        self.info = info
        self._line = line
        self._turn = asyncio.Lock()
        self._lease = self._epoch = self._seq = 0
        self._keeper: asyncio.Task[None] | None = None

    async def attach(self) -> None:
        """Become the pool's driver, until ``detach``.

        Raises:
            LeaseHeld: Another is.
            DeadlineExceeded: The host does not answer.
            OSError: The line is lost; so from every method.
        """
        client = f"/vec of the web server (pid {os.getpid()}, {secrets.token_hex(3)})"
        header, ext, _ = await self._ask(Kind.ATTACH, messages.encode(messages.Attach(client=client)), b"", _ASK_S)
        self._epoch, self._lease = header.epoch, messages.decode(ext, messages.Attached).lease
        self._keeper = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self.info.lease_ttl / _RENEWALS)
            with suppress(OSError, VecServerError):  # the next request says so
                await self._ask(Kind.PING, b"", b"", _ASK_S)

    async def detach(self) -> None:
        """Give the pool back; raises nothing."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
            with suppress(OSError, VecServerError):
                await self._ask(Kind.DETACH, b"", b"", _ASK_S)

    async def run(self, kind: Kind, ext: bytes, body: Buffer) -> Batch:
        """Run a STEP or a RESET.

        Raises:
            VecServerError: The pool's answer.
            DeadlineExceeded: The batch takes longer than a worker and its replacement may; it may end all the same,
                and this driver is of no more use.
        """
        _, reply, slot = await self._ask(kind, ext, body, self.info.step_timeout + REPLACEMENT_S, self._seq + 1)
        if len(slot) > _IN_LINE:
            return await asyncio.to_thread(decode_batch, self.info, kind, reply, slot)
        return decode_batch(self.info, kind, reply, slot)

    async def _ask(
        self, kind: Kind, ext: bytes, body: Buffer, within_s: float, seq: int = 0
    ) -> tuple[Header, Any, Any]:
        header = Header(
            kind=kind,
            lease=self._lease,
            epoch=self._epoch,
            seq=seq,
            t_steps=1 if kind is Kind.STEP else 0,
            digest=digest_of(ext, body) if seq else 0,
            body_length=len(body),
        )
        async with self._turn:
            try:
                async with asyncio.timeout(within_s):
                    await self._line.send((header.pack(), ext, body))
                    answer, reply, slot = await self._answer(kind, seq)
            except VecServerError:
                raise
            except TimeoutError:
                raise DeadlineExceeded(f"the pool did not answer {kind.name} within {within_s:g} s") from None
            if seq and not answer.flags & Flag.REFUSED:
                self._seq = seq
        if answer.kind == Kind.ERROR:
            raise messages.decode_error(reply)
        return answer, reply, slot

    async def _answer(self, kind: Kind, seq: int) -> tuple[Header, Any, Any]:
        while True:
            frames = await self._line.receive()
            answer = Header.unpack(frames[0])
            if answer.seq == seq and answer.kind in (kind, Kind.ERROR):
                return answer, frames[1], frames[2]
