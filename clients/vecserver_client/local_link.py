"""The links to an arena in this process: the whole, and the parts that it may be split into."""

from __future__ import annotations

import logging
import os
from base64 import b64decode
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from vecserver.wire.codec import unpack
from vecserver.wire.errors import DeadlineExceeded, EnvFault, LocalError, PoolBroken, VecServerError
from vecserver_client.faults import as_original
from vecserver_client.link import Answer, LinkToPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy as np

    from vecserver.pools.crew import Crew
    from vecserver.pools.host import Host
    from vecserver.wire import messages
    from vecserver.wire.frames import Buffer
    from vecserver.wire.layout import SlotViews

__all__ = ["ArenaLink", "as_raised", "by_pickle"]

_log = logging.getLogger(__name__)

_ABANDONED_GRACE: Final = 5.0
"""Seconds that the environments may take to close when nobody closed the vector environment and the program ends."""


def by_pickle() -> AbstractContextManager[None]:
    """While it is open, what has no encoding of its own travels as a pickle."""
    from vecserver.engine import pickled

    return pickled.by_pickle()


def as_raised(fault: EnvFault) -> EnvFault:
    """A worker's fault as the exception that was raised there; its class came along where it could be pickled."""
    texts = [each.pop("original", "") for each in fault.details["faults"]]
    if not texts[0]:
        return as_original(fault)
    try:
        with by_pickle():
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
            by_pickle if host.actions.has_side else nullcontext
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
        return by_pickle()

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
        with by_pickle():  # values that are set are given out to the workers
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
            raise as_raised(outcome.error)
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


class ArenaLink(_CrewLink):
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
