"""Environments that cost nothing, so that a measurement shows what everything else costs."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

__all__ = ["Free"]


class Free(gymnasium.Env[np.ndarray[Any, Any], int]):
    """Returns one array of ``size`` bytes for ever; no episode ends."""

    def __init__(self, size: int = 16) -> None:
        self.observation_space = spaces.Box(0, 255, (size,), np.uint8)
        self.action_space = spaces.Discrete(2)
        self._observation = np.zeros(size, np.uint8)
        self._infos: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Begin; the seed is kept as Gymnasium keeps it."""
        super().reset(seed=seed, options=options)
        return self._observation, self._infos

    def step(self, _action: int) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        """Do nothing."""
        return self._observation, 0.0, False, False, self._infos


gymnasium.register("Free-v0", Free, disable_env_checker=True, order_enforce=False)
