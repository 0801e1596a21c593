"""Rows whose worker has ended, in the hands of the worker that took its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gymnasium
import numpy as np
from gymnasium.vector import VectorWrapper
from gymnasium.vector.utils import concatenate, create_empty_array

from vecserver.wire.codec import unpack
from vecserver.wire.layout import assemble
from vecserver.wire.side import SideLeaves

if TYPE_CHECKING:
    from collections.abc import Callable

    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv

    from vecserver.engine.channel import Lost
    from vecserver.engine.make import EnvMaker

__all__ = ["ENV_FAILURE", "LostRow", "LostVectorMaker", "makes_lost_rows"]

ENV_FAILURE: Final = "env_failure"
"""The key of an info that names what ended the environment of its row."""


class LostRow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A new environment in the place of one that was lost.

    Its first step does not reach the environment: it ends the episode that was lost, truncated and without a reward,
    with the observation that the row gave last. Where that episode was over already it makes the reset that was due.
    From then on, and from its first reset on, it is the environment. A first reset without a seed has the row's next
    one, so that the row does not repeat what it has played.

    Args:
        env: The new environment.
        lost: What is known of the rows of the worker.
        index: Which of them is this.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], lost: Lost, index: int) -> None:
        super().__init__(env)
        self._lost = lost
        self._index = index
        self._seed = lost.seeds[index]
        self._is_lost = lost.under_way
        self._tells = False
        self._cause = lost.cause
        self.renew: Callable[..., Any] = env.reset
        """Resets the environment; whoever takes note of its resets puts another one here."""

    def was_not_rebuilt(self, why: str) -> None:
        """The row was to go on as it was, and cannot: the cause says why."""
        self._cause = f"{self._lost.cause}; it was not rebuilt: {why}"

    def step(self, action: Any) -> Any:
        """Step the environment, or end what was lost."""
        if not self._is_lost:
            return self.env.step(action)
        self._is_lost = False
        lost = self._lost
        if not lost.over[self._index]:
            self._tells = lost.autoreset_mode == "SameStep"  # where the info of this step goes into that of the last
            return (
                _last_observation(self.env.observation_space, lost, self._index),
                0.0,
                False,
                True,
                {ENV_FAILURE: self._cause},
            )
        if lost.autoreset_mode == "Disabled":
            return self.env.step(action)  # as a row is stepped whose episode is over
        observation, info = self.reset()
        return observation, 0.0, False, False, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment, which is then the row's."""
        self._is_lost = False
        given, self._seed = self._seed, None
        observation, info = self.renew(seed=given if seed is None else seed, options=options)
        if self._tells:
            self._tells, info = False, {**info, ENV_FAILURE: self._cause}
        return observation, info


def _last_observation(space: spaces.Space[Any], lost: Lost, index: int) -> Any:
    leaves: Any = unpack(lost.observations[index])
    side = SideLeaves(space)
    if side:
        values = [None] * len(side) if lost.side is None else unpack(lost.side[index])
        leaves = side.weave(leaves, values)
    return assemble(space, iter(leaves))


def makes_lost_rows(
    make: Callable[[int], gymnasium.Env[Any, Any]], lost: Lost, first: int
) -> Callable[[int], gymnasium.Env[Any, Any]]:
    """Make the function that makes the rows of a worker that takes the place of another.

    Args:
        make: Makes the environment of a row, by its number in the pool.
        lost: What became of the rows.
        first: Number of the first of them.
    """
    return lambda row: LostRow(make(row), lost, row - first)


class LostVectorMaker:
    """Makes a vector environment in the place of one that was lost.

    Args:
        make: Makes it.
        lost: What is known of its rows.
    """

    def __init__(self, make: EnvMaker, lost: Lost) -> None:
        self._make = make
        self._lost = lost

    def vector(self, num_envs: int, autoreset_mode: AutoresetMode) -> VectorEnv[Any, Any, Any]:
        """Make it; errors as ``EnvMaker.vector``."""
        envs = self._make.vector(num_envs, autoreset_mode)
        return _LostVector(envs, self._lost) if self._lost.under_way else envs


class _LostVector(VectorWrapper[Any, Any, Any]):
    """As ``LostRow``, for all rows of a vector environment at once: it resets them together or not at all.

    So an episode that was over already ends once more, after no step.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], lost: Lost) -> None:
        super().__init__(env)
        self._lost = lost
        self._is_lost, self._is_due = True, False

    def step(self, actions: Any) -> Any:
        """Step it, or end what was lost, or make the reset that is due then."""
        if not self._is_lost and not self._is_due:
            return self.env.step(actions)
        none, over = np.zeros(self.num_envs, np.bool_), self._is_lost
        rewards, truncated = np.zeros(self.num_envs), np.full(self.num_envs, over)
        observations, infos = self._ended() if over else self.reset()
        return observations, rewards, none, truncated, infos

    def _ended(self) -> tuple[Any, dict[str, Any]]:
        lost, mode = self._lost, self._lost.autoreset_mode
        rows = [_last_observation(self.single_observation_space, lost, row) for row in range(self.num_envs)]
        infos: dict[str, Any] = {}
        for row in range(self.num_envs):
            infos = self._add_info(infos, {ENV_FAILURE: lost.cause}, row)
        last = _batched(self.single_observation_space, rows)
        self._is_lost, self._is_due = False, mode == "NextStep"
        if mode != "SameStep":
            return last, infos
        observations, begun = self.reset()
        finals: dict[str, Any] = {"final_info": infos}
        for row, observation in enumerate(rows):
            finals = self._add_info(finals, {"final_obs": observation}, row)
        finals["_final_info"] = np.ones(self.num_envs, np.bool_)
        return observations, {**begun, **infos, **finals}

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset it."""
        self._is_lost = self._is_due = False
        if seed is None and options is None:
            seed = self._lost.seeds[0]
        return self.env.reset(seed=seed, options=options)


def _batched(space: spaces.Space[Any], rows: list[Any]) -> Any:
    empty: Any = create_empty_array(space, len(rows))
    return concatenate(space, rows, empty)
