"""What a driver writes for the workers: a line of words for each, and the actions.

The host's driver has its place for it in the arena. A driver in another process gets a memory of its own: whatever it
still writes when the pool is not its any more, nobody reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import mmap

    from vecserver.wire.actions import ActionFormat

__all__ = ["LentOrders", "Orders"]

_LINE: Final = 64
_PAGE: Final = 4096


class Orders(Protocol):
    """A place for commands.

    Attributes:
        driver_lines: One line of words a worker, as ``views.DriverLine`` names them.
        codes: The dtype code of each action leaf.
        actions: The action area of ``wire.actions``.
    """

    driver_lines: list[memoryview]
    codes: memoryview
    actions: memoryview


class LentOrders:
    """The orders of a driver in another process.

    Args:
        workers: Of the pool.
        actions: How its action batches are stored.
        memory: The mapped memory, ``size`` bytes of it.
    """

    def __init__(self, workers: int, actions: ActionFormat, memory: mmap.mmap) -> None:
        whole = memoryview(memory)
        codes = _LINE * workers
        area = _after_codes(workers, actions)
        self.driver_lines = [whole[_LINE * i : _LINE * (i + 1)].cast("Q") for i in range(workers)]
        self.codes = whole[codes : codes + actions.leaf_count]
        self.actions = whole[area : area + actions.area_size]

    @staticmethod
    def size(workers: int, actions: ActionFormat) -> int:
        """Bytes of the memory that they take: whole pages."""
        return -(-(_after_codes(workers, actions) + actions.area_size) // _PAGE) * _PAGE


def _after_codes(workers: int, actions: ActionFormat) -> int:
    return -(-(_LINE * workers + actions.leaf_count) // _LINE) * _LINE
