"""``RemoteVectorEnv``: a pool as a ``gymnasium.vector.VectorEnv``."""

from __future__ import annotations

import os
import warnings
import weakref
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Self

import gymnasium
import numpy as np
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from vecserver.wire import messages
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import EnvFault, VersionMismatch
from vecserver.wire.frames import Kind
from vecserver.wire.infos import merge
from vecserver.wire.layout import Layout, assemble
from vecserver.wire.side import SideLeaves
from vecserver.wire.spaces import space_from_json
from vecserver_client.faults import as_original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from gymnasium.spaces import Space

    from vecserver.wire.frames import Buffer
    from vecserver.wire.layout import SlotViews
    from vecserver_client.connection import Connection
    from vecserver_client.transport import Frames

__all__ = ["RemoteVectorEnv"]

_CLOSE_TIMEOUT: Final = 2.0
"""Seconds to wait for the pool's word when it is given back; its lease ends by itself otherwise."""

_REFUSED_CALLS: Final = frozenset({"reset", "step", "close"})

Array = np.ndarray[Any, Any]
StepReturn = tuple[Any, Array, Array, Array, dict[str, Any]]


class _Pending(Enum):
    """What was asked and not answered yet; the values are Gymnasium's names."""

    NOTHING = "default"
    RESET = "reset"
    STEP = "step"
    CALL = "call"


class RemoteVectorEnv(VectorEnv[Any, Any, Any]):
    """Drives one pool. One thread owns it; close it, or use it as a context manager.

    Made by ``make_vec`` and ``attach``. Everything it returns is the caller's own memory, and what
    ``gymnasium.vector.AsyncVectorEnv`` would have returned for the same seeds and actions.

    Args:
        connection: An attached connection.
        attached: The pool's answer to the attach.
        transport: Name of the transport, for people.
        release: Called once when it is closed, collected or the program ends: removes what was made for it.
        spaces: The real observation spaces of the rows (one for all, or one a row where they differ) and the action
            space of a row, where the caller has them; None to build them from the pool's description, in which a
            custom space is an ``OpaqueSpace``.

    Raises:
        VersionMismatch: The pool lays out its slots in another way than this release.
    """

    def __init__(
        self,
        connection: Connection,
        attached: messages.Attached,
        transport: str,
        release: Callable[[], None],
        spaces: tuple[Sequence[Space[Any]], Space[Any]] | None = None,
    ) -> None:
        info = attached.info
        self._connection = connection
        self._finalizer = weakref.finalize(self, _release, os.getpid(), connection, release)
        self.pool = info.pool
        self.transport = transport
        self.num_envs = info.num_envs
        rows, self.single_action_space = spaces or _described(info)
        self.single_observation_space = rows[0]
        if info.row_observation_spaces is None:
            self.observation_space = batch_space(rows[0], self.num_envs)
        else:
            self.observation_space = batch_differing_spaces(rows)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**info.metadata, "autoreset_mode": AutoresetMode(info.autoreset_mode)}
        self.render_mode = info.render_mode
        self.spec = gymnasium.registry.get(info.env_id)
        self.step_timeout = info.step_timeout
        self.dropped_infos: dict[str, str] = {}
        """Infos that could not travel: path → type."""
        self._side = SideLeaves(self.single_observation_space) or None
        self._layout = Layout.of(self.single_observation_space, self.num_envs)
        if self._layout.hash != info.layout_hash:
            self._finalizer()
            raise VersionMismatch("the pool lays out its results in another way: install the same release on both ends")
        self._actions = ActionFormat(self.single_action_space, self.num_envs)
        self._pending = _Pending.NOTHING

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, _tb: TracebackType | None) -> None:
        # a program that fails must not wait for a batch nobody wants any more
        self.close(terminate=kind is not None)

    def step(self, actions: Any) -> StepReturn:
        """Step every row.

        Args:
            actions: A batch of actions: an element of ``action_space``, or what numpy makes one of.

        Returns:
            Observations, rewards (float64 [N]), terminated and truncated (bool [N]), infos.

        Raises:
            InvalidAction: The batch does not fit; nothing was stepped, and it can be sent again.
            EnvFault: An environment raised; also an instance of Python's or Gymnasium's type that it raised.
            DeadlineExceeded: No answer within ``step_timeout`` seconds; ``step_wait`` goes on waiting.
        """
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Begin to step every row; ``step_wait`` returns the result.

        Raises:
            InvalidAction: The batch has the wrong structure, length, shape or dtype. A value outside the space is found
                by the pool, before it steps anything, and raised by ``step_wait``.
        """
        self._check_free("step_async")
        ext, body = self._actions.encode(self._actions.coerce(actions))
        self._begin(_Pending.STEP, Kind.STEP, ext, body)

    def step_wait(self, timeout: float | None = None) -> StepReturn:
        """Wait for the step that was begun.

        Args:
            timeout: Seconds; None for the pool's ``step_timeout``. After a DeadlineExceeded the step is still pending.
        """
        views, ext = self._finish_with_slot(_Pending.STEP, "step", timeout)
        observations, infos = self._read(views, ext)
        return observations, views.rewards, views.terminated, views.truncated, infos

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset rows.

        Args:
            seed: A number: row i gets seed + i; or one number or None a row.
            options: Handed to every environment. A boolean array [N] under ``reset_mask`` names the rows to reset,
                the others give their last observation again; the dict itself is left as it is.

        Returns:
            Observations and infos.

        Raises:
            EnvFault: An environment raised.
            DeadlineExceeded: No answer within ``step_timeout`` seconds; ``reset_wait`` goes on waiting.
        """
        self.reset_async(seed=seed, options=options)
        return self.reset_wait()

    def reset_async(self, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin to reset rows; ``reset_wait`` returns the result."""
        self._check_free("reset_async")
        mask = None
        if options is not None and "reset_mask" in options:
            mask = _checked_mask(options["reset_mask"], self.num_envs)
            options = {key: value for key, value in options.items() if key != "reset_mask"}
        request = messages.Reset(_seeds(seed, self.num_envs), mask, None if options is None else pack(options))
        self._begin(_Pending.RESET, Kind.RESET, messages.encode(request), b"")

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Wait for the reset that was begun; ``timeout`` as in ``step_wait``."""
        return self._read(*self._finish_with_slot(_Pending.RESET, "reset", timeout))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every row's environment, or read an attribute; one result a row.

        Arguments and results are numbers, text, bytes, numpy arrays, and lists, tuples and dicts of these.

        Raises:
            Unportable: An argument is none of these.
            EnvFault: An environment raised, or a result is none of these.
        """
        self.call_async(name, *args, **kwargs)
        return self.call_wait()

    def call_async(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Begin to call every row; ``call_wait`` returns the results."""
        self._check_free("call_async")
        if name in _REFUSED_CALLS:
            raise ValueError(f"`{name}` cannot be called through `call`: use `{name}` of the vector environment itself")
        request = messages.Call(name, pack([list(args), kwargs]))
        self._begin(_Pending.CALL, Kind.CALL, messages.encode(request), b"")

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Wait for the call that was begun; ``timeout`` as in ``step_wait``."""
        _, ext, _ = self._finish(_Pending.CALL, "call", timeout)
        return _joined(ext)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every row's environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every row's environment.

        Args:
            name: The attribute.
            values: A list or tuple with one value a row; anything else is given to every row.

        Raises:
            ValueError: A list or tuple of another length than the pool has rows.
        """
        self._check_free("set_attr")
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"`values` must have one entry a row: got {len(each)} for {self.num_envs} environments")
        request = messages.Call(name, pack(each), assign=True)
        self._begin(_Pending.CALL, Kind.CALL, messages.encode(request), b"")
        self._finish(_Pending.CALL, "call", None)

    def render(self) -> tuple[Any, ...]:
        """The frame of every row, as its environment renders it."""
        self._check_free("render")
        return _joined(self._asked(Kind.RENDER, messages.encode(messages.Render())))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row's random generator."""
        return self.get_attr("np_random_seed")

    def stats(self) -> messages.Stats:
        """The pool's counters: batches, environment steps, episodes, memory."""
        self._check_free("stats")
        return messages.decode(self._asked(Kind.PING, b""), messages.Stats)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:  # noqa: FBT001, FBT002 - Gymnasium's
        """Give the pool back, and end it and its server where they were made for this environment.

        Args:
            timeout: Seconds to wait for a pending call first; None for the pool's ``step_timeout``.
            terminate: Do not wait for it.
        """
        if self._pending is not _Pending.NOTHING and not terminate:
            gymnasium.logger.warn(f"`close` while a call to `{self._pending.value}` is pending: waiting for it first")
            try:
                self._connection.finish(self.step_timeout if timeout is None else timeout)
            except Exception as error:  # noqa: BLE001 - closing goes on whatever the pending call ends with
                gymnasium.logger.warn(f"the pending call to `{self._pending.value}` ended with {error!r}")
        self._pending = _Pending.NOTHING
        self._finalizer()

    def _check_free(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"`{name}` after a call to `close()` of `{type(self).__name__}`")
        if self._pending is not _Pending.NOTHING:
            raise AlreadyPendingCallError(
                f"`{name}` while a call to `{self._pending.value}` is pending: `{self._pending.value}_wait` first",
                self._pending.value,
            )

    def _begin(self, pending: _Pending, kind: Kind, ext: bytes, body: Buffer) -> None:
        self._pending = pending
        try:
            self._connection.begin(kind, ext, body, self.step_timeout)
        finally:
            if not self._connection.pending:  # nothing was sent
                self._pending = _Pending.NOTHING

    def _finish(self, pending: _Pending, name: str, timeout: float | None) -> Frames:
        if self.closed:
            raise ClosedEnvironmentError(f"`{name}_wait` after a call to `close()` of `{type(self).__name__}`")
        if self._pending is not pending:
            raise NoAsyncCallError(f"`{name}_wait` without a call to `{name}_async` before", pending.value)
        try:
            frames = self._connection.finish(self.step_timeout if timeout is None else timeout)
        except EnvFault as fault:
            raise as_original(fault) from None
        finally:
            if not self._connection.pending:
                self._pending = _Pending.NOTHING
        return frames

    def _finish_with_slot(self, pending: _Pending, name: str, timeout: float | None) -> tuple[Any, bytes]:
        _, ext, body = self._finish(pending, name, timeout)
        return self._layout.views(body), ext

    def _asked(self, kind: Kind, ext: bytes) -> bytes:
        try:
            return self._connection.ask(kind, ext, self.step_timeout)[1]
        except EnvFault as fault:
            raise as_original(fault) from None

    def _read(self, views: SlotViews, ext: bytes) -> tuple[Any, dict[str, Any]]:
        """Observations and infos of a reply."""
        try:
            infos, dropped, aside = merge(ext, self.num_envs, self._add_info)
        except EnvFault as fault:
            raise as_original(fault) from None
        leaves: Iterable[Any] = views.observations
        if self._side is not None:
            leaves = self._side.weave(leaves, self._side.unpack_rows(aside, self.num_envs))
        for path, kind in dropped.items():
            if path not in self.dropped_infos:
                self.dropped_infos[path] = kind
                warnings.warn(
                    f"the info {path!r} is a {kind}, which cannot travel: it is left out from now on", stacklevel=4
                )
        return assemble(self.single_observation_space, iter(leaves)), infos


def _described(info: messages.PoolInfo) -> tuple[Sequence[Space[Any]], Space[Any]]:
    rows = info.row_observation_spaces or [info.observation_space]
    return [space_from_json(space) for space in rows], space_from_json(info.action_space)


def _release(owner: int, connection: Connection, release: Callable[[], None]) -> None:
    if os.getpid() != owner:
        return  # a forked child: the pool and the socket are its parent's
    try:
        connection.close(_CLOSE_TIMEOUT)
    finally:
        release()


def _joined(ext: bytes) -> tuple[Any, ...]:
    """The workers' lists of results as one tuple."""
    return tuple(result for part in (unpack(ext) if ext else ()) for result in part)


def _seeds(seed: Any, num_envs: int) -> list[int | None] | None:
    if seed is None:
        return None
    if isinstance(seed, int | np.integer):
        return [int(seed) + row for row in range(num_envs)]
    seeds = [None if one is None else int(one) for one in seed]
    if len(seeds) != num_envs:
        raise ValueError(f"a list of seeds must have one entry a row: got {len(seeds)} for num_envs={num_envs}")
    return seeds


def _checked_mask(mask: Any, num_envs: int) -> list[bool]:
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
    if mask.shape != (num_envs,):
        raise ValueError(f"`options['reset_mask']` must have shape `({num_envs},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(f"`options['reset_mask']` must have at least one True, got reset_mask={mask}")
    selected: list[bool] = mask.tolist()
    return selected
