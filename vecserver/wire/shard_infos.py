"""Infos that several vectorised environments, one a shard, have merged for their own rows, made one for the pool."""

from __future__ import annotations

from typing import Any

import numpy as np

from vecserver.wire.errors import MalformedMessage

__all__ = ["ShardInfos"]

_Part = tuple[int, int, dict[str, Any]]


class ShardInfos:
    """Gathers the merged infos of a reply.

    Args:
        num_envs: Rows of the pool.
    """

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._rows: tuple[int, int] | None = None  # whose the next merged infos are; None for all rows
        self._parts: list[_Part] = []

    def begin(self, shard: dict[str, Any]) -> None:
        """Take note of whose infos come next.

        Raises:
            MalformedMessage: These are no rows of the pool.
        """
        match shard:
            case {"first": int(first), "end": int(end)} if 0 <= first < end <= self._num_envs:
                self._rows = (first, end)
            case _:
                raise MalformedMessage(f"the ext holds an entry that is no shard of {self._num_envs} rows")

    def add(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Take merged infos; those that are all rows' come back as they are."""
        if self._rows is None:
            return infos
        self._parts.append((*self._rows, infos))
        self._rows = None
        return {}

    def joined(self) -> dict[str, Any]:
        """All shards' infos as one dict of arrays of a value a row.

        Where a shard has no mask for a key, or not the key, the mask says which rows do.
        """
        return _join(self._parts, self._num_envs)


def _join(parts: list[_Part], num_envs: int) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    keys = dict.fromkeys(key for _, _, infos in parts for key in infos)
    masks = {f"_{key}" for key in keys}
    for key in keys:
        if key in masks and isinstance(key, str):
            continue  # it goes with its key
        having = [(first, end, infos[key]) for first, end, infos in parts if key in infos]
        joined[key] = _values(having, num_envs)
        mask, everywhere = _mask(key, parts, num_envs)
        if not everywhere:
            joined[f"_{key}"] = mask
    return joined


def _values(parts: list[tuple[int, int, Any]], num_envs: int) -> Any:
    if all(isinstance(value, dict) for _, _, value in parts):
        return _join(parts, num_envs)
    if all(isinstance(value, np.ndarray) and value.shape[:1] == (end - first,) for first, end, value in parts):
        like = parts[0][2]
        if all((value.dtype, value.shape[1:]) == (like.dtype, like.shape[1:]) for _, _, value in parts):
            empty = None if like.dtype == object else 0
            batch = np.full((num_envs, *like.shape[1:]), empty, like.dtype)
            for first, end, value in parts:
                batch[first:end] = value
            return batch
    return _objects(parts, num_envs)


def _objects(parts: list[tuple[int, int, Any]], num_envs: int) -> Any:
    """Values that do not go into one array; what is no array or list of a value a row is every row's."""
    batch = np.full(num_envs, None, object)
    for first, end, value in parts:
        each = value if isinstance(value, np.ndarray | list | tuple) and len(value) == end - first else None
        for row in range(first, end):
            batch[row] = value if each is None else each[row - first]
    return batch


def _mask(key: Any, parts: list[_Part], num_envs: int) -> tuple[Any, bool]:
    """Which rows have a key, and whether that goes without saying: every shard has it, and none a mask."""
    mask = np.zeros(num_envs, np.bool_)
    unmasked = 0
    for first, end, infos in parts:
        given = infos.get(f"_{key}")
        if given is None:
            unmasked += end - first if key in infos else 0
            mask[first:end] = key in infos
        else:
            try:
                mask[first:end] = given
            except (TypeError, ValueError) as error:
                raise MalformedMessage(f"the mask of the infos {key!r:.80} is none: {error}") from None
    return mask, unmasked == num_envs
