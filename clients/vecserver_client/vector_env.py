"""A pool as a ``gymnasium.vector.VectorEnv``, wherever its arena lives."""

from __future__ import annotations

import os
import warnings
import weakref
from enum import Enum
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import gymnasium
import numpy as np
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError
from gymnasium.spaces import Dict, Tuple
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from vecserver.wire import messages
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import EnvFault, PoolSplit
from vecserver.wire.infos import by_row, merge
from vecserver.wire.layout import assemble
from vecserver.wire.session import REPLACEMENT_S
from vecserver.wire.side import SideLeaves
from vecserver_client.arguments import callable_name, mask_and_options, seed_of_each
from vecserver_client.batches import joined_infos, joined_observations
from vecserver_client.division import Division, no_division
from vecserver_client.faults import as_original

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from gymnasium.spaces import Space

    from vecserver.wire.frames import Buffer
    from vecserver_client.arguments import Options
    from vecserver_client.arrivals import Arrivals
    from vecserver_client.link import Answer, Divisible, Link, LinkToPart

__all__ = ["ArenaVectorEnv", "Pending", "StepReturn", "warn_of_end", "warn_of_pending"]

Array = np.ndarray[Any, Any]
StepReturn = tuple[Any, Array, Array, Array, dict[str, Any]]


class Pending(Enum):
    """What was asked and not answered yet; the values are Gymnasium's names."""

    NOTHING = "default"
    RESET = "reset"
    STEP = "step"
    CALL = "call"
    SPLIT = "split"  # and its parts answer


class ArenaVectorEnv(VectorEnv[Any, Any, Any]):
    """Drives one pool over a link. One thread owns it; close it, or use it as a context manager.

    What it returns is what ``gymnasium.vector.AsyncVectorEnv`` would have returned for the same seeds and actions.

    Args:
        link: The way to the pool's arena.
        release: Called once, after the link was closed: when it is closed, collected or the program ends. Told whether
            a request was given up, whose end nobody waits for.
        num_envs: Rows.
        spaces: The observation spaces of the rows, one for all or one a row where they may differ, and the action space
            of a row.
        metadata: The environments' own.
        autoreset_mode: What happens to a row whose episode is over.
        render_mode: The environments' own.
        step_timeout: Seconds that a worker may take for a batch before it is replaced.
        divisible: The link, where it can split what it leads to; None where it leads to a part.
    """

    def __init__(
        self,
        link: Link,
        release: Callable[[bool], None],
        *,
        num_envs: int,
        spaces: tuple[Sequence[Space[Any]], Space[Any]],
        metadata: dict[str, Any],
        autoreset_mode: str,
        render_mode: str | None,
        step_timeout: float,
        divisible: Divisible | None = None,
    ) -> None:
        self._link = link
        self._given_up: list[bool] = []  # one a part that was closed: whether nobody waits for what it was doing
        self._give_back = partial(_give_back, os.getpid(), link, release, self._given_up)
        self._finalizer = weakref.finalize(self, self._give_back, None)
        self.num_envs = num_envs
        self.rows = range(num_envs)
        """Which rows of the pool these are: all of them, but in a part."""
        self.transport = "local"
        """``shm``, ``ipc`` or ``tcp``; ``local`` where the workers are this program's own."""
        self._spaces = spaces
        self._division = None if divisible is None else Division(divisible)
        rows, self.single_action_space = spaces
        self.single_observation_space = rows[0]
        if len(rows) == 1:
            self.observation_space = batch_space(rows[0], num_envs)
        else:
            self.observation_space = batch_differing_spaces(rows)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**metadata, "autoreset_mode": AutoresetMode(autoreset_mode)}
        self.render_mode = render_mode
        self.step_timeout = step_timeout
        self.patience = step_timeout + REPLACEMENT_S
        """Seconds that a call without a timeout of its own waits for its result."""
        self.infos_by_row = False
        """Whether infos come as a list of one dict a row, as the environments gave them, instead of merged."""
        self.dropped_infos: dict[str, str] = {}
        """Infos that could not travel: path → type."""
        self._side = SideLeaves(self.single_observation_space) or None
        self._is_nested = isinstance(self.single_observation_space, Dict | Tuple)
        self._actions = ActionFormat(self.single_action_space, self.num_envs)
        self._pending = Pending.NOTHING
        self._whole: ArenaVectorEnv | None = None

    def __enter__(self) -> Self:
        return self

    def __del__(self) -> None:
        """Nothing: its finalizer gives back what nobody closed, and one half made has nothing to close."""

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, _tb: TracebackType | None) -> None:
        unwanted = kind is not None and self._pending is not Pending.NOTHING
        if unwanted:  # a program that fails must not wait for it; its own error says enough
            for each in (self, *self._parts):
                each._pending = Pending.NOTHING  # noqa: SLF001 - one of its own
        self.close(terminate=unwanted)

    def step(self, actions: Any) -> StepReturn:
        """Step every row.

        Args:
            actions: A batch of actions: an element of ``action_space``, or what numpy makes one of.

        Returns:
            Observations, rewards (float64 [N]), terminated and truncated (bool [N]), infos.

        Raises:
            InvalidAction: The batch does not fit; nothing was stepped, and it can be sent again.
            EnvFault: An environment raised; also an instance of Python's or Gymnasium's type that it raised.
            WorkerDied: A worker ended, and the pool was made with ``on_failure="raise"`` or has no restart left.
            DeadlineExceeded: No answer within ``patience`` seconds; ``step_wait`` goes on waiting.
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
        arrays = self._actions.coerce(actions)
        self._pending = Pending.STEP
        try:
            self._link.begin_step(arrays, self.patience)
        except BaseException:
            self._note_pending()
            raise

    def step_wait(self, timeout: float | None = None) -> StepReturn:
        """Wait for the step that was begun.

        Args:
            timeout: Seconds; None for ``patience``. After a DeadlineExceeded the step is still pending.
        """
        answer = self._finish(Pending.STEP, "step", timeout)
        observations, infos = self._read(answer)
        views = answer.views
        assert views is not None
        return observations, views.rewards, views.terminated, views.truncated, infos

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: Options = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset rows.

        Args:
            seed: A number: row i gets seed + i; or one number or None a row.
            options: Handed to every environment; or a list with one dict or None a row. In a dict, a boolean array [N]
                under ``reset_mask`` names the rows to reset, the others give their last observation again; the dict
                itself is left as it is.

        Returns:
            Observations and infos.

        Raises:
            EnvFault: An environment raised.
            DeadlineExceeded: No answer within ``patience`` seconds; ``reset_wait`` goes on waiting.
        """
        self.reset_async(seed=seed, options=options)
        return self.reset_wait()

    def reset_async(self, seed: int | list[int | None] | None = None, options: Options = None) -> None:
        """Begin to reset rows; ``reset_wait`` returns the result."""
        self._check_free("reset_async")
        mask, options = mask_and_options(options, self.num_envs)
        with self._link.values():
            packed = messages.pack_options(options)
        self._begin(Pending.RESET, messages.Reset(seed_of_each(seed, self.num_envs), mask, packed))

    def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Wait for the reset that was begun; ``timeout`` as in ``step_wait``."""
        return self._read(self._finish(Pending.RESET, "reset", timeout))

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
        self._begin(Pending.CALL, messages.Call(callable_name(name), self._packed([list(args), kwargs])))

    def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Wait for the call that was begun; ``timeout`` as in ``step_wait``."""
        return self._joined(self._finish(Pending.CALL, "call", timeout).ext)

    def call_rows(self, rows: list[int], name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As ``call``, for some rows; one result for each.

        Args:
            rows: Which, ascending.
            name: Method or attribute.
            *args: Passed to the method.
            **kwargs: Likewise.

        Raises:
            InvalidSpec: A row that the pool does not have, or rows that are not ascending.
        """
        self.call_rows_async(rows, name, *args, **kwargs)
        return self.call_wait()

    def call_rows_async(self, rows: list[int], name: str, *args: Any, **kwargs: Any) -> None:
        """Begin to call some rows; ``call_wait`` returns the results."""
        self._check_free("call_rows_async")
        request = messages.Call(callable_name(name), self._packed([list(args), kwargs]), rows=rows)
        self._begin(Pending.CALL, request)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every row's environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any, rows: list[int] | None = None) -> None:
        """Set an attribute of rows' environments.

        Args:
            name: The attribute.
            values: A list or tuple with one value a row; anything else is given to every row.
            rows: Which, ascending; None for all.

        Raises:
            ValueError: A list or tuple of another length than there are rows.
            InvalidSpec: A row that the pool does not have, or rows that are not ascending.
        """
        self.set_attr_async(name, values, rows)
        self.call_wait()

    def set_attr_async(self, name: str, values: Any, rows: list[int] | None = None) -> None:
        """Begin to set an attribute; ``call_wait`` waits until it is set."""
        self._check_free("set_attr_async")
        count = self.num_envs if rows is None else len(rows)
        each = list(values) if isinstance(values, list | tuple) else [values] * count
        if len(each) != count:
            raise ValueError(f"`values` must have one entry a row: got {len(each)} for {count} environments")
        self._begin(Pending.CALL, messages.Call(name, self._packed(each), assign=True, rows=rows))

    def render(self, rows: Sequence[int] | None = None) -> tuple[Any, ...]:
        """The frames of rows, as their environments render them.

        Args:
            rows: Which, by number and in this order; None for all.
        """
        self._check_free("render")
        if rows is None:
            return self._joined(self._link.render(None, self.patience))
        wanted = sorted({int(row) for row in rows})
        frames = dict(zip(wanted, self._joined(self._link.render(wanted, self.patience)), strict=True))
        return tuple(frames[int(row)] for row in rows)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row's random generator."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """A copy of each row's random generator, as it is now."""
        return self.get_attr("np_random")

    def split(self, parts: int = 2) -> tuple[ArenaVectorEnv, ...]:
        """Split into vector environments of neighbouring rows that step beside each other.

        Each has ``num_envs``, spaces and results of its own, and ``rows``, the rows of this one that it has; ``reset``
        and ``step`` of one do not wait for another. This one refuses both until ``join``. What is known of the rows
        stays with them: a row whose episode ended before is reset by the first step of its part.

        Args:
            parts: How many: at most one a worker process.

        Returns:
            The parts, in the order of their rows. They end with ``join`` and with ``close``.

        Raises:
            InvalidSpec: There are fewer workers; nothing was done.
            PoolSplit: It is split already.
            LocalError: It is a part itself.
        """
        if self._pending is not Pending.SPLIT or self._parts:
            self._check_free("split")
        if self._division is None:
            raise no_division()
        self._pending = Pending.SPLIT
        try:
            return self._division.split(parts, self.step_timeout, self._make_part)
        except BaseException:
            self._note_pending()
            raise

    def join(self) -> None:
        """Make one vector environment of the parts again, and close them; without effect where it is not split.

        Also where `split` was interrupted, and left no parts here: the pool is whole afterwards.

        Raises:
            AlreadyPendingCallError: A part was not waited for; nothing was done.
        """
        if self.closed:
            raise ClosedEnvironmentError(f"`join` after a call to `close()` of `{type(self).__name__}`")
        if self._division is not None and (
            self._pending is Pending.SPLIT or (self._pending is Pending.NOTHING and self._division.torn)
        ):
            self._division.join(self.step_timeout)
            self._given_up.clear()
            self._pending = Pending.NOTHING

    def send(self, actions: Any, rows: Any = None) -> None:
        """Begin to step rows, each worker's for themselves; ``recv`` returns results as they come.

        Where it is whole it is split first, into a part a worker; where the caller has split it, into these parts.
        Reset it before, and ``join`` it to ``step`` all rows again.

        Args:
            actions: A batch of actions for these rows, in their order.
            rows: Which rows, an array or list: those of one worker or several, as ``recv`` gave them under ``env_id``;
                None for all.

        Raises:
            InvalidAction: The batch does not fit, or holds a part of a worker's rows; nothing was stepped.
            AlreadyPendingCallError: Some of the rows were sent and not received; nothing was stepped.
        """
        self._arrivals().send(actions, rows)

    def recv(self, min_rows: int = 1, timeout: float | None = None) -> StepReturn:
        """Wait for results of rows that were sent.

        Args:
            min_rows: Wait for so many rows; all that are there are returned.
            timeout: Seconds; None for ``patience``.

        Returns:
            Observations, rewards, terminated, truncated and infos of the rows that are there, n of them, in the order
            in which they came; ``infos["env_id"]`` says which they are, int32 [n]. With ``infos_by_row`` each row's
            info does.

        Raises:
            NoAsyncCallError: Nothing was sent.
            InvalidSpec: ``min_rows`` is more than what is to come.
            DeadlineExceeded: They did not come in time; nothing is lost, receive again.
            EnvFault: An environment raised; results of other workers are received next. Its rows are those of one
                worker, counted from 0: ``details["part_rows"]`` has the first and the last of them in the whole.
            InvalidAction: A worker's rows were sent a value outside the space: they were not stepped, and can be sent
                again; the rows are named as in an EnvFault.
        """
        batches, rows = self._arrivals().recv(min_rows, self.patience if timeout is None else timeout)
        observations, rewards, terminated, truncated, infos = zip(*batches, strict=True)
        merged: Any
        if self.infos_by_row:
            each = [info for part in infos for info in part]
            merged = [{**info, "env_id": int(row)} for info, row in zip(each, rows, strict=True)]
        else:
            merged = joined_infos(infos, [len(part) for part in rewards])
            merged["env_id"] = rows
        return (
            joined_observations(self.single_observation_space, observations),
            np.concatenate(rewards),
            np.concatenate(terminated),
            np.concatenate(truncated),
            merged,
        )

    @property
    def pending_rows(self) -> int:
        """How many rows were sent and not received."""
        return self._arrivals().to_come if self._parts else 0

    def _arrivals(self) -> Arrivals:
        """What is under way in the parts."""
        if self.closed:
            raise ClosedEnvironmentError(f"`send` and `recv` after a call to `close()` of `{type(self).__name__}`")
        if self._division is None:
            raise no_division()
        if not self._division.parts:
            self.split(self._division.workers)
        return self._division.arrivals

    def check_step(self, actions: Any) -> None:
        """Raise what ``step_async`` would raise for a batch, and begin nothing."""
        self._check_free("step_async")
        self._actions.coerce(actions)

    @property
    def _parts(self) -> tuple[ArenaVectorEnv, ...]:
        return () if self._division is None else self._division.parts

    @property
    def pending_call(self) -> str | None:
        """The name of the call that was begun and not waited for; None where there is none."""
        return None if self._pending is Pending.NOTHING else self._pending.value

    def _make_part(self, part: LinkToPart) -> ArenaVectorEnv:
        observations, action_space = self._spaces
        made = ArenaVectorEnv(
            part.link,
            self._given_up.append,
            num_envs=len(part.rows),
            spaces=(
                observations if len(observations) == 1 else observations[part.rows.start : part.rows.stop],
                action_space,
            ),
            metadata=self.metadata,
            autoreset_mode=self.metadata["autoreset_mode"],
            render_mode=self.render_mode,
            step_timeout=self.step_timeout,
        )
        made.rows = part.rows
        made.transport = part.transport or self.transport
        made.spec = self.spec
        made.infos_by_row = self.infos_by_row
        made._whole = self
        return made

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:  # noqa: FBT001, FBT002 - Gymnasium's
        """Give the pool back, and end it and its server where they were made for this environment.

        Args:
            timeout: Seconds to wait for a pending call first; None for ``patience``.
            terminate: Do not wait for it.
        """
        deadline = monotonic() + (self.patience if timeout is None else timeout)
        pending, self._pending = self._pending, Pending.NOTHING
        try:
            if self._division is not None:
                self._division.close(timeout, terminate=terminate)
            if pending is Pending.SPLIT:
                terminate = terminate or self._link.pending
            elif pending is not Pending.NOTHING:
                self._wait_out(pending.value, None if terminate else deadline - monotonic())
        finally:  # where warnings are errors too
            if self._finalizer.alive:
                self._give_back(0.0 if terminate else max(0.0, deadline - monotonic()))
                self._finalizer.detach()  # only now: what was interrupted is done at the end of the program

    def _wait_out(self, name: str, timeout: float | None) -> None:
        """Wait for a pending call, or give it up at once, with a warning."""
        warn_of_pending(name, gives_up=timeout is None)
        if timeout is not None:
            try:
                self._link.finish(timeout)
            except Exception as error:  # noqa: BLE001 - closing goes on whatever the pending call ends with
                warn_of_end(name, error)

    def _check_free(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"`{name}` after a call to `close()` of `{type(self).__name__}`")
        if self._pending is Pending.SPLIT:
            raise PoolSplit(f"`{name}` while it is split into {len(self._parts)} parts: use these, or `join` first")
        if self._pending is not Pending.NOTHING:
            raise AlreadyPendingCallError(
                f"`{name}` while a call to `{self._pending.value}` is pending: `{self._pending.value}_wait` first",
                self._pending.value,
            )

    def _begin(self, pending: Pending, request: messages.Reset | messages.Call) -> None:
        self._pending = pending
        try:
            self._link.begin(request, self.patience)
        except BaseException:
            self._note_pending()
            raise

    def _finish(self, pending: Pending, name: str, timeout: float | None) -> Answer:
        if self.closed:
            raise ClosedEnvironmentError(f"`{name}_wait` after a call to `close()` of `{type(self).__name__}`")
        if self._pending is not pending:
            raise NoAsyncCallError(f"`{name}_wait` without a call to `{name}_async` before", pending.value)
        try:
            answer = self._link.finish(self.patience if timeout is None else timeout)
        except BaseException:
            self._note_pending()
            raise
        self._pending = Pending.NOTHING
        return answer

    def _note_pending(self) -> None:
        """After an exception: what was not begun, or has ended, is not pending any more."""
        if not self._link.pending:
            self._pending = Pending.NOTHING

    def _packed(self, value: Any) -> bytes:
        with self._link.values():
            return pack(value)

    def _joined(self, ext: Buffer) -> tuple[Any, ...]:
        """The workers' lists of results as one tuple."""
        with self._link.values():
            return tuple(result for part in (unpack(ext) if len(ext) else ()) for result in part)

    def _read(self, answer: Answer) -> tuple[Any, Any]:
        """Observations and infos of an answer."""
        assert answer.views is not None
        leaves: Iterable[Any] = answer.views.observations
        if self._side is None and not answer.ext:
            infos: Any = [{} for _ in range(self.num_envs)] if self.infos_by_row else {}
            if not self._is_nested:
                return answer.views.observations[0], infos
            return assemble(self.single_observation_space, iter(leaves)), infos
        with self._link.values():
            infos, dropped, aside = self._infos(answer.ext)
            if self._side is not None:
                leaves = self._side.weave(leaves, self._side.unpack_rows(aside, self.num_envs))
        for path, kind in dropped.items():
            if path not in self.dropped_infos:
                self.dropped_infos[path] = kind
                warnings.warn(
                    f"the info {path!r} is a {kind}, which cannot travel: it is left out from now on", stacklevel=4
                )
        return assemble(self.single_observation_space, iter(leaves)), infos

    def _infos(self, ext: Buffer) -> tuple[Any, dict[str, str], list[bytes]]:
        if self.infos_by_row:
            return by_row(ext, self.num_envs)
        try:
            return merge(ext, self.num_envs, self._add_info)
        except EnvFault as fault:
            raise as_original(fault) from None


def warn_of_pending(name: str, *, gives_up: bool) -> None:
    """Say that ``close`` was called too early."""
    what = "giving it up" if gives_up else "waiting for it first"
    gymnasium.logger.warn(f"`close` while a call to `{name}` is pending: {what}")


def warn_of_end(name: str, error: Exception) -> None:
    """Say what a call that ``close`` waited for ended with."""
    gymnasium.logger.warn(f"the pending call to `{name}` ended with {error!r}")


def _give_back(
    owner: int, link: Link, release: Callable[[bool], None], given_up: list[bool], timeout: float | None
) -> None:
    if os.getpid() != owner:
        return  # a forked child: the pool and what leads to it are its parent's
    unwanted = link.pending or any(given_up)
    try:
        link.close(timeout)
    finally:
        release(unwanted)
