"""Other workers in the place of those that have ended: counted, started, told what there is to go on from."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from vecserver.engine.channel import Failed, Lost, Ready, receive
from vecserver.wire.errors import EnvCreationFailed, VecServerError, WorkerDied, from_code

if TYPE_CHECKING:
    from vecserver.pools.crew import Crew
    from vecserver.pools.host import Host
    from vecserver.pools.workers import WorkerProcess

__all__ = ["Replacements"]

_log = logging.getLogger(__name__)

_MINUTE_S: Final = 60.0

_MOST_FRUITLESS: Final = 30
"""Replacements of one worker in a row that never were ready, where the budget has no limit: the next would not be."""

_MOST_NAMED: Final = 8
"""Rows in one line of the log."""

_LOOK_S: Final = 1.0
"""Longest time between two looks at commands that may take too long."""


@dataclass(slots=True)
class _Making:
    """A worker that is being made.

    Attributes:
        lost: What its rows were.
        death: The fault that its first step ends with; None where that is like any other.
        deadline: When its environments must exist, on the monotonic clock.
        error: Why it cannot be made, where it has said so.
        bound: Whether it has been told about the arena.
    """

    lost: Lost
    death: dict[str, Any] | None
    deadline: float
    error: VecServerError | None = None
    bound: bool = False


class Replacements:
    """Replaces workers of a pool that have ended, or that take too long, within the pool's budget.

    Nothing here waits for a worker that is being made: its socket is watched, and ``attend`` called when it has said
    something. Owned by the thread that owns the host.

    Args:
        host: Whose workers they are.

    Attributes:
        counts: How many were replaced, by what had become of them: ``killed`` (by a signal), ``exited``, ``hung``, or
            ``not_made`` (it took another's place and its environments could not be made).
        rebuilt_rows: How many rows went on as they were, with another worker.
        look_s: Seconds between two calls of ``look``.
        changes: Another number whenever there are other descriptors of workers to be watched.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._budget = host.spec.restart_budget
        self._raises = host.spec.on_failure == "raise"
        self._timeout = host.spec.step_timeout
        self._times: deque[float] = deque()  # of the restarts of the last minute
        self._fruitless: Counter[int] = Counter()  # restarts of each worker since it was last ready
        self._making: dict[WorkerProcess, _Making] = {}
        self._since: dict[tuple[Crew, bool], tuple[int, float]] = {}  # commands that had not ended at the last look
        self.counts: Counter[str] = Counter()
        self.rebuilt_rows = 0
        self.look_s = min(_LOOK_S, self._timeout / 4)
        self.changes = 0

    def is_making(self, worker: WorkerProcess) -> bool:
        """Whether a worker is being made: it hears of commands when it is ready."""
        return worker in self._making

    def attend(self, worker: WorkerProcess) -> None:
        """See what has become of a worker: one that has ended is replaced, or breaks the pool."""
        if worker in self._making and worker.has_said_something:
            self._hear(worker)
        if not worker.gone and worker.has_ended:
            self._ended(worker)

    def _ended(self, worker: WorkerProcess) -> None:
        died = worker.died()
        worker.gone = True
        self.changes += 1
        making = self._making.pop(worker, None)
        if self._host.broken is not None:
            return
        if making is None:
            making = self._lost(worker, died)
            error: VecServerError = died
        else:
            error = making.error or died
            making.lost = replace(making.lost, seeds=worker.next_seeds)
        self._replace(worker, making, error)

    def _lost(self, worker: WorkerProcess, died: WorkerDied) -> _Making:
        crew, index = self._host.place_of(worker)
        fault = {
            "row": crew.shards[index][0],
            "type": WorkerDied.__name__,
            "message": died.message,
            "traceback": "",
            "code": died.code,
            "details": died.details,
        }
        for each, at in self._host.places_of(worker):
            each.note_death(at, fault)
        lost = crew.lost(index, died.message, worker.next_seeds, under_way=self._host.resets > 0)
        return _Making(lost, fault if self._raises and lost.under_way else None, 0.0)

    def _replace(self, worker: WorkerProcess, making: _Making, error: VecServerError) -> None:
        now = monotonic()
        while self._times and self._times[0] < now - _MINUTE_S:
            self._times.popleft()
        if self._is_used_up(worker):
            self._give_up(error)
            return
        self._times.append(now)
        self._fruitless[worker.shard] += 1
        self.counts[_kind_of(error, worker)] += 1
        _log.warning("pool %s: %s; another takes its place", self._host.pool, error.message)
        self._launch(worker, making)

    def _launch(self, worker: WorkerProcess, making: _Making) -> None:
        making.error, making.bound = None, False
        making.deadline = monotonic() + self._host.start_timeout
        try:
            worker.restart(self._host.launch)
        except OSError as failure:
            self._host.fail(WorkerDied(f"{making.lost.cause}; no other could be started: {failure}", rows=worker.rows))
            return
        self._making[worker] = making
        self.changes += 1
        try:
            worker.send(self._host.start_message(worker.rows, making.lost))
        except WorkerDied:
            worker.kill()  # its end tells

    def _is_used_up(self, worker: WorkerProcess) -> bool:
        if self._budget is None:
            return self._fruitless[worker.shard] >= _MOST_FRUITLESS
        return len(self._times) >= self._budget

    def _give_up(self, error: VecServerError) -> None:
        spent = f"{len(self._times)} workers were replaced within a minute"
        if self._budget is not None:
            spent = f"restart_budget is {self._budget}, and {spent}"
        broken = from_code(error.code, f"{error.message} ({spent})", error.details)
        _log.error("pool %s is broken: %s", self._host.pool, broken.message)
        self._host.fail(broken)

    def _hear(self, worker: WorkerProcess) -> None:
        making = self._making[worker]
        try:
            message = receive(worker.sock, worker.limit)
            if isinstance(message, Failed):
                raise _not_made(message)
            assert isinstance(message, Ready)
            if making.bound:
                self._note_rebuilt(worker, message.rebuilt)
            else:
                self._host.check_alike(worker, message)
                making.bound = True
                self._host.bind_again(worker, making.death)
                return
        except (EOFError, OSError, VecServerError) as error:
            if isinstance(error, VecServerError) and not isinstance(error, WorkerDied):
                making.error = error
            worker.kill()  # its end tells
            return
        self._is_ready(worker)

    def _is_ready(self, worker: WorkerProcess) -> None:
        del self._making[worker]
        self._fruitless[worker.shard] = 0
        self._since.clear()  # what it has to do begins now
        self.changes += 1
        for crew, index in self._host.places_of(worker):
            crew.tell_again(index)
        worker.bell.ring()
        _log.info("pool %s: worker %d (pid %d) is ready", self._host.pool, worker.shard, worker.pid)

    def _note_rebuilt(self, worker: WorkerProcess, whys: list[str]) -> None:
        if not whys:
            return
        self.rebuilt_rows += whys.count("")
        lost = [f"row {row}: {why}" for row, why in enumerate(whys, worker.rows[0]) if why]
        _log.info(
            "pool %s: worker %d has rebuilt %d of %d rows%s",
            self._host.pool,
            worker.shard,
            whys.count(""),
            len(whys),
            "".join(f"; {each}" for each in lost[:_MOST_NAMED]),
        )

    def look(self) -> None:
        """Kill what takes too long; called every ``look_s`` seconds or so."""
        now = monotonic()
        for worker, making in self._making.items():
            if now > making.deadline:
                first, last = worker.rows[0], worker.rows[1] - 1
                making.error = EnvCreationFailed(
                    f"the environments of rows {first} to {last} were not made again within "
                    f"{self._host.start_timeout:g} s",
                    faults=[{"row": first, "type": "TimeoutError", "message": "not made in time", "traceback": ""}],
                )
                worker.kill()
        before, self._since = self._since, {}
        for crew in self._host.crews:
            for lent, seq, owing in crew.owing():
                at_work = [worker for worker in owing if worker not in self._making]
                if at_work:
                    self._look_at(at_work, (crew, lent), seq, before, now)

    def _look_at(
        self,
        workers: list[WorkerProcess],
        whose: tuple[Crew, bool],
        seq: int,
        before: dict[tuple[Crew, bool], tuple[int, float]],
        now: float,
    ) -> None:
        known = before.get(whose, (0, now))
        since = known[1] if known[0] == seq else now
        self._since[whose] = (seq, since)
        for worker in workers:
            if now - since > self._timeout:
                worker.hung = f"took longer than {self._timeout:g} s (step_timeout) and was killed"
                worker.kill()
            elif whose[1] and since != now:
                worker.bell.ring()  # a driver in another process may have been stopped between its words and its rings

    def start_anew(self) -> None:
        """Make every worker again, whatever became of it, and forget what was counted."""
        self._times.clear()
        self._fruitless.clear()
        self._making.clear()
        self._since.clear()
        workers = self._host.workers
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.died()
            none = [False] * len(worker.seeds)
            nothing = Lost("", False, "", none, [], None, [None] * len(none))
            self._launch(worker, _Making(nothing, None, 0.0))


def _kind_of(error: VecServerError, worker: WorkerProcess) -> str:
    if not isinstance(error, WorkerDied):
        return "not_made"
    if worker.hung:
        return "hung"
    return "killed" if (worker.exitcode or 0) < 0 else "exited"


def _not_made(message: Failed) -> VecServerError:
    fault = message.fault
    if message.code != EnvCreationFailed.code:
        return from_code(message.code, fault["message"], message.details)
    return EnvCreationFailed(
        f"the environment of row {fault['row']} could not be made: {fault['type']}: {fault['message']}", faults=[fault]
    )
