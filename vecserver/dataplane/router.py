"""What the loop of a host needs of its sockets, whoever speaks ZeroMQ's protocol on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from vecserver.wire.frames import Buffer

if TYPE_CHECKING:
    from vecserver.dataplane.requests import Reply

__all__ = ["JoinedRouter", "Message", "Router"]

Message = tuple[bytes, Sequence[Buffer], bytes | None]
"""Whom a message is from, its frames, and the key that its sender has proved to have: empty where none was asked for,
None where it may come in no more."""


class Router(Protocol):
    """The sockets of one pool. One thread owns it."""

    @property
    def fds(self) -> Sequence[int]:
        """Descriptors of which one becomes readable when there is something to do.

        They may say so once and not again: ask ``has_message`` before each wait for them.
        """

    def has_message(self) -> bool:
        """Whether ``receive`` is worth a call; never waits, and is cheap enough to ask all the time."""

    def receive(self) -> Message | None:
        """Take one message; None where there is none. Never waits."""

    def send(self, reply: Reply) -> None:
        """Send a reply, or drop it where its peer is gone or has no room: it asks again, by the same number.

        Never waits. The memory of the reply's body may be written again once another reply is sent.
        """

    def close(self, linger: float) -> None:
        """Let what was sent leave, for ``linger`` seconds at most, and close everything."""


class JoinedRouter:
    """Two routers or more as one: a machine's own clients beside those of the network. As ``Router``.

    Args:
        routers: They are closed by ``close``.
    """

    def __init__(self, routers: Sequence[Router]) -> None:
        self._routers = routers
        self._turn = 0
        self.fds = tuple(fd for router in routers for fd in router.fds)

    def has_message(self) -> bool:
        """Whether any has one."""
        return any(router.has_message() for router in self._routers)

    def receive(self) -> Message | None:
        """Take one message, in turn: none of them can keep the others waiting."""
        for _ in self._routers:
            self._turn = (self._turn + 1) % len(self._routers)
            message = self._routers[self._turn].receive()
            if message is not None:
                peer, frames, key = message
                return bytes([self._turn]) + peer, frames, key
        return None

    def send(self, reply: Reply) -> None:
        """Send a reply the way its request came."""
        self._routers[reply.peer[0]].send(reply._replace(peer=reply.peer[1:]))

    def close(self, linger: float) -> None:
        """Close them, one after the other."""
        for router in self._routers:
            router.close(linger)
