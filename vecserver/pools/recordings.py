"""The memory in which a pool's workers keep the records of their rows; it outlives each of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from vecserver.arena.memory import create, size_and_seal
from vecserver.arena.record import Record
from vecserver.engine.channel import Records
from vecserver.wire.actions import ActionFormat

if TYPE_CHECKING:
    from gymnasium import spaces

__all__ = ["Recordings"]

_PAGE: Final = 4096


class Recordings:
    """The records of all workers of a pool, one behind the other. Close it.

    No driver gets this memory: whoever writes here says what a worker does when it takes another's place. Pages that
    were never written take no memory.

    Args:
        space: Of a row's actions.
        shards: First and end row of each worker.
        steps: How many batches of actions each record holds.

    Attributes:
        size: In bytes.
    """

    def __init__(self, space: spaces.Space[object], shards: tuple[tuple[int, int], ...], steps: int) -> None:
        self._steps = steps
        self._begins: list[int] = []
        self.size = 0
        for first, end in shards:
            self._begins.append(self.size)
            size = Record.size(ActionFormat(space, end - first), steps)
            self.size += -(-size // _PAGE) * _PAGE
        self._fds: list[int] = []

    def lay_out(self, name: str) -> None:
        """Make the memory.

        Raises:
            OSError: There is none left, or no descriptor.
        """
        self._fds.append(create(name))
        size_and_seal(self._fds[0], self.size)

    @property
    def fds(self) -> list[int]:
        """What a worker needs behind its Bind."""
        return self._fds

    def of(self, worker: int) -> Records:
        """Where a worker's is, by its number."""
        return Records(self.size, self._begins[worker], self._steps)

    def close(self) -> None:
        """Close the descriptor."""
        while self._fds:  # forgotten before it is closed: its number may be another's by the next call
            os.close(self._fds.pop())
