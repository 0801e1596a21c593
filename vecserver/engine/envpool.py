"""EnvPool's environments as vector environments that keep Gymnasium's contract.

EnvPool takes its seed when it is made and ignores that of ``reset``, and a reset by mask gives back the masked rows
alone. Here a reset with a seed makes the pool anew, and a reset by mask gives all rows.
"""

from __future__ import annotations

import difflib
import secrets
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from vecserver.wire.errors import InvalidSpec, UnknownEnv
from vecserver.wire.layout import assemble, leaf_values

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EnvPoolVectorEnv"]

_OWN: Final = frozenset({"batch_size", "env_seed", "env_type", "gym_reset_return_info", "max_num_players", "seed"})
"""Options of EnvPool that are not the caller's: the batch is all rows, and ``reset`` takes the seed."""
_NEAREST: Final = 5
_SEEDS: Final = 1 << 30
"""Row i gets seed + i, and EnvPool's seeds have 31 bits."""


class EnvPoolVectorEnv(VectorEnv[Any, Any, Any]):
    """The rows of one EnvPool.

    Args:
        task_id: EnvPool's own id of the environment.
        num_envs: Rows.
        render_mode: ``rgb_array`` or None.
        **options: Passed to ``envpool.make_gymnasium``: ``num_threads``, ``max_episode_steps``, ``stack_num``, …

    Raises:
        UnknownEnv: EnvPool has no such task; names the nearest.
        InvalidSpec: An option that is not the caller's.
    """

    def __init__(self, task_id: str, num_envs: int, *, render_mode: str | None = None, **options: Any) -> None:
        if taken := sorted(_OWN & options.keys()):
            raise InvalidSpec(
                f"{taken[0]} of EnvPool is not yours to set: a pool steps all rows at once and is seeded "
                "by reset(seed=)",
                field="env_kwargs",
            )
        self._envpool = import_module("envpool")
        known = self._envpool.list_all_envs()
        if task_id not in known:
            nearest = [f"EnvPool/{each}" for each in difflib.get_close_matches(task_id, known, _NEAREST, 0.5)]
            raise UnknownEnv(f"EnvPool has no task {task_id!r}: did you mean {', '.join(nearest)}?", nearest=nearest)
        self._make_options = {"task_id": task_id, "num_envs": num_envs, **options}
        with _quiet():
            described = self._envpool.make_spec(**self._make_options)
            self.single_observation_space = described.gymnasium_observation_space
            self.single_action_space = described.gymnasium_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self._pool: Any = None
        self._last: Any = None

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all rows, or those of ``options["reset_mask"]``.

        Args:
            seed: Row i gets seed + i; or one a row. The pool is made anew with it. None to go on with the generators
                of the rows; the first time, for seeds of chance.
            options: Only a mask; EnvPool has no others.

        Raises:
            ValueError: Other options, or a mask and a seed.
        """
        options = options or {}
        if unknown := sorted(options.keys() - {"reset_mask"}):
            raise ValueError(f"EnvPool's environments take no options when they are reset, {unknown[0]!r} neither")
        mask = options.get("reset_mask")
        if mask is not None:
            return self._reset_some(mask, seed)
        if self._pool is None or seed is not None:
            self._start(secrets.randbelow(_SEEDS) if seed is None else seed)
        self._last, infos = self._pool.reset()
        return self._last, infos

    def _start(self, seed: Any) -> None:
        arguments = dict(self._make_options)
        if self.render_mode is not None:
            arguments["render_mode"] = self.render_mode
        self._pool = None  # its threads end before others begin
        with _quiet():
            self._pool = self._envpool.make_gymnasium(**arguments, seed=seed)
            _ = self._pool.observation_space, self._pool.action_space  # which it makes when they are asked for first

    def _reset_some(self, mask: np.ndarray[Any, Any], seed: Any) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            raise ValueError("EnvPool's rows are seeded when all of them are made: reset by mask without a seed")
        if self._pool is None:
            raise ResetNeeded("reset all rows before some of them")
        some, infos = self._pool.reset(options={"reset_mask": mask})
        rows = infos["env_id"]
        space = self.single_observation_space
        leaves = [np.array(leaf) for leaf in leaf_values(space, self._last)]
        for leaf, part in zip(leaves, leaf_values(space, some), strict=True):
            leaf[rows] = part
        self._last = assemble(space, iter(leaves))
        return self._last, self._spread(infos, rows)

    def _spread(self, infos: dict[str, Any], rows: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Infos of some rows as those of all rows, with masks."""
        spread: dict[str, Any] = {}
        for key, value in infos.items():
            if isinstance(value, dict):
                spread[key] = self._spread(value, rows)
                continue
            spread[key] = np.zeros((self.num_envs, *value.shape[1:]), value.dtype)
            spread[key][rows] = value
            spread[f"_{key}"] = np.isin(np.arange(self.num_envs), rows)
        return spread

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every row; those whose episode is over are reset instead."""
        if self._pool is None:
            raise ResetNeeded("reset before the first step")
        self._last, rewards, terminated, truncated, infos = self._pool.step(actions)
        return self._last, rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """A frame a row."""
        if self.render_mode is None:
            return None
        if self._pool is None:
            raise ResetNeeded("reset before the first frame")
        return tuple(self._pool.render(env_ids=np.arange(self.num_envs)))

    def close_extras(self, **kwargs: Any) -> None:
        """End EnvPool's threads."""
        del kwargs
        self._pool = None


def _quiet() -> warnings.catch_warnings[None]:
    """Around what makes EnvPool's spaces: bounds in float64 for arrays in float32, of which Gymnasium warns."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
