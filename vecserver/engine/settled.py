"""Steps of environments whose standard wrappers have nothing left to check.

``gymnasium.make`` puts three wrappers around an environment with a time limit. Two of them only look at the first reset
and the first steps, and hand every action on afterwards, three calls deep: a tenth of a cheap environment's step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium

__all__ = ["settled_step"]


def settled_step(env: gymnasium.Env[Any, Any]) -> Callable[[Any], Any] | None:
    """What ``env.step`` comes to once its standard wrappers have seen what they look for.

    Only wrappers of exactly Gymnasium's classes are passed by, and the time limit goes on to count: steps taken so and
    steps of ``env`` itself may be mixed.

    Args:
        env: An environment, as ``gymnasium.make`` returns it or otherwise.

    Returns:
        Takes an action, and returns what ``env.step`` returns. None while a wrapper still has something to check.
    """
    if not _is(env, TimeLimit):
        return env.step
    inner: Any = env.env  # type: ignore[attr-defined]  # a wrapper
    if _is(inner, OrderEnforcing):
        if not inner.has_reset:
            return None
        inner = inner.env
    if _is(inner, PassiveEnvChecker):
        if not (
            inner.checked_step and getattr(inner, "checked_data_reuse", True)
        ):  # which Gymnasium before 1.4 has not
            return None
        inner = inner.env
    return _limited(inner, env)


def _is(env: Any, wrapper: type[Any]) -> bool:
    """Whether an environment is this wrapper, with the wrapper's own ``step``."""
    return type(env) is wrapper and "step" not in vars(env)


def _limited(env: Any, limit: Any) -> Callable[[Any], Any]:
    def step(action: Any) -> Any:
        observation, reward, terminated, truncated, info = env.step(action)
        limit._elapsed_steps += 1  # noqa: SLF001 - reset sets it, and wrappers' callers read it
        if limit._elapsed_steps >= limit._max_episode_steps:  # noqa: SLF001
            truncated = True
        return observation, reward, terminated, truncated, info

    return step
