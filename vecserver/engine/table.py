"""The engines by name, loaded when a worker needs one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from vecserver.engine.infos import ALL_INFOS, InfoOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium

    from vecserver.engine.base import Engine

__all__ = ["REPLAY", "VECTORISED", "WHOLE_POOL", "make_engine", "resolve"]

REPLAY: Final = "replay"
"""The engine ``envs`` of a pool whose lost rows are rebuilt; no name that a pool can ask for."""
_ENGINES: Final = {
    "envs": "vecserver.engine.envs:EnvsEngine",
    "async": "vecserver.engine.gymnasium:AsyncEngine",
    "sync": "vecserver.engine.gymnasium:SyncEngine",
    "native": "vecserver.engine.native:NativeEngine",
    REPLAY: "vecserver.engine.replay:ReplayEngine",
}
WHOLE_POOL: Final = frozenset({"async", "sync"})
"""Engines that run all rows of a pool in one worker."""
VECTORISED: Final = frozenset({"native"})
"""Engines that step their rows at once, or with threads of their own: one worker unless more are asked for."""


def resolve(name: str) -> str:
    """The engine that ``auto`` stands for: the fastest whose numbers are those of N seeded environments."""
    return "envs" if name == "auto" else name


def make_engine(
    name: str,
    make: Callable[[int], gymnasium.Env[Any, Any]],
    rows: tuple[int, int],
    autoreset_mode: str,
    infos: InfoOptions = ALL_INFOS,
    observation_mode: str = "same",
) -> Engine:
    """Make an engine and its environments; errors as the engine's own."""
    module, _, attribute = _ENGINES[name].partition(":")
    engine: Engine = getattr(import_module(module), attribute)(make, rows, autoreset_mode, infos, observation_mode)
    return engine
