"""Registers ``vecserver/Remote-v0`` with Gymnasium, so that ``gymnasium.make_vec`` makes pools.

``import vecserver_client`` registers it. An installation does so without any import: its ``.pth`` file has every Python
that starts there call ``register_with_gymnasium``, because Gymnasium looks for no plug-ins itself since 1.0. That loads
nothing: it waits for Gymnasium to be imported, and the entry points are text until they are used.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as the one of ``typing``, which need not be loaded by every Python that starts
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Final

__all__ = ["NAMESPACE", "REMOTE_ID", "register", "register_with_gymnasium"]

NAMESPACE: Final = "vecserver/"
"""Of ids that stand for a pool of a server; a server makes no pools of them."""
REMOTE_ID: Final = "vecserver/Remote-v0"

_REGISTRY: Final = "gymnasium.envs"
"""The module whose import fills Gymnasium's registry."""


def register() -> None:
    """Register the id; does nothing the second time."""
    from gymnasium.envs import registration

    if REMOTE_ID not in registration.registry:
        registration.register(
            REMOTE_ID,
            entry_point="vecserver_client.remote:refuse_single",
            vector_entry_point="vecserver_client.remote:make_remote",
        )


def register_with_gymnasium() -> None:
    """Register the id as soon as Gymnasium is there, without importing it."""
    if _REGISTRY in sys.modules:
        register()
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Watch:
    """Sees Gymnasium being imported, once; finds nothing itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)  # type: ignore[assignment]
        return spec


class _ThenRegister:
    """Loads a module as its own loader does, which it gets back, and registers the id."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        register()
