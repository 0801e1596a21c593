"""Workers and the arena over which they are driven: one command at a time. No network, no environment code.

A command is begun, then waited for, then collected. Between begin and collect the caller is free to watch its sockets:
``done_fd`` becomes readable when the last worker finishes, each ``worker_fds`` entry when a worker ends.
"""

from __future__ import annotations

import os
import select
from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vecserver.arena.doorbell import Doorbell, FinishLine, make_bell, make_tokens
from vecserver.arena.driver import ArenaDriver
from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.outcome import joined
from vecserver.arena.views import ArenaViews, WorkerLine
from vecserver.engine.channel import UNBOUNDED, Call, Died, Lost, Render, Reset, Step
from vecserver.pools.calls import check_call
from vecserver.pools.lending import Lending
from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import InvalidSpec, VecServerError, WorkerDied
from vecserver.wire.frames import MAX_EXT
from vecserver.wire.infos import side_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vecserver.arena.plan import ArenaPlan
    from vecserver.arena.tally import Tally
    from vecserver.pools.loan import Loan
    from vecserver.pools.replacements import Replacements
    from vecserver.pools.workers import WorkerProcess
    from vecserver.wire.actions import ActionFormat
    from vecserver.wire.frames import Buffer
    from vecserver.wire.layout import Layout, SlotViews
    from vecserver.wire.messages import Call as CallRequest
    from vecserver.wire.messages import PoolInfo
    from vecserver.wire.messages import Reset as ResetRequest

__all__ = ["Crew", "Outcome", "OwnedArena"]

_REFUSED_CALLS: Final = frozenset({"reset", "step", "close"})
"""Behind the pool's back they would leave it with a wrong idea of which rows have ended."""

_SPIN_US: Final = 1000
"""How long the end of a command is watched for before the wait blocks: batches of light environments end by then."""

_MAX_LENT_WORKERS: Final = 240
"""Workers whose bells can be passed on: the kernel takes 253 descriptors with one message."""


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        slot: The slot with its results.
        ext: Infos of a step or reset, results of a call: the ext of the reply.
        error: What went wrong; None when nothing did.
    """

    slot: int
    ext: bytes
    error: VecServerError | None = None


class OwnedArena:
    """The memory and the finish line of one arena, as the process has them that made it. Close it.

    Args:
        name: Shown among the memories of a process.

    Raises:
        OSError: No descriptor is left.
    """

    def __init__(self, name: str) -> None:
        self._fds: list[int] = []
        try:
            self._fds.append(create(name))
            for make in (make_tokens, make_bell):
                self._fds.append(make())
        except OSError:
            self.close()
            raise
        self.memory_fd, self.tokens_fd, self.done_fd = self._fds

    def lay_out(self, plan: ArenaPlan, layout: Layout) -> ArenaViews:
        """Give the memory its size, once, and map it.

        Raises:
            OSError: There is no memory for it.
        """
        size_and_seal(self.memory_fd, plan.size)
        views = ArenaViews(plan, layout, map_memory(self.memory_fd, plan.size))
        views.stamp(layout.hash)
        return views

    def close(self) -> None:
        """Close the descriptors; what is mapped stays as long as it is looked at."""
        while self._fds:  # forgotten before it is closed: its number may be another's by the next call
            os.close(self._fds.pop())


class Crew:
    """Some workers and their arena. One thread owns it, the process's main thread.

    Args:
        arena: Not laid out yet; closed by ``disband``.
        autoreset_mode: Of its rows.
        bounded: Whether infos and results have to fit into a message.

    Attributes:
        max_ext: Bytes that a request may have beside its actions.
        info: What a client must know of it.
        actions: How its action batches are stored.
        layout: What a slot holds.
        shards: First and end row of each worker, from 0.
        broken: Why it cannot step any more; None while it can.
        lending: Who has the arena, where it is not this process.
        replacements: Of its workers, and of the pool's others.
    """

    max_ext: int = MAX_EXT
    info: PoolInfo
    actions: ActionFormat
    layout: Layout
    lending: Lending
    replacements: Replacements

    def __init__(self, arena: OwnedArena, autoreset_mode: str, *, bounded: bool) -> None:
        self._arena = arena
        self._mode = autoreset_mode
        self.bounded = bounded
        self.most_said = MAX_EXT if bounded else UNBOUNDED
        """Bytes that its workers may say together beyond the arena: environments' code may write to their sockets."""
        self.open_names: Sequence[str] = ()
        """As of ``Caps``."""
        self.broken: VecServerError | None = None
        self.shards: tuple[tuple[int, int], ...] = ()
        self._over: np.ndarray[Any, Any] | None = (
            None  # rows whose episode is over after a reset; after a step see its slot
        )
        self._begun = 0  # batches
        self._reset = 0  # resets begun
        self._workers: list[WorkerProcess] = []
        self._told: list[Any] = []  # the last messages, one a worker, and their descriptors: see ``tell_again``
        self._told_fds: list[Sequence[int]] = []
        self._watched = select.poll()
        self._watched_fds: dict[int, int] = {}
        self._watched_as = -1  # the replacements' ``changes`` then

    def _man(self, plan: ArenaPlan) -> None:
        """Lay the arena out for the workers, who are to be told."""
        self.shards = plan.shards
        self.arena_bytes = plan.size
        self._views = self._arena.lay_out(plan, self.layout)
        bells = [worker.bell for worker in self._workers]
        finish = FinishLine(self._arena.tokens_fd, Doorbell(self._arena.done_fd))
        self._driver = ArenaDriver(self._views, self.actions, bells, finish, _SPIN_US)
        self.lending = Lending(self, self._views)

    def fail(self, error: VecServerError) -> None:
        """Note that it cannot step any more, and why; the first reason stays."""
        self.broken = self.broken or error

    @property
    def done_fd(self) -> int:
        """Readable when all workers have finished a command."""
        return self._arena.done_fd

    @property
    def worker_fds(self) -> dict[int, int]:
        """Descriptor → number of the worker: readable when ``attend`` is to be called for it.

        It has ended, or it takes another's place and has said something. They are others when ``replacements.changes``
        is another.
        """
        left = [(i, worker) for i, worker in enumerate(self._workers) if not worker.gone]
        fds = {worker.pidfd: i for i, worker in left}
        return fds | {worker.sock.fileno(): i for i, worker in left if self.replacements.is_making(worker)}

    def attend(self, worker: int) -> None:
        """See what has become of a worker, by its number: one that has ended is replaced."""
        self.replacements.attend(self._workers[worker])

    @property
    def lendable(self) -> bool:
        """Whether a driver in another process could step this pool with the arena alone."""
        return not self.actions.has_side and len(self._workers) <= _MAX_LENT_WORKERS

    def lent_fds(self, loan: Loan) -> list[int]:
        """The descriptors that a driver in another process needs: see ``wire.loan.Lent``."""
        return [self._arena.memory_fd, *loan.driver_fds, *(worker.bell.fd for worker in self._workers)]

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def begin_step(self, ext: Buffer, body: Buffer) -> None:
        """Begin to step every row with an encoded action batch.

        Raises:
            InvalidAction: The batch does not fit; nothing was stepped.
            MalformedMessage: The bytes are no batch; nothing was stepped.
        """
        if self.actions.is_usual(ext, body):
            self._driver.start_usual_step(body)
            self._note_step()
        else:
            self.begin_actions(self.actions.decode(ext, body))

    def begin_actions(self, parts: Sequence[Any]) -> None:
        """Begin to step every row with the parts of a batch, as ``ActionFormat`` takes it apart.

        Raises:
            InvalidAction: The batch does not fit; nothing was stepped.
        """
        self.actions.check(parts, self.resetting)
        if self.actions.has_side:
            messages = [Step(self.actions.side_rows(parts, first, end)) for first, end in self.shards]
            self._driver.start_step(parts, by_message=True)
            self._send(messages)
        else:
            self._driver.start_step(parts)
        self._note_step()

    def _note_step(self) -> None:
        self._over = None
        self._begun += 1

    @property
    def batches(self) -> int:
        """Batches that were begun, whoever began them."""
        return self._begun + self.lending.steps

    @property
    def resets(self) -> int:
        """Resets that were begun."""
        return self._reset

    def forget_over(self) -> None:
        """Take note that rows were stepped, by another driver: which are over stands in the last slot."""
        self._over = None

    def resetting(self) -> np.ndarray[Any, Any]:
        """Rows [N] that the next step resets instead of stepping them: their actions mean nothing, as in Gymnasium."""
        if self._mode != "NextStep":
            return np.zeros(self.actions.num_envs, np.bool_)
        if self._over is not None:
            return self._over
        last = self.slots[self._driver.last_slot]
        over: np.ndarray[Any, Any] = last.terminated | last.truncated
        return over

    def begin_reset(self, request: ResetRequest) -> None:
        """Begin to reset rows.

        Raises:
            InvalidSpec: Seeds, mask or a list of options of another length than the pool.
        """
        rows = self.actions.num_envs
        options = request.options or b""
        each = options if isinstance(options, list) else None
        for name, values in (("seeds", request.seeds), ("mask", request.mask), ("options", each)):
            if values is not None and len(values) != rows:
                raise InvalidSpec(f"{name} has {len(values)} entries for {rows} rows", field=name)
        seeds = request.seeds or [None] * rows
        for worker, (first, end) in zip(self._workers, self.shards, strict=True):
            worker.note_seeds(seeds[first:end])
        self._reset += 1
        self._over = self.resetting() & ~np.array([True] * rows if request.mask is None else request.mask)
        self._begin_messages(
            [
                Reset(
                    seeds[first:end],
                    None if request.mask is None else request.mask[first:end],
                    options if each is None else each[first:end],
                )
                for first, end in self.shards
            ],
            fills_slot=True,
        )

    def begin_call(self, request: CallRequest) -> None:
        """Begin to call a method, or to read or set an attribute, of rows.

        Raises:
            InvalidSpec: Values to set that are not one a row, rows that the pool does not have or that are not
                ascending, or a name that is a request of its own.
            ForbiddenEnv: The name is none that a driver may reach: see ``vecserver.pools.calls``.
        """
        if request.name in _REFUSED_CALLS:
            raise InvalidSpec(f"{request.name!r} is a request of its own, and cannot be called", field="name")
        if self.bounded:  # a program may reach what it likes in its own environments
            check_call(request, self.info.env_id, self.open_names)
        rows: Sequence[int] = range(self.actions.num_envs)
        if request.rows is not None:
            rows = request.rows
            self._check_rows(rows)
            if rows != sorted(set(rows)):
                raise InvalidSpec("the rows of a call are ascending, each once", field="rows")
        # where each worker's part of the rows begins and ends
        parts = [(bisect_left(rows, first), bisect_left(rows, end)) for first, end in self.shards]
        arguments = [request.arguments] * len(self._workers)
        if request.assign:
            values = unpack(request.arguments)
            if not isinstance(values, list) or len(values) != len(rows):
                raise InvalidSpec(f"one value a row is needed to set {request.name!r}", field="arguments")
            arguments = [pack(values[begin:end]) for begin, end in parts]
        mine = [None if request.rows is None else request.rows[begin:end] for begin, end in parts]
        calls = zip(arguments, mine, strict=True)
        self._begin_messages([Call(request.name, part, request.assign, some) for part, some in calls], fills_slot=False)

    def _check_rows(self, rows: Iterable[int]) -> None:
        for row in rows:
            if not 0 <= row < self.actions.num_envs:
                raise InvalidSpec(f"row {row} of a pool with {self.actions.num_envs} rows", field="rows")

    def begin_render(self, rows: list[int] | None) -> None:
        """Begin to render rows, by number; None for all.

        Raises:
            InvalidSpec: A row that the pool does not have, or one that comes twice: pictures are large.
        """
        wanted = range(self.actions.num_envs) if rows is None else rows
        self._check_rows(wanted)
        if len(set(wanted)) < len(wanted):
            raise InvalidSpec("the rows to render are each named once", field="rows")
        self._begin_messages(
            [Render([row for row in wanted if first <= row < end]) for first, end in self.shards], fills_slot=False
        )

    def begin_messages(self, messages: list[Any], fds: Sequence[Sequence[int]] = ()) -> None:
        """Have each worker do what a message of its own says, with descriptors that go to each."""
        self._begin_messages(messages, fills_slot=False, fds=fds)

    def _begin_messages(self, messages: list[Any], *, fills_slot: bool, fds: Sequence[Sequence[int]] = ()) -> None:
        # Ring first: a worker that reads already takes a message that is larger than the socket's buffer
        self._driver.start_message(fills_slot=fills_slot)
        self._send(messages, fds)

    def _send(self, messages: list[Any], fds: Sequence[Sequence[int]] = ()) -> None:
        self._told, self._told_fds = messages, [*fds] or [()] * len(messages)
        for i, worker in enumerate(self._workers):
            if not (worker.gone or self.replacements.is_making(worker)):
                self._tell(i)

    def _tell(self, index: int) -> None:
        worker = self._workers[index]
        try:
            worker.send(self._told[index], fds=self._told_fds[index])
        except WorkerDied:
            worker.kill()  # it has ended, or does not read: another is told when it is ready

    def note_death(self, index: int, fault: dict[str, Any]) -> None:
        """A worker has ended: what it was called for, and is not to be run twice, ends with a fault instead."""
        if self._driver.owes_message(index) and isinstance(self._told[index], Call | Render):
            self._told = [*self._told]
            self._told[index] = Died(fault)

    def tell_again(self, index: int) -> None:
        """A worker has taken another's place: send it what that one did not come to do."""
        if self._driver.owes_message(index):
            self._tell(index)

    def owes(self, index: int) -> bool:
        """Whether a worker has not finished the last command that was begun here."""
        return self._driver.owes(index)

    def owing(self) -> Iterator[tuple[bool, int, list[WorkerProcess]]]:
        """Commands that run: whether of a driver in another process, their number, and who has not finished them."""
        workers = self._workers
        yield False, self._driver.seq, [worker for i, worker in enumerate(workers) if self._driver.owes(i)]
        yield True, self.lending.loan_seq, [worker for i, worker in enumerate(workers) if self.lending.owes(i)]

    def lost(self, index: int, cause: str, seeds: list[int | None], *, under_way: bool) -> Lost:
        """What a worker that has ended leaves of its rows."""
        line, (first, end) = self._views.worker_lines[index], self.shards[index]
        slot = self.slots[line[WorkerLine.SLOT]]
        over = (slot.terminated | slot.truncated)[first:end] & (self._mode != "SameStep")
        length, area = line[WorkerLine.SIDE_LENGTH], self._views.sides[index]
        return Lost(
            cause=cause,
            under_way=under_way,
            autoreset_mode=self._mode,
            over=over.tolist(),
            observations=[pack([leaf[row] for leaf in slot.observations]) for row in range(first, end)],
            side=side_values(bytes(area[:length]), end - first) if length <= len(area) else None,
            seeds=seeds,
        )

    def poll(self) -> bool:
        """Whether the command has finished, or cannot finish any more; never blocks."""
        finished = self._driver.poll()
        return finished or self.broken is not None

    def seems_done(self) -> bool:
        """Whether the workers say that they have finished: ``poll`` is worth a call soon."""
        return self._driver.words_done()

    def wait(self, timeout: float) -> bool:
        """Wait for the command; returns whether it has finished."""
        return self.broken is not None or self._driver.wait(timeout)

    def watch(self, timeout: float) -> bool:
        """Wait for the command and for the workers' ends alike, for a caller with no sockets of its own to watch.

        Returns:
            Whether the command has finished, or cannot finish any more; False when the time is over.
        """
        deadline = monotonic() + timeout
        # watches the words before anything else, but where it is only to look
        finished = self.wait(0.0) if timeout else self.poll()
        while not finished:
            left = deadline - monotonic()
            for fd, _ in self._all_watched().poll(max(0.0, min(left, self.replacements.look_s)) * 1000):
                if fd != self.done_fd:
                    self.attend(self._watched_fds[fd])
            self.replacements.look()
            finished = self.poll()
            if left <= 0:
                break
        return finished

    def _all_watched(self) -> select.poll:
        if self._watched_as != self.replacements.changes:
            self._watched_as, self._watched = self.replacements.changes, select.poll()
            self._watched_fds = self.worker_fds  # as they are until the next look, whatever happens in between
            for fd in (self.done_fd, *self._watched_fds):
                self._watched.register(fd, select.POLLIN)
        return self._watched

    def collect(self) -> Outcome:
        """What the finished command left."""
        slot = self._driver.slot
        if self.broken is not None:
            return Outcome(slot, b"", self.broken)
        if self._driver.left_nothing():
            return Outcome(slot, b"")
        try:
            ext = joined(self._parts(), MAX_EXT if self.bounded else None)
        except VecServerError as error:  # a fault, too much, a worker's end, or what no worker of ours says
            return Outcome(slot, b"", error)
        return Outcome(slot, ext)

    def _parts(self) -> list[tuple[bytes | memoryview, bool]]:
        """Each worker's payload and whether it holds faults; of more than a message takes one byte more is kept."""
        parts: list[tuple[bytes | memoryview, bool]] = []
        left, died = self.most_said, None
        for worker, result in zip(self._workers, self._driver.collect(), strict=True):
            payload = result.payload
            try:
                payload = memoryview(self._received_of(worker, left)) if payload is None else payload
            except WorkerDied as error:
                died = error  # the others' are taken all the same: they would be in the way of what comes next
                continue
            left = max(0, left - len(payload))
            parts.append((payload, result.faulted))
        if died is not None:
            raise died
        return parts

    @staticmethod
    def _received_of(worker: WorkerProcess, limit: int) -> bytearray:
        try:
            return worker.receive_bytes(limit)
        except WorkerDied:
            worker.kill()  # it may be stuck: its end tells, and another takes its place
            raise

    def payloads(self) -> list[bytes | memoryview]:
        """What each worker left for the finished command, as it left it; nothing where one has ended over it."""
        try:
            return [payload for payload, _ in self._parts()]
        except WorkerDied:
            return []

    def counted(self, word: int) -> int:
        """The sum of one of the workers' counters, by its place in ``WorkerLine``."""
        return sum(line[word] for line in self._views.worker_lines)

    @property
    def tallies(self) -> list[Tally]:
        """What each worker has counted."""
        return self._views.tallies

    @property
    def slots(self) -> list[SlotViews]:
        """The arrays of every slot: the arena's own memory."""
        return self._views.slots

    def slot_body(self, slot: int) -> memoryview:
        """The bytes of a slot: the body of a reply."""
        return self._views.slot_bytes[slot]

    def progress(self) -> tuple[int, int]:
        """First and last row of what is still being stepped: from the row at work to its shard's end."""
        return self._driver.slowest_rows()

    def disband(self) -> None:
        """Let go of the arena; the workers are gone, or work elsewhere."""
        if hasattr(self, "lending"):
            self.lending.close()
        self._arena.close()
