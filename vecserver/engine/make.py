"""Make one environment of a pool, and one space check for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium

from vecserver.engine.providers import is_registered
from vecserver.engine.wrappers import wrap

__all__ = ["EnvMaker"]


@dataclass(frozen=True, slots=True)
class EnvMaker:
    """Makes environments the way ``gymnasium.make`` does, and puts wrappers around them, the first innermost."""

    env_id: str
    env_kwargs: dict[str, Any]
    render_mode: str | None
    wrappers: list[str | dict[str, Any]] = field(default_factory=list)

    def __call__(self, row: int = 0) -> gymnasium.Env[Any, Any]:
        """Make the environment of a row, all of them alike; what its constructor or a wrapper's raises comes out."""
        del row
        return wrap(self._bare(), self.wrappers)

    def _bare(self) -> gymnasium.Env[Any, Any]:
        if ":" not in self.env_id:
            is_registered(self.env_id)  # otherwise Gymnasium says it better
        if self.render_mode is None:
            return gymnasium.make(self.env_id, **self.env_kwargs)
        return gymnasium.make(self.env_id, render_mode=self.render_mode, **self.env_kwargs)
