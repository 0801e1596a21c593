"""Where each array lies in a slot and in an action block: computed from the spaces, the same on both ends.

A slot holds, each 64-byte aligned::

    observation leaves (N, …) · reward f8[N] · terminated u1[N] · truncated u1[N] · autoreset u1[N]

An observation's leaves are the arrays of its space in the space's own order: one for a Box, Discrete, MultiDiscrete or
MultiBinary, those of its parts for Dict and Tuple. Every other space is a *side leaf*: its values have no fixed size,
and travel beside the slot (``wire.side``).
"""

from __future__ import annotations

import dataclasses
import zlib
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Field", "Layout", "SlotViews", "assemble", "has_slot", "leaf_spaces", "leaf_values"]

_ALIGNMENT: Final = 64
"""A cache line: two workers that write neighbouring fields never share one."""

_SLOT_LEAVES: Final = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
Array = np.ndarray[Any, Any]


def has_slot(leaf: spaces.Space[Any]) -> bool:
    """Whether the values of a leaf have a place in a slot; those of a side leaf have not."""
    return isinstance(leaf, _SLOT_LEAVES)


def leaf_spaces(space: spaces.Space[Any], name: str = "") -> Iterator[tuple[str, spaces.Space[Any]]]:
    """Yield the path and space of every leaf, side leaves too, in order."""
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from leaf_spaces(child, f"{name}/{key}")
    elif isinstance(space, spaces.Tuple):
        for i, child in enumerate(space.spaces):
            yield from leaf_spaces(child, f"{name}/{i}")
    else:
        yield name, space


def leaf_values(space: spaces.Space[Any], value: Any) -> Iterator[Any]:
    """Yield the parts of a value (of one row, or batched) in the order of ``leaf_spaces``."""
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from leaf_values(child, value[key])
    elif isinstance(space, spaces.Tuple):
        for child, part in zip(space.spaces, value, strict=True):
            yield from leaf_values(child, part)
    else:
        yield value


def assemble(space: spaces.Space[Any], leaves: Iterator[Any]) -> Any:
    """Put leaves back into the structure of a space: the inverse of ``leaf_values``."""
    if isinstance(space, spaces.Dict):
        return {key: assemble(child, leaves) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(assemble(child, leaves) for child in space.spaces)
    return next(leaves)


@dataclass(frozen=True, slots=True)
class Field:
    """One array of a slot: ``shape`` includes the rows, ``offset`` is in bytes from the slot's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class SlotViews(NamedTuple):
    """The arrays of one slot, all views of the same buffer."""

    observations: tuple[Array, ...]
    rewards: Array
    terminated: Array
    truncated: Array
    autoreset: Array

    def handed_out(self, *, copy: bool) -> SlotViews:
        """The arrays as a caller gets them out of memory that will be written again.

        Rewards and flags are the caller's own in any case: they are small, and are often gathered.

        Args:
            copy: Whether the observations are too, or stay where they are.
        """
        return SlotViews(
            tuple([leaf.copy() for leaf in self.observations]) if copy else self.observations,
            self.rewards.copy(),
            self.terminated.copy(),
            self.truncated.copy(),
            self.autoreset,
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of a slot.

    Attributes:
        num_envs: Rows.
        fields: The observation's leaves, then reward, terminated, truncated and autoreset.
        slot_size: Bytes of a slot: the length of a reply's body.
    """

    num_envs: int
    fields: tuple[Field, ...]
    slot_size: int
    _arrays: tuple[tuple[tuple[int, ...], np.dtype[Any], int], ...] = dataclasses.field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        arrays = tuple((field.shape, np.dtype(field.dtype), field.offset) for field in self.fields)
        object.__setattr__(self, "_arrays", arrays)

    @classmethod
    def of(cls, observation_space: spaces.Space[Any], num_envs: int) -> Layout:
        """Lay out a slot for ``num_envs`` rows of a single observation space."""
        parts = [
            (f"observation{path}", np.dtype(leaf.dtype), tuple(leaf.shape or ()))
            for path, leaf in leaf_spaces(observation_space)
            if has_slot(leaf)
        ]
        parts += [
            ("reward", np.dtype(np.float64), ()),
            ("terminated", np.dtype(np.bool_), ()),
            ("truncated", np.dtype(np.bool_), ()),
            ("autoreset", np.dtype(np.bool_), ()),
        ]
        fields, offset = [], 0
        for name, dtype, shape in parts:
            field = Field(name, dtype.str, (num_envs, *shape), offset)
            fields.append(field)
            offset = -(-(offset + dtype.itemsize * prod(field.shape)) // _ALIGNMENT) * _ALIGNMENT
        return cls(num_envs, tuple(fields), offset)

    def describe(self) -> dict[str, Any]:
        """The layout as a JSON value, for programs that do not compute it from the spaces."""
        return {
            "num_envs": self.num_envs,
            "slot_size": self.slot_size,
            "fields": [
                {"name": f.name, "dtype": f.dtype, "shape": list(f.shape), "offset": f.offset} for f in self.fields
            ],
        }

    @property
    def hash(self) -> int:
        """CRC-32 of the description: both ends compare it before they exchange a slot."""
        return zlib.crc32(msgspec.json.encode(self.describe(), order="deterministic"))

    def views(self, buffer: Any, base: int = 0) -> SlotViews:
        """The arrays of the slot that begins ``base`` bytes into a buffer; no copy."""
        *leaves, reward, terminated, truncated, autoreset = [
            np.ndarray(shape, dtype, buffer, base + offset) for shape, dtype, offset in self._arrays
        ]
        return SlotViews(tuple(leaves), reward, terminated, truncated, autoreset)
