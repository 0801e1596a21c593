"""Messages that were right before somebody changed some of them, with an eye for what their parts mean.

A ``Mutator`` draws all its choices from one ``random.Random``: the same seed, the same messages.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from vecserver.wire.frames import Header, Kind, digest_of
from vecserver.wire.zmtp import encode

EDGES = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**48,
    2**62,
    2**63,
    2**64 - 1,
)
"""Where counts, lengths and numbers go wrong."""
ODD_INTEGERS = (*EDGES, -1, -2, -128, -(2**31), -(2**63))
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", b"", [], {}, 0.5, -0.0, float("nan"), float("inf"), float("-inf")),
    *("\0", "../../etc/passwd", "__class__", "spec.kwargs", "a" * 300, b"\xff" * 300, "é", "|O", "<f4", "O8"),
)
WIDTHS = {"kind": 1, "flags": 1, "status": 2, "slot": 2, "rows": 4, "lease": 8, "epoch": 8, "seq": 8, "t_steps": 4}
WIDTHS |= {"digest": 4, "body_length": 8, "clock": 8}
CLAIMS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
)
"""How lists, maps, bytes, texts and extensions of four thousand million parts begin in msgpack."""
CLAIMS += (
    b"\xdc\xff\xff",
    b"\xde\xff\xff",
    b"\xc5\xff\xff",
    b"\xda\xff\xff",
    b"\xc8\xff\xff\x01",
    b"\xdd\x04\x00\x00\x00",
)
MAX_DEEP = 3000
MAX_EXT = 128 << 10
"""Bytes of a changed ext: what a larger one takes for a moment the C library keeps for the next, and hides what leaks."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A message that is right.

    Attributes:
        header: Its header, whose digest and body length follow from the rest.
        ext: Its ext.
        body: Its body.
        numbered: Whether the digest is one of ext and body, and not a tag.
    """

    header: Header
    ext: bytes = b""
    body: bytes = b""
    numbered: bool = False

    def frames(self) -> list[bytes]:
        """Its three frames."""
        digest = digest_of(self.ext, self.body) if self.numbered else self.header.digest
        return [self.header._replace(digest=digest, body_length=len(self.body)).pack(), self.ext, self.body]

    def with_(self, **fields: int) -> Whole:
        """The same with other fields in its header."""
        return replace(self, header=self.header._replace(**fields))


class Mutator:
    """Changes messages. Not thread-safe.

    Args:
        rng: Where its choices come from.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def frames(self, whole: Whole) -> list[bytes]:
        """The frames of a message with one to three changes."""
        rng = self.rng
        fields, ext, body = whole.header._asdict(), whole.ext, whole.body
        odd_header = odd_count = False
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            match rng.choice(("field", "field", "ext", "ext", "ext", "body", "body", "header", "count")):
                case "field":
                    self._change_field(fields)
                case "ext":
                    ext = self.ext(ext)
                case "body":
                    body = self.body(body)
                case "header":
                    odd_header = True
                case _:
                    odd_count = True
        ext = ext[:MAX_EXT]
        if rng.random() < 0.9:  # else it is refused for these alone
            if whole.numbered:
                fields["digest"] = digest_of(ext, body)
            fields["body_length"] = len(body)
        header = Header(**fields).pack()
        frames = [self.flipped(header) if odd_header else header, ext, body]
        return self._recounted(frames) if odd_count else frames

    def _change_field(self, fields: dict[str, int]) -> None:
        name = self.rng.choice(tuple(WIDTHS))
        limit = 1 << 8 * WIDTHS[name]
        if name == "kind":
            fields[name] = self.rng.choice((*Kind, 0, 14, 255))
        elif self.rng.random() < 0.5:
            fields[name] = (fields[name] + self.rng.choice((-2, -1, 1, 2, 3))) % limit
        else:
            fields[name] = self.rng.choice(EDGES) % limit

    def _recounted(self, frames: list[bytes]) -> list[bytes]:
        rng = self.rng
        match rng.randrange(4):
            case 0:
                del frames[rng.randrange(3)]
            case 1:
                frames.insert(rng.randrange(4), rng.choice((b"", b"x", frames[0], frames[1])))
            case 2:
                frames += [b"more"] * rng.randrange(1, 12)
            case _:
                rng.shuffle(frames)
        # a first frame that is no header is told so by an answer where it is short, and by the end of the connection
        return frames if len(frames[0]) <= 1024 and all(len(frame) <= 1024 for frame in frames[3:]) else frames[:1]

    def ext(self, data: bytes) -> bytes:
        """msgpack with one change: of a value in it, of its nesting, of what it claims, or of any byte."""
        rng = self.rng
        match rng.randrange(8):
            case 0:
                return self.flipped(data)
            case 1:
                at = rng.randrange(len(data) + 1)
                return data[:at] + rng.choice(CLAIMS) + data[at:]
            case 2:
                return rng.choice((b"\x91", b"\x81\xa1a", b"\xc7\x02\x03")) * rng.randrange(1, MAX_DEEP) + data
            case 3:
                return data[: rng.randrange(len(data) + 1)]
        try:
            value = msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return self.flipped(data)
        return self.packed(self.value(value))

    @staticmethod
    def packed(value: Any) -> bytes:
        """msgpack of a value; nothing where it has none."""
        try:
            return msgspec.msgpack.encode(value)
        except (OverflowError, RecursionError, TypeError, ValueError):
            return b""

    def value(self, value: Any) -> Any:
        """A value with one part replaced, dropped, doubled or wrapped."""
        rng = self.rng
        if isinstance(value, dict) and value and rng.random() < 0.85:
            return self._changed_dict(dict(value))
        if isinstance(value, list) and value and rng.random() < 0.85:
            return self._changed_list(list(value))
        if isinstance(value, msgspec.msgpack.Ext) and rng.random() < 0.85:
            code = value.code if rng.random() < 0.8 else rng.randrange(-128, 128)
            return msgspec.msgpack.Ext(code, self.ext(bytes(value.data)))
        if isinstance(value, bytes) and value and rng.random() < 0.7:
            return self.ext(value)  # codec bytes, as arguments and options are
        match rng.randrange(5):
            case 0:
                return rng.choice(ODD_INTEGERS)
            case 1:
                return [value] * rng.choice((1, 2, 1000))
            case 2:
                return {"type": value}
            case _:
                return rng.choice(ODD_VALUES)

    def _changed_dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        rng = self.rng
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                del value[key]
            case 1:
                value[rng.choice(("unknown", "", 0, None, key))] = value[key]
            case 2:
                value[key] = value[rng.choice(list(value))]
            case _:
                value[key] = self.value(value[key])
        return value

    def _changed_list(self, value: list[Any]) -> list[Any]:
        rng = self.rng
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                del value[at]
            case 1:
                value *= rng.choice((2, 3, 100))
            case 2:
                value.append(rng.choice(ODD_VALUES))
            case _:
                value[at] = self.value(value[at])
        return value

    def body(self, data: bytes) -> bytes:
        """Raw arrays with one change."""
        rng = self.rng
        match rng.randrange(7):
            case 0:
                return data[: rng.randrange(len(data) + 1)]
            case 1:
                return data + bytes(rng.randrange(1, 64))
            case 2:
                return struct.pack("<d", float("nan")) * (len(data) // 8)
            case 3:
                return b"\xff" * len(data)
            case 4:
                return bytes(rng.choice((0, 1, 7, 8, 1 << 10, 1 << 12)))
            case _:
                return self.flipped(data)

    def flipped(self, data: bytes) -> bytes:
        """Some bytes changed, cut, doubled or inserted."""
        rng, flipped = self.rng, bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(flipped) + 1)
            match rng.randrange(6):
                case 0:
                    del flipped[at : at + rng.randrange(1, 9)]
                case 1:
                    flipped[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 2:
                    flipped[at:at] = flipped[at : at + 16]
                case _ if at < len(flipped):
                    flipped[at] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        return bytes(flipped)

    def stream(self, frames: list[bytes]) -> bytes:
        """The bytes of a message on a connection, with a change that ZeroMQ's protocol does not allow, or hardly."""
        rng = self.rng
        data = b"".join(map(bytes, encode(frames)))
        match rng.randrange(7):
            case 0:  # a frame of any length, none of which follows
                return bytes((rng.choice((2, 3, 6, 7)),)) + rng.choice(EDGES).to_bytes(8, "big")
            case 1:  # more frames than any message has
                return b"\x01\x00" * rng.randrange(20, 400)
            case 2:  # a command of any name and length
                body = rng.randbytes(rng.randrange(0, 40))
                return bytes((4, len(body))) + body
            case 3:  # a PING whose context is too long, or cut
                return b"\x04\x09\x04PING\0\0" + rng.randbytes(2) if rng.random() < 0.5 else b"\x04\x05\x04PING"
            case 4:
                return data[: rng.randrange(1, len(data))]
            case 5:
                return rng.randbytes(rng.randrange(1, 200))
            case _:
                return self.flipped(data)
