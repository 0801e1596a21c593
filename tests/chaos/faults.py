"""What a bad network does, drawn from a seed: the same seed, connection and message give the same fault."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from vecserver.wire.zmtp import GREETING

MORE, LONG, COMMAND = 1, 2, 4
"""Of a frame of ZMTP."""
FINAL, CONTROL = 0x80, 0x08
"""Of a frame of a WebSocket."""
HEAD_END = b"\r\n\r\n"


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


class ZmtpSplitter:
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


class WebSocketSplitter:
    """Divides a connection to an HTTP port: a WebSocket's into its messages; what is HTTP comes by itself, as it arrives.

    So do the heads with which a WebSocket begins, and its signs of life and its close.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._is_http: bool | None = None

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The whole pieces that are there now, and whether each is a message."""
        self._data += data
        if self._is_http is None:
            size = self._data.find(HEAD_END) + len(HEAD_END)
            if size < len(HEAD_END):
                return
            self._is_http = b"upgrade: websocket" not in self._data[:size].lower()
            yield self._take(size), False
        if self._is_http:
            yield self._take(len(self._data)), False
        while (found := self._next()) is not None:
            size, is_message = found
            yield self._take(size), is_message

    def _take(self, size: int) -> bytes:
        piece = bytes(self._data[:size])
        del self._data[:size]
        return piece

    def _next(self) -> tuple[int, bool] | None:
        at, data = 0, self._data
        while len(data) >= at + 2:
            flags, length = data[at], data[at + 1] & 0x7F
            wide = {126: 2, 127: 8}.get(length, 0)
            if wide:
                length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
            head = 2 + wide + 4 * (data[at + 1] >> 7)
            if len(data) < at + head + length:
                return None
            at += head + length
            if flags & FINAL:
                return at, not flags & CONTROL
        return None
