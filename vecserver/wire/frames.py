"""The frames of one message: a 64-byte header, an ext of msgpack, a body of raw arrays.

::

    offset  size  field         meaning
    0       4     magic         b"VECS"
    4       2     version       protocol version, PROTOCOL_VERSION here
    6       1     kind          Kind
    7       1     flags         Flag bits
    8       2     status        0, or the number of the error in an ERROR reply
    10      2     slot          the arena slot that holds the body (replies), 0 otherwise
    12      4     rows          rows in the body
    16      8     lease         the driver's fencing number; 0 for observers
    24      8     epoch         the pool's incarnation
    32      8     seq           the request's number; 0 when it has none
    40      4     t_steps       steps in the body, 1 today
    44      4     digest        CRC-32 of the request's ext and body
    48      8     body_length   bytes of the body frame
    56      8     clock         server's monotonic clock in nanoseconds; in a request with FRAMES the base, else 0

All little-endian. A message is always three frames; ext and body may be empty.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from vecserver.wire.errors import MalformedMessage, MessageTooLarge, VersionMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "FRAME_COUNT",
    "HEADER_SIZE",
    "MAX_EXT",
    "PROTOCOL_VERSION",
    "Buffer",
    "Flag",
    "Header",
    "Kind",
    "digest_of",
    "split",
]

PROTOCOL_VERSION: Final = 1
FRAME_COUNT: Final = 3
MAX_EXT: Final = 1 << 26
"""64 MiB: above any infos of a sane batch, below what a hostile peer could use to exhaust memory."""

_MAGIC: Final = b"VECS"
_PREFIX: Final = struct.Struct("<4sH")
_HEADER: Final = struct.Struct("<4sHBBHHIQQQIIQQ")
HEADER_SIZE: Final = _HEADER.size

Buffer = bytes | bytearray | memoryview


class Kind(IntEnum):
    """What a message is for. An answer has its request's kind and ``Flag.ANSWER``, or is ERROR or IN_PROGRESS."""

    HELLO = 1
    ATTACH = 2
    STEP = 3
    RESET = 4
    CALL = 5
    RENDER = 6
    PING = 7
    DETACH = 8
    ERROR = 9
    IN_PROGRESS = 10
    SPLIT = 11
    JOIN = 12
    RESUME = 13


class Flag(IntFlag):
    """Bits of the header's ``flags``."""

    ANSWER = 1
    REPLAYED = 2
    REFUSED = 4
    """On an ERROR: nothing was done, and the request's number is free again."""
    FRAMES = 8
    """On a request: its sender takes a packed slot. On an answer: the body is one (``wire.stacks``)."""


class Header(NamedTuple):
    """The first frame, decoded; the module's docstring says what each field means."""

    kind: int
    flags: int = 0
    status: int = 0
    slot: int = 0
    rows: int = 0
    lease: int = 0
    epoch: int = 0
    seq: int = 0
    t_steps: int = 0
    digest: int = 0
    body_length: int = 0
    clock: int = 0

    def pack(self) -> bytes:
        """Encode as the 64 bytes of the first frame."""
        return _HEADER.pack(_MAGIC, PROTOCOL_VERSION, *self)

    @classmethod
    def unpack(cls, frame: Buffer) -> Header:
        """Decode the first frame.

        Raises:
            MalformedMessage: Not 64 bytes, not this protocol, or an unknown kind.
            VersionMismatch: Another version of the protocol.
        """
        if len(frame) != HEADER_SIZE:
            _refuse(frame)
        fields = _HEADER.unpack(frame)
        if fields[0] != _MAGIC or fields[1] != PROTOCOL_VERSION or fields[2] not in _KINDS:
            _refuse(frame)
        return cls._make(fields[2:])


_KINDS: Final = frozenset(int(kind) for kind in Kind)


def _refuse(frame: Buffer) -> NoReturn:
    """Say what is wrong with a first frame: what it begins with tells more than its length."""
    if len(frame) >= _PREFIX.size:
        magic, version = _PREFIX.unpack_from(frame)
        if magic != _MAGIC:
            raise MalformedMessage(f"not a vecserver message: it begins with {bytes(magic)!r} instead of {_MAGIC!r}")
        if version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"the peer speaks protocol version {version}, this side speaks {PROTOCOL_VERSION}: install the same "
                "release on both ends",
                theirs=version,
                ours=PROTOCOL_VERSION,
            )
    if len(frame) != HEADER_SIZE:
        raise MalformedMessage(f"a header has {HEADER_SIZE} bytes, this one has {len(frame)}")
    raise MalformedMessage(f"unknown message kind {frame[_PREFIX.size]}")


def digest_of(ext: Buffer, body: Buffer) -> int:
    """CRC-32 over ext and body: tells a repeated request from another one under the same number."""
    return zlib.crc32(body, zlib.crc32(ext))


def split(frames: Sequence[Buffer], max_body: int, max_ext: int = MAX_EXT) -> tuple[Header, Buffer, Buffer]:
    """Check the frames of one message and return its header, ext and body.

    Args:
        frames: What the socket delivered, without routing ids.
        max_body: Largest body, in bytes, that is legal here.
        max_ext: Largest ext.

    Raises:
        MalformedMessage: Wrong number of frames, a bad header, or a body that is not as long as the header says.
        MessageTooLarge: Ext or body above its limit.
        VersionMismatch: Another version of the protocol.
    """
    if not frames:
        raise MalformedMessage("a message without frames")
    header = Header.unpack(frames[0])
    if len(frames) != FRAME_COUNT:
        raise MalformedMessage(f"a message has {FRAME_COUNT} frames, this one has {len(frames)}")
    _, ext, body = frames
    if len(ext) > max_ext:
        raise MessageTooLarge(f"an ext of {len(ext)} bytes; at most {max_ext} are taken here", limit=max_ext)
    if len(body) > max_body:
        raise MessageTooLarge(f"a body of {len(body)} bytes; at most {max_body} are taken here", limit=max_body)
    if len(body) != header.body_length:
        raise MalformedMessage(f"the header announces a body of {header.body_length} bytes, it has {len(body)}")
    return header, ext, body
