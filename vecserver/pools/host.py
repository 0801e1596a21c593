"""A pool's host: starts its workers, owns its arena, splits and joins it. No network, no environment code."""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec.structs import replace

from vecserver.arena.plan import ArenaPlan, even_shards
from vecserver.engine.channel import Adopt, Bind, Failed, Home, Measure, Measured, Move, Ready, Start
from vecserver.engine.limits import WorkerLimits
from vecserver.engine.table import VECTORISED, WHOLE_POOL, resolve
from vecserver.pools.agreement import agreed, understood
from vecserver.pools.crew import Crew, Outcome, OwnedArena
from vecserver.pools.part import PartCrew
from vecserver.pools.recordings import Recordings
from vecserver.pools.replacements import Replacements
from vecserver.pools.sizing import best_workers, is_measured, most_workers
from vecserver.pools.starting import Forks, by_exec
from vecserver.pools.workers import WorkerProcess
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import (
    CapExceeded,
    EnvCreationFailed,
    HostStartFailed,
    InternalError,
    InvalidSpec,
    PoolSplit,
    VecServerError,
    WorkerDied,
    from_code,
)
from vecserver.wire.layout import Layout
from vecserver.wire.messages import PoolInfo
from vecserver.wire.spaces import space_to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from vecserver.arena.tally import Tally
    from vecserver.engine.base import EngineInfo
    from vecserver.engine.channel import Lost
    from vecserver.engine.pickled import Program
    from vecserver.pools.spec import Caps, PoolSpec
    from vecserver.pools.starting import Started

__all__ = ["Host", "Outcome"]


_MEASURE_S: Final = 1.0
"""How long an environment may take to be made and timed before the workers are chosen without it."""


class Host(Crew):
    """One pool's workers and arena. One thread owns it, the process's main thread.

    Args:
        pool: The pool's id.
        spec: What to make.
        caps: The server's limits.
        program: The program that this host and its workers belong to, with callables that make the rows in the place of
            the spec's ``env_id``; its methods are then called with ``codec.FOREIGN`` set. None in a server, whose
            workers are sent and return nothing but plain values.
        row_us: Microseconds of a row's step, where they are known.
        limits: What each worker that is a copy of this process may use; None for what this one may.
    """

    def __init__(
        self,
        pool: str,
        spec: PoolSpec,
        caps: Caps,
        program: Program | None = None,
        row_us: float | None = None,
        limits: WorkerLimits | None = None,
    ) -> None:
        super().__init__(OwnedArena(f"vecserver-{pool}"), spec.autoreset_mode, bounded=program is None)
        self.pool = pool
        self.spec = spec
        self._caps = caps
        self.max_ext = caps.max_ext_bytes
        self.open_names = caps.open_names
        self._program = program
        self._limits = limits or WorkerLimits(core=None)
        self.parts: list[PartCrew] = []
        """What the pool is split into; nothing where it is whole."""
        self._moved: Callable[[], None] | None = None  # to be called when the workers have gone where they were told
        self.replacements = Replacements(self)
        self.launch_by: Callable[[Callable[[], Started]], Started] = lambda start: start()
        """Runs what starts a worker in a thread that lives as long as the pool; set where there is another one."""
        self.row_us = row_us
        """Microseconds of a row's step, as far as they were needed and could be measured."""
        self._recordings: Recordings | None = None

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
        self.start_timeout = timeout
        self._cpus = os.sched_getaffinity(0)
        start = Forks(self._limits) if fork else partial(by_exec, own_program=self._program is not None)
        self._start, self._forks = start, fork
        if fork and self.row_us is None and is_measured(self.spec, self._caps):
            self.row_us = self._measured(start, deadline, abort_fd)
        shards = even_shards(self.spec.num_envs, self._worker_count())
        for shard, rows in enumerate(shards):
            finish_fds = (self._arena.tokens_fd, self._arena.done_fd)
            self._workers.append(WorkerProcess(shard, rows, self._arena.memory_fd, finish_fds, start, self.most_said))
        for worker in self._workers:
            worker.send(self.start_message(worker.rows), timeout)
        ready = [self._expect_ready(worker, deadline, abort_fd) for worker in self._workers]
        described = [understood(message, own_program=self._program is not None) for message in ready]
        firsts = [first for first, _ in shards]
        self._describe(ready[0], agreed([*zip(firsts, described, strict=True)]))
        self._make_arena(shards, max(message.steps_kept for message in ready))
        self._core_of = self._cores()
        for worker in self._workers:
            worker.send(self._bind_message(worker), fds=self._record_fds)
        for worker in self._workers:
            self._expect_ready(worker, deadline, abort_fd)
        self.last_core = self._core_of[-1]
        """The core of the worker that is rung last; None where workers move freely."""

    def _worker_count(self) -> int:
        if self.engine in WHOLE_POOL:
            return 1
        if self.spec.workers is not None:
            return self.spec.workers
        if self.engine in VECTORISED:
            return 1
        return best_workers(self.spec.num_envs, most_workers(self.spec, self._caps), self.row_us)

    def _measured(self, start: Callable[[Sequence[int]], Started], deadline: float, abort_fd: int) -> float | None:
        """Have a process of its own time a row: this pool's environments and their processes see nothing of it."""
        probe = WorkerProcess(0, (0, 1), self._arena.memory_fd, (self._arena.tokens_fd, self._arena.done_fd), start)
        patience = _MEASURE_S
        try:
            probe.send(Measure(self.start_message((0, 1))))
            answer = probe.receive(min(deadline, monotonic() + _MEASURE_S), abort_fd)
            return answer.row_us if isinstance(answer, Measured) else None
        except (HostStartFailed, WorkerDied):  # of what takes so long, or dies, the pool itself will tell
            patience = 0.0
            return None
        finally:
            probe.ask_to_close()
            probe.end(monotonic() + patience)

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

    def start_message(self, rows: tuple[int, int], lost: Lost | None = None) -> Start:
        """What a worker is to make: the environments of rows, or others in the place of lost ones."""
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
            lost=lost,
            replay=spec.on_failure == "replay",
        )

    def _bind_message(self, worker: WorkerProcess) -> Bind:
        records = None if self._recordings is None else self._recordings.of(worker.shard)
        return Bind(self.shards, worker.shard, self.layout.hash, self._core_of[worker.shard], records=records)

    @property
    def _record_fds(self) -> list[int]:
        return [] if self._recordings is None else self._recordings.fds

    @property
    def memory_bytes(self) -> int:
        """Shared memory of the pool: its arena, and the records of its rows where there are such."""
        return self.arena_bytes + (0 if self._recordings is None else self._recordings.size)

    # What replaces a worker

    @property
    def workers(self) -> list[WorkerProcess]:
        """All of them, in the order of their rows."""
        return self._workers

    @property
    def crews(self) -> list[Crew]:
        """Whoever drives workers: the pool, and its parts."""
        return [self, *self.parts]

    @property
    def restarts(self) -> dict[str, int]:
        """How many workers were replaced, by what had become of them."""
        return self.replacements.counts

    def launch(self, fds: Sequence[int]) -> Started:
        """Start a worker that takes another's place; as the argument of ``WorkerProcess``."""
        here = os.sched_getaffinity(0)
        if (
            self._forks and here != self._cpus
        ):  # a copy stays where this process stays, and makes its environments there
            os.sched_setaffinity(0, self._cpus)
        try:
            return self.launch_by(partial(self._start, fds))
        finally:
            if self._forks and here != self._cpus:
                os.sched_setaffinity(0, here)

    def place_of(self, worker: WorkerProcess) -> tuple[Crew, int]:
        """In which arena a worker is, and its number there."""
        return self.places_of(worker)[0]

    def places_of(self, worker: WorkerProcess) -> list[tuple[Crew, int]]:
        """The arenas that have a place for a worker, and its numbers there; the one that it is in first."""
        home: tuple[Crew, int] = (self, worker.shard)
        part = next((each for each in self.parts if worker in each.workers), None)
        if part is None:
            return [home]
        away: tuple[Crew, int] = (part, part.workers.index(worker))
        # it goes there, or comes home, in the last command of the whole
        is_away = self.owes(worker.shard) == isinstance(self._told[worker.shard], Home)
        return [away, home] if is_away else [home, away]

    def check_alike(self, worker: WorkerProcess, ready: Ready) -> None:
        """Refuse environments that are not like those that they take the place of.

        Raises:
            EnvCreationFailed: Their spaces are others.
        """
        with self._values():
            mine = understood(ready, own_program=self._program is not None)
        if self.described.row_observation_spaces is None:
            agreed([(0, self.described), (worker.rows[0], mine)])

    def _values(self) -> AbstractContextManager[None]:
        if self._program is None:
            return nullcontext()
        from vecserver.engine.pickled import by_pickle

        return by_pickle()

    def bind_again(self, worker: WorkerProcess, death: dict[str, Any] | None) -> None:
        """Tell a worker where it takes another's place.

        Raises:
            WorkerDied: It is gone.
        """
        crew, index = self.place_of(worker)
        fds: list[Sequence[int]] = [self._record_fds] if self._record_fds else []
        move = adopt = None
        if isinstance(crew, PartCrew):
            move = Move(crew.shards, index, crew.layout.hash)
            fds.append(crew.worker_memory)
        loan, obeyed = crew.lending.loan_of(busy=crew.owes(index))
        if loan is not None:
            adopt = Adopt(loan.orders_size)
            fds.append(loan.worker_fds)
        bind = replace(self._bind_message(worker), move=move, adopt=adopt, obeyed=obeyed, death=death)
        worker.send(bind, fds=fds[0] if fds else ())
        for more in fds[1:]:
            worker.send_fds(more)

    def revive(self) -> None:
        """Make all workers again in a pool that is broken; its rows are to be reset."""
        self.abandon_parts()
        self.lending.drop_all()
        self._driver.start_anew()
        self.broken, self._over, self._told = None, None, []
        self.replacements.start_anew()

    def abandon_parts(self) -> None:
        """Make a broken pool whole: its workers, wherever they are, do nothing more before they are made again."""
        self._moved = None
        self._disband_parts()

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
        self._check_slot()
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
            lease_expiry=spec.lease_expiry,
        )

    def _check_slot(self) -> None:
        limit, size = self._caps.max_slot_bytes, self.layout.slot_size
        if size > limit:
            raise CapExceeded(
                f"a batch of {self.spec.num_envs} rows would have {size} bytes; max_slot_bytes of this server is "
                f"{limit}: make fewer rows",
                cap="max_slot_bytes",
                limit=limit,
                asked=size,
            )

    def _make_arena(self, shards: tuple[tuple[int, int], ...], steps_kept: int) -> None:
        plan = ArenaPlan.of(self.layout, self.actions, shards)
        records = Recordings(self.described.action_space, shards, steps_kept) if steps_kept else None
        size = plan.size + (0 if records is None else records.size)
        if size > self._caps.max_arena_bytes:
            kept = "" if records is None else f", {records.size} of them for the actions of {steps_kept} steps"
            raise CapExceeded(
                f"the arena of {self.spec.num_envs} rows would have {size} bytes{kept}; max_arena_bytes of this server "
                f"is {self._caps.max_arena_bytes}",
                cap="max_arena_bytes",
                limit=self._caps.max_arena_bytes,
                asked=size,
            )
        if records is not None:
            self._recordings = records
            records.lay_out(f"vecserver-{self.pool}-records")
        self._man(plan)

    def begin_split(self, count: int) -> None:
        """Begin to split the pool into parts of neighbouring workers, which then step side by side.

        Raises:
            InvalidSpec: More parts than workers, or none.
            PoolSplit: It is split already.
            CapExceeded: The parts' arenas, beside the pool's own, would be more than the server allows.
            InternalError: No memory or descriptor is left.
        """
        if self.parts:
            raise PoolSplit(f"the pool is split into {len(self.parts)} parts: join it first")
        if not 1 <= count <= len(self._workers):
            raise InvalidSpec(
                f"{count} parts of a pool with {len(self._workers)} workers: a part has one worker or more, make the "
                "pool with more `workers`",
                field="parts",
            )
        parts: list[PartCrew] = []
        try:
            for first, end in even_shards(len(self._workers), count):
                parts.append(self._part(self._workers[first:end]))
            self._check_size(sum(part.arena_bytes for part in parts))
        except (OSError, CapExceeded) as error:
            for part in parts:
                part.disband()
            if isinstance(error, CapExceeded):
                raise
            raise InternalError(f"the pool cannot be split: {error}") from None
        self.parts = parts
        moves: list[Any] = []
        fds = []
        for part in parts:
            moves += [Move(part.shards, index, part.layout.hash) for index in range(len(part.shards))]
            fds += [part.worker_memory] * len(part.shards)
        self._moved = lambda: None
        self.begin_messages(moves, fds)

    def _check_size(self, more: int) -> None:
        asked = self.memory_bytes + more
        if asked > self._caps.max_arena_bytes:
            raise CapExceeded(
                f"split, this pool would have arenas of {asked} bytes; max_arena_bytes of this server is "
                f"{self._caps.max_arena_bytes}",
                cap="max_arena_bytes",
                limit=self._caps.max_arena_bytes,
                asked=asked,
            )

    def _part(self, workers: list[WorkerProcess]) -> PartCrew:
        first, end = workers[0].rows[0], workers[-1].rows[1]
        over = self.resetting()[first:end]
        return PartCrew(self, workers, (first, end), self.described, over)

    def begin_join(self) -> None:
        """Begin to make the pool whole again. Nothing runs in its parts, and nobody has their arenas."""
        self._moved = self._joined
        self.begin_messages([Home()] * len(self._workers))

    def joining(self) -> Generator[None, None, None]:
        """The same as a chore of ``lending``."""
        self.begin_join()
        yield
        self.collect()

    def _joined(self) -> None:
        self._over = np.concatenate([part.resetting() for part in self.parts])
        self._disband_parts()

    def _disband_parts(self) -> None:
        parts, self.parts = self.parts, []
        self._begun += sum(part.batches for part in parts)
        self._reset += sum(part.resets for part in parts)
        for part in parts:
            part.disband()

    def collect(self) -> Outcome:
        """What the finished command left."""
        outcome = super().collect()
        if self._moved is not None:
            moved, self._moved = self._moved, None
            if outcome.error is None:
                moved()
            else:  # some workers are here now, others there
                self.fail(outcome.error)
        return outcome

    def fail(self, error: VecServerError) -> None:
        """Note that the pool cannot step any more, all of it, and why; the first reason stays."""
        super().fail(error)
        for part in self.parts:
            part.note_failed(error)

    @property
    def batches(self) -> int:
        """Batches that were begun, by whomever, of the whole pool and of parts."""
        return super().batches + sum(part.batches for part in self.parts)

    @property
    def resets(self) -> int:
        """Resets that were begun, likewise."""
        return super().resets + sum(part.resets for part in self.parts)

    def counted(self, word: int) -> int:
        """The sum of one of the workers' counters, by its place in ``WorkerLine``."""
        # where the workers are, their counters are
        return sum(part.counted(word) for part in self.parts) if self.parts else super().counted(word)

    @property
    def tallies(self) -> list[Tally]:
        """What each worker has counted, where it is now."""
        return [tally for part in self.parts for tally in part.tallies] if self.parts else super().tallies

    def stop(self, grace: float) -> None:
        """End the workers, by force after ``grace`` seconds; nothing of them is left."""
        deadline = monotonic() + grace
        for worker in self._workers:
            worker.ask_to_close()
        while self._workers:  # one by one: whoever interrupts this can call it again
            self._workers[-1].end(deadline)
            self._workers.pop()
        while self.parts:
            self.parts.pop().disband()
        if self._recordings is not None:
            self._recordings.close()
        self.disband()
