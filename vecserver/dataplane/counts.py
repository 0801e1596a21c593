"""What a dispatcher counts of the messages it sees."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vecserver.wire.frames import Kind

__all__ = ["Counts", "Moment"]

_KINDS: Final = 1 + max(Kind)


@dataclass(slots=True)
class Counts:
    """Counters of one pool since it was made; those of its parts are the pool's.

    Attributes:
        requests: Whole messages, by the number of their kind.
        refusals: Requests that were refused, by code.
        replayed: Answers that were sent again.
        in_progress: Answers that said how far a request was.
        received_bytes: Of the frames of all messages.
        sent_bytes: Of the frames of all answers.
    """

    requests: list[int] = field(default_factory=lambda: [0] * _KINDS)
    refusals: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    replayed: int = 0
    in_progress: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0

    def refuse(self, code: str) -> None:
        """Count a refusal."""
        self.refusals[code] += 1

    def by_kind(self) -> dict[str, int]:
        """The requests by the name of their kind, those that came."""
        return {kind.name: self.requests[kind] for kind in Kind if self.requests[kind]}


class Moment(NamedTuple):
    """How a pool stands when it is asked.

    Attributes:
        lease: The present one, which is also how many there have been.
        driver: Whose it is; empty where nobody drives.
        idle_s: Seconds since that one was heard of.
        waiting: Requests that wait for the arena.
        lent: Whether the driver has the arena itself.
    """

    lease: int
    driver: str
    idle_s: float
    waiting: int
    lent: bool
