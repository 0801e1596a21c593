"""Batches of several vector environments as one, as if one had given it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vecserver.wire.layout import assemble, leaf_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gymnasium.spaces import Space

__all__ = ["joined_infos", "joined_observations"]


def joined_observations(space: Space[Any], parts: Sequence[Any]) -> Any:
    """One batch of observations after the other.

    Args:
        space: Of a row's observation.
        parts: Batches of it.
    """
    if len(parts) == 1:
        return parts[0]
    leaves = zip(*(leaf_values(space, part) for part in parts), strict=True)
    return assemble(space, iter([_joined(leaf) for leaf in leaves]))


def _joined(leaf: Sequence[Any]) -> Any:
    if isinstance(leaf[0], np.ndarray):
        return np.concatenate(leaf)
    return tuple(value for part in leaf for value in part)  # values of no fixed size


def joined_infos(parts: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Merged infos one after the other; rows of a part without a key have zeros there, or None, and False in its mask.

    Args:
        parts: The infos of each part, as Gymnasium merges them.
        sizes: Its rows.
    """
    if len(parts) == 1:
        return dict(parts[0])
    infos: dict[str, Any] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        infos[key] = _joined_values([part.get(key) for part in parts], sizes)
    return infos


def _joined_values(values: Sequence[Any], sizes: Sequence[int]) -> Any:
    if any(isinstance(value, dict) for value in values):
        return joined_infos([value if isinstance(value, dict) else {} for value in values], sizes)
    given = [value for value in values if value is not None]
    dtype, shape = np.result_type(*given), given[0].shape[1:]
    return np.concatenate(
        [
            np.full((size, *shape), None if dtype.hasobject else 0, dtype) if value is None else value
            for value, size in zip(values, sizes, strict=True)
        ]
    )
