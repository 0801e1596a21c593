"""Pools driven from an event loop: the same sessions, numbers and errors, with coroutines.

::

    from vecserver_client import aio

    async with await aio.make_vec("CartPole-v1", num_envs=64) as envs:
        observations, infos = await envs.reset(seed=42)
        observations, rewards, terminated, truncated, infos = await envs.step(envs.action_space.sample())
"""

from vecserver_client.aio.factory import attach, make_vec
from vecserver_client.aio.vector_env import AsyncRemoteVectorEnv

__all__ = ["AsyncRemoteVectorEnv", "attach", "make_vec"]
