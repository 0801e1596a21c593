"""Frames that environments render, as PNG. Needs numpy and zlib alone."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import numpy as np

from vecserver.wire.errors import InvalidSpec

__all__ = ["RENDER_MODE", "as_picture", "reduced", "to_png"]

RENDER_MODE: Final = "rgb_array"
"""The one render mode whose frames can be looked at by whoever likes: to ask for those of ``rgb_array_list`` takes them
away from the driver, and the others give no pictures."""

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_COLOURS: Final = {1: 0, 3: 2, 4: 6}
"""Channels → PNG's number of such a picture."""

_EFFORT: Final = 1
"""zlib's least: a frame is looked at once, and five times the time would save a quarter of its bytes."""


def as_picture(frame: Any, row: int) -> np.ndarray[Any, Any]:
    """What a row rendered as uint8 [height, width, channels].

    Raises:
        InvalidSpec: It is no picture; says what it is.
    """
    picture = frame[:, :, None] if isinstance(frame, np.ndarray) and frame.ndim == 2 else frame
    fits = isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.dtype == np.uint8 and picture.size
    if not fits or picture.shape[2] not in _COLOURS:
        form = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise InvalidSpec(f"row {row} renders no picture but {form}: uint8 [height, width, 3] is one", field="row")
    return picture


def reduced(picture: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """A picture at most so wide, each pixel the mean of a square of pixels; itself where it is no wider."""
    step = -(-picture.shape[1] // width)
    if step <= 1:
        return picture
    height, wide = picture.shape[0] // step * step or picture.shape[0], picture.shape[1] // step * step
    whole = picture[:height, :wide]
    total = np.zeros((-(-height // step), wide // step, picture.shape[2]), np.uint16)
    # every second pixel of a large square is enough of it; numpy's own mean would turn all of them into floats first
    offsets = range(0, step, -(-step // 2))
    for down in offsets:
        for right in offsets:
            part = whole[down::step, right::step]
            total[: part.shape[0]] += part
    return (total // len(offsets) ** 2).astype(np.uint8)


def to_png(picture: np.ndarray[Any, Any]) -> bytes:
    """A picture as the bytes of a PNG file.

    Args:
        picture: uint8 [height, width, 1, 3 or 4].
    """
    height, width, channels = picture.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with the number of its filter: none
    lines[:, 1:] = picture.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    return b"".join(
        [_SIGNATURE, _chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(lines.data, _EFFORT)), _chunk(b"IEND", b"")]
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
