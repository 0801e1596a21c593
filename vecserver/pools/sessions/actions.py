"""One action as OpenEnv's clients send it: lenient in its form, strict in its value."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from gymnasium import spaces

from vecserver.pools.json_actions import from_json
from vecserver.wire.errors import InvalidAction

__all__ = ["describe_actions", "to_action", "unwrapped"]

_KEY: Final = "action"
_BESIDE: Final = frozenset({_KEY, "metadata"})
_MOST_LISTED: Final = 1024
"""Actions of a Discrete space that are listed one by one; of a larger one the first and the last are told."""


def to_action(space: spaces.Space[Any], given: Any) -> Any:
    """Turn the JSON of an action into an action of a space.

    ``{"action": x}`` means x, once more inside one another too; a list of one number is that number where the space is
    Discrete; and one number stands for every element of a Box. Nothing else is guessed, and nothing clipped.

    Args:
        space: The environment's action space.
        given: The JSON value.

    Raises:
        InvalidAction: It is none of this space; the details describe the space.
    """
    value = _shaped(space, unwrapped(space, given))
    try:
        with np.errstate(over="ignore"):  # beyond the dtype is beyond the bounds, or infinite as JSON cannot say it
            action = from_json(space, value)
        if space.contains(action):
            return action
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _refusal(space, given, str(error)) from None
    raise _refusal(space, given, "it is outside")


def unwrapped(space: spaces.Space[Any], value: Any) -> Any:
    """What is meant by an action inside ``{"action": …}``, however often."""
    while isinstance(value, dict) and _KEY in value and value.keys() <= _BESIDE:
        if isinstance(space, spaces.Dict) and space.spaces.keys() == value.keys():
            break  # this object is the action: the environment named its parts so
        value = value[_KEY]
    return value


def _shaped(space: spaces.Space[Any], value: Any) -> Any:
    alone = value[0] if isinstance(value, list) and len(value) == 1 else value
    if type(alone) not in (int, float):
        return value
    if isinstance(space, spaces.Discrete):
        return int(alone) if isinstance(alone, int) or alone.is_integer() else value
    if isinstance(space, spaces.Box) and np.shape(value) != space.shape:
        return np.full(space.shape, alone)
    return value


def _refusal(space: spaces.Space[Any], given: Any, why: str) -> InvalidAction:
    text = f"{space!s:.500}"
    return InvalidAction(f"{given!r:.200} is no action of {text}: {why:.300}; nothing was stepped", space=text)


def describe_actions(space: spaces.Space[Any]) -> Any:
    """What OpenEnv's clients are told of an action space with each observation (``legal_actions``).

    Returns:
        A list of the actions of a Discrete space, ``{"low", "high"}`` of a Box, a list or an object of these where the
        space has parts; of any other space its text.
    """
    match space:
        case spaces.Discrete():
            return _numbers(int(space.start), int(space.n))
        case spaces.MultiDiscrete():
            flat = zip(np.ravel(space.start).tolist(), np.ravel(space.nvec).tolist(), strict=True)
            return [_numbers(start, n) for start, n in flat]
        case spaces.MultiBinary():
            return [0, 1]
        case spaces.Box():
            return {"low": space.low, "high": space.high}
        case spaces.Tuple():
            return [describe_actions(part) for part in space.spaces]
        case spaces.Dict():
            return {str(key): describe_actions(part) for key, part in space.spaces.items()}
        case _:
            return f"{space!s:.500}"


def _numbers(start: int, n: int) -> Any:
    return list(range(start, start + n)) if n <= _MOST_LISTED else {"low": start, "high": start + n - 1}
