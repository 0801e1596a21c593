"""How one row's observation gets into its slot, and beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from vecserver.engine.base import RowFaults, fault_of
from vecserver.wire.errors import Unportable
from vecserver.wire.layout import leaf_values
from vecserver.wire.side import SideLeaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vecserver.wire.layout import SlotViews

__all__ = ["observation_writer", "side_rows", "write_aside"]


def side_rows(space: spaces.Space[Any], size: int) -> list[bytes] | None:
    """Make the place for the side values of ``size`` rows, nil in every row; None where a space has no side leaves."""
    side = SideLeaves(space)
    return [side.pack_row([None] * len(side), "")] * size if side else None


def write_aside(side: SideLeaves, values: Iterable[Sequence[Any]], aside: list[bytes], first: int) -> None:
    """Put the side values of a shard's rows where they belong.

    Args:
        side: Which leaves of the observation they are.
        values: Of each of these leaves the rows' values.
        aside: Takes them, a row each.
        first: The shard's first row.

    Raises:
        RowFaults: Some cannot travel; the other rows are written.
    """
    faults = []
    for row, parts in enumerate(zip(*values, strict=True)):
        try:
            aside[row] = side.pack_row(parts, "the observation")
        except Unportable as error:
            faults.append(fault_of(first + row, error))
    if faults:
        raise RowFaults(faults)


def observation_writer(
    space: spaces.Space[Any], slot: SlotViews, aside: list[bytes] | None = None
) -> Callable[[int, Any], None]:
    """Make the function that writes a row's observation into a slot.

    An observation of another shape than its space's is refused, where numpy would stretch a smaller one over the row.

    Args:
        space: Single observation space.
        slot: The shard's rows of a slot.
        aside: The place of ``side_rows`` for the shard's rows; keeps the last values of each.

    Returns:
        ``write(row of the shard, observation)``; raises ValueError for an observation that does not fit, and Unportable
        for one that cannot travel.
    """
    if aside is not None:
        return _aside_writer(space, slot, aside)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        leaves = _row_views(slot)

        def write_nested(row: int, observation: Any) -> None:
            for views, part in zip(leaves, leaf_values(space, observation), strict=True):
                _write(views[row], part)

        return write_nested
    (views,) = _row_views(slot)
    shape = slot.observations[0].shape[1:]

    def write(row: int, observation: Any) -> None:
        if type(observation) is np.ndarray and observation.shape == shape:
            views[row][...] = observation
        else:
            _write(views[row], observation)

    return write


def _aside_writer(space: spaces.Space[Any], slot: SlotViews, aside: list[bytes]) -> Callable[[int, Any], None]:
    side = SideLeaves(space)
    leaves = _row_views(slot)

    def write(row: int, observation: Any) -> None:
        parts, values = side.split(leaf_values(space, observation))
        for views, part in zip(leaves, parts, strict=True):
            _write(views[row], part)
        aside[row] = side.pack_row(values, "the observation")

    return write


def _row_views(slot: SlotViews) -> list[list[np.ndarray[Any, Any]]]:
    """A view a row of each leaf, built once; the slice keeps rows of a plain number an array that can be written to."""
    return [[leaf[i : i + 1].reshape(leaf.shape[1:]) for i in range(len(leaf))] for leaf in slot.observations]


def _write(view: np.ndarray[Any, Any], value: Any) -> None:
    array = np.asarray(value)
    if array.shape != view.shape:
        raise ValueError(f"the observation has shape {array.shape} where its space has {view.shape}")
    view[...] = array
