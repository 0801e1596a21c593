"""What a driver on the host's own machine and the host say on the socket over which the arena is lent.

Descriptors travel beside the messages, see ``docs/shm.md``.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Borrow", "Fetch", "Fetched", "FromHost", "Lent", "Recalled"]


class Borrow(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Driver to host, once: lend me the arena. The lease and epoch are those of its ATTACH."""

    lease: int
    epoch: int


class Fetch(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Driver to host: give me the payloads of my last step that did not fit the side areas.

    Attributes:
        seq: The step's number.
    """

    seq: int


class Lent(msgspec.Struct, frozen=True, tag=True):
    """Host to driver: here is the arena.

    Comes with the descriptors of the arena's memory, the orders' memory, the finish line's tokens and bell, the bell of
    the turn, the bell of the host's leave, and one bell a worker.

    Attributes:
        shards: ``(first, end)`` row of each worker: from them follow the plans of both memories.
        arena_size: Bytes of the arena.
        orders_size: Bytes of the orders.
        recalls: The word ``RECALLS`` of the arena's head as long as the loan lasts.
    """

    shards: list[tuple[int, int]]
    arena_size: int
    orders_size: int
    recalls: int


class Fetched(msgspec.Struct, frozen=True, tag=True):
    """Host to driver: the payloads, one behind the other in the memory whose descriptor comes along.

    Attributes:
        seq: The number that was asked for.
        sizes: Bytes of each worker's; 0 where it fitted.
    """

    seq: int
    sizes: list[int]


class Recalled(msgspec.Struct, frozen=True, tag=True):
    """Host to driver, the last message: the arena is not lent, or not any more, for this error of the tree."""

    code: str
    message: str
    details: dict[str, Any] = {}


FromHost = Lent | Fetched | Recalled
