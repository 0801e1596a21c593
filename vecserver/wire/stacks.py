"""Stacks of frames, sent as what has changed: of a row whose stack is its last one moved on, only the newest frame.

A packed body, where an observation is ``k`` frames of ``F`` bytes, the newest last::

    moved u1[N] · frame u1[F] of each moved row · stack u1[k·F] of each other row · the slot behind its observations

What has moved is found by comparing bytes, so the stacks are right whatever an environment does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium.spaces import Box

from vecserver.wire.errors import MalformedMessage

if TYPE_CHECKING:
    from gymnasium.spaces import Space

    from vecserver.wire.frames import Buffer
    from vecserver.wire.layout import Layout

__all__ = ["FEATURE", "Given", "StackFormat"]

FEATURE: Final = "frames"
"""What a host that packs calls it in its answer to ATTACH."""

_WORD: Final = 8

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class StackFormat:
    """How the slots of a pool are packed, whose observations are stacks.

    Attributes:
        num_envs: Rows.
        depth: Frames of a stack.
        frame_size: Bytes of a frame.
        comes_first: Whether the stack's axis is the first of an observation; otherwise it is the last.
        end: Offset of what follows the observations in a slot.
        slot_size: Bytes of a slot.
    """

    num_envs: int
    depth: int
    frame_size: int
    comes_first: bool
    end: int
    slot_size: int

    @classmethod
    def of(cls, layout: Layout, space: Space[Any]) -> StackFormat | None:
        """The format for a pool; None where an observation cannot be a stack of frames of bytes.

        The stack's axis is the shorter one of the first and the last, and the first where they are equal.

        Args:
            layout: Of its slots.
            space: Of one row's observation.
        """
        if not isinstance(space, Box) or space.dtype != np.uint8 or len(space.shape) < 2:
            return None
        comes_first = space.shape[0] <= space.shape[-1]
        depth = space.shape[0 if comes_first else -1]
        if depth < 2 or not prod(space.shape):
            return None
        frame_size = prod(space.shape) // depth
        return cls(layout.num_envs, depth, frame_size, comes_first, layout.fields[1].offset, layout.slot_size)

    @property
    def size(self) -> int:
        """Bytes of the observations."""
        return self.num_envs * self.depth * self.frame_size

    def stacks(self, buffer: Buffer | Array) -> Array:
        """Observations at the beginning of a buffer as an array [N, k, F]; no copy."""
        flat = np.frombuffer(buffer, np.uint8, self.size)
        if self.comes_first:
            return flat.reshape(self.num_envs, self.depth, self.frame_size)
        return flat.reshape(self.num_envs, self.frame_size, self.depth).swapaxes(1, 2)

    def moved(self, before: Array, now: Array) -> Array:
        """Which rows [N] have the newest frames of ``before`` as their oldest ones."""
        kept, oldest = before[:, 1:], now[:, :-1]
        if self.comes_first and self.frame_size % _WORD == 0:
            kept, oldest = kept.view(np.uint64), oldest.view(np.uint64)
        same: Array = (kept == oldest).all(axis=(1, 2))
        return same

    def pack(self, before: Array, slot: Buffer) -> memoryview | None:
        """Pack a slot; None where that does not make it shorter.

        Args:
            before: The stacks that the reader has.
            slot: The bytes of the slot.
        """
        now = self.stacks(slot)
        moved = self.moved(before, now)
        count = int(np.count_nonzero(moved))
        size = self._packed_size(count)
        if size >= self.slot_size:
            return None
        body = np.empty(size, np.uint8)
        stacks, behind = self._places(count)
        body[: self.num_envs] = moved
        body[self.num_envs : stacks].reshape(count, self.frame_size)[...] = now[moved, -1]
        body[stacks:behind].reshape(-1, self.depth, self.frame_size)[...] = now[~moved]
        body[behind:] = np.frombuffer(slot, np.uint8)[self.end :]
        return body.data

    def unpack(self, body: Buffer, before: Array, slot: memoryview) -> None:
        """Write the slot that was packed.

        Args:
            body: The packed bytes.
            before: The stacks that it was packed against.
            slot: Where to write it, other memory than theirs.

        Raises:
            MalformedMessage: The bytes are no packed slot.
        """
        data = np.frombuffer(body, np.uint8)
        flags = data[: self.num_envs]
        moved = flags == 1
        count = int(np.count_nonzero(moved))
        if len(data) != self._packed_size(count) or (flags > 1).any():
            raise MalformedMessage(f"{len(data)} bytes are no packed slot of {self.num_envs} rows")
        stacks, behind = self._places(count)
        now = self.stacks(slot)
        now[:, :-1] = before[:, 1:]
        now[moved, -1] = data[self.num_envs : stacks].reshape(count, self.frame_size)
        if count < self.num_envs:
            now[~moved] = data[stacks:behind].reshape(-1, self.depth, self.frame_size)
        np.frombuffer(slot, np.uint8)[self.end :] = data[behind:]

    def _places(self, count: int) -> tuple[int, int]:
        """Where the whole stacks begin in a packed slot with so many moved rows, and what is behind them."""
        stacks = self.num_envs + count * self.frame_size
        return stacks, stacks + (self.num_envs - count) * self.depth * self.frame_size

    def _packed_size(self, count: int) -> int:
        return self._places(count)[1] + self.slot_size - self.end


class Given:
    """The observations that a driver was given last: what its next ones are packed against.

    Args:
        form: Of the pool.
    """

    def __init__(self, form: StackFormat) -> None:
        self._form = form
        self._seq = 0  # of the answer that had them; 0 for none
        self._last: Array | None = None  # a copy: the arena's own are written over when it likes

    def forget(self) -> None:
        """There is another driver."""
        self._seq, self._last = 0, None

    def pack(self, seq: int, base: int, slot: memoryview) -> memoryview | None:
        """Take note of the slot of an answer, and pack it.

        Args:
            seq: The answer's number.
            base: Number of the answer whose observations the driver still has; 0 for none.
            slot: The bytes of the slot.

        Returns:
            What to send in its place; None to send it whole.
        """
        form = self._form
        if self._last is None:
            self._last = np.empty(form.size, np.uint8)
        packed = form.pack(form.stacks(self._last), slot) if base and base == self._seq else None
        self._last[...] = np.frombuffer(slot, np.uint8, form.size)
        self._seq = seq
        return packed
