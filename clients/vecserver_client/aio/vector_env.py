"""``AsyncRemoteVectorEnv``: a pool's vector environment whose methods are coroutines.

What Gymnasium's contract asks for is in ``RemoteVectorEnv``, which does no I/O of its own: its connection does. Here
this connection is a ``_Desk``. What the vector environment would send lies on it until the event loop has sent it, and
what came from the pool until the vector environment takes it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError

from vecserver.wire.errors import LocalError, VecServerError
from vecserver_client.remote_vector_env import RemoteVectorEnv
from vecserver_client.vector_env import warn_of_end, warn_of_pending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from vecserver.wire import messages
    from vecserver.wire.frames import Buffer, Kind
    from vecserver.wire.session import ResumePoint
    from vecserver_client.aio.connection import AsyncConnection
    from vecserver_client.arguments import Options
    from vecserver_client.link import PartMessenger
    from vecserver_client.transport import Frames
    from vecserver_client.vector_env import StepReturn

__all__ = ["AsyncRemoteVectorEnv", "Belongings"]

_CLOSE_TIMEOUT: Final = 2.0
"""Seconds to wait for the pool's word when it is given back, and for a call that was cut off to end."""

T = TypeVar("T")


class Belongings(Protocol):
    """What was made for an environment and ends with it: a pool, a server."""

    async def release(self, *, unwanted: bool) -> None:
        """End it; may be called again.

        Args:
            unwanted: A request was given up: nobody waits for the batch that the pool is at.
        """

    def abandon(self, *, unwanted: bool) -> None:
        """End it without an event loop: nobody closed the environment, and it is collected or the program ends."""


class AsyncRemoteVectorEnv:
    """Drives a pool of a server from an event loop; made by ``aio.make_vec`` and ``aio.attach``.

    Results, attributes and errors are those of ``RemoteVectorEnv``. Tasks of one loop may use it one after the other;
    close it, or use it as an asynchronous context manager.

    A call that is cancelled, by ``asyncio.timeout`` for example, is still pending, and so is one that raised
    DeadlineExceeded: ``step_wait``, ``reset_wait`` or ``call_wait`` returns its result. Nothing is run twice.

    Args:
        connection: An attached connection.
        attached: The pool's answer to the attach.
        transport: Name of the transport, for people.
        belongings: What ends with this environment.

    Attributes:
        num_envs: Rows.
        single_observation_space: Space of one row's observation.
        observation_space: Space of a batch of observations.
        single_action_space: Space of one row's action.
        action_space: Space of a batch of actions.
        metadata: The environments' own, and ``autoreset_mode``.
        render_mode: The environments' own.
        spec: Of the environment, where it is registered here too.
        pool: The pool's id.
        transport: Name of the transport.
        step_timeout: Seconds that a worker may take for a batch before it is replaced.
        patience: Seconds that a call without a timeout of its own waits for its result.
        dropped_infos: Infos that could not travel: path → type.

    Raises:
        VersionMismatch: The pool lays out its results in another way than this release.
    """

    def __init__(
        self, connection: AsyncConnection, attached: messages.Attached, transport: str, belongings: Belongings
    ) -> None:
        self._connection = connection
        self._belongings = belongings
        self._desk = _Desk(connection)
        self._halves = envs = _Halves(self._desk, attached, transport, partial(_abandon, connection, belongings))
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._user = ""
        self.num_envs = envs.num_envs
        self.single_observation_space, self.observation_space = envs.single_observation_space, envs.observation_space
        self.single_action_space, self.action_space = envs.single_action_space, envs.action_space
        self.metadata, self.render_mode, self.spec = envs.metadata, envs.render_mode, envs.spec
        self.pool, self.transport, self.step_timeout = envs.pool, envs.transport, envs.step_timeout
        self.patience = envs.patience
        self.dropped_infos = envs.dropped_infos

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._halves.closed

    @property
    def pending_call(self) -> str | None:
        """As ``RemoteVectorEnv.pending_call``: what was begun and not waited for to its end."""
        return self._halves.pending_call

    @property
    def resume_token(self) -> str:
        """As ``RemoteVectorEnv.resume_token``."""
        return self._halves.resume_token

    @property
    def infos_by_row(self) -> bool:
        """Whether infos come as a list of one dict a row instead of merged; may be set."""
        return self._halves.infos_by_row

    @infos_by_row.setter
    def infos_by_row(self, value: bool) -> None:
        self._halves.infos_by_row = value

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, _tb: TracebackType | None
    ) -> None:
        failed = kind is not None  # then it must not wait for what is pending, and its own error says enough
        await self._end(None, terminate=failed, warns=not failed)

    async def step(self, actions: Any) -> StepReturn:
        """Step every row; as ``RemoteVectorEnv.step``."""
        return await self._call("step", partial(self._halves.step_async, actions), self._halves.step_wait)

    async def step_wait(self, timeout: float | None = None) -> StepReturn:
        """Wait for a step that was cancelled or late.

        Args:
            timeout: Seconds; None for ``patience``. After a DeadlineExceeded the step is still pending.

        Raises:
            gymnasium.error.NoAsyncCallError: No step is pending.
        """
        return await self._wait("step_wait", self._halves.step_wait, timeout)

    async def reset(
        self, *, seed: int | list[int | None] | None = None, options: Options = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset rows; as ``RemoteVectorEnv.reset``."""
        begin = partial(self._halves.reset_async, seed=seed, options=options)
        return await self._call("reset", begin, self._halves.reset_wait)

    async def reset_wait(self, timeout: float | None = None) -> tuple[Any, dict[str, Any]]:
        """Wait for a reset that was cancelled or late; as ``step_wait``."""
        return await self._wait("reset_wait", self._halves.reset_wait, timeout)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every row's environment, or read an attribute; as ``RemoteVectorEnv.call``."""
        begin = partial(self._halves.call_async, name, *args, **kwargs)
        return await self._call("call", begin, self._halves.call_wait)

    async def call_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Wait for a call, or for a ``get_attr`` or ``set_attr``, that was cancelled or late; as ``step_wait``."""
        return await self._wait("call_wait", self._halves.call_wait, timeout)

    async def call_rows(self, rows: list[int], name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As ``call``, for some rows; as ``RemoteVectorEnv.call_rows``."""
        begin = partial(self._halves.call_rows_async, rows, name, *args, **kwargs)
        return await self._call("call_rows", begin, self._halves.call_wait)

    async def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every row's environment."""
        return await self._call("get_attr", partial(self._halves.call_async, name), self._halves.call_wait)

    async def set_attr(self, name: str, values: Any, rows: list[int] | None = None) -> None:
        """Set an attribute of rows' environments; as ``RemoteVectorEnv.set_attr``."""
        begin = partial(self._halves.set_attr_async, name, values, rows)
        await self._call("set_attr", begin, self._halves.call_wait)

    async def render(self, rows: Sequence[int] | None = None) -> tuple[Any, ...]:
        """The frames of rows, as their environments render them; as ``RemoteVectorEnv.render``."""
        return await self._question("render", partial(self._halves.render, rows))

    async def stats(self) -> messages.Stats:
        """The pool's counters: batches, environment steps, episodes, memory."""
        return await self._question("stats", self._halves.stats)

    async def close(self, timeout: float | None = None, terminate: bool = False) -> None:  # noqa: FBT001, FBT002 - Gymnasium's
        """Give the pool back, and end it and its server where they were made for this environment.

        Args:
            timeout: Seconds to wait for a pending call first, and for one that another task waits for; None for
                ``patience``.
            terminate: Do not wait for it; a task that does gets a LocalError.
        """
        await self._end(timeout, terminate=terminate, warns=True)

    async def _end(self, timeout: float | None, *, terminate: bool, warns: bool) -> None:
        if self.closed:
            return
        deadline = monotonic() + (self.patience if timeout is None else timeout)
        has_turn = await self._got_turn(monotonic() if terminate else deadline)
        if not has_turn:  # what another task waits for is cut off
            terminate = True
            self._connection.abort()
            has_turn = await self._got_turn(monotonic() + _CLOSE_TIMEOUT)
        self._user = "close"
        try:
            if warns and not self.closed and (name := self._halves.pending_name):
                await self._wait_out(name, None if terminate else deadline - monotonic())
        finally:
            try:
                await self._give_back()
            finally:
                if has_turn:
                    self._turn.release()

    async def _got_turn(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout(deadline - monotonic()):
                return await self._turn.acquire()
        except TimeoutError:
            return False

    async def _wait_out(self, name: str, timeout: float | None) -> None:
        """Wait for a pending call, or give it up at once, with a warning."""
        warn_of_pending(name, gives_up=timeout is None)
        if timeout is not None:
            try:
                await self._connection.finish(max(0.0, timeout))
            except VecServerError as error:
                warn_of_end(name, error)

    async def _give_back(self) -> None:
        if self.closed:
            return
        unwanted = self._connection.pending
        try:
            await self._connection.close(_CLOSE_TIMEOUT)
        finally:
            await self._belongings.release(unwanted=unwanted)
            self._halves.close()  # only now: what was interrupted is done when it is collected

    async def _call(self, name: str, begin: Callable[[], None], wait: Callable[[], T]) -> T:
        """Begin a sequenced request, send it, and wait for its result."""
        self._check(name)
        async with self._turn:
            self._take_turn(name)
            begin()
            try:
                await self._connection.begin(*self._desk.taken(), self.step_timeout)
                self._desk.outcome = await self._connection.finish(self.patience)
            except VecServerError as error:
                self._desk.outcome = error
            return wait()

    async def _wait(self, name: str, wait: Callable[[], T], timeout: float | None) -> T:
        """Wait for the result of a request that was sent before."""
        self._check(name)
        async with self._turn:
            self._take_turn(name)
            try:
                return wait()
            except _Unanswered:  # it is the one that is pending
                pass
            try:
                self._desk.outcome = await self._connection.finish(self.patience if timeout is None else timeout)
            except VecServerError as error:
                self._desk.outcome = error
            return wait()

    async def _question(self, name: str, ask: Callable[[], T]) -> T:
        """Ask what has no number: learn from the vector environment what to ask, and hand it the answer."""
        self._check(name)
        async with self._turn:
            self._take_turn(name)
            try:
                return ask()
            except _Question as unanswered:
                question = unanswered
            try:
                self._desk.outcome = await self._connection.ask(question.kind, question.ext, self.patience)
            except VecServerError as error:
                self._desk.outcome = error
            return ask()

    def _check(self, name: str) -> None:
        self._check_open(name)
        if asyncio.get_running_loop() is not self._loop:
            raise LocalError(f"`{name}` in another event loop than the one that this environment was made in")
        if self._turn.locked():
            raise AlreadyPendingCallError(f"`{name}` while another task is in `{self._user}`", self._user)

    def _take_turn(self, name: str) -> None:
        self._check_open(name)  # a task that closes it may have come first
        self._user = name

    def _check_open(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"`{name}` after a call to `close()` of `{type(self).__name__}`")


class _Halves(RemoteVectorEnv):
    """The vector environment without its I/O: a desk for a connection, and each call in two halves."""

    @property
    def pending_name(self) -> str | None:
        """Gymnasium's name of what was begun and not finished."""
        return self._pending.value if self._link.pending else None

    def _wait_out(self, name: str, timeout: float | None) -> None:
        """Nothing: that was done from the loop."""

    def _check_free(self, name: str) -> None:
        super()._check_free(name.removesuffix("_async"))


class _Unanswered(Exception):
    """What is waited for has not come: the event loop has to get it first."""


class _Question(_Unanswered):
    """The same, of a request without a number."""

    def __init__(self, kind: Kind, ext: bytes) -> None:
        super().__init__()
        self.kind = kind
        self.ext = ext


class _Desk:
    """A ``Messenger`` without I/O.

    Attributes:
        outcome: What came from the pool; taken by who waits for it.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._request: tuple[Kind, bytes, Buffer] | None = None
        self.outcome: Frames | VecServerError | None = None

    @property
    def pending(self) -> bool:
        return self._connection.pending

    def begin(self, kind: Kind, ext: bytes, body: Buffer, timeout: float, base: int | None = None) -> None:
        del timeout, base  # None: nothing is packed for an event loop
        self._request = kind, ext, body

    def taken(self) -> tuple[Kind, bytes, Buffer]:
        """What is to be sent."""
        request, self._request = self._request, None
        assert request is not None
        return request

    def finish(self, timeout: float) -> Frames:
        del timeout
        return self._outcome(_Unanswered())

    def ask(self, kind: Kind, ext: bytes, timeout: float) -> Frames:
        del timeout
        return self._outcome(_Question(kind, ext))

    def _outcome(self, otherwise: _Unanswered) -> Frames:
        outcome, self.outcome = self.outcome, None
        if isinstance(outcome, VecServerError):
            raise outcome
        if outcome is None:
            raise otherwise
        return outcome

    def close(self, timeout: float) -> None:
        """Nothing: the connection is closed from the loop."""

    @property
    def lease(self) -> int:
        return self._connection.lease

    @property
    def point(self) -> ResumePoint:
        return self._connection.point

    @property
    def pending_kind(self) -> Kind | None:
        return self._connection.pending_kind

    def of_part(self, lease: int) -> PartMessenger:
        raise LocalError(f"lease {lease} is of a part: a pool is split by a client without an event loop")


def _abandon(connection: AsyncConnection, belongings: Belongings, unwanted: bool) -> None:  # noqa: FBT001 - called so
    connection.abort()
    belongings.abandon(unwanted=unwanted)
