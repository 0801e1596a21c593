"""An ``AsyncRemoteVectorEnv`` in a loop of its own, with the methods of a ``VectorEnv``: what Gymnasium's contract is tried on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gymnasium.vector import VectorEnv

from vecserver_client import aio

SHARED = (
    "num_envs",
    "single_observation_space",
    "observation_space",
    "single_action_space",
    "action_space",
    "metadata",
    "render_mode",
    "spec",
    "dropped_infos",
)


class LoopedVectorEnv(VectorEnv):
    """Runs the loop while a method is called, and not between two calls.

    What begins a call is one that is cancelled before its answer can come; the waits go on with it.
    """

    def __init__(self, env_id, num_envs, **options) -> None:
        self._runner = asyncio.Runner()
        try:
            self.envs = self._runner.run(aio.make_vec(env_id, num_envs, **options))
        except BaseException:
            self._runner.close()
            raise
        for name in SHARED:
            setattr(self, name, getattr(self.envs, name))

    def _run(self, call):
        return asyncio.run(call) if self.closed else self._runner.run(call)

    def _begin(self, call) -> None:
        async def begin() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await call
                raise AssertionError("an answer came at once")

        self._run(begin())

    def step(self, actions):
        return self._run(self.envs.step(actions))

    def step_async(self, actions) -> None:
        self._begin(self.envs.step(actions))

    def step_wait(self, timeout=None):
        return self._run(self.envs.step_wait(timeout))

    def reset(self, *, seed=None, options=None):
        return self._run(self.envs.reset(seed=seed, options=options))

    def reset_async(self, seed=None, options=None) -> None:
        self._begin(self.envs.reset(seed=seed, options=options))

    def reset_wait(self, timeout=None):
        return self._run(self.envs.reset_wait(timeout))

    def call(self, name, *args, **kwargs):
        return self._run(self.envs.call(name, *args, **kwargs))

    def call_async(self, name, *args, **kwargs) -> None:
        self._begin(self.envs.call(name, *args, **kwargs))

    def call_wait(self, timeout=None):
        return self._run(self.envs.call_wait(timeout))

    def get_attr(self, name):
        return self._run(self.envs.get_attr(name))

    def set_attr(self, name, values) -> None:
        self._run(self.envs.set_attr(name, values))

    def render(self, rows=None):
        return self._run(self.envs.render(rows))

    def close_extras(self, **options) -> None:
        try:
            self._runner.run(self.envs.close(**options))
        finally:
            self._runner.close()
