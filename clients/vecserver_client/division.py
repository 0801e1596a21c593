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
        self.parts: tuple[ArenaVectorEnv, ...] = ()

    @property
    def workers(self) -> int:
        """The most parts that there can be."""
        return self._link.workers

    def split(
        self, count: int, timeout: float, make: Callable[[LinkToPart], ArenaVectorEnv]
    ) -> tuple[ArenaVectorEnv, ...]:
        """Split the whole, which is not split.

        Args:
            count: How many parts.
            timeout: Seconds that it may take.
            make: Makes the vector environment of a part.
        """
        parts = self._link.split(count, timeout)
        self.parts = tuple(make(part) for part in parts)
        self.arrivals = Arrivals([(made, part.link) for made, part in zip(self.parts, parts, strict=True)])
        return self.parts

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
        self._link.join(timeout)
        self.parts = ()
        del self.arrivals

    def close(self, timeout: float | None, *, terminate: bool = False) -> None:
        """Close the parts."""
        with ExitStack() as each:  # also where one of them raises, or warns where warnings are errors
            for part in self.parts:
                each.callback(part.close, timeout=timeout, terminate=terminate)


def no_division() -> LocalError:
    """The error where a part is to be split."""
    return LocalError("a part cannot be split: join the whole, and split it into more parts")
