"""The driver of an arena, against workers that are threads of this process."""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import ExitStack, closing

import numpy as np
import pytest

from tests.arena.arenas import Arena
from vecserver.arena.doorbell import Doorbell, FinishLine, make_bell, make_tokens
from vecserver.arena.driver import ArenaDriver
from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.orders import LentOrders
from vecserver.arena.views import MESSAGE, STEP, DriverLine, Status, WorkerLine

LONG_S = 20.0
LEAVE = 99
WORKERS = 3


class ThreadWorker(threading.Thread):
    """Answers commands as a worker does: results, then the words, then the finish. Waits before it for ``gate``."""

    def __init__(self, arena: Arena, shard: int, bell: Doorbell, finish: FinishLine) -> None:
        super().__init__()
        self._orders, self._line = arena.views.driver_lines[shard], arena.views.worker_lines[shard]
        self._side = arena.views.sides[shard]
        self._bell, self._finish = bell, finish
        self.gate = threading.Event()
        self.gate.set()
        self.seen: list[tuple[int, int, int]] = []
        self.payload, self.status = b"", Status.OK
        self.overflow = 0

    def run(self) -> None:
        while True:
            assert self._bell.wait(LONG_S)
            seq, opcode, slot = (self._orders[i] for i in (DriverLine.SEQ, DriverLine.OPCODE, DriverLine.SLOT))
            if opcode == LEAVE:
                return
            if self.seen and self.seen[-1][2] == seq:
                continue
            self._line[WorkerLine.ROW] = 40 + seq
            assert self.gate.wait(LONG_S)
            self.seen.append((opcode, slot, seq))
            self._side[: len(self.payload)] = self.payload
            self._line[WorkerLine.SIDE_LENGTH] = self.overflow or len(self.payload)
            self._line[WorkerLine.STATUS] = self.status
            self._line[WorkerLine.SLOT] = slot
            self._line[WorkerLine.DONE] = seq
            self._finish.cross()

    def leave(self) -> None:
        self.gate.set()
        self._orders[DriverLine.OPCODE] = LEAVE
        self._bell.ring()
        self.join()


class Stage:
    """An arena, its driver and its workers."""

    def __init__(self, stack: ExitStack, spin_us: float) -> None:
        self.arena = stack.enter_context(closing(Arena.small(num_envs=7, workers=WORKERS)))
        bells, self.done = [self._bell(stack) for _ in range(WORKERS)], self._bell(stack)
        tokens = make_tokens()
        stack.callback(os.close, tokens)
        self.finish = FinishLine(tokens, self.done)
        self.workers = [ThreadWorker(self.arena, i, bell, self.finish) for i, bell in enumerate(bells)]
        self.driver = ArenaDriver(self.arena.views, self.arena.actions, bells, self.finish, spin_us)

    @staticmethod
    def _bell(stack: ExitStack) -> Doorbell:
        fd = make_bell()
        stack.callback(os.close, fd)
        return Doorbell(fd)

    def step(self) -> None:
        self.driver.start_step([np.zeros(7, np.int64)])
        assert self.driver.wait(LONG_S)


@pytest.fixture(params=[0.0, 100.0], ids=["blocking", "spinning"])
def stage(request):
    with ExitStack() as stack:
        stage = Stage(stack, request.param)
        for worker in stage.workers:
            worker.start()
        try:
            yield stage
        finally:
            for worker in stage.workers:
                worker.leave()
            vars(stage).clear()  # pytest keeps the stage for a while, and with it the mapped memory


def test_a_step_reaches_every_worker(stage):
    """Each worker sees the opcode, the slot and the number, and its actions lie in the arena."""
    actions = np.array([1, 0, 1, 1, 0, 0, 1])
    stage.driver.start_step([actions])
    assert stage.driver.wait(LONG_S)
    assert [worker.seen for worker in stage.workers] == [[(STEP, 1, 1)]] * WORKERS
    views = stage.arena.views
    (stored,) = stage.arena.actions.load(views.actions, bytes(views.codes), slice(0, 7))
    assert stored.tolist() == actions.tolist()
    assert stored.dtype == np.int64


def test_the_dtype_of_actions_is_stored_beside_them(stage):
    """A batch in another dtype than the space's is stored as it is."""
    stage.driver.start_step([np.ones(7, np.uint8)])
    assert stage.driver.wait(LONG_S)
    views = stage.arena.views
    assert stage.arena.actions.load(views.actions, bytes(views.codes), slice(2, 4))[0].dtype == np.uint8


def test_a_ring_too_many_is_passed_over(stage):
    """A worker that takes another's place rings for nothing: the end of a command is what all workers say it is."""
    stage.workers[1].gate.clear()
    stage.driver.start_step([np.zeros(7, np.int64)])
    for _ in range(WORKERS):
        stage.finish.cross()
    assert not stage.driver.wait(0.05)
    assert not stage.driver.poll()
    assert stage.driver.owes(1)
    stage.workers[1].gate.set()
    until = time.monotonic() + LONG_S
    while not stage.driver.wait(LONG_S):  # once for each ring that ended nothing
        assert time.monotonic() < until
    assert not any(stage.driver.owes(worker) for worker in range(WORKERS))
    stage.step()


def test_results_go_round_the_slots(stage):
    """Every batch takes the next slot, so that the one before stays readable."""
    slots = []
    for _ in range(5):
        stage.step()
        slots.append(stage.driver.slot)
    assert slots == [1, 2, 0, 1, 2]
    assert [slot for _, slot, _ in stage.workers[0].seen] == slots


def test_a_message_that_fills_no_slot_leaves_the_results_alone(stage):
    """A call or a frame between two batches does not use up a slot."""
    stage.step()
    for fills, slot in ((False, 1), (True, 2), (False, 2)):
        stage.driver.start_message(fills_slot=fills)
        assert stage.driver.wait(LONG_S)
        assert stage.driver.slot == slot
    assert [opcode for opcode, _, _ in stage.workers[0].seen] == [STEP, MESSAGE, MESSAGE, MESSAGE]
    assert [seq for _, _, seq in stage.workers[0].seen] == [1, 2, 3, 4]


def test_many_batches_in_a_row(stage):
    """No wake is lost over hundreds of batches, and each worker runs each batch once."""
    for _ in range(300):
        stage.step()
    assert [seq for _, _, seq in stage.workers[1].seen] == list(range(1, 301))


def test_a_wait_that_is_over_says_who_is_late(stage):
    """The wait ends with its time, names the unfinished workers and their rows, and can be taken up again."""
    stage.workers[1].gate.clear()
    stage.driver.start_step([np.zeros(7, np.int64)])
    assert not stage.driver.wait(0.1)
    assert not stage.driver.poll()
    assert stage.driver.unfinished() == [1]
    assert stage.driver.slowest_rows()[0] == 41
    stage.workers[1].gate.set()
    assert stage.driver.wait(LONG_S)
    assert stage.driver.poll()
    assert stage.driver.unfinished() == []


def test_the_last_worker_rings_and_no_other(stage):
    """A poller is woken once a command, when all workers have finished."""
    for worker in stage.workers:
        worker.gate.clear()
    stage.driver.start_step([np.zeros(7, np.int64)])
    for i, worker in enumerate(stage.workers):
        assert stage.driver.unfinished() == list(range(i, WORKERS))
        assert not stage.driver.poll()
        worker.gate.set()
        while i in stage.driver.unfinished():
            os.sched_yield()
    assert select.select([stage.done.fd], [], [], LONG_S)[0]
    assert stage.driver.poll()
    assert not select.select([stage.done.fd], [], [], 0)[0]


def test_payloads_come_in_the_order_of_shards(stage):
    """Each worker's payload is its own, and a fault is marked as one."""
    for i, worker in enumerate(stage.workers):
        worker.payload = b"worker %d" % i
    stage.workers[2].status = Status.FAULT
    stage.step()
    results = stage.driver.collect()
    assert [bytes(result.payload) for result in results] == [b"worker 0", b"worker 1", b"worker 2"]
    assert [result.faulted for result in results] == [False, False, True]


def test_the_usual_end_of_a_step_has_no_payload(stage):
    """It can be told without looking at every payload; one worker's payload is enough to have some."""
    stage.step()
    assert stage.driver.left_nothing()
    stage.workers[1].payload = b"infos"
    stage.step()
    assert not stage.driver.left_nothing()


def test_a_payload_that_did_not_fit_is_announced(stage):
    """A length beyond the side area means that the payload comes another way; a full side area is a payload."""
    full = len(stage.arena.views.sides[1])
    stage.workers[0].overflow = len(stage.arena.views.sides[0]) + 1
    stage.workers[1].payload = bytes(full)
    stage.step()
    results = stage.driver.collect()
    assert results[0].payload is None
    assert len(results[1].payload) == full
    assert bytes(results[2].payload) == b""


def test_waiting_for_a_slow_worker_uses_no_processor_time(stage):
    """After its short spin the driver blocks."""
    stage.workers[0].gate.clear()
    stage.driver.start_step([np.zeros(7, np.int64)])
    used = time.thread_time()
    assert not stage.driver.wait(0.25)
    assert time.thread_time() - used < 0.025


def test_a_start_that_was_interrupted_is_brought_to_its_end(stage, monkeypatch):
    """Workers that were called run the command once, the others now; what was left of it disturbs no later one."""
    bell = stage.driver._bells[1]

    def interrupt() -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(bell, "ring", interrupt)
            stage.driver.start_step([np.zeros(7, np.int64)])
        stage.driver.call_again()
        while not stage.driver.words_done():
            stage.done.wait(0.01)
        stage.finish.clear()
        stage.step()
    assert [seq for _, _, seq in stage.workers[1].seen] == list(range(1, 7))


def test_a_driver_with_orders_of_its_own_leaves_the_arena_s_alone(stage):
    """What it writes lies in its own memory, and another word says when it is done."""
    arena = stage.arena
    fd = create("orders")
    size = LentOrders.size(WORKERS, arena.actions)
    size_and_seal(fd, size)
    orders = LentOrders(WORKERS, arena.actions, map_memory(fd, size))
    os.close(fd)
    before = bytes(arena.memory)
    driver = ArenaDriver(arena.views, arena.actions, [], stage.finish, orders=orders, done_word=WorkerLine.LENT_DONE)
    driver.start_step([np.arange(7) % 2])
    assert bytes(arena.memory) == before
    assert [list(line[:3]) for line in orders.driver_lines] == [[1, STEP, 1]] * WORKERS
    (stored,) = arena.actions.load(orders.actions, bytes(orders.codes), slice(0, 7))
    assert stored.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert driver.unfinished() == [0, 1, 2]
    for line in arena.views.worker_lines:
        line[WorkerLine.LENT_DONE] = 1
    assert driver.words_done()
