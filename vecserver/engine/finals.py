"""What an episode ends with, kept from the reset that follows: an environment may use its buffers again."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import gymnasium

__all__ = ["FinalCopies", "final_info"]


def final_info(info: dict[str, Any]) -> dict[str, Any]:
    """Copy the last info of an episode; a value that cannot be copied, a lock or a connection, stays what it is."""
    try:
        return deepcopy(info)
    except Exception:  # noqa: BLE001 - a value may raise anything while it is copied
        return {key: _copied(value) for key, value in info.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return final_info(value)
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001 - as above
        return value


class FinalCopies(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Copies the last observation and info of each episode.

    In the mode ``SameStep`` Gymnasium's vector environments reset an environment before they have copied these, and
    show values of the reset as the final ones.
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and copy where that was the last one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            observation, info = deepcopy(observation), final_info(info)
        return observation, reward, terminated, truncated, info
