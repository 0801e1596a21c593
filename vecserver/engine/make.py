"""Make one environment of a pool, or a vector environment of several rows."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from vecserver.engine.providers import is_registered, spec_of
from vecserver.engine.wrappers import wrap
from vecserver.wire.errors import InvalidSpec

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from gymnasium.vector import AutoresetMode, VectorEnv

__all__ = ["EnvMaker"]


@dataclass(frozen=True, slots=True)
class EnvMaker:
    """Makes environments the way ``gymnasium.make`` does, and puts wrappers around them, the first innermost.

    ``env_id`` may be what an id was registered with, for a process that does not know the id.
    """

    env_id: str | EnvSpec
    env_kwargs: dict[str, Any]
    render_mode: str | None
    wrappers: list[str | dict[str, Any]] = field(default_factory=list)

    def __call__(self, row: int = 0) -> gymnasium.Env[Any, Any]:
        """Make the environment of a row, all of them alike; what its constructor or a wrapper's raises comes out."""
        del row
        return wrap(self._bare(), self.wrappers)

    def _bare(self) -> gymnasium.Env[Any, Any]:
        if isinstance(self.env_id, str) and ":" not in self.env_id:
            is_registered(self.env_id)  # otherwise Gymnasium says it better
        if self.render_mode is None:
            return gymnasium.make(self.env_id, **self.env_kwargs)
        return gymnasium.make(self.env_id, render_mode=self.render_mode, **self.env_kwargs)

    def vector(self, num_envs: int, autoreset_mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
        """Make the environment's own vector environment of ``num_envs`` rows, as ``gymnasium.make_vec`` does.

        It is told the autoreset mode where it takes one; the caller looks at which it has. What it raises comes out.

        Raises:
            InvalidSpec: The environment has none.
        """
        known = self._known()
        create = known.vector_entry_point
        if create is None:
            raise InvalidSpec(
                f"{known.id} has no vector environment of its own (vector_entry_point), which is what engine 'native' "
                "runs: choose another engine",
                field="engine",
            )
        kwargs = dict(self.env_kwargs)
        if self.render_mode is not None:
            kwargs["render_mode"] = self.render_mode
        named, any_name = _takes_autoreset_mode(load_env_creator(create) if isinstance(create, str) else create)
        if named:
            return _make_vector(known, num_envs, {**kwargs, "autoreset_mode": autoreset_mode})
        envs = _make_vector(known, num_envs, kwargs)
        if any_name and envs.metadata.get("autoreset_mode") != autoreset_mode:
            envs.close()
            return _make_vector(known, num_envs, {**kwargs, "autoreset_mode": autoreset_mode})
        return envs

    def _known(self) -> EnvSpec:
        if not isinstance(self.env_id, str):
            return self.env_id
        module, _, env_id = self.env_id.rpartition(":")
        if module:
            import_module(module)
        return spec_of(env_id) or gymnasium.spec(env_id)  # which says it better


def _make_vector(known: EnvSpec, num_envs: int, kwargs: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(AutoresetMode|autoreset_mode)", UserWarning)  # the engine says it itself
        return gymnasium.make_vec(known, num_envs, vectorization_mode="vector_entry_point", **kwargs)


def _takes_autoreset_mode(create: Any) -> tuple[bool, bool]:
    """Whether a function has an argument of that name, and whether it hands on arguments of any name."""
    try:
        parameters = inspect.signature(create).parameters
    except (TypeError, ValueError):  # a callable that does not say what it takes
        return False, False
    return "autoreset_mode" in parameters, any(each.kind is each.VAR_KEYWORD for each in parameters.values())
