"""ZeroMQ's own wire protocol, ZMTP 3.0, as far as DEALER and ROUTER need it: bytes only, no sockets.

::

    greeting   FF 00×8 7F · 03 00 · mechanism, 20 bytes · as-server 00 · 00×31                   64 bytes each way
    frame      flags · length (1 byte, or 8 big-endian where LONG is set) · the frame's bytes
    command    a frame with COMMAND set: length of its name · name · data; READY opens the conversation
    message    frames with MORE set, and a last one without

What is said between greetings and messages is in ``opening``. A library would put a thread of its own between a program
and its socket, which on one machine costs two wakes a batch.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from vecserver.wire.errors import MalformedMessage, MessageTooLarge, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.wire.frames import Buffer

__all__ = [
    "GREETING",
    "OPENING_SIZE",
    "READY",
    "ROUTER_READY",
    "Incoming",
    "check_greeting",
    "check_ready",
    "command",
    "encode",
    "fresh",
    "greeting",
    "pong",
]

_MORE: Final = 1
_LONG: Final = 2
_COMMAND: Final = 4

_MAJOR: Final = 3
_OPENING: Final = b"\xff" + bytes(8) + b"\x7f" + bytes((_MAJOR, 0))
OPENING_SIZE: Final = len(_OPENING)
"""Bytes of the greeting that make the peer send all of its own: signature and version."""

_MECHANISM_END: Final = 32
_SECURED: Final = (b"PLAIN", b"CURVE")
"""Mechanisms that ask who is there."""

_CHUNK: Final = 64 << 10
"""Bytes taken from the connection at once."""
_LARGE: Final = _CHUNK // 2
"""A frame of so many bytes is received into memory of its own."""
_JOIN_LIMIT: Final = 16 << 10
"""Bytes from which a frame is sent from where it lies."""
_USUAL: Final = struct.Struct(">2s64s2sBQ")
_USUAL_FIRST: Final = bytes((_MORE, 64))
_USUAL_SECOND: Final = bytes((_MORE, 0))
"""How nearly every answer begins: a frame of 64 bytes, an empty one, and a last one whose length takes eight bytes."""
_MAX_COMMAND: Final = 1 << 10
"""Longer than any command of the protocol that means something to a DEALER or a ROUTER."""
_TTL_SIZE: Final = 2
_MAX_CONTEXT: Final = 16
"""A PING's data: its time to live, then so many bytes at most to give back."""


def greeting(mechanism: bytes) -> bytes:
    """What each side sends first."""
    return _OPENING + mechanism.ljust(_MECHANISM_END - OPENING_SIZE, b"\0") + bytes(32)


GREETING: Final = greeting(b"NULL")
"""That of a side that asks for no proof."""


def command(name: bytes, data: bytes = b"") -> bytes:
    """The bytes of a command with few data."""
    body = bytes([len(name)]) + name + data
    return bytes([_COMMAND, len(body)]) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


READY: Final = command(b"READY", _property(b"Socket-Type", b"DEALER"))
"""The command that follows the greeting of a client."""
ROUTER_READY: Final = command(b"READY", _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))
"""The command that follows the greeting of a host."""
_ASKING: Final = frozenset({b"DEALER", b"REQ"})
"""Kinds of sockets that a ROUTER takes for clients."""


def pong(ping: bytes) -> bytes:
    """The command that answers a PING with this data."""
    return command(b"PONG", ping[_TTL_SIZE : _TTL_SIZE + _MAX_CONTEXT])


def check_greeting(data: bytes, mechanism: bytes = b"NULL") -> None:
    """Refuse a peer that does not speak this protocol, as soon as it shows.

    Args:
        data: What has come of its greeting, which may be short of whole.
        mechanism: By which this side knows, or is known.

    Raises:
        MalformedMessage: It speaks something else.
        Unauthorized: It wants another mechanism, and one of the two asks who is there.
    """
    if data[:1] != _OPENING[:1] or data[9:10] not in (b"", _OPENING[9:10]):
        raise MalformedMessage(f"what listens there does not speak ZeroMQ: it begins with {data[:16]!r}")
    if len(data) > 10 and data[10] < _MAJOR:
        raise MalformedMessage("the peer speaks the protocol of a ZeroMQ before 4.0")
    theirs = data[OPENING_SIZE:_MECHANISM_END].rstrip(b"\0")
    if len(data) < _MECHANISM_END or theirs == mechanism:
        return
    name = theirs.decode("ascii", "replace")
    text = f"the peer demands the security mechanism {name}; this side has {mechanism.decode()}"
    if theirs in _SECURED or mechanism in _SECURED:
        raise Unauthorized(f"{text}: POST /v1/pools/{{pool}}/access says what a pool's tcp port asks for")
    raise MalformedMessage(text)


def check_ready(data: bytes) -> None:
    """Refuse a peer whose socket is of a kind that asks nothing of a ROUTER.

    Args:
        data: What follows the name in its READY: a list of properties.

    Raises:
        MalformedMessage: It is of another kind, or does not say of which.
    """
    kind, at = b"", 0
    while at < len(data):
        name_end = at + 1 + data[at]
        value_begin = name_end + 4
        value_end = value_begin + int.from_bytes(data[name_end:value_begin], "big")
        if value_end > len(data):
            raise MalformedMessage("a READY that ends in the middle of a property")
        if data[at + 1 : name_end].lower() == b"socket-type":
            kind = data[value_begin:value_end]
        at = value_end
    if kind not in _ASKING:
        raise MalformedMessage(f"a socket of the kind {kind[:16]!r}; a pool takes DEALERs")


def encode(frames: Sequence[Buffer]) -> list[Buffer]:
    """The bytes of one message, as buffers to send one after the other."""
    buffers: list[Buffer] = []
    pending: list[Buffer] = []  # small frames go in one piece: a copy is cheaper than one more buffer to send
    left = len(frames)
    for frame in frames:
        left -= 1
        more = _MORE if left else 0
        length = len(frame)
        pending.append(bytes((more, length)) if length < 256 else bytes((more | _LONG,)) + length.to_bytes(8, "big"))
        if length < _JOIN_LIMIT:
            pending.append(frame)
        else:
            buffers += [b"".join(pending), frame]
            pending = []
    return [*buffers, b"".join(pending)] if pending else buffers


def fresh(size: int) -> memoryview:
    """New memory of so many bytes, not zeroed: what never comes takes neither memory nor time."""
    return np.empty(size, np.uint8).data


class Incoming:
    """Bytes of one connection in, whole messages out.

    Receive into ``room()``, tell ``received`` how much came, then ask ``message`` until it has none. ``commands``
    gathers the commands on the way; its reader empties it.

    Args:
        limits: The largest first, second, … frame of a message, in bytes; a message has as many frames at most.
        last: Gives memory of a size for the last of these frames where that is large, when it begins to come.
    """

    def __init__(self, limits: Sequence[int], last: Callable[[int], memoryview] = fresh) -> None:
        self.commands: list[tuple[bytes, bytes]] = []
        self._limits = limits
        self._last = last
        # of a message that is taken in one go; none where its first frame is refused, or its third
        self._usual_limit = min(limits[2], _LARGE - 1) if len(limits) == 3 and limits[0] >= 64 else -1
        self._buffer = memoryview(bytearray(_CHUNK))
        self._start = self._end = 0
        self._frames: list[bytes | bytearray | memoryview] = []
        self._large: memoryview | None = None  # the frame that is received into memory of its own
        self._filled = 0
        self._more = False
        self._complete = False

    def room(self) -> memoryview:
        """Where the next bytes of the connection go; never empty."""
        if self._large is not None:
            return self._large[self._filled :]
        if self._start == self._end:  # the same few lines of memory for one small message after the other
            self._start = self._end = 0
        return self._buffer[self._end :]

    def received(self, count: int) -> None:
        """Take note of bytes written into ``room()``."""
        if self._large is not None:
            self._filled += count
        else:
            self._end += count

    @property
    def unread(self) -> bool:
        """Whether there are bytes that ``message`` has not looked at, or that are too few for it."""
        return self._start < self._end

    @property
    def held(self) -> int:
        """Bytes of a message that is not whole yet."""
        whole = sum(map(len, self._frames))
        if self._large is not None:
            whole += self._filled - len(self._large)
        return whole + self._end - self._start

    def greeting(self, check: Callable[[bytes], None] = check_greeting) -> bool:
        """Take the peer's greeting out of what came first; False where more of it is needed.

        Args:
            check: Refuses a peer by what has come of it.

        Raises:
            VecServerError: As ``check``.
        """
        came = bytes(self._buffer[self._start : min(self._end, self._start + len(GREETING))])
        if came:
            check(came)
        if len(came) < len(GREETING):
            return False
        self._start += len(GREETING)
        return True

    def message(self) -> list[bytes | bytearray | memoryview] | None:
        """The frames of the next message, in memory of their own; None where more bytes are needed.

        Raises:
            MessageTooLarge: A frame above its limit.
            MalformedMessage: More frames than a message may have, or a command that is none.
        """
        start, end = self._start, self._end
        if start == end and self._large is None:
            self._start = self._end = 0
            return None
        if end - start > _USUAL.size and not self._frames:
            flags, header, between, last, length = _USUAL.unpack_from(self._buffer, start)
            begin = start + _USUAL.size
            usual = flags == _USUAL_FIRST and between == _USUAL_SECOND and last == _LONG
            if usual and length <= self._usual_limit and begin + length <= end:
                self._start = begin + length
                return [header, b"", bytearray(self._buffer[begin : begin + length])]
        while self._take_frame():
            if self._complete:
                self._complete = False
                frames, self._frames = self._frames, []
                return frames
        return None

    def _take_frame(self) -> bool:
        """Take the next frame out of what was received; False where more bytes are needed for it."""
        if self._large is not None:
            if self._filled < len(self._large):
                return False
            self._large = None
            self._complete = not self._more
            return True
        buffer, start, end = self._buffer, self._start, self._end
        long = end - start >= 2 and buffer[start] & _LONG
        if end - start < (9 if long else 2):
            self._make_room()
            return False
        flags = buffer[start]
        begin = start + (9 if long else 2)
        length = int.from_bytes(buffer[start + 1 : begin], "big")
        self._check(flags, length)
        if length >= _LARGE:
            self._begin_large(flags, begin, length)
            return True
        if begin + length > end:
            self._make_room()
            return False
        self._start = begin + length
        data = bytearray(buffer[begin : self._start])
        if flags & _COMMAND:
            self._note_command(data)
        else:
            self._frames.append(data)
            self._complete = not flags & _MORE
        return True

    def _check(self, flags: int, length: int) -> None:
        if flags & _COMMAND:
            limit = _MAX_COMMAND
        elif flags & _MORE and len(self._frames) + 1 == len(self._limits):
            raise MalformedMessage(f"a message of more than {len(self._limits)} frames")
        else:
            limit = self._limits[len(self._frames)]
        if length > limit:
            raise MessageTooLarge(f"a frame of {length} bytes; at most {limit} are taken here", limit=limit)

    def _begin_large(self, flags: int, begin: int, length: int) -> None:
        data = self._last(length) if len(self._frames) + 1 == len(self._limits) else fresh(length)
        here = min(length, self._end - begin)
        data[:here] = self._buffer[begin : begin + here]
        self._frames.append(data)
        self._large, self._filled, self._more = data, here, bool(flags & _MORE)
        self._start = begin + here

    def _note_command(self, data: bytearray) -> None:
        if not data or 1 + data[0] > len(data):
            raise MalformedMessage("a command without a name")
        end = 1 + data[0]
        self.commands.append((bytes(data[1:end]), bytes(data[end:])))

    def _make_room(self) -> None:
        """Move what is left to the front: the rest of a small frame always finds room behind it."""
        if self._start:
            left = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(left)] = left
            self._start, self._end = 0, len(left)
