"""Direct drive: a pool on this machine whose arena this process maps, and whose workers it rings itself.

Steps alone take this way. Whatever else is asked of the pool goes over the ordinary connection to its host, which runs
it as it does for everybody; ``docs/shm.md`` says whose turn it is when.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from vecserver.arena.outcome import joined
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvFault,
    InvalidAction,
    PoolBroken,
    TransportUnavailable,
    VecServerError,
)
from vecserver_client.borrowed import BorrowedDrive
from vecserver_client.faults import as_original
from vecserver_client.link import Answer, LinkToPart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np

    from vecserver.wire import messages
    from vecserver.wire.actions import ActionFormat
    from vecserver.wire.frames import Buffer
    from vecserver.wire.layout import Layout
    from vecserver_client.borrowed import BorrowedArena
    from vecserver_client.link import PartLink, PoolLink

__all__ = ["ShmLink", "ShmPartLink"]

_Pool = TypeVar("_Pool", bound="PoolLink")
_Shm = TypeVar("_Shm", bound="ShmLink")


class ShmLink:
    """The link to a pool whose arena is lent to this process.

    Args:
        pool: The ordinary link to the same pool.
        arena: On loan; the link's to give back, also where this raises.
        layout: What a slot holds.
        actions: How action batches are stored.
        copy: Whether a step's observations are the caller's own memory, or stay in the arena.

    Raises:
        VersionMismatch: The pool lays out its memory in another way.
    """

    def __init__(
        self, pool: PoolLink, arena: BorrowedArena, layout: Layout, actions: ActionFormat, *, copy: bool
    ) -> None:
        self._pool = pool
        self._copy = copy
        self._layout, self._actions = layout, actions
        self._borrow = arena.of
        self._stepping = False
        try:
            self._drive: BorrowedDrive | None = BorrowedDrive(arena, layout, actions)
        except BaseException:
            arena.close()
            raise

    @property
    def pending(self) -> bool:
        """Whether a request was begun and not finished."""
        return self._stepping or self._pool.pending

    def values(self) -> AbstractContextManager[Any]:
        """Nothing: towards a server there are plain values only."""
        return self._pool.values()

    def begin_step(self, arrays: Sequence[np.ndarray[Any, Any]], timeout: float) -> None:
        """Begin to step every row."""
        drive = self._drive
        try:
            self._actions.check(arrays)
        except InvalidAction:
            drive = None  # the host knows which rows take no action this time, and refuses in the same words
        if drive is None:
            self._pool.begin_step(arrays, timeout)
            return
        before = drive.driver.seq
        try:
            drive.take_turn(timeout)
            drive.driver.start_step(arrays)
            drive.began = monotonic()
            self._stepping = True
        except EOFError:
            raise self._ended(drive) from None
        except DeadlineExceeded:
            raise
        except BaseException:
            if drive.driver.seq != before:
                self._stepping = drive.torn = True
            else:  # the turn may have been taken: the host sees to it
                self._give_back()
            raise

    def begin(self, request: messages.Reset | messages.Call, timeout: float) -> None:
        """Begin to reset rows, or to call them."""
        self._pool.begin(request, timeout)

    def finish(self, timeout: float) -> Answer:
        """Wait for the workers, or for the host's answer."""
        if not self._stepping:
            return self._pool.finish(timeout)
        drive = self._drive
        assert drive is not None
        deadline = monotonic() + timeout
        try:
            drive.wait(timeout)
            parts = drive.parts(max(0.0, deadline - monotonic()))
            views = drive.results(copy=self._copy)
            ext = joined(parts) if parts else b""
        except EOFError:
            raise self._ended(drive) from None
        except DeadlineExceeded:
            raise
        except VecServerError as error:
            self._finished(drive)
            raise (as_original(error) if isinstance(error, EnvFault) else error) from None
        except BaseException:
            drive.interrupted = True
            raise
        self._finished(drive)
        return Answer(views, ext)

    def _finished(self, drive: BorrowedDrive) -> None:
        self._stepping = drive.interrupted = False
        drive.forget()
        try:
            drive.turn.ring()
        except BaseException:  # interrupted, before or after it rang
            self._give_back()
            raise
        if drive.recalled:  # behind the ring, a system call, so that nothing was read later than this word
            raise self._ended(drive)

    def _ended(self, drive: BorrowedDrive) -> VecServerError:
        """The loan has ended: says why. From here on the host answers, over the ordinary connection."""
        error = drive.arena.why_ended()
        self._give_back()
        return error

    def render(self, rows: Sequence[int] | None, timeout: float) -> Buffer:
        """Frames of rows."""
        return self._pool.render(rows, timeout)

    @property
    def workers(self) -> int:
        """Worker processes of the pool."""
        return self._pool.workers

    def split(self, parts: int, timeout: float) -> list[LinkToPart]:
        """Split the pool; each part's arena is borrowed for itself."""
        self._give_back()
        with ExitStack() as undo:  # where it is interrupted
            links = []
            for rows, pool in self._pool.split_pool(parts, timeout):
                direct = self._direct(pool, partial(ShmPartLink, copy=self._copy))
                if direct is not None:
                    undo.callback(direct._give_back)  # noqa: SLF001 - one of its own
                links.append(LinkToPart(rows, pool, "ipc") if direct is None else LinkToPart(rows, direct))
            undo.pop_all()
        return links

    def _direct(self, pool: _Pool, make: Callable[[_Pool, BorrowedArena, Layout, ActionFormat], _Shm]) -> _Shm | None:
        """The direct link beside this one; None where its arena cannot be had: the pool is then stepped over this."""
        try:
            return make(pool, self._borrow(pool.lease), pool.layout, pool.actions)
        except (TransportUnavailable, TimeoutError, PoolBroken):
            return None

    def join(self, timeout: float) -> None:
        """Make the pool whole again, and borrow its arena again."""
        self._give_back()
        self._pool.join(timeout)
        direct = self._direct(self._pool, partial(ShmLink, copy=self._copy))
        self._drive = None if direct is None else direct._drive  # noqa: SLF001 - one of its own

    def _give_back(self) -> None:
        self._stepping = False
        drive, self._drive = self._drive, None  # and with it the memory
        if drive is not None:
            drive.arena.close()

    def close(self, timeout: float | None) -> None:
        """Give the arena back, and then the lease."""
        self._give_back()
        self._pool.close(timeout)


class ShmPartLink(ShmLink):
    """As ``ShmLink``, to a part of a pool.

    Args:
        pool: The ordinary link to the same part.
        arena: As ``ShmLink``'s.
        layout: Likewise.
        actions: Likewise.
    """

    _pool: PartLink

    def __init__(
        self, pool: PartLink, arena: BorrowedArena, layout: Layout, actions: ActionFormat, *, copy: bool
    ) -> None:
        super().__init__(pool, arena, layout, actions, copy=copy)

    @property
    def fds(self) -> Sequence[int]:
        """As ``Watched``'s."""
        drive = self._drive
        if drive is None or not self._stepping:
            return self._pool.fds
        return [drive.done.fd, drive.arena.sock.fileno()]

    def ready(self) -> bool:
        """As ``Watched``'s."""
        drive = self._drive
        if drive is None or not self._stepping:
            return self._pool.ready()
        return drive.torn or drive.driver.words_done() or drive.heard
