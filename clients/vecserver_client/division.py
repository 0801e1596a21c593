"""A vector environment in parts that step beside each other."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from gymnasium.error import AlreadyPendingCallError

from vecserver.wire.errors import LocalError
from vecserver_client.arrivals import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver_client.link import Divisible, LinkToPart
    from vecserver_client.vector_env import ArenaVectorEnv

__all__ = ["Division", "no_division"]


class Division:
    """The parts of one vector environment; none where it is whole.

    Args:
        link: To the whole.
    """

    def __init__(self, link: Divisible) -> None:
        self._link = link
        self._begun = False
        self.parts: tuple[ArenaVectorEnv, ...] = ()

    @property
    def workers(self) -> int:
        """The most parts that there can be."""
        return self._link.workers

    @property
    def torn(self) -> bool:
        """Whether a split was begun that did not come to its parts: the pool may be split all the same."""
        return self._begun and not self.parts

    def split(
        self, count: int, timeout: float, make: Callable[[LinkToPart], ArenaVectorEnv]
    ) -> tuple[ArenaVectorEnv, ...]:
        """Split the whole, which is not split.

        Args:
            count: How many parts.
            timeout: Seconds that it may take.
            make: Makes the vector environment of a part.
        """
        self._begun = True
        parts = self._link.split(count, timeout)
        with ExitStack() as undo:  # where it is interrupted
            for part in parts:
                undo.callback(part.link.close, timeout)
            made = tuple(make(part) for part in parts)
            self.arrivals = Arrivals([(each, part.link) for each, part in zip(made, parts, strict=True)])
            self.parts = made
            undo.pop_all()
        return made

    def join(self, timeout: float) -> None:
        """Close the parts and make the whole one again.

        Raises:
            AlreadyPendingCallError: A part was not waited for.
        """
        for part in self.parts:
            if (pending := part.pending_call) is not None:
                rows = f"rows {part.rows.start} to {part.rows.stop - 1}"
                raise AlreadyPendingCallError(
                    f"`join` while a call to `{pending}` is pending in the part of {rows}: `{pending}_wait` first",
                    pending,
                )
        self.close(timeout)
        if not self.parts and self._link.pending:  # the split itself: interrupted, or not answered in time
            self._link.finish(timeout)
        self._link.join(timeout)  # which a pool that is whole takes for what it is
        self.parts = ()
        self._begun = False
        self.__dict__.pop("arrivals", None)

    def close(self, timeout: float | None, *, terminate: bool = False) -> None:
        """Close the parts."""
        with ExitStack() as each:  # also where one of them raises, or warns where warnings are errors
            for part in self.parts:
                each.callback(part.close, timeout=timeout, terminate=terminate)


def no_division() -> LocalError:
    """The error where a part is to be split."""
    return LocalError("a part cannot be split: join the whole, and split it into more parts")
