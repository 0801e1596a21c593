"""What the workers of a pool say their environments are like, and whether they can be one pool."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vecserver.engine.base import EngineInfo
from vecserver.wire.codec import unpack
from vecserver.wire.errors import EnvCreationFailed
from vecserver.wire.spaces import refuse_differing, space_from_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gymnasium.spaces import Space

    from vecserver.engine.channel import Ready

__all__ = ["agreed", "understood"]


def understood(ready: Ready, *, own_program: bool) -> EngineInfo:
    """What a worker says.

    Args:
        ready: Its answer.
        own_program: Whether it was started for callables of this program, and so sends the spaces themselves.
    """
    if own_program:
        observation_space, action_space, metadata, each = unpack(ready.objects)
        return EngineInfo(observation_space, action_space, metadata, ready.render_mode, each)
    rows = ready.row_observation_spaces
    return EngineInfo(
        space_from_json(ready.observation_space),
        space_from_json(ready.action_space),
        ready.metadata,
        ready.render_mode,
        None if rows is None else [space_from_json(space) for space in rows],
    )


def agreed(workers: Sequence[tuple[int, EngineInfo]]) -> EngineInfo:
    """What the environments of the pool are like.

    Args:
        workers: The first row of each and what it says.

    Raises:
        EnvCreationFailed: Rows have different spaces; also what Gymnasium raises then, a RuntimeError.
        InvalidSpec: They may differ in their bounds, and differ in more.
    """
    first = workers[0][1]
    names = ("observation_space", "action_space") if first.row_observation_spaces is None else ("action_space",)
    for row, other in workers:
        for name in names:
            theirs, ours = getattr(other, name), getattr(first, name)
            if theirs != ours:
                text = f"the {name} of row {row} is {theirs}, not {ours} as before"
                fault: dict[str, Any] = {"row": row, "type": "RuntimeError", "message": text, "traceback": ""}
                raise EnvCreationFailed(f"the environment of row {row} cannot be used: {text}", faults=[fault])
    if first.row_observation_spaces is None:
        return first
    rows: list[Space[Any]] = [space for _, worker in workers for space in worker.row_observation_spaces or ()]
    refuse_differing(rows)
    return dataclasses.replace(first, row_observation_spaces=rows)
