"""Step pools of Gymnasium environments, here or on another machine, as one ``gymnasium.vector.VectorEnv``.

::

    import vecserver_client as vs

    envs = vs.make_vec("CartPole-v1", num_envs=64)
    observations, infos = envs.reset(seed=42)
    observations, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
    envs.close()
"""

from vecserver.registration import register
from vecserver.wire import errors
from vecserver_client.connection import Connection
from vecserver_client.control import ControlClient
from vecserver_client.factory import attach, make_vec
from vecserver_client.local import LocalVectorEnv
from vecserver_client.local_server import LocalServer
from vecserver_client.remote_vector_env import RemoteVectorEnv
from vecserver_client.transport import MockTransport, Transport

__all__ = [
    "Connection",
    "ControlClient",
    "LocalServer",
    "LocalVectorEnv",
    "MockTransport",
    "RemoteVectorEnv",
    "Transport",
    "attach",
    "errors",
    "make_vec",
]

register()
