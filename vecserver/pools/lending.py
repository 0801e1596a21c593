"""Lending the arena to a driver in another process, and having it back, whatever became of that driver."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vecserver.arena.views import RECALLS, WANTED, WorkerLine
from vecserver.engine.channel import Adopt, Drop, Fetch, Pause
from vecserver.pools.loan import Loan
from vecserver.wire.errors import TransportUnavailable, VecServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from vecserver.arena.views import ArenaViews
    from vecserver.pools.crew import Crew

__all__ = ["Lending"]

_ADOPTING, _ADOPTED, _PAUSING, _DROPPING = range(4)
"""How far the workers are with a loan: being told of it, obeying its driver, being told to stop, letting go of it."""


class Lending:
    """The loans of one arena, one at a time. Owned by the thread that owns the host.

    What it has the workers do are *chores*: commands one behind the other, which nobody waits for. The host's owner
    calls ``go_on`` whenever a command has finished that it did not begin itself.

    Args:
        host: Whoever drives the arena in the host's process.
        views: The arena.
    """

    def __init__(self, host: Crew, views: ArenaViews) -> None:
        self._host = host
        self._views = views
        self._loan: Loan | None = None
        self._open: list[Loan] = []  # that one, and those that are being recalled
        self._chores: deque[Generator[None, None, None]] = deque()
        self._at_work = False  # the first chore has been begun
        self._claimed = False
        self._returned = 0  # steps of loans that are over
        self._steps_seen = 0  # of this loan, when the host last had the turn
        self._adopted: Loan | None = None  # by the workers, or nearly so: see ``loan_of``
        self._stage = _ADOPTED

    @property
    def lent(self) -> bool:
        """Whether a driver in another process has the arena."""
        return self._loan is not None

    @property
    def recalls(self) -> int:
        """How often a loan was ended."""
        return self._views.head[RECALLS]

    @property
    def steps(self) -> int:
        """Batches that such drivers have begun."""
        return self._returned + sum(loan.steps for loan in self._open)

    @property
    def busy(self) -> bool:
        """Whether chores are under way or wait."""
        return bool(self._chores)

    @property
    def turn_fd(self) -> int | None:
        """Readable when the host can have the turn that ``claim`` did not get; None while it wants none."""
        wanted = self._loan is not None and self._views.head[WANTED]
        return self._loan.turn.fd if wanted and self._loan is not None else None

    def loan_of(self, *, busy: bool) -> tuple[Loan | None, bool]:
        """The loan that a worker knows of, and whether it obeys its driver.

        Args:
            busy: Whether the worker has not finished the host's last command.
        """
        loan, stage = self._adopted, self._stage
        if loan is None or (stage == _ADOPTING and busy) or (stage == _DROPPING and not busy):
            return None, False
        return loan, stage in (_ADOPTING, _ADOPTED) or (stage == _PAUSING and busy)

    @property
    def loan_seq(self) -> int:
        """The number of the borrower's last command; 0 where there is none."""
        return 0 if self._adopted is None else self._adopted.steps

    def owes(self, worker: int) -> bool:
        """Whether a worker that obeys the borrower has not finished its last command."""
        loan = self._adopted
        if loan is None or self._stage not in (_ADOPTED, _PAUSING):
            return False
        return loan.seq_of(worker) != self._views.worker_lines[worker][WorkerLine.LENT_DONE]

    def claim(self) -> bool:
        """Take the arena for a command of the host's own.

        Returns:
            False where a driver's step or a chore is under way: ask again when ``turn_fd`` is readable, or when chores
            have come to their end.
        """
        if self._chores:
            return False
        loan = self._loan
        if loan is not None and not loan.held and not self._take_turn(loan):
            return False
        self._claimed = True
        return True

    def _take_turn(self, loan: Loan) -> bool:
        if not loan.take_turn():
            self._views.head[WANTED] = 1
            return False
        if self._views.head[WANTED]:
            self._views.head[WANTED] = 0
            loan.leave.ring()
        if loan.steps != self._steps_seen:
            self._steps_seen = loan.steps
            self._host.forget_over()
        return True

    def release(self) -> None:
        """Give back what ``claim`` took, if it took anything; the host runs nothing now."""
        self._claimed = False
        if self._chores:
            if not self._at_work:
                self._start_chore()
        elif self._loan is not None and self._loan.held:
            self._loan.give_turn()

    def lend(self, told: Callable[[Loan | VecServerError], None]) -> None:
        """Lend the arena; ``told`` is called with the loan, or with why there is none."""
        self.recall()
        self.add(self._lending(told))

    def fetch(self, told: Callable[[list[bytes | memoryview]], None]) -> None:
        """Have the workers give what did not fit their side areas in the driver's last step: one payload each."""
        self.add(self._fetching(told))

    def recall(self) -> None:
        """Have the arena back: from now on nothing that its driver does has an effect.

        A step that the driver has begun is finished first, in every shard or in none.
        """
        loan, self._loan = self._loan, None
        if loan is not None:
            self._views.head[WANTED] = 0
            # before any worker obeys: a driver that reads what it finished before compares it afterwards
            self._views.head[RECALLS] += 1
            # before anybody else gets it
            self.add(self._recalling(loan), at=1 if self._at_work else 0)

    def add(self, chore: Generator[None, None, None], at: int | None = None) -> None:
        """Have a chore done when it is its turn: it begins a command before each of its yields."""
        self._chores.insert(len(self._chores) if at is None else at, chore)
        if not self._claimed and not self._at_work:
            self._start_chore()

    def _start_chore(self) -> None:
        self._at_work = True
        self.go_on()

    def go_on(self) -> None:
        """A command of a chore has finished: begin the next one."""
        while self._chores:
            try:
                next(self._chores[0])
            except StopIteration:
                self._chores.popleft()
            else:
                if self._host.broken is None:
                    return  # else nothing will finish any more
        self._at_work = False

    def _lending(self, told: Callable[[Loan | VecServerError], None]) -> Generator[None, None, None]:
        host, workers = self._host, len(self._views.worker_lines)
        try:
            loan = Loan(workers, host.actions)
        except OSError as failure:
            told(TransportUnavailable(f"the pool cannot lend its arena: {failure}"))
            return
        self._open.append(loan)
        self._adopted, self._stage = loan, _ADOPTING
        host.begin_messages([Adopt(loan.orders_size)] * workers, [loan.worker_fds] * workers)
        yield
        error = host.collect().error
        self._stage = _ADOPTED
        if error is None:
            self._loan, self._steps_seen = loan, 0
            told(loan)
            return
        yield from self._recalling(loan)
        told(TransportUnavailable(f"the pool cannot lend its arena: {error.message}"))

    def _recalling(self, loan: Loan) -> Generator[None, None, None]:
        host, lines = self._host, self._views.worker_lines
        self._stage = _PAUSING
        host.begin_messages([Pause()] * len(lines))
        yield
        last = loan.steps
        if host.broken is None:
            # A driver that was stopped between two bells has had some shards stepped and others not
            done = [line[WorkerLine.LENT_DONE] for line in lines]
            last = max(done)
            slot = lines[done.index(last)][WorkerLine.SLOT]
            if last != self._steps_seen:
                host.forget_over()
            host.collect()
            self._stage = _DROPPING
            host.begin_messages([Drop(None if each == last else slot) for each in done])
            yield
            if host.broken is None:
                host.collect()
        self._adopted = None
        self._open.remove(loan)
        self._returned += last
        loan.close()

    def _fetching(self, told: Callable[[list[bytes | memoryview]], None]) -> Generator[None, None, None]:
        self._host.begin_messages([Fetch()] * len(self._views.worker_lines))
        yield
        if self._host.broken is None:
            told(self._host.payloads() or [b""] * len(self._views.worker_lines))  # a worker that ended has none left

    def drop_all(self) -> None:
        """Have everything back at once: there are no workers to be told."""
        if self._loan is not None:
            self._views.head[WANTED] = 0
            self._views.head[RECALLS] += 1
        self.close()
        self._at_work = False

    def close(self) -> None:
        """Let go of what is lent; the workers are gone."""
        self._chores.clear()
        self._loan = self._adopted = None
        while self._open:
            self._open.pop().close()
