"""Packages that register environments when they are imported, known by name so that plain ids of theirs work."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Final

import gymnasium
from gymnasium.envs.registration import EnvSpec

__all__ = ["is_registered", "load_providers", "spec_of"]

_PROVIDERS: Final = ("ale_py",)
"""Installing one of these is enough to use its ids. Any other package is named in the id: ``module:Id-v0``."""


_ENVPOOL: Final = "EnvPool/"
"""The namespace of EnvPool's environments, which it registers nowhere: they only exist as vector environments."""


def is_registered(env_id: str) -> bool:
    """Whether a plain id is known; imports the providers that are installed before it says no."""
    return spec_of(env_id) is not None


def spec_of(env_id: str) -> EnvSpec | None:
    """What is known of a plain id: what it was registered with, or EnvPool's task behind ``EnvPool/``.

    Whether EnvPool has the task only a worker finds out: to import it takes seconds.
    """
    if env_id not in gymnasium.registry:
        if env_id.startswith(_ENVPOOL) and find_spec("envpool") is not None:
            return _envpool_spec(env_id)
        load_providers()
    return gymnasium.registry.get(env_id)


def _envpool_spec(env_id: str) -> EnvSpec | None:
    try:
        return EnvSpec(
            env_id,
            vector_entry_point="vecserver.engine.envpool:EnvPoolVectorEnv",
            kwargs={"task_id": env_id.removeprefix(_ENVPOOL)},
        )
    except gymnasium.error.Error:  # no id at all
        return None


def load_providers() -> None:
    """Import the providers that are installed."""
    for name in _PROVIDERS:
        if find_spec(name) is not None:
            import_module(name)
