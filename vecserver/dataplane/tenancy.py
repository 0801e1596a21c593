"""Who drives a pool: the lease, what renews it and what ends it. Pure: a clock is given."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from vecserver.wire.errors import LeaseHeld, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.wire.messages import Attach
    from vecserver.wire.session import Session

__all__ = ["Tenancy"]

_NAMES: Final = 64
"""Drivers whose late messages are told from new ones."""


class Tenancy:
    """The lease of one pool, or of a part of one. Owned by its dispatcher.

    Args:
        session: Whose leases these are.
        ttl: Seconds of silence after which another may have it.
        clock_ns: Monotonic clock in nanoseconds.
        driver: Who has it now, for people; empty for nobody.
        key: The key that it has proved to have; empty where none was asked for.

    Attributes:
        driver: Likewise.
        key: Likewise. The lease is bound to it.
        seen_ns: When the driver was heard of last.
    """

    def __init__(
        self, session: Session, ttl: float, clock_ns: Callable[[], int], driver: str = "", key: bytes = b""
    ) -> None:
        self._session = session
        self._ttl = ttl
        self._clock_ns = clock_ns
        self.driver = driver
        self.key = key
        self.seen_ns = clock_ns()
        self._alive_ns = self.seen_ns
        self._attach = ("", 0)  # the name and the tag of the attach that gave the lease
        self._tags: OrderedDict[str, int] = OrderedDict()  # of the last attach of each driver that had it

    @property
    def silence_s(self) -> float:
        """Seconds since the driver was heard of."""
        return (self._clock_ns() - self.seen_ns) / 1e9

    def check_free(self, attach: Attach, idle_s: float, key: bytes) -> None:
        """Refuse one that may not have the lease now.

        Raises:
            LeaseHeld: Another has it, and was heard of within its time to live.
        """
        # a driver may attach again: it may have missed the answer to its first attach
        is_its_own = attach.client == self.driver and key == self.key
        taken = bool(self.driver) and not is_its_own
        if taken and idle_s < self._ttl and not attach.force:
            raise LeaseHeld(
                f"{self.driver} drives this pool, last heard of {idle_s:.1f} s ago: close that client, wait "
                f"{self._ttl:g} s of silence, or attach with force",
                driver=self.driver,
                idle_s=idle_s,
            )

    def was_given_to(self, attach: Attach, tag: int, key: bytes) -> bool:
        """Whether this very attach gave the lease that holds: its answer may be on its way, or lost."""
        return bool(tag) and bool(self.driver) and (attach.client, tag) == self._attach and key == self.key

    def check_key(self, lease: int, key: bytes) -> None:
        """Refuse one that shows a lease which another has taken.

        Raises:
            Unauthorized: The lease holds, and is bound to another key.
        """
        if key != self.key and lease == self._session.lease != 0:
            raise Unauthorized(
                "this lease was taken by a client with another key: attach to have one of your own", lease=lease
            )

    def is_past(self, attach: Attach, tag: int) -> bool:
        """Whether this attach has been on its way for so long that its sender has sent another one since."""
        return 0 < tag <= self._tags.get(attach.client, 0)

    def give(self, attach: Attach, tag: int, idle_s: float, key: bytes) -> None:
        """Give the lease to another driver, or to the same one again, and bind it to the key of that one."""
        name = attach.client or "unnamed"
        if attach.resume:
            cause = f"{name} has resumed it"
        elif self.driver == name:
            cause = f"{name} has attached again"
        elif not self.driver:
            cause = f"{name} does"
        elif idle_s < self._ttl:
            cause = f"{name} has taken it by force"
        else:
            cause = f"{name} has taken it after {idle_s:.1f} s of silence"
        self._session.grant(cause, resumed=bool(attach.resume))
        self.driver, self.key, self._attach = name, key, (attach.client, tag)
        self._tags[attach.client] = tag
        self._tags.move_to_end(attach.client)
        if len(self._tags) > _NAMES:
            self._tags.popitem(last=False)
        self.seen_ns = self._alive_ns = self._clock_ns()

    def end(self, cause: str) -> None:
        """Take the lease from the driver and give it to nobody."""
        self.driver, self.key = "", b""
        self._session.revoke(cause)

    def left_s(self, *, alive: bool) -> float:
        """Seconds until the lease ends by silence; asked now and then.

        Args:
            alive: Whether there is a sign of life besides messages: its request runs, or the arena is lent to it.
        """
        now = self._clock_ns()
        if alive:
            self._alive_ns = now
        return self._ttl - (now - max(self.seen_ns, self._alive_ns)) / 1e9
