"""Who may open a connection to a socket of libzmq: the questions of its ZAP (ZeroMQ's RFC 27), answered by the loop."""

from __future__ import annotations

import hmac
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import zmq
from zmq.utils import z85

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.dataplane.keyring import Keyring

__all__ = ["DOMAIN", "Zap", "judge_by_key", "judge_by_ticket"]

DOMAIN: Final = b"vecserver"
"""Which socket of the process asks: there is one."""

_ADDRESS: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_FIXED: Final = 6  # version, id, domain, address, identity, mechanism; then the credentials
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


class Zap:
    """Answers the questions of one context's sockets. One thread owns it: the loop's.

    Args:
        context: Whose sockets ask.
        judge: Given a mechanism and the credentials, returns by what name the peer is known; None to refuse it.

    Attributes:
        refused: How many were refused.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], judge: Callable[[bytes, Sequence[bytes]], bytes | None]
    ) -> None:
        self._judge = judge
        self.refused = 0
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ADDRESS)
        self.fd = int(self._socket.getsockopt(zmq.FD))

    def attend(self) -> None:
        """Answer what is asked now; never waits."""
        while int(self._socket.getsockopt(_EVENTS)) & _POLLIN:
            with suppress(zmq.Again):
                self._socket.send_multipart(self._answer(self._socket.recv_multipart(zmq.NOBLOCK)), zmq.NOBLOCK)

    def _answer(self, question: Sequence[bytes]) -> list[bytes]:
        name = None
        if len(question) > _FIXED and question[0] == _VERSION and question[2] == DOMAIN:
            name = self._judge(question[_FIXED - 1], question[_FIXED:])
        self.refused += name is None
        status, text = (b"400", b"unauthorized") if name is None else (b"200", b"")
        return [_VERSION, question[1] if question[1:] else b"", status, text, name or b"", b""]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def judge_by_ticket(ticket: str) -> Callable[[bytes, Sequence[bytes]], bytes | None]:
    """Lets in who shows a ticket beside any name."""

    def judge(mechanism: bytes, credentials: Sequence[bytes]) -> bytes | None:
        shown = credentials[-1] if mechanism == b"PLAIN" and len(credentials) == 2 else b""
        return b"ticket" if hmac.compare_digest(shown, ticket.encode()) else None

    return judge


def judge_by_key(keyring: Keyring) -> Callable[[bytes, Sequence[bytes]], bytes | None]:
    """Lets in who has proved to have a key of these, by that key."""

    def judge(mechanism: bytes, credentials: Sequence[bytes]) -> bytes | None:
        if mechanism != b"CURVE" or len(credentials) != 1:
            return None
        key = z85.encode(credentials[0])
        return key if keyring.admits(key) else None

    return judge
