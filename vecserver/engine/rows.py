"""How one row's observation gets into its slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from vecserver.wire.layout import leaf_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.wire.layout import SlotViews

__all__ = ["observation_writer"]


def observation_writer(space: spaces.Space[Any], slot: SlotViews) -> Callable[[int, Any], None]:
    """Make the function that writes a row's observation into a slot.

    An observation of another shape than its space's is refused, where numpy would stretch a smaller one over the row.

    Args:
        space: Single observation space.
        slot: The shard's rows of a slot.

    Returns:
        ``write(row of the shard, observation)``; raises ValueError for an observation that does not fit.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        leaves = [[leaf[i : i + 1].reshape(leaf.shape[1:]) for i in range(len(leaf))] for leaf in slot.observations]

        def write_nested(row: int, observation: Any) -> None:
            for views, part in zip(leaves, leaf_values(space, observation), strict=True):
                _write(views[row], part)

        return write_nested
    (leaf,) = slot.observations
    # a view a row, built once; the slice keeps rows of a plain number an array that can be written to
    views = [leaf[i : i + 1].reshape(leaf.shape[1:]) for i in range(len(leaf))]
    shape = leaf.shape[1:]

    def write(row: int, observation: Any) -> None:
        if type(observation) is np.ndarray and observation.shape == shape:
            views[row][...] = observation
        else:
            _write(views[row], observation)

    return write


def _write(view: np.ndarray[Any, Any], value: Any) -> None:
    array = np.asarray(value)
    if array.shape != view.shape:
        raise ValueError(f"the observation has shape {array.shape} where its space has {view.shape}")
    view[...] = array
