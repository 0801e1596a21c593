"""One driver's conversation with a pool, by blocking calls. Its rules are in ``conversation``."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeVar

from vecserver.wire.errors import (
    LocalError,
    PoolLost,
    ServerUnreachable,
    Unauthorized,
    UnknownPool,
    VecServerError,
)
from vecserver.wire.frames import Kind
from vecserver_client.conversation import (
    CHECK_S,
    FIRST_RETRY_S,
    LAST_RETRY_S,
    CheckPool,
    Conversation,
    Pause,
    Receive,
    Reopen,
    Send,
)
from vecserver_client.keepalive import KeepAlive

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from vecserver.wire import messages
    from vecserver.wire.frames import Buffer
    from vecserver.wire.session import ResumePoint
    from vecserver_client.conversation import Deed
    from vecserver_client.transport import Frames, Transport

__all__ = ["Connection"]

_Outcome = TypeVar("_Outcome")


class Connection(Conversation):
    """Drives one pool over a transport that can be opened again. One thread owns it.

    Args:
        name: Who drives, for people and for the pool: the same name may attach again.
        open_transport: Opens a fresh transport to the pool.
        check_pool: Raises PoolLost or UnknownPool when the pool is known to be gone; asked when it is silent.
        open_of_part: Opens one to a part of the pool: where ``open_transport`` receives bodies into memory of the
            pool's, one that does not. None for the same.
    """

    def __init__(
        self,
        name: str,
        open_transport: Callable[[], Transport],
        check_pool: Callable[[], None],
        open_of_part: Callable[[], Transport] | None = None,
    ) -> None:
        super().__init__(name)
        self._open_transport = open_transport
        self._open_of_part = open_of_part or open_transport
        self._check_pool = check_pool
        self._transport = open_transport()
        self._keeps: tuple[Callable[[], Transport], float] | None = None  # until it is begun
        self._keep_alive: KeepAlive | None = None
        self._early: Frames | None = None  # the answer, where it was here before it was waited for
        self._ask_at, self._patience = 0.0, FIRST_RETRY_S  # when ``ready`` asks again

    def attach(self, timeout: float, *, force: bool = False, resume: ResumePoint | None = None) -> messages.Attached:
        """Become the pool's driver.

        Args:
            timeout: Seconds to wait for the answer.
            force: Take the pool from the driver it has.
            resume: Where a former life of this driver was. What it has not heard the answer to is pending then.

        Raises:
            LeaseHeld: Another client drives the pool.
            ServerUnreachable: Nobody takes messages at this address.
            DeadlineExceeded: No answer came.
        """
        request = self._attach_request(force=force, resume=resume)
        attached = self._attached(self.ask(Kind.ATTACH, request, timeout)[1], resume)
        if self._pending is not None:
            self._send(self._pending.header, b"", b"", timeout)
        return attached

    def keep(self, open_transport: Callable[[], Transport], ttl: float, *, at_once: bool = False) -> None:
        """Have the lease renewed by a thread while nothing is asked of the pool, from the first request on.

        Args:
            open_transport: Opens a connection for that thread.
            ttl: Seconds that the lease lasts without a word.
            at_once: Begin now: its end costs more than a second driver.
        """
        self._keeps = open_transport, ttl
        if at_once:
            self._keep()

    def of_part(self, lease: int) -> Connection:
        """A connection of its own to a part of the pool that this one has split."""
        part = Connection(self._name, self._open_of_part, self._check_pool)
        part._lease, part._epoch = lease, self._epoch
        return part

    def ask(self, kind: Kind, ext: bytes, timeout: float) -> Frames:
        """Send a request without a number and wait for its answer.

        Raises:
            DeadlineExceeded: No answer came.
            VecServerError: The pool's own answer.
        """
        return self._carry_out(self._asking(kind, ext, timeout))

    def begin(self, kind: Kind, ext: bytes, body: Buffer, timeout: float, base: int | None = None) -> None:
        """Send a sequenced request; ``finish`` waits for its answer.

        Args:
            kind: What for.
            ext: Its ext.
            body: Its body.
            timeout: Seconds within which it must leave.
            base: Number of the answer against which that of this request may be packed, 0 for none; None where it may
                not be packed.

        Raises:
            ServerUnreachable: Nobody takes messages at this address; nothing was sent.
        """
        if self._keeps is not None:
            self._keep()
        pending = self._note(kind, ext, body, base)
        try:
            self._send(pending.header, ext, pending.body, timeout)
        except VecServerError:  # nothing has left
            self._forget()
            raise

    def _keep(self) -> None:
        assert self._keeps is not None
        (open_transport, ttl), self._keeps = self._keeps, None
        self._keep_alive = KeepAlive(self, open_transport, ttl)

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
        now = monotonic()
        deadline = now + timeout
        frames = self._early or self._receive(min(timeout, self._first_patience()))
        self._early = None
        if frames is not None and frames[0].seq == pending.seq and frames[0].kind == pending.kind:
            self._pending = None
            self._note_time(monotonic() - now)
            return frames
        return self._carry_out(self._waiting(pending, frames, deadline, timeout))

    @property
    def fds(self) -> list[int]:
        """The descriptor that becomes readable when ``ready`` is worth a call; none while there is no connection."""
        return [self._transport.fd] if self._transport.fd >= 0 else []

    def ready(self) -> bool:
        """Whether the answer is here; asks for it again where it is overdue, so call it once a second at least.

        Raises:
            PoolLost: The pool's host process is gone.
        """
        pending = self._pending
        if pending is None or self._early is not None:
            return True
        while (frames := self._receive(0.0)) is not None:
            if self._concerns(frames[0], frames[1], pending):
                self._early = frames
                return True
        now = monotonic()
        if self._ask_at < pending.began:  # it is a new one
            self._ask_at, self._patience = pending.began + FIRST_RETRY_S, FIRST_RETRY_S
        if self._lost or (now >= self._ask_at and not self._has_moved()):
            doubtful = self._patience > FIRST_RETRY_S
            self._patience = min(2 * self._patience, LAST_RETRY_S)
            self._ask_at = now + self._patience
            self._carry_out(self._asking_again(pending, now + FIRST_RETRY_S, doubtful=doubtful))
        return False

    def _carry_out(self, exchange: Generator[Deed, Frames | None, _Outcome]) -> _Outcome:
        """Do what an exchange wants done until it has its answer."""
        try:
            deed = next(exchange)
            while True:
                try:
                    result = self._do(deed)
                except BaseException as error:  # noqa: BLE001 - the exchange's to judge
                    deed = exchange.throw(error)
                else:
                    deed = exchange.send(result)
        except StopIteration as end:
            outcome: _Outcome = end.value
            return outcome

    def _do(self, deed: Deed) -> Frames | None:
        match deed:
            case Receive(timeout):
                return self._receive(timeout)
            case Send(header, ext, body, timeout):
                self._send(header, ext, body, timeout, checks=timeout > CHECK_S)
            case Reopen():
                self._reopen()
            case CheckPool():
                self._check()
            case Pause(seconds):
                sleep(seconds)
        return None

    def _check(self) -> None:
        try:
            self._check_pool()
        except (PoolLost, UnknownPool):
            self._gone = True
            raise

    def _receive(self, timeout: float) -> Frames | None:
        try:
            frames = self._transport.receive(timeout)
        except ConnectionError:
            self._reopen()
            self._lost = True
            return None
        except BaseException as error:
            # Also KeyboardInterrupt: a message read in part leaves a socket that answers out of step. A pending request
            # is asked for again on the fresh one.
            self._note_end(error)
            self._reopen()
            raise
        if frames is None:
            self._moved |= self._transport.moved()
        return frames

    def _reopen(self) -> None:
        old, self._transport = self._transport, self._open_transport()
        old.close()

    def _send(self, header: bytes, ext: bytes, body: Buffer, timeout: float, *, checks: bool = True) -> None:
        remaining, deadline, is_refused = timeout, monotonic() + timeout, False
        while True:
            try:
                return self._transport.send(header, ext, body, max(0.0, min(remaining, FIRST_RETRY_S)))
            except (ServerUnreachable, Unauthorized) as error:
                if checks:
                    self._check()  # which asks for access again
                if is_refused or (remaining <= FIRST_RETRY_S and isinstance(error, ServerUnreachable)):
                    raise
                if isinstance(error, Unauthorized):
                    is_refused = True
                    self._reopen()
                remaining = deadline - monotonic()
            except BaseException:  # an interrupt between two frames, say: the rest must not be taken for a message
                self._reopen()
                raise

    def close(self, timeout: float) -> None:
        """Give the lease back if the pool answers in time, and close the transport."""
        try:
            if self._keep_alive is not None:
                self._keep_alive.close()
            if self._lease and not self._gone:
                self.ask(Kind.DETACH, b"", timeout)
        except (VecServerError, OSError):
            pass  # it ends with its time to live
        finally:
            self._lease = 0
            self._transport.close()
