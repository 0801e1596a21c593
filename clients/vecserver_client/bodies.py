"""Memory for the bodies of answers: new for each, or a few buffers in turn for whoever wants no copies."""

from __future__ import annotations

from typing import Final

from vecserver.wire.zmtp import fresh

__all__ = ["KEPT", "BodyRing"]

KEPT: Final = 2
"""Further steps or resets for which the arrays of one stay as they are: an arena has one slot more than that."""


class BodyRing:
    """Buffers that the bodies of a pool's answers are received into, one after the other. One thread owns it.

    A body counts from the moment that ``keep`` is called. One that is not wanted, a late answer to an earlier request
    or one that broke off in the middle, is written over by the next and takes no buffer from those that are.

    Args:
        size: Bytes of a slot.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffers: list[memoryview | None] = [None] * (KEPT + 1)
        self._next = 0

    def room(self, size: int) -> memoryview:
        """Where to receive a body of so many bytes."""
        if size != self._size:  # no slot: whoever waits for one refuses it
            return fresh(size)
        buffer = self._buffers[self._next]
        if buffer is None:
            buffer = self._buffers[self._next] = fresh(size)
        return buffer

    def keep(self) -> None:
        """What was received last is handed out: leave it alone until as many others as are kept have been too."""
        self._next = (self._next + 1) % (KEPT + 1)
