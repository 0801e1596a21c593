"""What a person did on the page, as Python to copy. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from vecserver.pools.spec import PoolSpec

__all__ = ["attach_code", "make_code", "play_code"]

_USUAL: Final = {**asdict(PoolSpec(env_id="", num_envs=1)), "durable": False}
"""The options of a pool of which nothing is said."""

_MOST_STEPS: Final = 200
"""Steps that are written out; a longer episode's code repeats its last ones as a list would."""


def attach_code(url: str, pool: str) -> str:
    """How a trainer drives a pool that exists."""
    return f"""import vecserver_client as vs

envs = vs.attach({url!r}, pool={pool!r})
obs, infos = envs.reset(seed=42)
obs, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
envs.close()
"""


def make_code(url: str, options: dict[str, Any]) -> str:
    """How a trainer makes a pool with these options.

    Args:
        url: The server's address.
        options: Those of ``POST /v1/pools``; what is as it is anyway is left out.
    """
    first = {name: options[name] for name in ("env_id", "num_envs")}
    others = {
        name: value
        for name, value in options.items()
        if name not in (*first, "env_kwargs") and value != _USUAL.get(name)
    }
    arguments = [repr(first["env_id"]), f"num_envs={first['num_envs']}", f"url={url!r}"]
    arguments += [f"{name}={value!r}" for name, value in others.items()]
    kwargs: dict[str, Any] = options.get("env_kwargs") or {}
    arguments += [
        f"{name}={value!r}" if name.isidentifier() else f"**{ ({name: value})!r}" for name, value in kwargs.items()
    ]
    return f"import vecserver_client as vs\n\nenvs = vs.make_vec({', '.join(arguments)})\n"


def play_code(url: str, env_id: str, kwargs: dict[str, Any], seed: int | None, actions: list[Any]) -> str:
    """The same episode with the OpenEnv client.

    Args:
        url: The server's address.
        env_id: What was played.
        kwargs: What it was made with.
        seed: Of the reset.
        actions: Those taken, JSON values.
    """
    made = f"base_url={url!r}, env_id={env_id!r}" + (f", kwargs={kwargs!r}" if kwargs else "")
    lines = [
        "from vecserver_client.openenv import GymAction, GymEnvironment",
        "",
        f"env = GymEnvironment({made})",
        f"result = env.reset({'' if seed is None else f'seed={seed}'})",
    ]
    if len(actions) > 3:
        shown = actions[:_MOST_STEPS]
        lines += [f"for action in {shown!r}:", "    result = env.step(GymAction(action=action))"]
    else:
        lines += [f"result = env.step(GymAction(action={action!r}))" for action in actions]
    lines += ["print(result.observation.state, result.reward, result.done)", "env.close()", ""]
    return "\n".join(lines)
