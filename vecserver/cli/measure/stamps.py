"""Instants that several processes write into one file, and one reads: what each did in the n-th batch, and when.

All are of the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HOST", "Stamps", "worker_line"]

HOST: Final = 0
"""The host's line: it took the request, had rung the workers, knew that they had finished, had the answer ready."""

_PER_BATCH: Final = 4
_WORD: Final = 8


def worker_line(first_row: int) -> int:
    """The line of the worker whose shard begins at a row: it was called, it had finished."""
    return 1 + first_row


class Stamps:
    """The file, mapped.

    Args:
        path: The file; made by ``create``.
        num_envs: Rows of the pool: as many workers there may be.
        batches: Batches that are noted; later ones are not.
    """

    def __init__(self, path: Path, num_envs: int, batches: int) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._memory).cast("q")
        self._shape = (1 + num_envs, batches, _PER_BATCH)

    @classmethod
    def create(cls, path: Path, num_envs: int, batches: int) -> Stamps:
        """Make the file; all of it is zero, and takes no memory until it is written."""
        with path.open("wb") as file:
            file.truncate((1 + num_envs) * batches * _PER_BATCH * _WORD)
        return cls(path, num_envs, batches)

    def note(self, line: int, batch: int, *instants: int) -> None:
        """Write what a process did in a batch."""
        if batch < self._shape[1]:
            at = (line * self._shape[1] + batch) * _PER_BATCH
            for i, instant in enumerate(instants):
                self._words[at + i] = instant

    def read(self) -> np.ndarray[tuple[int, int, int], np.dtype[np.int64]]:
        """A copy: ``[line, batch, stamp]``, zero where nothing was noted."""
        return np.frombuffer(self._words, np.int64).reshape(self._shape).copy()
