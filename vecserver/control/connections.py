"""A server's HTTP connections: how many may be open, and for how long one may be silent about what it wants.

uvicorn bounds the size of headers and the time between two requests of a connection. It waits without end for a
request whose headers never end, and so anybody could hold as many connections as there are descriptors.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vecserver.control.limits import HttpLimits
from vecserver.wire.errors import CapExceeded, RequestTooSlow

if TYPE_CHECKING:
    import asyncio

    from vecserver.wire.errors import VecServerError

__all__ = ["Connection", "connection_class"]


_TRICKLE: Final = 512
"""Bytes: fewer at a time, of a request that is not whole, are a trickle."""
_FEW: Final = 4
"""Such pieces of a request that are read as they come: programs send headers and body apart."""
_FIRST_REST_S: Final = 0.05
_LONGEST_REST_S: Final = 2.0
"""For how long a connection is not read from after each further piece: twice as long as after the one before. What
comes meanwhile comes at once then. A byte costs nearly as much as a request: hundreds of trickles would have a core."""


class Connection(H11Protocol):
    """uvicorn's connection with a deadline for headers, a limit of their number, and rests for those that trickle."""

    limits: ClassVar[HttpLimits] = HttpLimits()
    _deadline: asyncio.TimerHandle | None = None
    _waking: asyncio.TimerHandle | None = None
    _rest_s = _FIRST_REST_S
    _pieces = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin, or refuse where there are too many."""
        super().connection_made(transport)
        limit = self.limits.connections
        if len(self.connections) > limit:
            refusal = CapExceeded(
                f"{limit} connections are open, as many as max_connections of this server allows: come later",
                cap="max_connections",
                limit=limit,
                asked=len(self.connections),
            )
            self._refuse(refusal, HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Some bytes: of headers, which have a deadline, or of what follows, which has one of its own."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_deadline()
        elif self._deadline is None:
            self._wait_for_headers()
        self._pace(len(data))

    def _pace(self, size: int) -> None:
        """Rest for a while where a request comes in small pieces."""
        state = self.conn.their_state
        if state is not h11.SEND_BODY and not (state is h11.IDLE and self.conn.trailing_data[0]):  # it is whole
            self._pieces, self._rest_s = 0, _FIRST_REST_S
            return
        self._pieces += size < _TRICKLE
        if self._pieces > _FEW and self._waking is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._waking = self.loop.call_later(self._rest_s, self._read_on)
            self._rest_s = min(_LONGEST_REST_S, 2 * self._rest_s)

    def _read_on(self) -> None:
        self._waking = None
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._forget_deadline()
        if self._waking is not None:
            self._waking.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The connection is another protocol's from here on."""
        self._forget_deadline()
        super().handle_websocket_upgrade(event)

    def _wait_for_headers(self) -> None:
        self._deadline = self.loop.call_later(self.limits.header_timeout, self._end)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if not self.conn.trailing_data[0]:  # opened in advance, and never used
            self.transport.close()
            return
        seconds = self.limits.header_timeout
        self._refuse(
            RequestTooSlow(
                f"the headers of the request were not all here within {seconds:g} s, which is header_timeout of this "
                "server",
                cap="header_timeout",
                limit=seconds,
            ),
            HTTPStatus.REQUEST_TIMEOUT,
        )

    def _refuse(self, error: VecServerError, status: HTTPStatus) -> None:
        problem = {
            **error.details,
            "type": "about:blank",
            "title": status.phrase,
            "status": status,
            "detail": error.message,
            "instance": "",
            "code": error.code,
        }
        body = json.dumps(problem).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def connection_class(limits: HttpLimits) -> type[Connection]:
    """The class of a server's connections, as ``uvicorn.Config`` takes it for ``http``."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
