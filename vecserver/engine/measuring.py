"""How long one row's step takes: timed with an environment that is made for it alone, before the pool's own."""

from __future__ import annotations

from itertools import cycle
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import gymnasium

__all__ = ["row_us"]

_TURN_S: Final = 0.001
_TURNS: Final = 7
"""So many turns of this length, or of a step where one takes longer: the machine may be busy in some of them."""
_ACTIONS: Final = 8


def row_us(make: Callable[[int], gymnasium.Env[Any, Any]]) -> float:
    """Microseconds of a step of one environment, resets included; whatever it raises comes out.

    Args:
        make: Makes the environment of a row. It is made, stepped and closed here.
    """
    env = make(0)
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        actions = cycle([env.action_space.sample() for _ in range(_ACTIONS)])
        return 1e6 * median(_turn(env, actions) for _ in range(_TURNS))
    finally:
        env.close()


def _turn(env: gymnasium.Env[Any, Any], actions: Iterator[Any]) -> float:
    """Seconds of a step."""
    began, steps = perf_counter(), 0
    while True:
        _, _, terminated, truncated, _ = env.step(next(actions))
        if terminated or truncated:
            env.reset()
        steps += 1
        if (elapsed := perf_counter() - began) >= _TURN_S:
            return elapsed / steps
