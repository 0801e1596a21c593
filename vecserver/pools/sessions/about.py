"""What an environment may be made with, read from its registration and the signature behind it."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, Final

import gymnasium
from gymnasium.envs.registration import load_env_creator

from vecserver.engine.providers import spec_of

__all__ = ["about_env"]

_OWN_FIELDS: Final = frozenset({"self", "render_mode"})
"""Parameters that have a field of their own wherever an environment is asked for."""

_LONGEST_SUMMARY: Final = 300

_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def about_env(env_id: str) -> dict[str, Any]:
    """Describe a registered environment. Imports its module, and makes nothing.

    Args:
        env_id: A registered id, or ``module:Id-v0``.

    Returns:
        ``parameters``, in the order of the signature: ``name``, ``default``, ``required``, and ``is_json``, whether the
        default is itself and not its text. ``render_modes``. ``summary``, the beginning of its documentation. ``any``,
        whether it takes parameters of any name.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_module(module)
    spec = spec_of(name) or gymnasium.spec(name)
    create = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
    try:
        signature = list(inspect.signature(create).parameters.values())
    except (TypeError, ValueError):  # a callable that does not say what it takes
        signature = []
    known = {each.name: each for each in signature if each.kind in _NAMED and each.name not in _OWN_FIELDS}
    defaults = {name: each.default for name, each in known.items()} | dict(spec.kwargs)
    metadata = getattr(create, "metadata", None)
    modes = metadata.get("render_modes", []) if isinstance(metadata, dict) else []
    return {
        "parameters": [
            {
                "name": name,
                "default": _plain(default),
                "required": default is inspect.Parameter.empty,
                "is_json": default is not inspect.Parameter.empty and _is_json(default),
            }
            for name, default in defaults.items()
            if name not in _OWN_FIELDS
        ],
        "render_modes": [str(mode) for mode in modes if mode is not None],
        "summary": _summary(inspect.getdoc(create) or ""),
        "any": any(each.kind is each.VAR_KEYWORD for each in signature),
    }


def _summary(text: str) -> str:
    """The first sentence of a documentation that is no heading."""
    paragraphs = (each.strip() for each in text.split("\n\n"))
    first = next((each for each in paragraphs if each and not each.startswith("#")), "")
    words = " ".join(line for line in first.splitlines() if not line.startswith("#"))
    sentence, full_stop, _ = words.partition(". ")
    return f"{sentence}{full_stop.strip()}"[:_LONGEST_SUMMARY]


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, float, str)


def _plain(value: Any) -> Any:
    if value is inspect.Parameter.empty:
        return None
    return value if _is_json(value) else f"{value!r:.200}"
