"""The contract against Gymnasium's own vector environments, and against a careful one that keeps all of it.

The first two show that the suite asks for what Gymnasium does; what they do not keep is declared, and each declaration
is a defect that the project's own do not have. The careful one shows that the tests which those two skip can be passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError, ResetNeeded
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from tests.contract.vector_contract import NEXT_STEP, VectorEnvContract, make_oracle
from vecserver.wire.layout import has_slot

OLD = tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4)
pytestmark = pytest.mark.skipif(OLD, reason="older Gymnasium answers misuse with AssertionError and lacks float16")


class TestSyncVectorEnv(VectorEnvContract):
    """The oracle against itself."""

    checks_actions = False
    renders_rows = False
    leaves_actions_alone = False  # environments get views of the caller's array
    names_rows = False
    fault_kinds = ("value", "unpicklable", "two_args")  # the others end the process, as they do in a plain loop
    keeps_reset_options = False  # the mask is popped from the caller's dict
    saves_final_observations = False
    accepts_one_element_rewards = False  # numpy 2.4 refuses them

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        return make_oracle(env_id, num_envs, autoreset_mode=autoreset_mode, **env_kwargs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")  # its log of a worker's error
class TestAsyncVectorEnv(VectorEnvContract):
    """One process an environment, forked where that is the platform's default."""

    checks_actions = False
    renders_rows = False
    names_rows = False
    survives_faults = False  # the worker that raised is gone
    fault_kinds = ("value",)  # the others hang, or raise an unrelated error
    keeps_reset_options = False
    saves_final_observations = False
    accepts_one_element_rewards = False
    takes_every_space = False  # graphs, sequences and custom spaces need another setting, which resets twice
    resumes_step_wait = False  # every later step gives the result of the one before

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        return AsyncVectorEnv([partial(gym.make, env_id, **env_kwargs)] * num_envs, autoreset_mode=autoreset_mode)


class RowError(Exception):
    """An environment raised."""


class RowValueError(RowError, ValueError):
    """An environment raised a ``ValueError``."""


@contextmanager
def naming(row: int) -> Iterator[None]:
    try:
        yield
    except (ResetNeeded, AttributeError):
        raise
    except BaseException as error:
        cls = RowValueError if isinstance(error, ValueError) else RowError
        raise cls(f"row {row} raised {type(error).__name__}: {error}") from None


class CarefulRow(gym.Wrapper):
    """An environment whose errors name its row and whose results are its caller's own."""

    def __init__(self, env: gym.Env, row: int) -> None:
        super().__init__(env)
        self.row = row

    def reset(self, **kwargs: Any):
        with naming(self.row):
            return deepcopy(self.env.reset(**kwargs))

    def step(self, action: Any):
        with naming(self.row):
            observation, reward, *ends, info = deepcopy(self.env.step(action))
            return observation, np.asarray(reward).item(), *map(bool, ends), info

    def render(self):
        with naming(self.row):
            return self.env.render()

    def get_wrapper_attr(self, name: str) -> Any:
        value = super().get_wrapper_attr(name)
        return self.named(value) if callable(value) else value

    def named(self, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with naming(self.row):
                return method(*args, **kwargs)

        return call


def check_actions(space: spaces.Space, num_envs: int, actions: Any) -> None:
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            if key not in actions:
                raise ValueError(f"no {key!r} in the actions")
            check_actions(part, num_envs, actions[key])
        return
    if isinstance(space, spaces.Tuple):
        if not isinstance(actions, tuple) or len(actions) != len(space):
            raise ValueError("not a tuple of actions")
        for part, value in zip(space, actions, strict=True):
            check_actions(part, num_envs, value)
        return
    if not has_slot(space):
        if not isinstance(actions, (list, tuple)) or len(actions) != num_envs or not all(map(space.contains, actions)):
            raise ValueError(f"actions {actions!r} for {num_envs} rows of {space}")
        return
    array = np.asarray(actions)
    if array.shape != (num_envs, *space.shape) or not np.can_cast(array.dtype, space.dtype, "same_kind"):
        raise ValueError(f"actions of shape {array.shape} and dtype {array.dtype} for {num_envs} rows of {space}")
    if isinstance(space, spaces.Discrete) and not all(map(space.contains, array)):
        raise ValueError(f"actions {array} for {space}")


class CarefulVectorEnv(SyncVectorEnv):
    """A ``SyncVectorEnv`` without its defects, with the two halves of a call in a thread."""

    def __init__(self, env_id: str, num_envs: int, autoreset_mode: AutoresetMode, env_kwargs: dict[str, Any]) -> None:
        def make_row(row: int) -> gym.Env:
            with naming(row):
                return CarefulRow(gym.make(env_id, **env_kwargs), row)

        self._thread = ThreadPoolExecutor(1)
        self._pending: tuple[str, Future] | None = None
        try:
            super().__init__([partial(make_row, row) for row in range(num_envs)], autoreset_mode=autoreset_mode)
        except RowError:
            self._thread.shutdown()
            raise

    def refuse_misuse(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("closed")
        if self._pending:
            raise AlreadyPendingCallError("one call at a time", self._pending[0])

    def reset(self, *, seed=None, options=None):
        self.refuse_misuse()
        return super().reset(seed=seed, options=options and dict(options))

    def step(self, actions):
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions) -> None:
        self.refuse_misuse()
        check_actions(self.single_action_space, self.num_envs, actions)
        self._pending = "step", self._thread.submit(super().step, deepcopy(actions))

    def step_wait(self, timeout: float | None = None):
        return self._wait("step", timeout)

    def reset_async(self, *, seed=None, options=None) -> None:
        self.refuse_misuse()
        self._pending = "reset", self._thread.submit(super().reset, seed=seed, options=options and dict(options))

    def reset_wait(self, timeout: float | None = None):
        return self._wait("reset", timeout)

    def _wait(self, name: str, timeout: float | None):
        if self._pending is None or self._pending[0] != name:
            raise NoAsyncCallError(f"no {name} is pending", name)
        future = self._pending[1]
        try:
            return future.result(timeout)
        finally:
            if future.done():
                self._pending = None

    def call(self, name: str, *args: Any, **kwargs: Any):
        self.refuse_misuse()
        return super().call(name, *args, **kwargs)

    def set_attr(self, name: str, values: Any) -> None:
        self.refuse_misuse()
        super().set_attr(name, values)

    def close_extras(self, **kwargs: Any) -> None:
        self._thread.shutdown()
        super().close_extras(**kwargs)


@pytest.mark.slow
class TestCarefulVectorEnv(VectorEnvContract):
    """All of the contract, nothing declared off but what the other two have shown."""

    runs_real_environments = False
    renders_rows = False
    test_the_action_of_a_row_that_is_being_reset_means_nothing = None  # it looks at every row's

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        return CarefulVectorEnv(env_id, num_envs, autoreset_mode, env_kwargs)
