"""``LocalVectorEnv``: the vector environment with its arena in this process, and no server.

This module and the links of ``local_link`` alone of the client reach into the server's packages: they start workers and
drive them as a pool's host does. They load them when an environment is made, so that importing the client stays cheap.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gymnasium
import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode

from vecserver.wire.errors import EnvCreationFailed, EnvFault, InvalidSpec
from vecserver.wire.spaces import refuse_differing
from vecserver_client.faults import as_original
from vecserver_client.local_link import ArenaLink, as_raised, by_pickle
from vecserver_client.vector_env import ArenaVectorEnv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.pools.anchor import Anchor
    from vecserver.pools.host import Host
    from vecserver.pools.spec import PoolSpec

__all__ = ["LocalVectorEnv"]

_START_TIMEOUT: Final = 600.0
"""Seconds until the environments must exist: some load models first."""


class LocalVectorEnv(ArenaVectorEnv):
    """Steps environments in worker processes of this program, over shared memory.

    It takes the place of ``gymnasium.vector.AsyncVectorEnv`` and returns the same numbers. A worker steps several rows,
    one after the other; there is one for each core that this program may use, or for each row where these are fewer.
    They end with this process, however it ends. One thread owns it; close it, or use it as a context manager.

    Args:
        env_fns: Callables that make one environment each, a row each; closures and lambdas too. Or an environment's id,
            for ``num_envs`` rows of it. A worker is a new interpreter with this program's ``sys.path`` and registered
            environments: what a callable refers to by name must be importable there or stand in the main module.
        num_envs: Rows; needed with an id, otherwise the number of callables.
        shared_memory: Taken for Gymnasium's sake and without effect: the memory is always shared.
        copy: Whether observations are the caller's own memory. If not, they lie in the arena and stay as they are until
            the third step or reset after theirs begins, as in ``make_vec``; they can be written to, as Gymnasium's.
        context: Taken for Gymnasium's sake and without effect: workers are always new interpreters.
        daemon: Taken for Gymnasium's sake and without effect: workers always end with the program, and may have
            children of their own.
        worker: Gymnasium's place for a worker function of the caller's own. Refused: wrap the environment instead.
        observation_mode: ``same``, where the observation spaces of all rows are equal; ``different``, where they may
            differ in their bounds; or batched and single observation space, to be shown instead of the rows' own.
        autoreset_mode: What happens to a row whose episode is over.
        max_concurrency: How many environments run at once: an upper limit of the workers.
        engine: ``envs``, ``async``, ``sync``, ``native`` (with an id) or ``auto``.
        workers: Worker processes; None for as many as pay.
        wrappers: Gymnasium's wrappers by name, as in ``make_vec``.
        info: Which of the environments' infos arrive, as in ``make_vec``.
        episode_statistics: Report return, length and time of each episode that ends, as in ``make_vec``.
        step_timeout: Seconds that a worker may take for a step, a reset or a call before it is killed and replaced.
        on_failure: What the death of a worker means, as in ``make_vec``.
        restart_budget: How many may be replaced within a minute, as in ``make_vec``.
        render_mode: With an id, passed to ``gymnasium.make``.
        **env_kwargs: With an id, passed to ``gymnasium.make``.

    Raises:
        TypeError: Arguments that do not go together, or a ``worker``.
        ValueError: An option out of range.
        Unportable: A callable cannot be pickled.
        EnvCreationFailed: An environment could not be made, or differs in its spaces from the others; also an instance
            of the type that was raised.
        gymnasium.error.UnregisteredEnv: No environment has this id.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]] | str,
        num_envs: int | None = None,
        *,
        shared_memory: bool = True,
        copy: bool = True,
        context: str | None = None,
        daemon: bool = True,
        worker: Callable[..., None] | None = None,
        observation_mode: str | tuple[Space[Any], Space[Any]] = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_concurrency: int | None = None,
        engine: str = "auto",
        workers: int | None = None,
        wrappers: Sequence[str | dict[str, Any]] = (),
        info: str | Sequence[str] = "all",
        episode_statistics: bool = False,
        step_timeout: float = 60.0,
        on_failure: str = "truncate",
        restart_budget: int | None = 30,
        render_mode: str | None = None,
        **env_kwargs: Any,
    ) -> None:
        del shared_memory, context, daemon
        from vecserver.pools.spec import PoolSpec

        if worker is not None:
            raise TypeError(
                "a `worker` function of your own cannot run here: put what it does into a wrapper of the env"
            )
        env_id = env_fns if isinstance(env_fns, str) else ""
        makers = _makers(env_fns, num_envs, render_mode, env_kwargs, engine)
        spec = PoolSpec(
            env_id=env_id,
            num_envs=len(makers),
            engine=engine,
            workers=workers,
            autoreset_mode=AutoresetMode(autoreset_mode).value,
            observation_mode=observation_mode if isinstance(observation_mode, str) else "different",
            wrappers=list(wrappers),
            info=info if isinstance(info, str) else list(info),
            episode_statistics=episode_statistics,
            step_timeout=step_timeout,
            on_failure=on_failure,
            restart_budget=restart_budget,
        )
        given = None if isinstance(observation_mode, str) else _given_spaces(observation_mode)
        host, anchor = _start(makers, spec, max_concurrency, given)
        described = host.described
        link = ArenaLink(host, copy=copy)
        super().__init__(
            link,
            lambda _unwanted: anchor.release(),
            num_envs=spec.num_envs,
            spaces=(described.row_observation_spaces or [described.observation_space], described.action_space),
            metadata=described.metadata,
            autoreset_mode=spec.autoreset_mode,
            render_mode=described.render_mode,
            step_timeout=step_timeout,
            divisible=link,
        )
        if given is not None:
            self.observation_space, self.single_observation_space = given
        self.spec = gymnasium.registry.get(env_id)


def _makers(
    env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]] | str,
    num_envs: int | None,
    render_mode: str | None,
    env_kwargs: dict[str, Any],
    engine: str,
) -> list[Callable[[], gymnasium.Env[Any, Any]]]:
    """One callable a row; of engine ``native`` each can make all rows of a worker at once."""
    if isinstance(env_fns, str):
        if num_envs is None:
            raise TypeError(f"how many environments of {env_fns}? `num_envs` is needed with an id")
        # the specification itself, for a worker need not know the id; of ``module:Id`` the module is imported there
        from vecserver.engine.make import EnvMaker
        from vecserver.engine.providers import spec_of

        plain = ":" not in env_fns
        known = spec_of(env_fns) or gymnasium.spec(env_fns) if plain else env_fns  # Gymnasium says it better
        if engine == "native":
            return [EnvMaker(known, env_kwargs, render_mode)] * num_envs
        if render_mode is not None:
            env_kwargs = {**env_kwargs, "render_mode": render_mode}
        return [partial(gymnasium.make, known, **env_kwargs)] * num_envs
    if engine == "native":
        raise TypeError("engine 'native' runs the vector environment of an id, not callables that make one row each")
    makers = list(env_fns)
    if render_mode is not None or env_kwargs:
        names = ", ".join([*(["render_mode"] if render_mode is not None else []), *env_kwargs])
        raise TypeError(f"{names}: arguments of environments go with an id; callables have their own")
    if num_envs not in (None, len(makers)):
        raise TypeError(f"num_envs is {num_envs}, and there are {len(makers)} callables")
    for row, make in enumerate(makers):
        if not callable(make):
            raise TypeError(f"env_fns[{row}] is a {type(make).__name__}, not a function that makes an environment")
    return makers


def _start(
    makers: list[Callable[[], gymnasium.Env[Any, Any]]],
    spec: PoolSpec,
    max_concurrency: int | None,
    given: tuple[Space[Any], Space[Any]] | None,
) -> tuple[Host, Anchor]:
    """Start the workers; they are gone again when this raises."""
    from vecserver.engine.pickled import Program
    from vecserver.pools.anchor import Anchor
    from vecserver.pools.host import Host
    from vecserver.pools.spec import Caps

    limit = sys.maxsize if max_concurrency is None else _checked_concurrency(max_concurrency)
    anything = sys.maxsize
    caps = Caps(max_num_envs=anything, max_workers=limit, max_arena_bytes=anything, max_slot_bytes=anything)
    spec.check_options(caps)
    host, anchor = Host(f"local-{os.getpid()}", spec, caps, Program(makers)), Anchor()
    given_up = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        anchor.run(partial(_start_host, host, given_up), partial(os.eventfd_write, given_up, 1))
        host.launch_by = anchor.call
        if given is not None:
            refuse_differing([given[1], host.described.observation_space])
    except BaseException as error:
        host.stop(0.0)
        anchor.release()
        if isinstance(error, EnvFault):
            raise as_raised(error) from None
        if isinstance(error, InvalidSpec) and "row" in error.details:  # rows whose spaces do not go together
            fault = {"row": error.details["row"], "type": "RuntimeError", "message": error.message, "traceback": ""}
            raise as_original(EnvCreationFailed(error.message, faults=[fault])) from None
        raise
    finally:
        os.close(given_up)
    return host, anchor


def _start_host(host: Host, given_up: int) -> None:
    with by_pickle():
        host.start(_START_TIMEOUT, given_up)


def _given_spaces(observation_mode: Any) -> tuple[Space[Any], Space[Any]]:
    match observation_mode:
        case (Space() as batched, Space() as single):
            return batched, single
    raise TypeError(
        f"observation_mode is {observation_mode!r}; it is 'same', 'different', or a batched and a single space"
    )


def _checked_concurrency(limit: int) -> int:
    if not isinstance(limit, int | np.integer) or limit < 1:
        raise ValueError(f"max_concurrency is {limit!r}; it is a whole number of at least 1, or None")
    return int(limit)
