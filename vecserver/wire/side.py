"""Values without a fixed size: what the side leaves of a space hold, on their way beside a slot or an action block.

A row's side values are one ``codec`` value, as bytes: the list of the values of its side leaves, in the order of the
leaves. The codec keeps the type of every value that Gymnasium's own spaces have; what it cannot carry is refused where
the value comes from. A batch of a side leaf is a tuple of one value a row, as ``gymnasium.vector.utils.concatenate``
makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vecserver.wire.codec import pack, portable, unpack
from vecserver.wire.errors import MalformedMessage, Unportable
from vecserver.wire.layout import has_slot, leaf_spaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gymnasium import spaces

__all__ = ["SideLeaves"]


class SideLeaves:
    """The leaves of a space whose values travel aside; false where it has none.

    Args:
        space: A space of one row.

    Attributes:
        leaves: Path and space of each, in order.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        leaves = list(leaf_spaces(space))
        self._slotted = tuple(has_slot(leaf) for _, leaf in leaves)
        self.leaves = tuple((path, leaf) for path, leaf in leaves if not has_slot(leaf))

    def __len__(self) -> int:
        return len(self.leaves)

    def split(self, parts: Iterable[Any]) -> tuple[list[Any], list[Any]]:
        """Tell the parts of a value, one a leaf, apart: those with a place in a slot, and those that travel aside."""
        slot: list[Any] = []
        side: list[Any] = []
        for slotted, part in zip(self._slotted, parts, strict=True):
            (slot if slotted else side).append(part)
        return slot, side

    def weave(self, slot: Iterable[Any], side: Iterable[Any]) -> Iterator[Any]:
        """Put the parts back into the order of the leaves: the inverse of ``split``."""
        slots, sides = iter(slot), iter(side)
        return (next(slots) if slotted else next(sides) for slotted in self._slotted)

    def pack_row(self, values: Sequence[Any], what: str) -> bytes:
        """Encode a row's side values.

        Args:
            values: One a side leaf.
            what: What they are, for the error's text.

        Raises:
            Unportable: A value, or something inside it, is none of the types that can travel.
        """
        try:
            return pack(list(values))
        except Unportable:
            for (path, _), value in zip(self.leaves, values, strict=True):
                portable(value, f"{what}{path}")  # raises again, and names the leaf
            raise

    def unpack_rows(self, rows: Sequence[bytes], num_envs: int) -> list[tuple[Any, ...]]:
        """Decode the side values of rows; what comes out is the caller's own memory.

        Args:
            rows: The bytes of each row.
            num_envs: How many there must be.

        Returns:
            One tuple a side leaf, with one value a row.

        Raises:
            MalformedMessage: Another number of rows, or bytes that hold no side values of this space; names the row,
                counted from the first.
        """
        if len(rows) != num_envs:
            raise MalformedMessage(f"values of {len(rows)} rows travel aside, for {num_envs} rows")
        values = []
        for row, data in enumerate(rows):
            decoded = unpack(data)
            if not isinstance(decoded, list) or len(decoded) != len(self):
                raise MalformedMessage(f"row {row} has no values of the {len(self)} leaves that travel aside")
            values.append(decoded)
        return [tuple(row[leaf] for row in values) for leaf in range(len(self))]
