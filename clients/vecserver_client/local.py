"""``LocalVectorEnv``: the vector environment with its arena in this process, and no server.

This module alone of the client reaches into the server's packages: it starts workers and drives them as a pool's host
does. It loads them when an environment is made, so that importing the client stays cheap.
"""

from __future__ import annotations

import logging
import os
import sys
from base64 import b64decode
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gymnasium
import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode

from vecserver.wire.codec import unpack
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvCreationFailed,
    EnvFault,
    InvalidSpec,
    LocalError,
    PoolBroken,
    VecServerError,
)
from vecserver.wire.spaces import refuse_differing
from vecserver_client.faults import as_original
from vecserver_client.link import Answer, LinkToPart
from vecserver_client.vector_env import ArenaVectorEnv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from vecserver.pools.anchor import Anchor
    from vecserver.pools.crew import Crew
    from vecserver.pools.host import Host
    from vecserver.pools.spec import PoolSpec
    from vecserver.wire import messages
    from vecserver.wire.frames import Buffer
    from vecserver.wire.layout import SlotViews

__all__ = ["LocalVectorEnv"]

_log = logging.getLogger(__name__)

_START_TIMEOUT: Final = 600.0
"""Seconds until the environments must exist: some load models first."""

_ABANDONED_GRACE: Final = 5.0
"""Seconds that the environments may take to close when nobody closed this one and the program ends."""


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
        link = _ArenaLink(host, copy=copy)
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
    caps = Caps(max_pools=1, max_num_envs=sys.maxsize, max_workers=limit, max_arena_bytes=sys.maxsize)
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
            raise _own(error) from None
        if isinstance(error, InvalidSpec) and "row" in error.details:  # rows whose spaces do not go together
            fault = {"row": error.details["row"], "type": "RuntimeError", "message": error.message, "traceback": ""}
            raise as_original(EnvCreationFailed(error.message, faults=[fault])) from None
        raise
    finally:
        os.close(given_up)
    return host, anchor


def _start_host(host: Host, given_up: int) -> None:
    with _by_pickle():
        host.start(_START_TIMEOUT, given_up)


def _by_pickle() -> AbstractContextManager[None]:
    from vecserver.engine.pickled import by_pickle

    return by_pickle()


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


def _own(fault: EnvFault) -> EnvFault:
    """A worker's fault as the exception that was raised there; its class came along where it could be pickled."""
    texts = [each.pop("original", "") for each in fault.details["faults"]]
    if not texts[0]:
        return as_original(fault)
    try:
        with _by_pickle():
            kind, state = unpack(b64decode(texts[0]))
    except Exception as error:  # noqa: BLE001 - a class of the worker's own; its fault must not be lost for it
        _log.debug("an environment's exception cannot be had here: %s", error)
        return as_original(fault)
    return as_original(fault, kind, state)


class _CrewLink:
    """The link to an arena in this process.

    Args:
        host: Who drives it.
        copy: Whether observations are copied out of the arena; the small arrays always are.
    """

    def __init__(self, host: Crew, *, copy: bool) -> None:
        self._host = host
        self._copy = copy
        # side values of actions are packed; arrays alone are not
        self._step_values: Callable[[], AbstractContextManager[None]] = (
            _by_pickle if host.actions.has_side else nullcontext
        )
        self._owner = os.getpid()
        self._pending = False
        self._fills_slot = False
        self._abandoned = False  # a render that nobody waits for any more, and that still runs
        self._torn = False  # interrupted where some workers were rung, and others perhaps not

    @property
    def pending(self) -> bool:
        """Whether a request was begun and not finished."""
        return self._pending

    def values(self) -> AbstractContextManager[None]:
        """What has no encoding of its own travels as a pickle."""
        return _by_pickle()

    def begin_step(self, arrays: Sequence[np.ndarray[Any, Any]], timeout: float) -> None:
        """Begin to step every row."""
        with self._step_values():
            self._begin(partial(self._host.begin_actions, arrays), timeout, fills_slot=True)

    def begin(self, request: messages.Reset | messages.Call, timeout: float) -> None:
        """Begin to reset rows, or to call them."""
        from vecserver.wire.messages import Reset

        if isinstance(request, Reset):
            if self._host.broken is not None:
                self._revive()
            self._begin(partial(self._host.begin_reset, request), timeout, fills_slot=True)
            return
        with _by_pickle():  # values that are set are given out to the workers
            self._begin(partial(self._host.begin_call, request), timeout, fills_slot=False)

    def _begin(self, begin: Callable[[], None], timeout: float, *, fills_slot: bool) -> None:
        if os.getpid() != self._owner:
            raise LocalError(
                f"these workers belong to process {self._owner}: a forked child makes environments of its own"
            )
        if self._host.broken is not None:
            reason = self._host.broken.message
            raise PoolBroken(
                f"these environments cannot step any more: {reason}; reset them, which has them made again, or close",
                reason=reason,
            )
        if self._abandoned:
            self._wait(timeout)
            self._host.collect()
            self._abandoned = False
        with self._whole():
            begin()
            self._pending, self._fills_slot = True, fills_slot

    def _revive(self) -> None:
        """Have the workers made again, where they are all here."""

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Around what must not be interrupted, by a KeyboardInterrupt say: some workers were rung then, others not."""
        try:
            yield
        except VecServerError:  # refused before anything was done, or done
            raise
        except BaseException as error:
            self._torn = True
            self._host.fail(PoolBroken(f"a call was torn by {error!r}"))
            raise

    def _wait(self, timeout: float) -> None:
        if not self._host.watch(timeout):
            first, last = self._host.progress()
            rows = f"row {first}" if first == last else f"rows {first} to {last}"
            raise DeadlineExceeded(
                f"no result within {timeout:g} s: still busy with {rows}; wait for it again, or close",
                rows=[first, last],
            )

    def finish(self, timeout: float) -> Answer:
        """Wait for the workers."""
        self._wait(timeout)
        self._pending = False
        with self._whole():
            outcome = self._host.collect()
        if isinstance(outcome.error, EnvFault):
            raise _own(outcome.error)
        if outcome.error is not None:
            raise outcome.error
        return Answer(self._views(outcome.slot) if self._fills_slot else None, outcome.ext)

    def _views(self, number: int) -> SlotViews:
        return self._host.slots[number].handed_out(copy=self._copy)

    def render(self, rows: Sequence[int] | None, timeout: float) -> Buffer:
        """Frames of rows."""
        self._begin(partial(self._host.begin_render, None if rows is None else list(rows)), timeout, fills_slot=False)
        try:
            return self.finish(timeout).ext
        finally:  # not pending for the caller, who has no way to wait for it again
            self._abandoned, self._pending = self._pending, False


class _PartLink(_CrewLink):
    """The link to a part of it."""

    @property
    def fds(self) -> list[int]:
        """As ``Watched``'s."""
        return [self._host.done_fd, *self._host.worker_fds]

    def ready(self) -> bool:
        """As ``Watched``'s."""
        return not self._pending or self._host.watch(0.0)

    def close(self, timeout: float | None) -> None:
        """Nothing: its workers are the whole's."""
        del timeout
        self._abandoned, self._pending = self._abandoned or self._pending, False

    def leave(self, timeout: float) -> None:
        """Wait for what was given up here: the workers are wanted elsewhere."""
        if self._abandoned:
            self._wait(timeout)
            self._host.collect()
            self._abandoned = False


class _ArenaLink(_CrewLink):
    """The link to a whole arena in this process, which ends with it.

    Args:
        host: Has started its workers.
        copy: As above.
    """

    _host: Host

    def __init__(self, host: Host, *, copy: bool) -> None:
        super().__init__(host, copy=copy)
        self._parts: list[_PartLink] = []

    def _revive(self) -> None:
        if os.getpid() == self._owner:
            self._host.revive()
            self._abandoned = self._torn = False

    @property
    def workers(self) -> int:
        """Worker processes."""
        return len(self._host.shards)

    def split(self, parts: int, timeout: float) -> list[LinkToPart]:
        """Split it."""
        if not self._pending:
            self._begin(partial(self._host.begin_split, parts), timeout, fills_slot=False)
        self.finish(timeout)
        crews = self._host.parts
        self._parts = [_PartLink(crew, copy=self._copy) for crew in crews]
        return [LinkToPart(range(*crew.rows), link) for crew, link in zip(crews, self._parts, strict=True)]

    def join(self, timeout: float) -> None:
        """Make it whole again."""
        if not self._pending:
            for part in self._parts:
                part.leave(timeout)
            if not self._host.parts:
                return
            if self._host.broken is None:
                self._begin(self._host.begin_join, timeout, fills_slot=False)
        if self._host.broken is None:
            self.finish(timeout)
        else:
            self._pending = False
            self._host.abandon_parts()
        for part in self._parts:
            del part._host  # noqa: SLF001 - and with it its arena
        self._parts = []

    def close(self, timeout: float | None) -> None:
        """Have the workers close their environments and leave; kill those that have not at the end of the time.

        At once where they are still busy with what nobody waits for any more.
        """
        if not hasattr(self, "_host"):
            return
        if self._torn or (self._abandoned and not self._host.watch(0.0)):
            timeout = 0.0
        elif timeout is None:
            timeout = 0.0 if self._pending else _ABANDONED_GRACE
        self._pending = False
        self._host.stop(timeout)
        for part in self._parts:
            del part._host  # noqa: SLF001 - as below
        del self._host  # and with it the arena: who keeps a closed environment keeps no memory
