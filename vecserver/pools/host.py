"""A pool's host: starts its workers, owns its arena, runs one command at a time. No network, no environment code.

A command is begun, then waited for, then collected. Between begin and collect the caller is free to watch its sockets:
``done_fd`` becomes readable when the last worker finishes, each ``worker_fds`` entry when a worker ends.
"""

from __future__ import annotations

import os
import select
from bisect import bisect_left
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vecserver.arena.doorbell import Doorbell, FinishLine, make_bell, make_tokens
from vecserver.arena.driver import ArenaDriver
from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.outcome import joined
from vecserver.arena.plan import ArenaPlan, even_shards
from vecserver.arena.views import ArenaViews
from vecserver.engine.channel import Bind, Call, Failed, Ready, Render, Reset, Start, Step
from vecserver.engine.table import WHOLE_POOL, resolve
from vecserver.pools.agreement import agreed, understood
from vecserver.pools.lending import Lending
from vecserver.pools.starting import by_exec, by_fork
from vecserver.pools.workers import WorkerProcess
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import (
    CapExceeded,
    EnvCreationFailed,
    EnvFault,
    InvalidSpec,
    MessageTooLarge,
    VecServerError,
    WorkerDied,
    from_code,
)
from vecserver.wire.frames import MAX_EXT
from vecserver.wire.layout import Layout
from vecserver.wire.messages import Call as CallRequest
from vecserver.wire.messages import PoolInfo
from vecserver.wire.messages import Reset as ResetRequest
from vecserver.wire.spaces import space_to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vecserver.engine.base import EngineInfo
    from vecserver.engine.pickled import Program
    from vecserver.pools.loan import Loan
    from vecserver.pools.spec import Caps, PoolSpec
    from vecserver.wire.frames import Buffer
    from vecserver.wire.layout import SlotViews

__all__ = ["Host", "Outcome"]


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


class Host:
    """One pool's workers and arena. One thread owns it, the process's main thread.

    Args:
        pool: The pool's id.
        spec: What to make.
        caps: The server's limits.
        program: The program that this host and its workers belong to, with callables that make the rows in the place of
            the spec's ``env_id``; its methods are then called with ``codec.FOREIGN`` set. None in a server, whose
            workers are sent and return nothing but plain values.
    """

    def __init__(self, pool: str, spec: PoolSpec, caps: Caps, program: Program | None = None) -> None:
        self.pool = pool
        self.spec = spec
        self._caps = caps
        self._program = program
        self.resets = 0
        self.broken: VecServerError | None = None
        self._over: np.ndarray[Any, Any] | None = (
            None  # rows whose episode is over after a reset; after a step see its slot
        )
        self._begun = 0  # batches
        self._workers: list[WorkerProcess] = []
        self._memory_fd = create(f"vecserver-{pool}")
        self._tokens_fd, self._done_fd = make_tokens(), make_bell()
        self._own_fds = [self._memory_fd, self._tokens_fd, self._done_fd]  # to close

    def start(self, timeout: float, abort_fd: int, *, fork: bool = False) -> None:
        """Start the workers, make the environments and the arena.

        The kernel ends the workers with the thread that calls this.

        Args:
            timeout: Seconds this may take.
            abort_fd: Readable when the pool is not wanted any more.
            fork: Start them as copies of this process, which has one thread and was started with ``ONE_THREAD``,
                instead of as new interpreters.

        Raises:
            EnvCreationFailed: An environment could not be made; has its own message.
            CapExceeded: The arena would be larger than the server allows.
            HostStartFailed: It took too long.
            PoolStopping: The pool is not wanted any more.
            WorkerDied: A worker ended while it started.
        """
        deadline = monotonic() + timeout
        start = by_fork if fork else partial(by_exec, own_program=self._program is not None)
        shards = even_shards(self.spec.num_envs, self._worker_count())
        for shard, rows in enumerate(shards):
            finish_fds = (self._tokens_fd, self._done_fd)
            self._workers.append(WorkerProcess(shard, rows, self._memory_fd, finish_fds, start))
        for worker in self._workers:
            worker.send(self._start_message(worker.rows), timeout)
        ready = [self._expect_ready(worker, deadline, abort_fd) for worker in self._workers]
        described = [understood(message, own_program=self._program is not None) for message in ready]
        firsts = [first for first, _ in self.shards]
        self._describe(ready[0], agreed([*zip(firsts, described, strict=True)]))
        self._make_arena(shards)
        cores = self._cores()
        for worker, core in zip(self._workers, cores, strict=True):
            worker.send(Bind(shards, worker.shard, self.layout.hash, core))
        for worker in self._workers:
            self._expect_ready(worker, deadline, abort_fd)
        self._watched = select.poll()
        for fd in (self._done_fd, *self.worker_fds):
            self._watched.register(fd, select.POLLIN)
        self.last_core = cores[-1]
        """The core of the worker that is rung last; None where workers move freely."""

    def _worker_count(self) -> int:
        if self.engine in WHOLE_POOL:
            return 1
        if self.spec.workers is not None:
            return self.spec.workers
        return min(len(os.sched_getaffinity(0)), self.spec.num_envs, self._caps.max_workers)

    def _cores(self) -> list[int | None]:
        """The core that each worker stays on, where there is one for each; else None for all.

        Left alone, the kernel wakes the workers one behind the other on one core while the next core is idle: it does
        not move a task that has just been woken, and a batch is over before its balancer looks.
        """
        cores = sorted(os.sched_getaffinity(0))
        return [*cores] if len(self._workers) == len(cores) > 1 else [None] * len(self._workers)

    @property
    def engine(self) -> str:
        """The engine that runs, ``auto`` resolved."""
        return resolve(self.spec.engine)

    def _start_message(self, rows: tuple[int, int]) -> Start:
        spec = self.spec
        return Start(
            env_id=spec.env_id,
            env_kwargs=spec.env_kwargs,
            render_mode=spec.render_mode,
            autoreset_mode=spec.autoreset_mode,
            engine=self.engine,
            num_envs=spec.num_envs,
            rows=rows,
            program=b"" if self._program is None else self._program.dump(rows),
            observation_mode=spec.observation_mode,
            wrappers=spec.wrappers,
            info=spec.info,
            episode_statistics=spec.episode_statistics,
        )

    @staticmethod
    def _expect_ready(worker: WorkerProcess, deadline: float, abort_fd: int) -> Ready:
        message = worker.receive(deadline, abort_fd)
        if isinstance(message, Failed):
            fault = message.fault
            if message.code != EnvCreationFailed.code:
                raise from_code(message.code, fault["message"], message.details)
            raise EnvCreationFailed(
                f"the environment of row {fault['row']} could not be made: {fault['type']}: {fault['message']}",
                faults=[fault],
            )
        assert isinstance(message, Ready)
        return message

    def _describe(self, ready: Ready, described: EngineInfo) -> None:
        spec = self.spec
        self.described = described
        """What the environments of this pool are like."""
        rows = described.row_observation_spaces
        self.actions = ActionFormat(described.action_space, spec.num_envs)
        self.layout = Layout.of(described.observation_space, spec.num_envs)
        self.info = PoolInfo(
            pool=self.pool,
            env_id=spec.env_id,
            num_envs=spec.num_envs,
            autoreset_mode=spec.autoreset_mode,
            observation_space=ready.observation_space,
            action_space=ready.action_space,
            layout=self.layout.describe(),
            layout_hash=self.layout.hash,
            metadata=ready.metadata,
            render_mode=ready.render_mode,
            engine=self.engine,
            workers=len(self._workers),
            step_timeout=spec.step_timeout,
            lease_ttl=spec.lease_ttl,
            max_request=self.actions.area_size,
            row_observation_spaces=None if rows is None or self._program else [space_to_json(each) for each in rows],
        )

    def _make_arena(self, shards: tuple[tuple[int, int], ...]) -> None:
        plan = ArenaPlan.of(self.layout, self.actions, shards)
        if plan.size > self._caps.max_arena_bytes:
            raise CapExceeded(
                f"the arena of {self.spec.num_envs} rows would have {plan.size} bytes; max_arena_bytes of this server "
                f"is {self._caps.max_arena_bytes}",
                cap="max_arena_bytes",
                limit=self._caps.max_arena_bytes,
                asked=plan.size,
            )
        size_and_seal(self._memory_fd, plan.size)
        self.arena_bytes = plan.size
        self._views = ArenaViews(plan, self.layout, map_memory(self._memory_fd, plan.size))
        self._views.stamp(self.layout.hash)
        bells = [worker.bell for worker in self._workers]
        finish = FinishLine(self._tokens_fd, Doorbell(self._done_fd))
        self._driver = ArenaDriver(self._views, self.actions, bells, finish, _SPIN_US)
        self.lending = Lending(self, self._views)
        """Who has the arena, where it is not this host."""

    @property
    def done_fd(self) -> int:
        """Readable when all workers have finished a command."""
        return self._done_fd

    @property
    def worker_fds(self) -> dict[int, int]:
        """Process descriptor → shard: readable when that worker has ended."""
        return {worker.pidfd: worker.shard for worker in self._workers}

    @property
    def lendable(self) -> bool:
        """Whether a driver in another process could step this pool with the arena alone."""
        return not self.actions.has_side and len(self._workers) <= _MAX_LENT_WORKERS

    def lent_fds(self, loan: Loan) -> list[int]:
        """The descriptors that a driver in another process needs: see ``wire.loan.Lent``."""
        return [self._memory_fd, *loan.driver_fds, *(worker.bell.fd for worker in self._workers)]

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
        self.actions.check(parts, self._resetting)
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

    def forget_over(self) -> None:
        """Take note that rows were stepped, by another driver: which are over stands in the last slot."""
        self._over = None

    def _resetting(self) -> np.ndarray[Any, Any]:
        """Rows [N] that the next step resets instead of stepping them: their actions mean nothing, as in Gymnasium."""
        if self.spec.autoreset_mode != "NextStep":
            return np.zeros(self.spec.num_envs, np.bool_)
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
        rows = self.spec.num_envs
        options = request.options or b""
        each = options if isinstance(options, list) else None
        for name, values in (("seeds", request.seeds), ("mask", request.mask), ("options", each)):
            if values is not None and len(values) != rows:
                raise InvalidSpec(f"{name} has {len(values)} entries for {rows} rows", field=name)
        seeds = request.seeds or [None] * rows
        self.resets += 1
        self._over = self._resetting() & ~np.array([True] * rows if request.mask is None else request.mask)
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
        """
        if request.name in _REFUSED_CALLS:
            raise InvalidSpec(f"{request.name!r} is a request of its own, and cannot be called", field="name")
        rows: Sequence[int] = range(self.spec.num_envs)
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
            if not 0 <= row < self.spec.num_envs:
                raise InvalidSpec(f"row {row} of a pool with {self.spec.num_envs} rows", field="rows")

    def begin_render(self, rows: list[int] | None) -> None:
        """Begin to render rows, by number; None for all.

        Raises:
            InvalidSpec: A row that the pool does not have.
        """
        wanted = range(self.spec.num_envs) if rows is None else rows
        self._check_rows(wanted)
        self._begin_messages(
            [Render([row for row in wanted if first <= row < end]) for first, end in self.shards], fills_slot=False
        )

    @property
    def shards(self) -> list[tuple[int, int]]:
        """First and end row of each worker."""
        return [worker.rows for worker in self._workers]

    def begin_messages(self, messages: list[Any], fds: Sequence[int] = ()) -> None:
        """Have each worker do what a message of its own says, with descriptors that go to all of them."""
        self._begin_messages(messages, fills_slot=False, fds=fds)

    def _begin_messages(self, messages: list[Any], *, fills_slot: bool, fds: Sequence[int] = ()) -> None:
        # Ring first: a worker that reads already takes a message that is larger than the socket's buffer
        self._driver.start_message(fills_slot=fills_slot)
        self._send(messages, fds)

    def _send(self, messages: list[Any], fds: Sequence[int] = ()) -> None:
        for worker, message in zip(self._workers, messages, strict=True):
            try:
                worker.send(message, fds=fds)
            except WorkerDied as error:
                self.broken = self.broken or error

    def poll(self) -> bool:
        """Whether the command has finished, or cannot finish any more; never blocks."""
        finished = self._driver.poll()
        return finished or self.broken is not None

    def wait(self, timeout: float) -> bool:
        """Wait for the command; returns whether it has finished."""
        return self.broken is not None or self._driver.wait(timeout)

    def watch(self, timeout: float) -> bool:
        """Wait for the command and for the workers' ends alike, for a caller with no sockets of its own to watch.

        Returns:
            Whether the command has finished, or cannot finish any more; False when the time is over.
        """
        deadline = monotonic() + timeout
        finished = self.wait(0.0)  # watches the words before anything else
        while not finished:
            events = self._watched.poll(max(0.0, deadline - monotonic()) * 1000)
            for fd, _ in events:
                if fd != self._done_fd:
                    self.worker_exited(self.worker_fds[fd])
            finished = self.poll()
            if not events:
                break
        return finished

    def collect(self) -> Outcome:
        """What the finished command left."""
        slot = self._driver.slot
        if self.broken is not None:
            return Outcome(slot, b"", self.broken)
        if self._driver.left_nothing():
            return Outcome(slot, b"")
        try:
            ext = joined(self._parts(), MAX_EXT if self._program is None else None)
        except WorkerDied as error:
            self.broken = error
            return Outcome(slot, b"", error)
        except (EnvFault, MessageTooLarge) as error:
            return Outcome(slot, b"", error)
        return Outcome(slot, ext)

    def _parts(self) -> Iterator[tuple[bytes | memoryview, bool]]:
        for worker, result in zip(self._workers, self._driver.collect(), strict=True):
            payload = result.payload if result.payload is not None else memoryview(worker.receive_bytes())
            yield payload, result.faulted

    def payloads(self) -> list[bytes | memoryview]:
        """What each worker left for the finished command, as it left it."""
        try:
            return [payload for payload, _ in self._parts()]
        except WorkerDied as error:
            self.broken = error
            return []

    def counted(self, word: int) -> int:
        """The sum of one of the workers' counters, by its place in ``WorkerLine``."""
        return sum(line[word] for line in self._views.worker_lines)

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

    def worker_exited(self, shard: int) -> None:
        """Note that a worker has ended: the pool cannot step any more."""
        self.broken = self.broken or self._workers[shard].died()

    def stop(self, grace: float) -> None:
        """End the workers, by force after ``grace`` seconds; nothing of them is left."""
        deadline = monotonic() + grace
        for worker in self._workers:
            worker.ask_to_close()
        while self._workers:  # one by one: whoever interrupts this can call it again
            self._workers[-1].end(deadline)
            self._workers.pop()
        if hasattr(self, "lending"):
            self.lending.close()
        while self._own_fds:  # forgotten before it is closed: its number may be another's by the next call
            os.close(self._own_fds.pop())
