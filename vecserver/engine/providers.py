"""Packages that register environments when they are imported, known by name so that plain ids of theirs work."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Final

import gymnasium

__all__ = ["is_registered", "load_providers"]

_PROVIDERS: Final = ("ale_py",)
"""Installing one of these is enough to use its ids. Any other package is named in the id: ``module:Id-v0``."""


def is_registered(env_id: str) -> bool:
    """Whether ``gymnasium.make`` knows a plain id; imports the providers that are installed before it says no."""
    if env_id not in gymnasium.registry:
        load_providers()
    return env_id in gymnasium.registry


def load_providers() -> None:
    """Import the providers that are installed."""
    for name in _PROVIDERS:
        if find_spec(name) is not None:
            import_module(name)
