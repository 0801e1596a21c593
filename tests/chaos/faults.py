"""What a bad network does, drawn from a seed: the same seed, connection and message give the same fault."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from vecserver.wire.zmtp import GREETING

MORE, LONG, COMMAND = 1, 2, 4


class Fault(Enum):
    """What happens to one message, or with it to its connection."""

    PASS = auto()
    LOSE = auto()
    """It never arrives; the connection goes on."""
    DOUBLE = auto()
    DELAY = auto()
    REPEAT_OLD = auto()
    """It arrives, and behind it an earlier one, perhaps of another connection."""
    CUT = auto()
    """The connection ends before it."""
    CUT_INSIDE = auto()
    """The connection ends in the middle of it."""
    HALF_CLOSE = auto()
    """The connection takes nothing more in this direction; the other goes on."""
    STALL = auto()
    """Neither direction passes anything any more, and nobody is told."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each fault befalls a message, between 0 and 1.

    Attributes:
        delay_s: The longest delay.
        bytes_per_s: What one direction of a connection carries; None for all that comes.
    """

    lose: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    repeat_old: float = 0.0
    cut: float = 0.0
    cut_inside: float = 0.0
    half_close: float = 0.0
    stall: float = 0.0
    delay_s: float = 0.02
    bytes_per_s: float | None = None

    def schedule(self, seed: int, connection: int, direction: str) -> Iterator[tuple[Fault, random.Random]]:
        """The fault of each message of one direction of one connection, and where to draw its details from."""
        dice = random.Random(f"{seed}/{connection}/{direction}")
        chances = [
            (Fault.LOSE, self.lose),
            (Fault.DOUBLE, self.double),
            (Fault.DELAY, self.delay),
            (Fault.REPEAT_OLD, self.repeat_old),
            (Fault.CUT, self.cut),
            (Fault.CUT_INSIDE, self.cut_inside),
            (Fault.HALF_CLOSE, self.half_close),
            (Fault.STALL, self.stall),
        ]
        while True:
            draw, struck = dice.random(), Fault.PASS
            for fault, chance in chances:
                if 0 <= draw < chance:
                    struck = fault
                draw -= chance
            yield struck, dice


class Splitter:
    """Divides a stream of ZMTP into its messages. What belongs to no message, greetings and commands, comes by itself."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The whole pieces that are there now, and whether each is a message."""
        self._data += data
        while (found := self._next()) is not None:
            size, is_message = found
            piece = bytes(self._data[:size])
            del self._data[:size]
            yield piece, is_message

    def _next(self) -> tuple[int, bool] | None:
        if not self._greeted:
            if len(self._data) < len(GREETING):
                return None
            self._greeted = True
            return len(GREETING), False
        at, data = 0, self._data
        while len(data) > at + 1:
            flags = data[at]
            head = 9 if flags & LONG else 2
            if len(data) < at + head:
                return None
            at += head + int.from_bytes(data[at + 1 : at + head], "big")
            if len(data) < at:
                return None
            if flags & COMMAND or not flags & MORE:
                return at, not flags & COMMAND
        return None
