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

__all__ = ["MAX_REQUEST", "close_of", "error_of", "join", "part"]

MAX_REQUEST: Final = 8 << 20
"""Bytes of a request. It is held whole by a process that serves everybody else too; larger ones belong on tcp."""

_FIRST_CLOSE: Final = 4000
_MAX_REASON: Final = 123
"""Bytes that a WebSocket's close frame has for its text."""

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
