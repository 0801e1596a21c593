"""What lets a client in at a pool's tcp port, given out by the server to whom it knows."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vecserver.pools.curve import check_public_key
from vecserver.pools.gate import AllowKey, Gate

if TYPE_CHECKING:
    from vecserver.pools.curve import KeyPair

__all__ = ["Access", "access_through", "gate_of"]

_TICKET_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """What lets one client in at a pool's tcp port; one of the two.

    Attributes:
        ticket: To be shown by PLAIN.
        server_key: The server's public key: CURVE is spoken, and the client is known by the key that it named.
    """

    ticket: str | None = None
    server_key: str | None = None

    def __repr__(self) -> str:
        return f"Access({self.server_key or 'by ticket'})"


def gate_of(keys: KeyPair | None) -> Gate:
    """The gate of a new pool.

    Args:
        keys: The server's; None where its pools' tcp ports have no CURVE.
    """
    ticket = secrets.token_urlsafe(_TICKET_BYTES)
    return Gate(ticket) if keys is None else Gate(ticket, keys.public, keys.secret)


def access_through(gate: Gate, key: str | None) -> tuple[Access, AllowKey | None]:
    """What to tell a client, and its host.

    Args:
        gate: The pool's.
        key: The client's public key, where it has named one.

    Raises:
        InvalidSpec: That is no key.
    """
    if not gate.public_key:
        return Access(ticket=gate.ticket), None
    access = Access(server_key=gate.public_key)
    if key is None:
        return access, None
    check_public_key(key)
    return access, AllowKey(key)
