"""What the messages of an environment look like, as JSON schemas made from its spaces."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from vecserver.pools.sessions.actions import describe_actions

__all__ = ["schemas"]

_Schema = dict[str, Any]
_ANYTHING: Final[_Schema] = {}
_MOST_NESTED: Final = 256
"""Elements of an array whose bounds are told one by one; a picture's are all alike."""


def schemas(action_space: spaces.Space[Any], observation_space: spaces.Space[Any]) -> _Schema:
    """The answer of ``/schema``.

    Returns:
        ``action``, ``observation`` (of steps and resets; ``reward`` and ``done`` may stand beside it or within), and
        ``state``.
    """
    return {
        "action": _object(
            {"action": _of_space(action_space, bounded=True), "metadata": {"type": "object"}},
            ["action"],
            title="Action",
        ),
        "observation": _object(
            {
                "state": _of_space(observation_space, bounded=False),
                "legal_actions": {"const": describe_actions(action_space)},
                "episode_length": _COUNT,
                "total_reward": {"type": ["number", "null"]},
                "reward": {"type": ["number", "null"]},
                "done": {"type": "boolean"},
                "metadata": {
                    "type": "object",
                    "properties": {
                        "terminated": {"type": "boolean"},
                        "truncated": {"type": "boolean"},
                        "info": {"type": "object"},
                        "env_id": {"type": "string"},
                        "seed": {"type": ["integer", "null"]},
                    },
                    "required": ["terminated", "truncated", "info"],
                },
            },
            ["state", "legal_actions", "episode_length", "total_reward", "metadata"],
            title="Observation",
        ),
        "state": _object(
            {
                "episode_id": {"type": ["string", "null"]},
                "step_count": _COUNT,
                "env_id": {"type": "string"},
                "render_mode": {"type": ["string", "null"]},
                "max_steps": {"type": ["integer", "null"]},
                "seed": {"type": ["integer", "null"], "minimum": 0},
                "episode_length": _COUNT,
                "total_reward": {"type": ["number", "null"]},
            },
            ["episode_id", "step_count", "env_id"],
            title="State",
        ),
    }


_COUNT: Final[_Schema] = {"type": "integer", "minimum": 0}


def _object(properties: _Schema, required: list[str], *, title: str | None = None) -> _Schema:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return schema if title is None else {"title": title, **schema}


def _array(items: _Schema, length: int) -> _Schema:
    return {"type": "array", "items": items, "minItems": length, "maxItems": length}


def _each(items: list[_Schema]) -> _Schema:
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _of_space(space: spaces.Space[Any], *, bounded: bool) -> _Schema:
    """The JSON of a space's values.

    Args:
        space: The space.
        bounded: Whether values beyond its bounds are refused; environments are not held to them.
    """
    return _of(space, bounded)


@singledispatch
def _of(space: spaces.Space[Any], bounded: bool) -> _Schema:  # noqa: FBT001 - singledispatch has no keywords
    del space, bounded
    return _ANYTHING


@_of.register
def _of_box(space: spaces.Box, bounded: bool) -> _Schema:  # noqa: FBT001
    if not bounded:
        kind = {"type": _number_type(space.dtype)}
        for length in reversed(space.shape):
            kind = _array(kind, length)
        return kind
    return _bounded(space.low, space.high, _scalar_type(space.dtype))


def _scalar_type(dtype: Any) -> str:
    return "number" if np.dtype(dtype).kind == "f" else "integer"


def _number_type(dtype: Any) -> str | list[str]:
    return ["number", "null"] if np.dtype(dtype).kind == "f" else "integer"


def _bounded(low: Any, high: Any, kind: str) -> _Schema:
    if np.ndim(low) == 0:
        limits = {"minimum": np.asarray(low).item(), "maximum": np.asarray(high).item()}
        return {"type": kind} | {name: limit for name, limit in limits.items() if np.isfinite(limit)}
    alike = np.size(low) > 0 and (low == low.flat[0]).all() and (high == high.flat[0]).all()
    if not alike and np.size(low) <= _MOST_NESTED:
        return _each([_bounded(below, above, kind) for below, above in zip(low, high, strict=True)])
    schema = _bounded(low.min(), high.max(), kind) if np.size(low) else {"type": kind}
    for length in reversed(np.shape(low)):
        schema = _array(schema, length)
    return schema


@_of.register
def _of_discrete(space: spaces.Discrete, bounded: bool) -> _Schema:  # noqa: FBT001
    limits = {"minimum": int(space.start), "maximum": int(space.start + space.n - 1)}
    return {"type": "integer", **(limits if bounded else {})}


@_of.register
def _of_multi_discrete(space: spaces.MultiDiscrete, bounded: bool) -> _Schema:  # noqa: FBT001
    del bounded
    return _bounded(space.start, space.start + space.nvec - 1, "integer")


@_of.register
def _of_multi_binary(space: spaces.MultiBinary, bounded: bool) -> _Schema:  # noqa: FBT001
    del bounded
    schema: _Schema = {"type": "integer", "minimum": 0, "maximum": 1}
    for length in reversed(space.shape):
        schema = _array(schema, length)
    return schema


@_of.register
def _of_text(space: spaces.Text, bounded: bool) -> _Schema:  # noqa: FBT001
    return {"type": "string"} | ({"minLength": space.min_length, "maxLength": space.max_length} if bounded else {})


@_of.register
def _of_tuple(space: spaces.Tuple, bounded: bool) -> _Schema:  # type: ignore[type-arg] # noqa: FBT001
    return _each([_of(part, bounded) for part in space.spaces])


@_of.register
def _of_dict(space: spaces.Dict, bounded: bool) -> _Schema:  # noqa: FBT001
    parts = {str(key): _of(part, bounded) for key, part in space.spaces.items()}
    return _object(parts, list(parts))
