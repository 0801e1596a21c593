"""The answer to a STEP or RESET as the server itself reads it, for whoever has no client of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from vecserver.pools.results import Batch
from vecserver.wire.frames import Kind
from vecserver.wire.infos import merge
from vecserver.wire.layout import Layout, assemble
from vecserver.wire.side import SideLeaves
from vecserver.wire.spaces import space_from_json

if TYPE_CHECKING:
    from vecserver.wire.messages import PoolInfo

__all__ = ["decode_batch"]


class _Merger(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Lends Gymnasium's own merging of infos."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def add(self, infos: dict[str, Any], info: dict[str, Any], row: int) -> dict[str, Any]:
        return self._add_info(infos, info, row)


def decode_batch(info: PoolInfo, kind: Kind, ext: Any, body: Any) -> Batch:
    """Read an answer.

    Args:
        info: The pool's spaces and layout.
        kind: What was asked: STEP or RESET.
        ext: The answer's ext.
        body: Its slot.
    """
    rows = info.num_envs
    space = space_from_json(info.observation_space)
    views = Layout.of(space, rows).views(bytearray(body))
    infos, _, aside = merge(ext, rows, _Merger(rows).add)
    side = SideLeaves(space)
    leaves = side.weave(views.observations, side.unpack_rows(aside, rows)) if side else iter(views.observations)
    observations = assemble(space, leaves)
    if kind == Kind.RESET:
        return Batch(observations, None, None, None, infos)
    return Batch(observations, views.rewards, views.terminated, views.truncated, infos)
