"""The one class that drives an arena: writes a command, rings the workers, waits for them, reads what they left."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING

from vecserver.arena.doorbell import spin_until
from vecserver.arena.views import MESSAGE, STEP, DriverLine, Status, WorkerLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from vecserver.arena.doorbell import Doorbell, FinishLine
    from vecserver.arena.orders import Orders
    from vecserver.arena.views import ArenaViews
    from vecserver.wire.actions import ActionFormat
    from vecserver.wire.frames import Buffer

__all__ = ["ArenaDriver", "ShardResult"]


# as plain names: an attribute of a class is looked up anew at every use
_SEQ, _OPCODE, _SLOT, _SINCE = DriverLine.SEQ, DriverLine.OPCODE, DriverLine.SLOT, DriverLine.SINCE
_LAST_SLOT, _SIDE_LENGTH = WorkerLine.SLOT, WorkerLine.SIDE_LENGTH


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What one worker left behind for a command.

    Attributes:
        payload: Its infos, faults or results; valid until its next command. None when it did not fit the side area: it
            comes over the worker's socket, which the host reads; a borrower fetches it from the host.
        faulted: Whether the payload holds faults.
    """

    payload: memoryview | None
    faulted: bool


class ArenaDriver:
    """Runs one command at a time over all workers of an arena.

    One thread owns it. A caller starts a command, waits until it is finished, then collects; starting another before
    that is a defect of the caller.

    Args:
        views: The arena.
        actions: How action batches are stored.
        worker_bells: One bell a worker, rung here.
        finish: Where the workers end a command.
        spin_us: How long a wait may spin before it blocks.
        orders: Where the commands are written; None for the arena itself.
        done_word: The word of the workers' lines that follows these commands.
    """

    def __init__(
        self,
        views: ArenaViews,
        actions: ActionFormat,
        worker_bells: Sequence[Doorbell],
        finish: FinishLine,
        spin_us: float = 0.0,
        orders: Orders | None = None,
        done_word: int = WorkerLine.DONE,
    ) -> None:
        self._views = views
        self._orders: Orders = orders or views
        self._done_word = done_word
        self._actions = actions
        self._bells = worker_bells
        self._finish = finish
        self._spin_us = spin_us
        self._seq = 0
        self._since_ns = 0  # of a step under way
        self._running = False
        self.slot = 0
        """The slot of the last command: where its results are."""

    @property
    def seq(self) -> int:
        """The number of the last command."""
        return self._seq

    @property
    def last_slot(self) -> int:
        """The slot with the last results, whoever drove the arena then."""
        return self._views.worker_lines[0][_LAST_SLOT]

    def start_step(self, arrays: Sequence[np.ndarray], *, by_message: bool = False) -> None:
        """Store a checked action batch and have every worker step its shard into the next slot.

        Args:
            arrays: The parts of the batch; only its arrays are stored.
            by_message: Whether the workers read a message with the batch's side values first.
        """
        self._since_ns = monotonic_ns()
        self._actions.store(arrays, self._orders.actions, self._orders.codes)
        self._start(MESSAGE if by_message else STEP)

    def start_usual_step(self, body: Buffer) -> None:
        """As ``start_step``, for the body of a batch that ``ActionFormat.is_usual`` found right."""
        self._since_ns = monotonic_ns()
        self._actions.store_usual(body, self._orders.actions, self._orders.codes)
        self._start(STEP)

    def start_message(self, *, fills_slot: bool) -> None:
        """Have every worker read a message from its socket.

        Args:
            fills_slot: Whether the command writes observations, and so takes the next slot.
        """
        self._since_ns = 0
        self._start(MESSAGE, fills_slot=fills_slot)

    def _start(self, opcode: int, *, fills_slot: bool = True) -> None:
        self.slot = self.last_slot
        if fills_slot:
            self.slot = (self.slot + 1) % self._views.plan.slot_count
        self._running = True
        self._seq += 1
        self._finish.arm(len(self._bells))
        self._call(opcode)

    def _call(self, opcode: int) -> None:
        seq, slot, since_ns = self._seq, self.slot, self._since_ns
        for line in self._orders.driver_lines:
            line[_OPCODE] = opcode
            line[_SLOT] = slot
            line[_SINCE] = since_ns
            line[_SEQ] = seq
        for bell in self._bells:
            bell.ring()

    def call_again(self) -> None:
        """Bring a step's start that was interrupted to its end.

        Workers run a command once, however often they are called. Its end may be rung twice or not at all: watch
        ``words_done``, and clear the finish line before the next command.
        """
        self._call(STEP)

    def poll(self) -> bool:
        """Whether every worker has finished; never blocks."""
        # a worker that takes another's place rings once for nothing: see ``_Worker.take_up``
        if self._finish.bell.take() and self.words_done():
            self._running = False
        return not self._running

    def wait(self, timeout: float) -> bool:
        """Wait until every worker has finished: spin a little, then block.

        Returns:
            Whether they have; False when the time is over, and now and then before.
        """
        if self._spin_us:
            spin_until(self.words_done, self._spin_us)
        bell = self._finish.bell
        if self._running and (bell.take() or bell.wait(max(0.0, timeout))) and self.words_done():
            self._running = False
        return not self._running

    def words_done(self) -> bool:
        """Whether every worker says that it has finished; what it wrote may be seen once the bell has rung."""
        seq, done = self._seq, self._done_word
        for line in self._views.worker_lines:  # noqa: SIM110 - a generator is slow to start, and this is asked often
            if line[done] != seq:
                return False
        return True

    def unfinished(self) -> list[int]:
        """The workers that have not finished the last command."""
        return [i for i, line in enumerate(self._views.worker_lines) if line[self._done_word] != self._seq]

    def owes(self, worker: int) -> bool:
        """Whether a worker has not finished the last command that it was given here."""
        return self._orders.driver_lines[worker][_SEQ] != self._views.worker_lines[worker][self._done_word]

    def owes_message(self, worker: int) -> bool:
        """Whether that is one for which it reads a message."""
        return self.owes(worker) and self._orders.driver_lines[worker][_OPCODE] == MESSAGE

    def start_anew(self) -> None:
        """Forget the last command: no worker runs it any more."""
        for line, orders in zip(self._views.worker_lines, self._orders.driver_lines, strict=True):
            line[self._done_word] = orders[_SEQ]
        self._finish.clear()
        self._running = False

    def slowest_rows(self) -> tuple[int, int]:
        """First and last row of what is still being stepped: from the row at work to its shard's end."""
        unfinished = self.unfinished()
        if not unfinished:
            return 0, 0
        ends = [end for _, end in self._views.plan.shards]
        at = {shard: self._views.worker_lines[shard][WorkerLine.ROW] for shard in unfinished}
        slowest = max(unfinished, key=lambda shard: ends[shard] - at[shard])
        return at[slowest], ends[slowest] - 1

    def left_nothing(self) -> bool:
        """Whether no worker left a payload for the finished command: the usual end of a step."""
        for line in self._views.worker_lines:  # noqa: SIM110 - as above
            if line[_SIDE_LENGTH]:
                return False
        return True

    def collect(self) -> list[ShardResult]:
        """What the workers left for the finished command, in the order of their shards."""
        results = []
        for line, side in zip(self._views.worker_lines, self._views.sides, strict=True):
            length = line[WorkerLine.SIDE_LENGTH]
            payload = side[:length] if length <= len(side) else None
            results.append(ShardResult(payload, line[WorkerLine.STATUS] == Status.FAULT))
        return results
