"""The stand-in for a space whose class is somewhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from vecserver.wire.codec import portable
from vecserver.wire.errors import Unportable, UnsupportedSpace

if TYPE_CHECKING:
    import numpy as np

__all__ = ["OpaqueSpace"]


class OpaqueSpace(spaces.Space[Any]):
    """What a client has of a custom space: it holds every value that can travel, and cannot be sampled from.

    Args:
        name: Module and name of the class.
        shape: The space's shape; None where it has none.
        dtype: The space's dtype; None where it has none, or one that cannot travel.
        text: How the space describes itself.
    """

    def __init__(self, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any] | None, text: str) -> None:
        super().__init__(shape, dtype)
        self.name = name
        self.text = text

    @property
    def is_np_flattenable(self) -> bool:
        """False: nothing is known of its values."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        """Refuse: only the class knows the values.

        Raises:
            UnsupportedSpace: Says what to do instead.
        """
        del mask, probability
        raise UnsupportedSpace(
            f"{self.name} is a class of the pool's environments and does not travel, so {self.text} cannot be sampled "
            "from here: make the same space where its class can be imported, and sample from that one"
        )

    def contains(self, x: Any) -> bool:
        """Whether a value can travel; more is for the environment to judge."""
        try:
            portable(x)
        except Unportable:
            return False
        return True

    def __repr__(self) -> str:
        return f"OpaqueSpace({self.text})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OpaqueSpace) and self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]  # as Gymnasium's own spaces

    def _identity(self) -> tuple[Any, ...]:
        return self.name, self.shape, self.dtype, self.text
