"""What a client shows at a pool's tcp port, and how it gets that from the pool's server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zmq

from vecserver.wire.errors import TransportUnavailable
from vecserver.wire.opening import TICKET_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Credentials", "KeyPair", "credentials_of", "fresh_keys"]


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A client's own keys for CURVE, as 40 characters of Z85 each. Its repr has no secret."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyPair({self.public.decode()})"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What lets a client in; its repr has no secret.

    Attributes:
        ticket: Shown by PLAIN; empty where the port speaks CURVE.
        server_key: The server's public key for CURVE; empty for none.
        keys: The client's own.
    """

    ticket: str = ""
    server_key: bytes = b""
    keys: KeyPair | None = None

    def __repr__(self) -> str:
        return "Credentials(by key)" if self.server_key else "Credentials(by ticket)"

    @property
    def encrypts(self) -> bool:
        """Whether what is sent over such a connection is hidden from those on the way."""
        return bool(self.server_key)

    @property
    def key(self) -> str | None:
        """The client's public key, by which the pool knows it; None where that is a ticket."""
        return self.keys.public.decode() if self.keys is not None and self.server_key else None

    def apply(self, sock: zmq.Socket[bytes]) -> None:
        """Have a socket of libzmq show them."""
        if self.keys is not None and self.server_key:
            sock.setsockopt(zmq.CURVE_SERVERKEY, self.server_key)
            sock.setsockopt(zmq.CURVE_PUBLICKEY, self.keys.public)
            sock.setsockopt(zmq.CURVE_SECRETKEY, self.keys.secret)
        elif self.ticket:
            sock.setsockopt_string(zmq.PLAIN_USERNAME, TICKET_NAME)
            sock.setsockopt_string(zmq.PLAIN_PASSWORD, self.ticket)


def fresh_keys() -> KeyPair | None:
    """Keys of one vector environment; None where this libzmq has no CURVE, which a pool may not ask for either."""
    if not zmq.has("curve"):
        return None
    public, secret = zmq.curve_keypair()
    return KeyPair(public, secret)


def credentials_of(access: Mapping[str, Any], keys: KeyPair | None) -> Credentials:
    """What to show, from what the server says.

    Args:
        access: Its answer to ``POST /v1/pools/{pool}/access``.
        keys: The client's, which the server was told the public one of.

    Raises:
        TransportUnavailable: The port speaks CURVE, and this installation does not.
    """
    if access["server_key"]:
        if keys is None:
            raise TransportUnavailable(
                "the pool's tcp port is encrypted, and this installation's libzmq has no CURVE: install pyzmq from its "
                "own wheels (pip install --force-reinstall --only-binary :all: pyzmq), or take transport='ws'"
            )
        return Credentials(server_key=access["server_key"].encode(), keys=keys)
    return Credentials(ticket=access["ticket"])
