"""Gymnasium's wrappers of single environments by name: which a pool may ask for, and why not the others.

Allowed is what stays inside the environment and whose arguments JSON can carry. A wrapper is asked for by its name, or
as ``{"id": name, "kwargs": {…}}``.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any, Final

import gymnasium
import msgspec
import numpy as np

from vecserver.wire.errors import InvalidSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ALLOWED_WRAPPERS", "REFUSED_WRAPPERS", "check_wrappers", "wrap"]

ALLOWED_WRAPPERS: Final = frozenset(
    {
        "AddRenderObservation",
        "AddWhiteNoise",
        "AtariPreprocessing",
        "ClipAction",
        "ClipReward",
        "DelayObservation",
        "DiscretizeAction",
        "DiscretizeObservation",
        "DtypeObservation",
        "FilterObservation",
        "FlattenObservation",
        "FrameStackObservation",
        "GrayscaleObservation",
        "JaxToNumpy",
        "MaxAndSkipObservation",
        "NormalizeObservation",
        "NormalizeReward",
        "ObstructView",
        "OrderEnforcing",
        "PassiveEnvChecker",
        "RecordEpisodeStatistics",
        "RenderCollection",
        "RepeatAction",
        "RescaleAction",
        "RescaleObservation",
        "ReshapeObservation",
        "ResizeObservation",
        "StickyAction",
        "TimeAwareObservation",
        "TimeLimit",
    }
)

_FUNCTION: Final = (
    "it takes a function, which JSON cannot carry: put it around the environment where that is registered"
)
_ARRAYS: Final = "its observations are arrays of another library, and a pool holds numpy's"
REFUSED_WRAPPERS: Final = {
    "ArrayConversion": _ARRAYS,
    "Autoreset": "a pool resets its rows itself: see autoreset_mode",
    "HumanRendering": "it opens a window on the server's screen: use render_mode and render()",
    "JaxToTorch": _ARRAYS,
    "NumpyToTorch": _ARRAYS,
    "RecordVideo": "it writes files on the server: use render_mode and render()",
    "TransformAction": _FUNCTION,
    "TransformObservation": _FUNCTION,
    "TransformReward": _FUNCTION,
}
"""Gymnasium's other wrappers of single environments: name → why a pool does not take it."""

_ARRAY_ARGUMENTS: Final = frozenset({"max_action", "max_obs", "max_reward", "min_action", "min_obs", "min_reward"})
"""Arguments whose lists stand for arrays; every other list stands for a tuple."""
_NEAREST: Final = 3


def check_wrappers(wrappers: Sequence[Any]) -> None:
    """Refuse wrappers that a pool does not take, without making any.

    Raises:
        InvalidSpec: Names the wrapper, why it is not taken, and the nearest names where there is none such.
    """
    if isinstance(wrappers, str) or not all(isinstance(wrapper, str | dict) for wrapper in wrappers):
        raise _invalid('wrappers is a list of names, or of {"id": name, "kwargs": {…}}')
    for wrapper in wrappers:
        name, kwargs = _parts(wrapper)
        _check_name(name)
        try:
            json.dumps(kwargs, allow_nan=False)
            msgspec.msgpack.encode(kwargs)  # the way to a worker: integers of at most 64 bits
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _invalid(f"the kwargs of {name} in wrappers hold a value that JSON cannot carry: {error}") from None


def _invalid(message: str, **details: Any) -> InvalidSpec:
    return InvalidSpec(message, field="wrappers", **details)


def _parts(wrapper: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(wrapper, str):
        return wrapper, {}
    name, kwargs = wrapper.get("id"), wrapper.get("kwargs", {})
    if not isinstance(name, str) or not isinstance(kwargs, dict) or not wrapper.keys() <= {"id", "kwargs"}:
        raise _invalid(f'{wrapper!r:.200} in wrappers is not {{"id": name, "kwargs": {{…}}}}')
    return name, kwargs


def _check_name(name: str) -> None:
    if name in REFUSED_WRAPPERS:
        raise _invalid(f"{name} in wrappers is not taken: {REFUSED_WRAPPERS[name]}")
    known = sorted(ALLOWED_WRAPPERS & set(gymnasium.wrappers.__all__))
    if name not in known:
        lowered = {each.lower(): each for each in known}
        nearest = [lowered[each] for each in difflib.get_close_matches(name.lower(), lowered, _NEAREST, 0.5)]
        raise _invalid(
            f"{name!r} in wrappers is no wrapper that a pool takes: did you mean {', '.join(nearest or known)}?",
            nearest=nearest,
        )


def wrap(env: gymnasium.Env[Any, Any], wrappers: Iterable[str | dict[str, Any]]) -> gymnasium.Env[Any, Any]:
    """Put wrappers around an environment, the first innermost; whatever their constructors raise comes out."""
    for wrapper in wrappers:
        name, kwargs = _parts(wrapper)
        _check_name(name)
        arguments = {key: _argument(key, value, env) for key, value in kwargs.items()}
        env = getattr(gymnasium.wrappers, name)(env, **arguments)
    return env


def _argument(name: str, value: Any, env: gymnasium.Env[Any, Any]) -> Any:
    """What a wrapper gets for a JSON value: Gymnasium's own want arrays or tuples where JSON has lists."""
    if name == "dtype" and isinstance(value, str):
        return np.dtype(value).type  # Gymnasium before 1.3 calls it
    if not isinstance(value, list):
        return value
    if name == "padding_type":  # an observation
        return np.array(value, env.observation_space.dtype)
    return np.array(value) if name in _ARRAY_ARGUMENTS else tuple(value)
