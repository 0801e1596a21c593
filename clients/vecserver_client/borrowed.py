"""The arena of a pool on this machine, borrowed from its host, and how a process steps the pool in it."""

from __future__ import annotations

import os
import select
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

import numpy as np

from vecserver.arena.doorbell import Doorbell, FinishLine, spin_until
from vecserver.arena.driver import ArenaDriver
from vecserver.arena.memory import map_memory
from vecserver.arena.orders import LentOrders
from vecserver.arena.passing import check_same_user, close_all, new_socket, peer_of, receive, send
from vecserver.arena.plan import ArenaPlan
from vecserver.arena.views import RECALLS, WANTED, ArenaViews, WorkerLine
from vecserver.wire.errors import (
    DeadlineExceeded,
    PoolLost,
    TransportUnavailable,
    VecServerError,
    VersionMismatch,
    from_code,
)
from vecserver.wire.loan import Borrow, Fetch, Fetched, FromHost, Lent, Recalled

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.wire.actions import ActionFormat
    from vecserver.wire.layout import Layout, SlotViews

__all__ = ["BorrowedArena", "BorrowedDrive"]

_LOOK_S: Final = 0.002
"""Between two looks at a step whose end may not be rung."""

_WATCH_US: Final = 300.0
"""How long the end of a step is watched for before the wait blocks: to wake a core that sleeps takes the tenth of a
small batch."""

_LEAST_S: Final = 0.001
"""Seconds that an answer of the host is waited for, however little time is left."""

_LAST_WORDS_S: Final = 1.0
"""Seconds for what the host says last: it was sent before the connection ended."""

_ARENA, _ORDERS, _TOKENS, _DONE, _TURN, _LEAVE, _BELLS = range(7)
"""The descriptors in the order in which they come; the workers' bells are the last."""


class BorrowedArena:
    """What a pool's host lends to its driver: descriptors, and the connection that stands for the loan.

    Args:
        path: The host's socket.
        lease: Of the driver's ATTACH.
        epoch: Likewise.
        timeout: Seconds that the host may take.
        check_pool: Raises PoolLost or UnknownPool when the pool is known to be gone.

    Raises:
        TransportUnavailable: The host is out of reach, another user's, or does not lend its arena.
        LeaseLost: Another client drives the pool by now.
        PoolBroken: The pool cannot step any more.
    """

    def __init__(self, path: str, lease: int, epoch: int, timeout: float, check_pool: Callable[[], None]) -> None:
        self._check_pool = check_pool
        self._again = partial(BorrowedArena, path, epoch=epoch, timeout=timeout, check_pool=check_pool)
        self._last: Fetched | Lent | Recalled | None = None
        self._asked = 0  # the last step whose payloads were asked for
        self.fds: list[int] = []
        self.sock = new_socket()
        try:
            self.sock.settimeout(timeout)
            self.sock.connect(path)
            check_same_user(peer_of(self.sock))
            send(self.sock, Borrow(lease, epoch))
            lent: FromHost
            lent, self.fds = receive(self.sock, FromHost)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise TransportUnavailable(f"the pool's arena cannot be had: {error}") from None
        except BaseException:
            self.close()
            raise
        if not isinstance(lent, Lent) or len(self.fds) != _BELLS + len(lent.shards):
            self.close()
            if isinstance(lent, Recalled):
                raise from_code(lent.code, lent.message, lent.details)
            raise TransportUnavailable("the pool's host lends its arena in another way than this release borrows it")
        self.lent = lent

    def of(self, lease: int) -> BorrowedArena:
        """The arena that another lease of this driver stands for; errors as when this one was borrowed."""
        return self._again(lease=lease)

    def why_ended(self) -> VecServerError:
        """What ended the loan: what the host said last, or that it is gone."""
        self.sock.settimeout(_LAST_WORDS_S)
        try:
            while not isinstance(self._last, Recalled):
                self._last, fds = receive(self.sock, FromHost)
                close_all(fds)
            return from_code(self._last.code, self._last.message, self._last.details)
        except (EOFError, OSError, ValueError):  # it has said nothing
            try:
                self._check_pool()
            except VecServerError as error:
                return error
        return PoolLost("the pool's host closed the connection over which its arena was lent")

    def is_over(self) -> bool:
        """Whether the host has said that the loan is over, or is gone; passes over answers that nobody waits for."""
        self.sock.settimeout(0.0)
        try:
            while not isinstance(self._last, Recalled):
                self._last, fds = receive(self.sock, FromHost)
                close_all(fds)
        except BlockingIOError:
            return False
        except (EOFError, OSError, ValueError):
            return True
        return True

    def fetch(self, seq: int, timeout: float) -> list[bytes]:
        """The payloads of a step that did not fit, one a worker, empty where it did.

        Raises:
            EOFError: The loan has ended.
            TimeoutError: The host has not answered; call again to go on waiting.
        """
        self.sock.settimeout(max(timeout, _LEAST_S))  # none at all would mean something else to a socket
        if self._asked != seq:
            self._asked = seq  # once: the workers would obey a second time during the next step
            send(self.sock, Fetch(seq))
        while True:
            message, fds = receive(self.sock, FromHost)
            try:
                self._last = message  # a Recalled, behind which the connection ends, or an answer nobody waited for
                if isinstance(message, Fetched) and message.seq == seq and len(message.sizes) == len(self.lent.shards):
                    ends = np.cumsum(message.sizes).tolist()
                    return [_read(fds[0], end - size, size) for size, end in zip(message.sizes, ends, strict=True)]
            finally:
                close_all(fds)

    def close(self) -> None:
        """Give the arena back; may be called again."""
        self.sock.close()
        close_all(self.fds)


def _read(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) != size:
        raise EOFError("the host said less than it announced")
    return data


class BorrowedDrive:
    """The arena as this process drives it.

    Args:
        arena: On loan.
        layout: What a slot holds.
        actions: How action batches are stored.

    Raises:
        VersionMismatch: The pool lays out its memory in another way.
    """

    def __init__(self, arena: BorrowedArena, layout: Layout, actions: ActionFormat) -> None:
        self.arena = arena
        fds, lent = arena.fds, arena.lent
        self.began = 0.0  # the step that is under way
        shards = tuple((first, end) for first, end in lent.shards)
        plan = ArenaPlan.of(layout, actions, shards)
        if (plan.size, LentOrders.size(len(shards), actions)) != (lent.arena_size, lent.orders_size):
            raise VersionMismatch("the pool lays out its arena in another way: install the same release on both ends")
        # for reading alone: what a driver writes lies elsewhere
        self.views = ArenaViews(plan, layout, map_memory(fds[_ARENA], plan.size, writable=False))
        orders = LentOrders(len(shards), actions, map_memory(fds[_ORDERS], lent.orders_size))
        self.turn, self.leave = Doorbell(fds[_TURN]), Doorbell(fds[_LEAVE])
        self.done = Doorbell(fds[_DONE], hangup_fd=arena.sock.fileno())
        bells = [Doorbell(fd) for fd in fds[_BELLS:]]
        self._finish = FinishLine(fds[_TOKENS], self.done)
        self.driver = ArenaDriver(
            self.views, actions, bells, self._finish, orders=orders, done_word=WorkerLine.LENT_DONE
        )
        self.head = self.views.head
        self._ear = select.poll()
        self._ear.register(arena.sock, select.POLLIN)
        # not where this process would take the core of a worker
        self._watch_us = _WATCH_US if len(shards) < len(os.sched_getaffinity(0)) else 0.0
        self.interrupted = False
        """Whether a wait was, so that its ring may have been taken."""
        self.torn = False
        """Whether a start was, so that some workers may not have been called."""
        self._left: list[tuple[bytes | None, bool]] | None = None

    @property
    def recalled(self) -> bool:
        """Whether the loan is over. What was read out of the arena before was then perhaps another driver's."""
        return self.head[RECALLS] != self.arena.lent.recalls

    @property
    def heard(self) -> bool:
        """Whether the host has said something, or is gone."""
        return bool(self._ear.poll(0))

    def take_turn(self, timeout: float) -> None:
        """Wait until the arena is this driver's.

        Raises:
            EOFError: The loan has ended.
            DeadlineExceeded: The host was busy for so long.
        """
        if not self.head[WANTED] and self.turn.take():
            return
        deadline = monotonic() + timeout
        while self.head[WANTED] or not self.turn.take():
            # one who is wanted waits for the host's leave: else the host would never get its turn
            bell = self.leave if self.head[WANTED] else self.turn
            poll = select.poll()
            poll.register(bell.fd, select.POLLIN)
            poll.register(self.arena.sock, select.POLLIN)
            events = poll.poll(max(0.0, deadline - monotonic()) * 1000)
            if any(fd != bell.fd for fd, _ in events) and self.arena.is_over():
                raise EOFError("the arena was recalled")
            if not events:
                raise DeadlineExceeded(f"the pool was busy with other requests for {timeout:g} s; nothing was stepped")
            self.leave.take()

    def wait(self, timeout: float) -> None:
        """Wait until every worker has finished.

        Raises:
            EOFError: The loan has ended.
            DeadlineExceeded: They have not, in this time.
        """
        driver, done = self.driver, self.done
        deadline = monotonic() + timeout
        if self._left is not None:  # they had, and their ring was taken: the rest is on its way
            return
        if self.torn:
            driver.call_again()
            while not driver.words_done() and monotonic() < deadline:
                done.wait(_LOOK_S)
        if (self.interrupted or self.torn) and driver.words_done():
            self._finish.clear()
            self.torn = False
            return
        if self._watch_us:
            spin_until(driver.words_done, min(self._watch_us, timeout * 1e6))
        while True:
            rings = done.wait(max(0.0, deadline - monotonic()))
            if driver.words_done():  # a ring may be left over from an interrupted wait
                return
            if not rings:
                first, last = driver.slowest_rows()
                rows = f"row {first}" if first == last else f"rows {first} to {last}"
                raise DeadlineExceeded(
                    f"no result within {timeout:g} s, {monotonic() - self.began:.1f} s after the step began: the "
                    f"workers are still busy with {rows}; wait for it again, or close",
                    rows=[first, last],
                )

    def parts(self, timeout: float) -> list[tuple[bytes, bool]]:
        """What the workers left, and whether it is faults; may be asked again until ``forget``.

        Raises:
            EOFError: The loan has ended.
            DeadlineExceeded: The host did not send what is too large for the arena.
        """
        if self._left is None:
            if self.driver.left_nothing():
                return []
            # kept: to fetch what did not fit writes over what the workers say here
            self._left = [
                (None if result.payload is None else bytes(result.payload), result.faulted)
                for result in self.driver.collect()
            ]
        fetched: list[bytes] = [b""] * len(self._left)
        if any(payload is None for payload, _ in self._left):
            try:
                fetched = self.arena.fetch(self.driver.seq, timeout)
            except TimeoutError:
                raise DeadlineExceeded(f"the pool's host did not send the infos within {timeout:g} s") from None
            except OSError as error:
                raise EOFError("the host is gone") from error
        return [
            (late if payload is None else payload, faulted)
            for late, (payload, faulted) in zip(fetched, self._left, strict=True)
        ]

    def forget(self) -> None:
        """The step was collected."""
        self._left = None

    def results(self, *, copy: bool) -> SlotViews:
        """The arrays of the finished step; the observations copied, or in the arena."""
        return self.views.slots[self.driver.slot].handed_out(copy=copy)
