"""What ``gymnasium.make_vec("vecserver/Remote-v0", …)`` calls; registered by ``vecserver.registration``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from gymnasium.error import Error

from vecserver_client.factory import make_vec

if TYPE_CHECKING:
    from vecserver_client.remote_vector_env import RemoteVectorEnv

__all__ = ["make_remote", "refuse_single"]

_EXAMPLE = 'gymnasium.make_vec("vecserver/Remote-v0", num_envs=64, env_id="CartPole-v1")'


def make_remote(num_envs: int, *, env_id: str | None = None, **options: Any) -> RemoteVectorEnv:
    """Make a pool and drive it.

    Args:
        num_envs: Rows.
        env_id: A Gymnasium id that the server knows.
        **options: As for ``vecserver_client.make_vec``. Gymnasium keeps them in the ``spec``: give a token as
            ``$VECSERVER_TOKEN``.

    Raises:
        gymnasium.error.Error: No ``env_id``.
        VecServerError: As ``vecserver_client.make_vec``.
    """
    if env_id is None:
        raise Error(f"vecserver/Remote-v0 stands for a pool of any environment: say of which, as in {_EXAMPLE}")
    return make_vec(env_id, num_envs, **options)


def refuse_single(**_options: Any) -> NoReturn:
    """Say that there is no single environment of this id.

    Raises:
        gymnasium.error.Error: Always.
    """
    raise Error(
        f"vecserver/Remote-v0 is a vector environment, and cannot be made as a single one or inside another: {_EXAMPLE}"
    )
