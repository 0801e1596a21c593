"""The worker process: makes the environments of one shard, then obeys the driver of the arena until told to close.

It is started as ``python -m vecserver.engine`` with five inherited descriptors: the socket to its host, the arena's
memory, the bell it waits for, and the tokens and the bell of the finish line. The kernel kills it when its host's main
thread ends; it leaves by itself when the socket's other end is gone.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from vecserver.arena.doorbell import Doorbell, FinishLine
from vecserver.arena.memory import map_memory
from vecserver.arena.plan import ArenaPlan
from vecserver.arena.views import STEP, ArenaViews, DriverLine, Status, WorkerLine
from vecserver.engine.base import ResetCommand, RowFaults, Shard, fault_of
from vecserver.engine.channel import Bind, Call, Failed, Ready, Render, Reset, Start, Step, receive, send
from vecserver.engine.infos import InfoOptions
from vecserver.engine.make import EnvMaker
from vecserver.engine.orphans import die_with_parent
from vecserver.engine.table import make_engine
from vecserver.engine.wrappers import wrap
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack, portable, unpack
from vecserver.wire.errors import EnvCreationFailed, Unportable, VecServerError
from vecserver.wire.layout import Layout
from vecserver.wire.spaces import space_to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    import gymnasium

    from vecserver.engine.base import Engine

__all__ = ["main"]

_log = logging.getLogger(__name__)


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
    # The terminal's Ctrl-C is for the process that owns the pool; it decides what happens to its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # and what an environment prints must not stop it where the terminal is set to stop background writers
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with socket.socket(fileno=socket_fd) as sock, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        start = receive(sock)
        assert isinstance(start, Start)
        engine = _make(start, sock)
        if engine is None:
            return
        try:
            bind = receive(sock)
            assert isinstance(bind, Bind)
            finish = FinishLine(tokens_fd, Doorbell(done_fd))
            worker = _Worker(sock, engine, start, bind, memory_fd, bell_fd, finish)
            gc.collect()
            gc.freeze()  # what exists now lives as long as the worker: the collector need not look at it again
            send(sock, Ready({}, {}, {}, None))
            if bind.core is not None:
                os.sched_setaffinity(0, {bind.core})
            worker.run()
        finally:
            engine.close()


def _maker(start: Start) -> Callable[[int], gymnasium.Env[Any, Any]]:
    """How rows are made; pickles are loaded only where a program started this worker for callables of its own."""
    if not start.program:
        return EnvMaker(start.env_id, start.env_kwargs, start.render_mode, start.wrappers)
    from vecserver.engine.pickled import RowMaker, pickle_infos

    pickle_infos()
    try:
        made = RowMaker(start.program, start.rows[0])
    except Exception as error:  # a module that cannot be imported here, say
        raise RowFaults([fault_of(start.rows[0], error)]) from error
    return lambda row: wrap(made(row), start.wrappers)


def _make(start: Start, sock: socket.socket) -> Engine | None:
    try:
        infos = InfoOptions(start.info, start.episode_statistics)
        engine = make_engine(
            start.engine, _maker(start), start.rows, start.autoreset_mode, infos, start.observation_mode
        )
    except RowFaults as faults:
        send(sock, Failed(faults.faults[0]))
        return None
    except VecServerError as error:  # what the environments are and what the pool is to be do not go together
        send(sock, Failed(fault_of(start.rows[0], error), error.code, error.details))
        return None
    try:
        info = engine.info
        each = info.row_observation_spaces
        if start.program:
            objects = pack([info.observation_space, info.action_space, info.metadata, each])
            ready = Ready({}, {}, {}, info.render_mode, objects=objects)
        else:
            ready = Ready(
                space_to_json(info.observation_space),
                space_to_json(info.action_space),
                _json_only(info.metadata),
                info.render_mode,
                None if each is None else [space_to_json(space) for space in each],
            )
    except Exception as error:  # noqa: BLE001 - an unsupported space, or a metadata of the wrong type
        engine.close()
        code = error.code if isinstance(error, VecServerError) else EnvCreationFailed.code
        send(sock, Failed(fault_of(start.rows[0], error), code))
        return None
    send(sock, ready)
    return engine


def _json_only(metadata: dict[str, Any]) -> dict[str, Any]:
    """The entries of an environment's metadata that a description can carry."""
    plain = (str, int, float, bool, type(None))

    def carried(value: Any) -> bool:
        return isinstance(value, plain) or (isinstance(value, list) and all(isinstance(item, plain) for item in value))

    return {str(key): value for key, value in metadata.items() if carried(value)}


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
        layout = Layout.of(engine.info.observation_space, start.num_envs)
        actions = ActionFormat(engine.info.action_space, start.num_envs)
        plan = ArenaPlan.of(layout, actions, bind.shards)
        views = ArenaViews(plan, layout, map_memory(memory_fd, plan.size))
        views.verify(bind.layout_hash)
        self._orders = views.driver_lines[bind.shard]
        self._line = views.worker_lines[bind.shard]
        self._side = views.sides[bind.shard]
        self._bell = Doorbell(bell_fd, hangup_fd=sock.fileno())
        self._finish_line = finish
        first, end = bind.shards[bind.shard]
        self._first, self._end = first, end
        self._shard = Shard(first, end, views.slots, actions, views.actions, views.codes, self._line)
        engine.bind(self._shard)
        self._handlers: dict[type, Callable[[Any, int], bytes]] = {
            Step: self._step,
            Reset: self._reset,
            Call: self._call,
            Render: self._render,
        }

    def run(self) -> None:
        """Obey until the host says no more.

        Raises:
            EOFError: It has closed its end of the socket, or is gone.
        """
        orders, bell, step = self._orders, self._bell, self._engine.step
        while True:
            bell.wait()
            seq = orders[DriverLine.SEQ]
            slot = orders[DriverLine.SLOT]
            if orders[DriverLine.OPCODE] == STEP:
                self._finish(seq, step, slot)
                continue
            message = receive(self._sock)
            self._finish(seq, self._handlers[type(message)], message, slot)

    def _finish(self, seq: int, run: Callable[..., bytes], *arguments: Any) -> None:
        status = Status.OK
        try:
            payload = run(*arguments)
        except RowFaults as faults:
            status, payload = Status.FAULT, pack(faults.faults)
        except Exception as error:  # noqa: BLE001 - a defect here must reach the caller, not hang it
            _log.exception("the worker of rows %d to %d failed", self._first, self._end - 1)
            status, payload = Status.FAULT, pack([fault_of(self._first, error)])
        fits = len(payload) <= len(self._side)
        if fits:
            self._side[: len(payload)] = payload
        line = self._line
        line[WorkerLine.SIDE_LENGTH] = len(payload)
        line[WorkerLine.STATUS] = status
        line[WorkerLine.DONE] = seq
        self._finish_line.cross()
        if not fits:
            send(self._sock, payload)

    def _unpacked(self, data: bytes) -> Any:
        with self._values():
            return unpack(data)

    def _step(self, message: Step, slot: int) -> bytes:
        with self._values():
            self._shard.take_side(message.side)
        return self._engine.step(slot)

    def _reset(self, message: Reset, slot: int) -> bytes:
        options = self._unpacked(message.options) if message.options else None
        return self._engine.reset(slot, ResetCommand(message.seeds, message.mask, options))

    def _call(self, message: Call, _slot: int) -> bytes:
        if message.assign:
            self._engine.assign(message.name, self._unpacked(message.arguments), message.rows)
            return b""
        args, kwargs = self._unpacked(message.arguments)
        rows = range(self._first, self._end) if message.rows is None else message.rows
        return self._packed(self._engine.call(message.name, args, kwargs, message.rows), rows)

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
