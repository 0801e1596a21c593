"""What a server tells a host about who may come to its tcp port. The host needs no libzmq for it."""

from __future__ import annotations

import msgspec

__all__ = ["AllowKey", "Gate"]


class Gate(msgspec.Struct, frozen=True):
    """Part of what a server tells a host that it starts. Its repr has no secret.

    Attributes:
        ticket: What PLAIN asks for on tcp, where that has no CURVE.
        public_key: The server's for CURVE, as 40 characters of Z85; empty for none.
        secret_key: Likewise.
    """

    ticket: str
    public_key: str = ""
    secret_key: str = ""

    def __repr__(self) -> str:
        return f"Gate({self.public_key or 'by ticket'})"


class AllowKey(msgspec.Struct, frozen=True):
    """Server to host, at any time after the greeting: let this client in.

    Attributes:
        key: Its public key, as 40 characters of Z85.
    """

    key: str
