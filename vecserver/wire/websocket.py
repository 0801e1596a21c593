"""A message of the protocol as one binary WebSocket message, and errors as WebSocket close codes. Bytes only.

::

    message   header (64 bytes) · ext · body, one after the other: the header has the body's length, the rest is the ext
    close     4000 + the number of an error, and its text; the codes below 4000 are the WebSocket protocol's own
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vecserver.wire.errors import ERRORS, MalformedMessage
from vecserver.wire.frames import HEADER_SIZE, Header

if TYPE_CHECKING:
    from vecserver.wire.errors import VecServerError
    from vecserver.wire.frames import Buffer

__all__ = ["MAX_REQUEST", "WholeFrames", "close_of", "error_of", "head_of", "join", "part"]

MAX_REQUEST: Final = 8 << 20
"""Bytes of a request. It is held whole by a process that serves everybody else too; larger ones belong on tcp."""

_FIRST_CLOSE: Final = 4000
_MAX_REASON: Final = 123
"""Bytes that a WebSocket's close frame has for its text."""

_WHOLE_BINARY: Final = 0x82
"""First byte of a WebSocket frame that is a binary message: the last part of it, and the first."""

_BY_NUMBER: Final = {cls.number: cls for cls in ERRORS.values()}


def join(header: Buffer, ext: Buffer, body: Buffer) -> bytes:
    """The frames of a message in one piece."""
    return b"".join((header, ext, body))


def part(message: Buffer) -> tuple[Header, memoryview, memoryview, memoryview]:
    """Take a message apart.

    Args:
        message: What came; the frames stay views of it.

    Returns:
        The header, decoded, and the three frames.

    Raises:
        MalformedMessage: It is too short for a header, or for the body that its header announces.
        VersionMismatch: It is of another version of the protocol.
    """
    view = memoryview(message)
    header = Header.unpack(view[:HEADER_SIZE])
    end = len(view) - header.body_length
    if end < HEADER_SIZE:
        raise MalformedMessage(
            f"the header announces a body of {header.body_length} bytes, {len(view) - HEADER_SIZE} follow it"
        )
    return header, view[:HEADER_SIZE], view[HEADER_SIZE:end], view[end:]


def close_of(error: VecServerError) -> tuple[int, str]:
    """The close code for an error, and as much of its text as fits."""
    return _FIRST_CLOSE + error.number, error.message.encode(errors="replace")[:_MAX_REASON].decode(errors="ignore")


def error_of(code: int, reason: str) -> VecServerError | None:
    """The error that a close code stands for; None for those of the WebSocket protocol itself."""
    cls = _BY_NUMBER.get(code - _FIRST_CLOSE)
    return cls(reason) if cls is not None else None


def head_of(length: int) -> bytes:
    """What goes before a binary message of so many bytes that a server sends in one frame."""
    if length < 126:
        return bytes((_WHOLE_BINARY, length))
    size, short = (2, 126) if length < 1 << 16 else (8, 127)
    return bytes((_WHOLE_BINARY, short)) + length.to_bytes(size, "big")


class WholeFrames:
    """Finds the binary messages that come as one frame in one piece, as nearly all do.

    To go through a small frame step by step, as it must be done where it may come in pieces, takes longer than anything
    else that is done with it. This looks at the bytes of a connection first, and never loses count of where frames end;
    whatever is not such a message is for a whole implementation of the protocol, which has then to be given it.

    Args:
        masked: Whether it is a client that sends.
        limit: The longest message that is taken, in bytes.
    """

    def __init__(self, *, masked: bool, limit: int) -> None:
        self._masked = masked
        self._limit = limit
        self._head = b""  # the beginning of a frame's head
        self._left = 0  # of the frame that came in part
        self._in_parts = False  # a message whose last frame is still to come

    def payload(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The mask and the masked bytes of the one message that these bytes are; None where they are anything else.

        Bytes that are none, or that are not used, are for ``skim``.
        """
        if self._left or self._head or self._in_parts or len(data) < 2 or data[0] != _WHOLE_BINARY:
            return None
        found = _frame_at(data, 0)
        if found is None or data[1] >> 7 != self._masked or found[0] + found[1] != len(data) or found[1] > self._limit:
            return None
        start = found[0]
        return data[start - 4 : start] if self._masked else b"", data[start:]

    def skim(self, data: bytes) -> None:
        """Take note of where the frames in these bytes end."""
        if self._head:
            data, self._head = self._head + data, b""
        at = 0
        while True:
            here = min(self._left, len(data) - at)
            self._left -= here
            at += here
            if at == len(data):
                return
            found = _frame_at(data, at)
            if found is None:
                self._head = data[at:]
                return
            if not data[at] & 0x08:  # of a message; the others may come between its parts
                self._in_parts = not data[at] & 0x80
            at, self._left = found


def _frame_at(data: bytes, at: int) -> tuple[int, int] | None:
    """Where a frame's payload begins, and how long it is; None where its head is not whole."""
    if len(data) < at + 2:
        return None
    short = data[at + 1] & 0x7F
    extra = {126: 2, 127: 8}.get(short, 0)
    start = at + 2 + extra + (4 if data[at + 1] & 0x80 else 0)
    if len(data) < start:
        return None
    return start, int.from_bytes(data[at + 2 : at + 2 + extra], "big") if extra else short
