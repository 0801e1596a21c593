"""Rows whose worker has ended, in the hands of the worker that took its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gymnasium

from vecserver.wire.codec import unpack
from vecserver.wire.layout import assemble
from vecserver.wire.side import SideLeaves

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.engine.channel import Lost

__all__ = ["ENV_FAILURE", "LostRow", "makes_lost_rows"]

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

    def step(self, action: Any) -> Any:
        """Step the environment, or end what was lost."""
        if not self._is_lost:
            return self.env.step(action)
        self._is_lost = False
        lost = self._lost
        if not lost.over[self._index]:
            self._tells = lost.autoreset_mode == "SameStep"  # where the info of this step goes into that of the last
            return self._last_observation(), 0.0, False, True, {ENV_FAILURE: lost.cause}
        if lost.autoreset_mode == "Disabled":
            return self.env.step(action)  # as a row is stepped whose episode is over
        observation, info = self.reset()
        return observation, 0.0, False, False, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment, which is then the row's."""
        self._is_lost = False
        given, self._seed = self._seed, None
        observation, info = self.env.reset(seed=given if seed is None else seed, options=options)
        if self._tells:
            self._tells, info = False, {**info, ENV_FAILURE: self._lost.cause}
        return observation, info

    def _last_observation(self) -> Any:
        space = self.env.observation_space
        leaves: Any = unpack(self._lost.observations[self._index])
        side = SideLeaves(space)
        if side:
            told = self._lost.side
            values = [None] * len(side) if told is None else unpack(told[self._index])
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
