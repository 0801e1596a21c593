"""The server's own line to a pool: the ordinary messages over the pool's ipc endpoint, one socket a conversation."""

from __future__ import annotations

import os
import secrets
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

import zmq

from vecserver.wire import messages
from vecserver.wire.codec import unpack
from vecserver.wire.errors import DeadlineExceeded, PoolLost, PoolStopping
from vecserver.wire.frames import Header, Kind, digest_of, split

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import msgspec

    from vecserver.wire.frames import Buffer

__all__ = ["PoolLink"]

_LOOK_AROUND_MS: Final = 100
"""How long a wait may go on before it is asked whether the host still runs."""

_LAST_WORDS_MS: Final = 500
"""How long the last answer of a host that has left may take to get here."""


class PoolLink:
    """Asks one pool, and waits for each answer. One thread owns it; use it as a context manager.

    Args:
        context: The process's ZeroMQ context.
        endpoint: The pool's ipc address.
        max_reply: Largest legal body of an answer, in bytes.
        check_alive: Raises when the pool's host process is gone; called while an answer is waited for.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        max_reply: int,
        check_alive: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._max_reply = max_reply
        self._check_alive = check_alive
        self._lease = 0
        self._epoch = 0
        self._seq = 0
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        # not IMMEDIATE: when a host has answered and left, libzmq would throw the answer away that nobody has read yet
        self._socket.connect(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._socket.close()

    def ping(self, timeout: float) -> messages.Stats:
        """The pool's counters.

        Raises:
            DeadlineExceeded: It does not answer.
        """
        _, ext, _ = self._ask(Kind.PING, b"", b"", timeout)
        return messages.decode(ext, messages.Stats)

    def attach(self, timeout: float, client: str = "", *, force: bool = False) -> tuple[int, int]:
        """Become the driver; returns lease and epoch.

        Args:
            timeout: Seconds that the host may take.
            client: Under which name; empty for the control plane's own.
            force: Take the pool from the driver it has.

        Raises:
            LeaseHeld: Another one is.
        """
        client = client or f"control plane (pid {os.getpid()}, {secrets.token_hex(3)})"
        attach = messages.Attach(force=force, client=client)
        header, ext, _ = self._ask(Kind.ATTACH, messages.encode(attach), b"", timeout)
        self._epoch = header.epoch
        self._lease = messages.decode(ext, messages.Attached).lease
        return self._lease, self._epoch

    def detach(self, timeout: float) -> None:
        """Give the pool back."""
        self._ask(Kind.DETACH, b"", b"", timeout)

    def sequenced(self, kind: Kind, ext: bytes | msgspec.Struct, body: Buffer, timeout: float) -> tuple[Buffer, Buffer]:
        """Run a sequenced request; returns ext and body of its answer. Errors of the tree come out as they are."""
        self._seq += 1
        data = ext if isinstance(ext, bytes) else messages.encode(ext)
        _, reply_ext, reply_body = self._ask(kind, data, body, timeout, self._seq)
        return reply_ext, reply_body

    def render(self, rows: list[int], timeout: float) -> list[Any]:
        """What rows render, by number, ascending; the driver's next request waits while they do.

        Raises:
            EnvFault: One of them raised.
            PoolBroken: The pool cannot render any more either.
        """
        _, ext, _ = self._ask(Kind.RENDER, messages.encode(messages.Render(rows)), b"", timeout)
        return [frame for part in (unpack(ext) if len(ext) else ()) for frame in part]

    def _ask(self, kind: Kind, ext: bytes, body: Buffer, timeout: float, seq: int = 0) -> tuple[Header, Any, Any]:
        header = Header(
            kind=kind,
            lease=self._lease,
            epoch=self._epoch,
            seq=seq,
            digest=digest_of(ext, body),
            body_length=len(body),
        )
        try:
            return self._converse(header, ext, body, timeout)
        except zmq.ContextTerminated:
            raise PoolStopping("the server is shutting down") from None

    def _converse(self, header: Header, ext: bytes, body: Buffer, timeout: float) -> tuple[Header, Any, Any]:
        kind, seq = Kind(header.kind), header.seq
        deadline = monotonic() + timeout
        self._wait(zmq.POLLOUT, kind, deadline, timeout)
        message = [header.pack(), ext, body]
        self._socket.send_multipart(message)
        while True:
            try:
                self._wait(zmq.POLLIN, kind, deadline, timeout)
            except DeadlineExceeded:
                if not seq:
                    raise
                raise self._late(message, kind, timeout) from None
            answer, reply_ext, reply_body = split(self._socket.recv_multipart(), self._max_reply)
            if answer.kind == Kind.ERROR:
                raise messages.decode_error(reply_ext)
            if answer.kind == kind and answer.seq == seq:
                return answer, reply_ext, reply_body

    def _wait(self, event: int, kind: Kind, deadline: float, timeout: float) -> None:
        while not self._socket.poll(_LOOK_AROUND_MS, event):
            try:
                self._check_alive()
            except PoolLost:
                # a host that drains answers and leaves: what it said last may still be on its way here
                if event == zmq.POLLIN and self._socket.poll(_LAST_WORDS_MS, event):
                    return
                raise
            if monotonic() > deadline:
                raise DeadlineExceeded(
                    f"the pool did not answer {kind.name} within {timeout:g} s", endpoint=self._endpoint
                )

    def _late(self, message: list[Any], kind: Kind, timeout: float) -> DeadlineExceeded:
        """The error for a sequenced request that is late; asks how far it is, by the same bytes."""
        self._socket.send_multipart(message, zmq.DONTWAIT)
        what = f"the pool did not answer {kind.name} within {timeout:g} s"
        if not self._socket.poll(_LAST_WORDS_MS):
            return DeadlineExceeded(f"{what}, nor how far it is", endpoint=self._endpoint)
        answer, ext, _ = split(self._socket.recv_multipart(), self._max_reply)
        if answer.kind != Kind.IN_PROGRESS:
            return DeadlineExceeded(f"{what}, but just now", endpoint=self._endpoint)
        progress = messages.decode(ext, messages.InProgress)
        return DeadlineExceeded(f"{what}: it {progress}", endpoint=self._endpoint, rows=list(progress.slowest_rows))
