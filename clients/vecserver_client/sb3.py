"""A pool as a Stable-Baselines3 ``VecEnv``. Needs the extra ``sb3``.

::

    from stable_baselines3 import PPO
    from vecserver_client.sb3 import make_vec

    envs = make_vec("CartPole-v1", num_envs=8)
    PPO("MlpPolicy", envs).learn(100_000)
    envs.close()
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode

from vecserver_client import factory

try:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv
except ImportError as error:
    raise ImportError(
        "vecserver_client.sb3 needs Stable-Baselines3, which the extra `sb3` installs: pip install 'vecserver[sb3]'"
    ) from error

if TYPE_CHECKING:
    from vecserver_client.remote_vector_env import RemoteVectorEnv

__all__ = ["VecServerVecEnv", "make_vec"]

Infos = list[dict[str, Any]]
Array = np.ndarray[Any, Any]
Indices = int | Iterable[int] | None


def make_vec(env_id: str, num_envs: int, **options: Any) -> VecServerVecEnv:
    """Make a pool and drive it as a ``VecEnv``.

    Args:
        env_id: A Gymnasium id that the server knows.
        num_envs: Rows.
        **options: As for ``vecserver_client.make_vec``, except ``autoreset_mode``, which is ``SameStep``.

    Raises:
        VecServerError: As ``vecserver_client.make_vec``.
    """
    return VecServerVecEnv(factory.make_vec(env_id, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options))


class VecServerVecEnv(VecEnv):
    """Drives a vector environment the way Stable-Baselines3 drives its own. One thread owns it.

    What comes back equals what ``DummyVecEnv`` gives for the same seeds and actions: rewards as float32, one ``dones``,
    and one info a row, which has ``terminal_observation`` and ``TimeLimit.truncated`` where the episode ended. With the
    engines ``async`` and ``sync``, which merge infos on their way, numbers in infos come as numpy scalars.

    Args:
        envs: A vector environment of this package in autoreset mode SameStep: the last observation of an episode and
            the first of the next belong to one step. It is closed with this.

    Raises:
        TypeError: A vector environment of another kind, or a wrapper.
        ValueError: Another autoreset mode.
    """

    def __init__(self, envs: RemoteVectorEnv) -> None:
        if not hasattr(envs, "infos_by_row"):
            raise TypeError(
                f"a {type(envs).__name__} is no vector environment of vecserver_client; wrappers of VecEnv go around "
                "VecServerVecEnv, Gymnasium's into the pool"
            )
        mode = envs.metadata["autoreset_mode"]
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(f"the pool's autoreset_mode is {mode.value}; Stable-Baselines3 needs SameStep")
        self.envs = envs
        envs.infos_by_row = True
        self._stepping = False
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Reset every row with the seeds and options given before; a step under way is waited for and forgotten.

        Returns:
            Observations; the infos are in ``reset_infos``.
        """
        if self._stepping:
            self.step_wait()
        infos: Any  # by row
        observations, infos = self.envs.reset(seed=self._seeds, options=[each or None for each in self._options])
        self.reset_infos = infos
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: Any) -> None:
        """Begin to step every row; ``step_wait`` returns the result."""
        self.envs.step_async(actions)
        self._stepping = True

    def step_wait(self) -> tuple[Any, Array, Array, Infos]:
        """Wait for the step that was begun.

        Returns:
            Observations (of the next episode where one ended), rewards (float32 [N]), dones (bool [N]), infos.
        """
        infos: Any  # by row
        observations, rewards, terminated, truncated, infos = self.envs.step_wait()
        self._stepping = False
        dones = terminated | truncated
        cut_off = (truncated & ~terminated).tolist()
        for row in np.flatnonzero(dones):
            ended = infos[row]
            last_observation, info = ended.pop("final_obs"), ended.pop("final_info")
            self.reset_infos[row] = ended  # what is left is the info of the reset
            infos[row] = {**info, "terminal_observation": last_observation}
        for info, flag in zip(infos, cut_off, strict=True):
            info["TimeLimit.truncated"] = flag
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the vector environment; may be called again."""
        self.envs.close()

    def has_attr(self, attr_name: str) -> bool:
        """Whether every row's environment, or a wrapper around it, has an attribute."""
        return all(self.envs.call("has_wrapper_attr", attr_name))

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Read an attribute of rows' environments.

        Raises:
            AttributeError: There is none.
            EnvFault: Its value cannot travel; a method cannot.
        """
        return self.env_method("get_wrapper_attr", attr_name, indices=indices)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute where the environment or a wrapper around it has it, to one value in all rows."""
        rows = sorted(set(self._rows(indices)))
        self.envs.set_attr(attr_name, [value] * len(rows), rows)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of rows' environments; of each row once."""
        rows = self._rows(indices)
        asked = sorted(set(rows))
        results = dict(zip(asked, self.envs.call_rows(asked, method_name, *method_args, **method_kwargs), strict=True))
        return [results[row] for row in rows]

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """Whether a wrapper around rows' environments is of a class, which is looked for by its name and module."""
        name = f"{wrapper_class.__module__}:{wrapper_class.__qualname__}"
        return [name in classes for classes in self.env_method("__wrapper_classes__", indices=indices)]

    def get_images(self) -> list[Array | None]:
        """The frame of every row; None for each where the render mode is not ``rgb_array``."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"the render mode is {self.render_mode}: only rgb_array gives images", stacklevel=2)
            return [None] * self.num_envs
        return list(self.envs.render())

    def _rows(self, indices: Indices) -> list[int]:
        """Rows as numbers from 0; negative ones count from the end, as in a list."""
        all_rows = range(self.num_envs)
        if indices is None:
            return list(all_rows)
        return [
            all_rows[operator.index(row)] for row in ([indices] if isinstance(indices, int | np.integer) else indices)
        ]
