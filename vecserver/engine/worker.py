"""The worker process: makes the environments of one shard, then obeys the driver of the arena until told to close.

In a server it is a copy of its host (``engine.forked``), in ``LocalVectorEnv`` an interpreter of its own (``python -m
vecserver.engine``). Either way it has five inherited descriptors: the socket to its host, the arena's memory, the bell
it waits for, and the tokens and the bell of the finish line. The kernel kills it when its host's main
thread ends; it leaves by itself when the socket's other end is gone.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from contextlib import nullcontext, suppress
from time import monotonic_ns, perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from vecserver.arena.doorbell import Doorbell, FinishLine, spin_until
from vecserver.arena.memory import map_memory
from vecserver.arena.orders import LentOrders
from vecserver.arena.passing import receive_fds
from vecserver.arena.views import STEP, DriverLine, Status, WorkerLine
from vecserver.engine.base import ActionArea, ResetCommand, RowFaults, fault_of
from vecserver.engine.channel import (
    Adopt,
    Bind,
    Call,
    Died,
    Drop,
    Fetch,
    Home,
    Measure,
    Measured,
    Move,
    Pause,
    Ready,
    Render,
    Reset,
    Start,
    Step,
    receive,
    send,
)
from vecserver.engine.making import made, measured
from vecserver.engine.orphans import die_with_parent, keep_orphans
from vecserver.engine.place import Place
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack, portable, unpack
from vecserver.wire.errors import Unportable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from vecserver.arena.record import Record
    from vecserver.engine.base import Engine
    from vecserver.engine.channel import Lost, Records
    from vecserver.engine.place import Driver

__all__ = ["main"]

_log = logging.getLogger(__name__)

# as plain names: an attribute of a class is looked up anew at every use
_SEQ, _OPCODE, _SLOT, _SINCE = DriverLine.SEQ, DriverLine.OPCODE, DriverLine.SLOT, DriverLine.SINCE
_LAST_SLOT, _SIDE_LENGTH, _STATUS = WorkerLine.SLOT, WorkerLine.SIDE_LENGTH, WorkerLine.STATUS

_WATCH_US: Final = 300
"""How long a worker watches for its next command before it sleeps, where the one before came as soon. To wake a core
that sleeps takes the tenth of a small batch, and on a virtual machine now and then milliseconds."""


def main(host_pid: int, socket_fd: int, memory_fd: int, bell_fd: int, tokens_fd: int, done_fd: int) -> None:
    """Run a worker until its host closes it or is gone.

    Args:
        host_pid: The host's process id.
        socket_fd: The socket to the host.
        memory_fd: The arena's memory, sized when the host sends Bind.
        bell_fd: The eventfd that calls this worker.
        tokens_fd: The semaphore of the finish line.
        done_fd: The eventfd that the last worker rings.
    """
    die_with_parent(host_pid)
    keep_orphans()
    # The terminal's Ctrl-C is for the process that owns the pool; it decides what happens to its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # and what an environment prints must not stop it where the terminal is set to stop background writers
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with socket.socket(fileno=socket_fd) as sock, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        start = receive(sock)
        if isinstance(start, Measure):
            send(sock, Measured(measured(start.start)))
            return
        assert isinstance(start, Start)
        engine = made(start, sock)
        if engine is None:
            return
        try:
            bind = receive(sock)
            assert isinstance(bind, Bind)
            finish = FinishLine(tokens_fd, Doorbell(done_fd))
            worker = _Worker(sock, engine, start, bind, memory_fd, bell_fd, finish)
            rebuilt: list[str] = []
            if start.lost is not None:
                worker.take_up(bind)
                rebuilt = worker.rebuild(start.lost)
            gc.collect()
            gc.freeze()  # what exists now lives as long as the worker: the collector need not look at it again
            send(sock, Ready({}, {}, {}, None, rebuilt=rebuilt))
            if bind.core is not None:
                os.sched_setaffinity(0, {bind.core})
            worker.run()
        finally:
            engine.close()


class _Worker:
    """Waits for the bell, runs the command, writes the results, crosses the finish line."""

    def __init__(
        self,
        sock: socket.socket,
        engine: Engine,
        start: Start,
        bind: Bind,
        memory_fd: int,
        bell_fd: int,
        finish: FinishLine,
    ) -> None:
        self._sock = sock
        self._engine = engine
        self._values: Callable[[], AbstractContextManager[None]] = nullcontext
        if start.program:
            from vecserver.engine.pickled import by_pickle

            self._values = by_pickle
        self._bounded = not start.program  # what a program's own workers say goes into no message
        self._home = self._place = Place(
            engine.info, bind.shards, bind.shard, bind.layout_hash, memory_fd, finish, bounded=self._bounded
        )
        # not where workers take turns on a core
        self._may_watch = bind.core is not None or len(bind.shards) < len(os.sched_getaffinity(0))
        self._bell = Doorbell(bell_fd, hangup_fd=sock.fileno())
        self._lent: Driver | None = None
        self._lent_fds: list[int] = []
        self._away_fds: list[int] = []  # of the arena of a part
        self._drivers: tuple[Driver, ...] = (self._home.host,)
        engine.bind(self._place.shard, self._place.line[_LAST_SLOT])
        self._record = None if bind.records is None else self._keep_record(bind.records)
        self._death: dict[str, Any] | None = None  # with which the next step ends
        self._handlers: dict[type, Callable[[Any, int], bytes]] = {
            Step: self._step,
            Reset: self._reset,
            Call: self._call,
            Died: self._end_with,
            Render: self._render,
            Adopt: self._adopt,
            Pause: self._pause,
            Drop: self._drop,
            Fetch: self._fetch,
            Move: self._move,
            Home: self._come_home,
        }

    def take_up(self, bind: Bind) -> None:
        """Stand where the worker stood whose place this one takes, with everything done that it had done."""
        self._death = bind.death
        if bind.move is not None:
            self._place = self._place_in_part(bind.move)
            self._engine.bind(self._place.shard, self._place.line[_LAST_SLOT])
        lent = () if bind.adopt is None else (self._take_loan(bind.adopt),)
        self._drivers = (*(lent if bind.obeyed else ()), *self._hosts)
        for driver in (*lent, *self._hosts):
            driver.seen = driver.words[driver.done_word]
            # it may have ended between its word and its crossing: one too many is a ring for nothing, one too few none
            driver.finish.cross()

    def _keep_record(self, records: Records) -> Record:
        from vecserver.arena.record import Record
        from vecserver.engine.replay import ReplayEngine

        _, (fd,), _ = receive_fds(self._sock, 1)  # behind the message a byte that carries it
        try:
            memory = memoryview(map_memory(fd, records.size))
        finally:
            os.close(fd)  # it is mapped
        actions = ActionFormat(self._engine.info.action_space, self._place.shard.size)
        end = records.begins + Record.size(actions, records.steps)
        record = Record(memory[records.begins : end], actions, records.steps)
        assert isinstance(self._engine, ReplayEngine)
        self._engine.keep(record)
        return record

    def rebuild(self, lost: Lost) -> list[str]:
        """Make the rows what they were with the worker whose place this one takes; as ``ReplayEngine.rebuild``."""
        record = self._record
        if record is None:
            return []
        if not lost.under_way:
            record.forget_all()
            return []
        words, place = self._place.line, self._place
        standing = record.take_up(lambda lent: words[WorkerLine.LENT_DONE if lent else WorkerLine.DONE])
        slot = words[_LAST_SLOT] if standing.slot is None else standing.slot
        engine: Any = self._engine
        whys: list[str] = engine.rebuild(place.shard, standing, slot)
        return whys

    def run(self) -> None:
        """Obey until the host says no more.

        Raises:
            EOFError: It has closed its end of the socket, or is gone.
        """
        bell, soon = self._bell, False
        while True:
            began = perf_counter_ns()
            if soon:
                spin_until(self._is_called, _WATCH_US)
            if not bell.take():
                bell.wait()
            soon = self._may_watch and perf_counter_ns() - began < 1000 * _WATCH_US
            for driver in self._drivers:
                # A ring is no command: one whose arena was taken away may ring late, and two may ring at once
                seq = driver.line[_SEQ]
                if seq != driver.seen:
                    driver.seen = seq
                    self._obey(driver, seq)

    def _is_called(self) -> bool:
        for driver in self._drivers:  # noqa: SIM110 - a generator is slow to start, and this is asked often
            if driver.line[_SEQ] != driver.seen:
                return True
        return False

    def _obey(self, driver: Driver, seq: int) -> None:
        slot = driver.line[_SLOT]
        if driver is self._lent or driver.line[_OPCODE] == STEP:
            self._finish(driver, seq, self._step_into, slot, driver)
            return
        message = receive(self._sock)
        self._finish(driver, seq, self._handlers[type(message)], message, slot)

    def _step_into(self, slot: int, driver: Driver) -> bytes:
        place = self._place
        place.shard.area = driver.area
        try:
            if self._death is not None:
                death, self._death = self._death, None
                place.shard.repeat(place.line[_LAST_SLOT], slot)
                raise RowFaults([death])
            return self._engine.step(slot)
        finally:
            place.line[_LAST_SLOT] = slot  # not sooner: who takes this worker's place looks there for whole results

    def _finish(self, driver: Driver, seq: int, run: Callable[..., bytes], *arguments: Any) -> None:
        status, began_ns = Status.OK, monotonic_ns()
        tally = self._place.tally  # of the arena that the command was found in
        if self._record is not None:
            self._record.order(seq, lent=driver is self._lent)
        try:
            payload = run(*arguments)
        except RowFaults as faults:
            status, payload = Status.FAULT, pack(faults.faults)
        except Exception as error:  # noqa: BLE001 - a defect here must reach the caller, not hang it
            rows = self._place.rows
            _log.exception("the worker of rows %d to %d failed", rows.start, rows.stop - 1)
            status, payload = Status.FAULT, pack([fault_of(rows.start, error)])
        side, line = driver.side, driver.words  # likewise
        fits = len(payload) <= len(side)
        if fits:
            side[: len(payload)] = payload
        line[_SIDE_LENGTH] = len(payload)
        line[_STATUS] = status
        line[driver.done_word] = seq
        driver.kept = b"" if fits else payload  # before the line is crossed: what follows may ask for it
        since_ns, now_ns = driver.line[_SINCE], monotonic_ns()  # behind the line the driver may write it anew
        is_last = driver.finish.cross()
        self._engine.settle()  # what is counted is counted from here on: nobody waits for it
        if since_ns:
            if is_last:
                tally.ended_batch(since_ns, now_ns)
            tally.worked(now_ns - began_ns)
        if not fits and driver is not self._lent:
            send(self._sock, payload)

    def _adopt(self, message: Adopt, _slot: int) -> bytes:
        self._place.line[WorkerLine.LENT_DONE] = 0  # whatever becomes of the rest: nothing of this loan was done
        # in this order: behind a Pause it must not be looked at again
        self._drivers = (self._take_loan(message), *self._hosts)
        return b""

    def _take_loan(self, message: Adopt) -> Driver:
        place = self._place
        _, fds, _ = receive_fds(self._sock, 1)  # behind the message a byte that carries them
        self._lent_fds = fds
        orders = LentOrders(place.workers, place.actions, map_memory(fds[0], message.size))
        area = ActionArea(place.actions, orders.actions, orders.codes, place.rows)
        finish = FinishLine(fds[1], Doorbell(fds[2]))
        self._lent = place.driver(orders.driver_lines[place.index], area, finish, WorkerLine.LENT_DONE)
        return self._lent

    @property
    def _hosts(self) -> tuple[Driver, ...]:
        """The drivers in the host: of the arena that is worked in, and of the pool's own."""
        return (self._place.host,) if self._place is self._home else (self._place.host, self._home.host)

    def _move(self, message: Move, _slot: int) -> bytes:
        self._go(self._place_in_part(message))
        return b""

    def _place_in_part(self, message: Move) -> Place:
        _, fds, _ = receive_fds(self._sock, 1)  # as above
        self._away_fds = fds[1:]
        try:
            finish = FinishLine(fds[1], Doorbell(fds[2]))
            info, bounded = self._engine.info, self._bounded
            return Place(info, message.shards, message.shard, message.layout_hash, fds[0], finish, bounded=bounded)
        finally:
            os.close(fds[0])  # it is mapped

    def _come_home(self, _message: Home, _slot: int) -> bytes:
        self._go(self._home)
        fds, self._away_fds = self._away_fds, []
        for fd in fds:
            os.close(fd)
        return b""

    def _go(self, place: Place) -> None:
        """Work in another arena from the next command on."""
        self._engine.bind(place.shard, place.take_over(self._place))
        self._place = place
        self._drivers = self._hosts

    def _pause(self, _message: Pause, _slot: int) -> bytes:
        self._drivers = self._hosts
        return b""

    def _drop(self, message: Drop, _slot: int) -> bytes:
        lent, self._lent = self._lent, None
        fds, self._lent_fds = self._lent_fds, []
        try:
            if message.slot is not None and lent is not None:
                self._step_into(message.slot, lent)
        except RowFaults as faults:
            _log.warning("rows raised in a step whose driver was gone: %s", [fault["row"] for fault in faults.faults])
        finally:
            self._place.shard.area = self._place.host.area
            for fd in fds:
                os.close(fd)
        return b""

    def _fetch(self, _message: Fetch, _slot: int) -> bytes:
        return b"" if self._lent is None else self._lent.kept

    def _unpacked(self, data: bytes) -> Any:
        with self._values():
            return unpack(data)

    def _step(self, message: Step, slot: int) -> bytes:
        with self._values():
            self._place.shard.take_side(message.side)
        return self._step_into(slot, self._place.host)

    def _reset(self, message: Reset, slot: int) -> bytes:
        given = message.options
        options = [self._options(each) for each in given] if isinstance(given, list) else self._options(given)
        if message.mask is None:
            self._death = None  # nothing is left of what was lost
        try:
            return self._engine.reset(slot, ResetCommand(message.seeds, message.mask, options))
        finally:
            self._place.line[_LAST_SLOT] = slot

    def _options(self, data: bytes | None) -> Any:
        return self._unpacked(data) if data else None

    def _call(self, message: Call, _slot: int) -> bytes:
        if message.assign:
            self._engine.assign(message.name, self._unpacked(message.arguments), message.rows)
            return b""
        args, kwargs = self._unpacked(message.arguments)
        rows = range(self._place.rows.start, self._place.rows.stop) if message.rows is None else message.rows
        return self._packed(self._engine.call(message.name, args, kwargs, message.rows), rows)

    @staticmethod
    def _end_with(message: Died, _slot: int) -> bytes:
        raise RowFaults([message.fault])

    def _render(self, message: Render, _slot: int) -> bytes:
        return self._packed(self._engine.call("render", [], {}, message.rows), message.rows)

    @staticmethod
    def _packed(results: list[Any], rows: Iterable[int]) -> bytes:
        faults = []
        for row, result in zip(rows, results, strict=True):
            try:
                portable(result, "the result")
            except Unportable as error:
                faults.append(fault_of(row, error))
        if faults:
            raise RowFaults(faults)
        return pack(results)
