"""What the dispatch needs of the pool whose messages it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator

    from vecserver.wire import messages
    from vecserver.wire.errors import VecServerError
    from vecserver.wire.frames import Buffer

__all__ = ["LendingPort", "PoolPort"]


class LendingPort(Protocol):
    """What the dispatch needs to know of a driver that has the arena itself."""

    @property
    def lent(self) -> bool:
        """Whether there is one."""

    def claim(self) -> bool:
        """Take the arena for a command; False where it is not to be had now: ``resume`` is called when it is."""

    def release(self) -> None:
        """Give it back, if it was taken."""

    def recall(self) -> None:
        """Have it back for good."""

    @property
    def busy(self) -> bool:
        """Whether chores are under way or wait."""

    def add(self, chore: Generator[None, None, None]) -> None:
        """Have a chore done when it is its turn."""


class PoolPort(Protocol):
    """What the dispatch needs of a host."""

    info: messages.PoolInfo
    max_ext: int
    broken: VecServerError | None

    @property
    def lending(self) -> LendingPort:
        """Who has the arena, where it is not the host."""

    def begin_step(self, ext: Buffer, body: Buffer) -> None:
        """Begin to step, or refuse the batch."""

    def begin_reset(self, request: messages.Reset) -> None:
        """Begin to reset rows, or refuse."""

    def begin_call(self, request: messages.Call) -> None:
        """Begin to call every row, or refuse."""

    def begin_render(self, rows: list[int] | None) -> None:
        """Begin to render rows, or refuse."""

    def slot_body(self, slot: int) -> memoryview:
        """The bytes of a slot."""

    def progress(self) -> tuple[int, int]:
        """First and last row still at work."""
