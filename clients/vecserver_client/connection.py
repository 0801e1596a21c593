"""One driver's conversation with a pool: numbering, waiting, asking again.

A request keeps its number until its answer is here. When nothing comes for a while the same bytes go out again on a
fresh socket: the pool answers with the cached reply, or says how far it is, and never runs a request twice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from vecserver.wire import messages
from vecserver.wire.errors import (
    DeadlineExceeded,
    LocalError,
    MessageTooLarge,
    PoolLost,
    ServerUnreachable,
    UnknownPool,
    VecServerError,
)
from vecserver.wire.frames import MAX_EXT, Flag, Header, Kind, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.wire.frames import Buffer
    from vecserver_client.transport import Frames, Transport

__all__ = ["Connection"]

_FIRST_RETRY_S: Final = 1.0
_LAST_RETRY_S: Final = 10.0
"""Silence after which a request is sent again: doubled each time up to this figure, with a little chance in it."""


_PAUSE_S: Final = 0.2
"""Before a connection that was lost twice is made a third time."""

_MOMENT_S: Final = 0.001
"""What is left of a wait when it is over: timers are not exact."""


@dataclass(slots=True)
class _Pending:
    """A sequenced request that was sent and not answered."""

    kind: Kind
    header: bytes
    ext: bytes
    body: Buffer
    seq: int
    began: float
    progress: messages.InProgress | None = None


class Connection:
    """Drives one pool over a transport that can be opened again. One thread owns it.

    Args:
        name: Who drives, for people and for the pool: the same name may attach again.
        open_transport: Opens a fresh transport to the pool.
        check_pool: Raises PoolLost or UnknownPool when the pool is known to be gone; asked when it is silent.
    """

    def __init__(self, name: str, open_transport: Callable[[], Transport], check_pool: Callable[[], None]) -> None:
        self._name = name
        self._open_transport = open_transport
        self._check_pool = check_pool
        self._transport = open_transport()
        self._lease = 0
        self._epoch = 0
        self._seq = 0
        self._pending: _Pending | None = None
        self._lost = False  # the connection was, and the pool was not asked for since

    def attach(self, timeout: float, *, force: bool = False) -> messages.Attached:
        """Become the pool's driver.

        Args:
            timeout: Seconds to wait for the answer.
            force: Take the pool from the driver it has.

        Raises:
            LeaseHeld: Another client drives the pool.
            ServerUnreachable: Nobody takes messages at this address.
            DeadlineExceeded: No answer came.
        """
        request = messages.Attach(force=force, client=self._name)
        _, ext, _ = self.ask(Kind.ATTACH, messages.encode(request), timeout)
        attached = messages.decode(ext, messages.Attached)
        self._lease, self._epoch, self._seq = attached.lease, attached.epoch, attached.last_seq
        return attached

    def ask(self, kind: Kind, ext: bytes, timeout: float) -> Frames:
        """Send a request without a number and wait for its answer.

        Raises:
            DeadlineExceeded: No answer came.
            VecServerError: The pool's own answer.
        """
        deadline = monotonic() + timeout
        header = self._header(kind, ext, b"", 0)
        self._send(header, ext, b"", timeout)
        pause = 0.0
        while (remaining := deadline - monotonic()) > _MOMENT_S:
            frames = self._receive(remaining)
            if frames is None:
                if not self._lost:
                    break
                self._get_over_loss(min(remaining, pause))
                pause = _PAUSE_S
                self._send(header, ext, b"", max(0.0, deadline - monotonic()))
                continue
            answer = frames[0]
            if answer.seq == 0 and answer.kind == Kind.ERROR:
                raise messages.decode_error(frames[1])
            if answer.seq == 0 and answer.kind == kind:
                return frames
        self._reopen()  # a late answer must not be taken for the answer to the next request of this kind
        self._check_pool()
        raise DeadlineExceeded(f"no answer to {kind.name} within {timeout:g} s")

    def begin(self, kind: Kind, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send a sequenced request; ``finish`` waits for its answer.

        Raises:
            ServerUnreachable: Nobody takes messages at this address; nothing was sent.
        """
        if self._pending is not None:
            raise LocalError(f"request {self._pending.seq} was not answered yet: wait for it first")
        seq = self._seq + 1
        body = bytes(body)  # kept until the answer is here; the caller may change its own
        header = self._header(kind, ext, body, seq)
        # noted first: whatever interrupts the sending, the request is known, and asked for again under its number
        self._seq, self._pending = seq, _Pending(kind, header, ext, body, seq, monotonic())
        try:
            self._send(header, ext, body, timeout)
        except VecServerError:  # nothing has left
            self._seq, self._pending = seq - 1, None
            raise

    def finish(self, timeout: float) -> Frames:
        """Wait for the answer to the request that ``begin`` sent.

        Args:
            timeout: Seconds from now. After a DeadlineExceeded the request is still pending: call again to go on.

        Raises:
            DeadlineExceeded: No answer came; says what the pool is busy with.
            EnvFault: An environment raised.
            PoolLost: The pool's host process is gone.
            VecServerError: The pool's own answer.
        """
        pending = self._pending
        if pending is None:
            raise LocalError("no request is pending")
        deadline = monotonic() + timeout
        frames = self._receive(min(timeout, _FIRST_RETRY_S))
        if frames is not None and frames[0].seq == pending.seq and frames[0].kind == pending.kind:
            self._pending = None
            return frames
        return self._wait_on(pending, frames, deadline, timeout)

    def _wait_on(self, pending: _Pending, frames: Frames | None, deadline: float, timeout: float) -> Frames:
        """Wait for an answer that did not come at once: ask again and again under the same number."""
        patience = _FIRST_RETRY_S
        while True:
            if frames is not None:
                if self._concerns(frames[0], frames[1], pending):
                    return self._settle(frames)
            else:
                remaining = deadline - monotonic()
                if remaining <= _MOMENT_S:
                    raise self._late(pending, timeout)
                self._ask_again(pending, remaining, doubtful=patience > _FIRST_RETRY_S)
                patience = min(2 * patience, _LAST_RETRY_S) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
            frames = self._receive(max(0.0, min(deadline - monotonic(), patience)))

    def _ask_again(self, pending: _Pending, remaining: float, *, doubtful: bool) -> None:
        try:
            if self._lost:
                self._get_over_loss(min(remaining, _PAUSE_S) if doubtful else 0.0)
            elif doubtful:  # the first repeat goes out on the same connection: most batches are only slow
                self._check_pool()
                self._reopen()
            self._send(pending.header, pending.ext, pending.body, remaining)
        except (PoolLost, UnknownPool):
            self._pending = None  # nobody is left to answer it
            raise

    @staticmethod
    def _concerns(header: Header, ext: bytes, pending: _Pending) -> bool:
        """Whether this message is the answer, and not a late one to an earlier request or a report of progress."""
        if header.seq != pending.seq:
            return False
        if header.kind == Kind.IN_PROGRESS:
            pending.progress = messages.decode(ext, messages.InProgress)
            return False
        return header.kind in (pending.kind, Kind.ERROR)

    def _settle(self, frames: Frames) -> Frames:
        header, ext, _ = frames
        self._pending = None
        if header.kind == Kind.ERROR:
            if header.flags & Flag.REFUSED:
                self._seq -= 1  # nothing was done: the number is free
            raise messages.decode_error(ext)
        return frames

    def _receive(self, timeout: float) -> Frames | None:
        try:
            return self._transport.receive(timeout)
        except ConnectionError:
            self._reopen()
            self._lost = True
            return None
        except BaseException:
            # Also KeyboardInterrupt: a message read in part leaves a socket that answers out of step. A pending request
            # is asked for again on the fresh one.
            self._reopen()
            raise

    def _get_over_loss(self, pause: float) -> None:
        """Ask whether the pool was lost with the connection, and give it a moment if this is not the first time."""
        self._lost = False
        self._check_pool()
        sleep(pause)

    def _reopen(self) -> None:
        old, self._transport = self._transport, self._open_transport()
        old.close()

    def _send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        deadline = monotonic() + timeout
        while True:
            remaining = deadline - monotonic()
            try:
                return self._transport.send(header, ext, body, max(0.0, min(remaining, _FIRST_RETRY_S)))
            except ServerUnreachable:
                self._check_pool()
                if remaining <= _FIRST_RETRY_S:
                    raise
            except BaseException:  # an interrupt between two frames, say: the rest must not be taken for a message
                self._reopen()
                raise

    @staticmethod
    def _late(pending: _Pending, timeout: float) -> DeadlineExceeded:
        what = f"no answer to {pending.kind.name} {pending.seq} within {timeout:g} s"
        waited = monotonic() - pending.began
        if pending.progress is None:
            return DeadlineExceeded(f"{what}; the pool has said nothing for {waited:.1f} s")
        first, last = pending.progress.slowest_rows
        rows = f"row {first}" if first == last else f"rows {first} to {last}"
        return DeadlineExceeded(
            f"{what}: the pool is still busy with {rows}, {pending.progress.elapsed:.1f} s after it began; wait for it "
            "again, or close",
            rows=[first, last],
        )

    def _header(self, kind: Kind, ext: Buffer, body: Buffer, seq: int) -> bytes:
        if len(ext) > MAX_EXT:  # the pool would cut the connection without a word
            raise MessageTooLarge(f"{len(ext)} bytes of arguments; a message takes {MAX_EXT}", limit=MAX_EXT)
        return Header(
            kind=kind,
            lease=self._lease,
            epoch=self._epoch,
            seq=seq,
            t_steps=1 if kind is Kind.STEP else 0,
            digest=digest_of(ext, body) if seq else 0,
            body_length=len(body),
        ).pack()

    @property
    def pending(self) -> bool:
        """Whether a request waits for its answer."""
        return self._pending is not None

    def close(self, timeout: float) -> None:
        """Give the lease back if the pool answers in time, and close the transport."""
        try:
            if self._lease:
                self.ask(Kind.DETACH, b"", timeout)
        except (VecServerError, OSError):
            pass  # it ends with its time to live
        finally:
            self._lease = 0
            self._transport.close()
