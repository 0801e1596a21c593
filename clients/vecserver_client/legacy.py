"""The keys that infos had in Gymnasium 0.29, for scripts that still read them: CleanRL's of 2023 and 2024.

::

    envs = LegacyKeys(vs.make_vec("CartPole-v1", num_envs=8, autoreset_mode="SameStep"))
    ...
    if "final_info" in infos:
        for info in infos["final_info"]:
            if info and "episode" in info:
                print(info["episode"]["r"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium.vector import AutoresetMode, VectorWrapper

from vecserver.wire.infos import split

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    _Wrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _Wrapper = VectorWrapper  # no generic class before Gymnasium 1.4

__all__ = ["LegacyKeys"]

_FINAL: Final = frozenset({"final_obs", "_final_obs", "final_info", "_final_info"})
_STATISTICS: Final = frozenset({"episode", "_episode"})

Array = np.ndarray[Any, Any]


class LegacyKeys(_Wrapper):
    """Renames what a step tells of an episode's end; everything else of the vector environment stays as it is.

    Where an episode ended, the infos of that step have ``final_observation`` and ``final_info``: object arrays [N] with
    the last observation, and with the last info as a dict of that row's own values, and None in the other rows;
    ``_final_observation`` and ``_final_info`` (bool [N]) say which. In other steps there are no such keys.

    The ``episode`` of the environments' own ``RecordEpisodeStatistics`` is in ``final_info`` by itself; that of the
    vector wrapper of the same name is put there too.

    Args:
        env: Any vector environment in autoreset mode SameStep, which is what Gymnasium did then.

    Raises:
        ValueError: Another autoreset mode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                f"autoreset_mode is {getattr(mode, 'value', mode)}: the keys of Gymnasium 0.29 belong to SameStep"
            )

    def step(self, actions: Any) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step every row; as the vector environment's own, but for the keys."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = terminated | truncated
        if ended.any():
            infos = self._renamed(infos, ended)
        return observations, rewards, terminated, truncated, infos

    def _renamed(self, infos: dict[str, Any], ended: Array) -> dict[str, Any]:
        statistics = infos.get("episode")
        recorded = isinstance(statistics, dict) and {"r", "l"} <= statistics.keys()  # by the vector wrapper
        moved = _FINAL | _STATISTICS if recorded else _FINAL
        last = split({key: value for key, value in infos.items() if key in moved}, self.num_envs)
        final_observation, final_info = (np.full(self.num_envs, None, dtype=object) for _ in range(2))
        for row in np.flatnonzero(ended):
            told = last[row]
            final_observation[row] = told["final_obs"]
            final_info[row] = {**({"episode": told["episode"]} if "episode" in told else {}), **told["final_info"]}
        return {
            **{key: value for key, value in infos.items() if key not in moved},
            "final_observation": final_observation,
            "_final_observation": ended,
            "final_info": final_info,
            "_final_info": ended.copy(),
        }
