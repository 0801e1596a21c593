"""How a connection is opened: what both sides say between their greetings and READY. Bytes only, no sockets.

::

    NULL     READY from each side                        a Unix socket: the kernel says whose the other end is
    PLAIN    client   HELLO: name, ticket
             host     WELCOME, or ERROR "400" and the end of the connection
             client   INITIATE: what READY has
             host     READY                              tcp: whoever has the pool's ticket may come in

Both are mechanisms of ZMTP, so any ZeroMQ library can open such a connection. CURVE is left to libzmq.
"""

from __future__ import annotations

import hmac
from typing import Final

from vecserver.wire.errors import MalformedMessage, Unauthorized
from vecserver.wire.zmtp import READY, ROUTER_READY, check_greeting, check_ready, command, greeting

__all__ = ["TICKET_NAME", "ClientOpening", "HostOpening"]

TICKET_NAME: Final = "vecserver"
"""The name beside a ticket, which PLAIN wants one to have; nobody looks at it."""

_REFUSED: Final = b"400"
"""The reason by which ZeroMQ tells a client that its credentials are not good."""
_REFUSAL: Final = command(b"ERROR", bytes([len(_REFUSED)]) + _REFUSED)
_PROPERTIES: Final = READY[8:]
_HOST_PROPERTIES: Final = ROUTER_READY[8:]


class ClientOpening:
    """A client's side of it.

    Args:
        ticket: The pool's; empty where none is asked for.

    Attributes:
        greeting: To be sent first, the rest of it once the peer has greeted.
        is_open: Whether messages may be sent.
    """

    def __init__(self, ticket: str = "") -> None:
        self._mechanism = b"PLAIN" if ticket else b"NULL"
        self._ticket = ticket.encode()
        self.greeting = greeting(self._mechanism)
        self.is_open = False

    def check(self, heard: bytes) -> None:
        """Refuse a peer by what has come of its greeting; raises as ``check_greeting``."""
        check_greeting(heard, self._mechanism)

    def greeted(self) -> bytes:
        """What to send behind the greetings."""
        if not self._ticket:
            return READY
        return command(b"HELLO", _sized(TICKET_NAME.encode()) + _sized(self._ticket))

    def heard(self, name: bytes, data: bytes) -> bytes:
        """What to send upon a command.

        Raises:
            Unauthorized: The host does not know the ticket.
            MalformedMessage: The peer ends the conversation, or is none that answers.
        """
        if name == b"ERROR":
            reason = data[1:]
            if reason == _REFUSED:
                raise Unauthorized("the pool's port does not know this ticket: another pool listens there by now")
            raise MalformedMessage(f"the peer refuses the connection: {reason.decode('utf-8', 'replace')}")
        if name == b"WELCOME" and self._ticket:
            return command(b"INITIATE", _PROPERTIES)
        self.is_open = name == b"READY"
        return b""


class HostOpening:
    """A host's side of it.

    Args:
        ticket: What a client must show; empty where the kernel has said enough.

    Attributes:
        greeting: To be sent first.
        refusal: To be sent where ``heard`` raises Unauthorized.
        is_open: Whether the peer may ask.
    """

    refusal = _REFUSAL

    def __init__(self, ticket: str = "") -> None:
        self._mechanism = b"PLAIN" if ticket else b"NULL"
        self._ticket = ticket.encode()
        self._expected = b"HELLO" if ticket else b"READY"
        self.greeting = greeting(self._mechanism)
        self.is_open = False

    def check(self, heard: bytes) -> None:
        """Refuse a peer by what has come of its greeting; raises as ``check_greeting``."""
        check_greeting(heard, self._mechanism)

    def greeted(self) -> bytes:
        """What to send behind the greetings."""
        return b"" if self._ticket else ROUTER_READY

    def heard(self, name: bytes, data: bytes) -> bytes:
        """What to send upon a command.

        Raises:
            Unauthorized: The ticket is not this pool's.
            MalformedMessage: The command is not the one that comes now, or its sender asks nothing of a host.
        """
        if name != self._expected:
            raise MalformedMessage(f"the peer says {name[:16]!r} in the place of {self._expected.decode()}")
        if name == b"HELLO":
            if not hmac.compare_digest(_ticket_of(data), self._ticket):
                raise Unauthorized("the peer shows a ticket that is not this pool's")
            self._expected = b"INITIATE"
            return command(b"WELCOME")
        check_ready(data)
        self.is_open = True
        return command(b"READY", _HOST_PROPERTIES) if self._ticket else b""


def _sized(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _ticket_of(hello: bytes) -> bytes:
    """The second text of a HELLO; anything else is no ticket of anybody's."""
    at = 1 + hello[0] if hello else 0
    return hello[at + 1 :] if at < len(hello) and at + 1 + hello[at] == len(hello) else b""
