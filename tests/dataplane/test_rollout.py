"""In the middle of a rollout, one batch right behind the other, the loop still hears its server and sees its workers die."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from tests.dataplane.desks import NotedLending
from tests.environments import env_id
from tests.pools.processes import Watched, processor_time
from tests.pools.registries import open_registry
from vecserver.dataplane import loop as loop_module
from vecserver.dataplane.loop import HostLoop
from vecserver.dataplane.requests import Reply
from vecserver.pools.host import Outcome
from vecserver.pools.spec import PoolSpec
from vecserver.wire.errors import PoolBroken, WorkerDied
from vecserver.wire.frames import Header, Kind, digest_of

TICK_S = 0.001
"""What a look at the clock takes in these tests, instead of time: about one batch."""
LOOKS = 20
"""Batches after which the loop looks up at the latest, at that rate."""
ENOUGH = 5000
LONG_S = 30.0


class CountedPoller:
    """A poller that knows how often it was asked."""

    def __init__(self, poller) -> None:
        self.polls = 0
        self.unregister = poller.unregister
        self._poll = poller.poll

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        self.polls += 1
        return self._poll(timeout)


class Rollout:
    """A driver that asks for the next batch when one is answered, and the host, the rules and the router of the loop.

    All of it in the loop's own thread, and the clock goes by looks, so that nothing depends on the machine.

    Attributes:
        answered: Batches so far.
        after: What else happens once so many batches were answered.
    """

    fds = ()
    lease_left_s = float("inf")

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.stop_fd, self._stop_end = self._pipe()
        self.worker_fd, self._worker_end = self._pipe()
        self.done_fd, _ = self._pipe()
        self.worker_fds = {self.worker_fd: 3}
        self.replacements, self.look_s, self.changes = self, 60.0, 0
        self.pool, self.broken = "p-1", None
        self.running = self.waits = False
        self.parts = ()
        self.lending = NotedLending()
        self.answered = 0
        self.after: dict[int, object] = {}

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        for end in ends:
            self._stack.callback(os.close, end)
        return ends

    def __enter__(self) -> HostLoop:
        loop = HostLoop(self, self, self, self.stop_fd)
        self.poller = loop._poller = CountedPoller(loop._poller)
        return loop

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def say_stop(self) -> None:
        os.write(self._stop_end, b"x")

    def end_worker(self) -> None:
        os.write(self._worker_end, b"x")

    # what the loop asks of a host

    def wait(self, timeout: float) -> bool:
        return True

    def poll(self) -> bool:
        return self.running and self.broken is not None

    def settle(self) -> None:
        """There are no parts."""

    def collect(self) -> Outcome:
        return Outcome(0, b"", self.broken)

    def attend(self, worker: int) -> None:
        self.broken = WorkerDied(f"worker {worker}")
        self.worker_fds, self.changes = {}, 1
        self.say_stop()

    def look(self) -> None:
        """Nobody takes too long."""

    # what it asks of the rules

    def message(self, peer: bytes, frames: list[bytes]) -> None:
        self.running = True
        self._peer = peer

    def finished(self, outcome: Outcome) -> list[Reply]:
        self.running = False
        self.answered += 1
        assert self.answered < ENOUGH, "the loop hears nothing"
        self.after.get(self.answered, lambda: None)()
        return [Reply(self._peer, b"", b"", b"")]

    # what it asks of a router: the next request is there whenever it looks

    def has_message(self) -> bool:
        return not self.running

    def receive(self) -> tuple[bytes, list[bytes]]:
        return b"driver", [b"batch"]

    def send(self, reply: Reply) -> None:
        assert reply.peer == b"driver"


@pytest.fixture
def rollout(monkeypatch):
    """A rollout that goes on for as long as the loop lets it."""
    looks = iter(range(10**9))
    monkeypatch.setattr(loop_module, "monotonic", lambda: next(looks) * TICK_S)
    return Rollout()


def test_the_servers_word_ends_a_rollout(rollout):
    """It is heard within twenty milliseconds, though no request is ever waited for."""
    rollout.after = {100: rollout.say_stop}
    with rollout as loop:
        loop.run()
    assert 100 <= rollout.answered <= 100 + LOOKS + 1


def test_a_dead_worker_is_seen_in_a_rollout(rollout):
    """Also where the batches go on without it."""
    rollout.after = {100: rollout.end_worker}
    with rollout as loop:
        loop.run()
    assert rollout.broken is not None
    assert rollout.worker_fds == {}
    assert 100 <= rollout.answered <= 100 + 2 * (LOOKS + 1)


def test_batches_that_follow_at_once_are_not_looked_around_for(rollout):
    """One look at all descriptors in twenty batches, not one each."""
    rollout.after = {400: rollout.say_stop}
    with rollout as loop:
        loop.run()
    assert 400 // LOOKS - 2 <= rollout.poller.polls <= 400 // LOOKS + 4


# Real processes


@pytest.fixture
def stepping(registry, driver):
    """A pool that a thread steps as fast as it goes, until it is answered with an error or not at all."""
    with ThreadPoolExecutor(1) as thread:
        spec = PoolSpec(
            env_id=env_id("Count-v0"),
            num_envs=4,
            workers=2,
            env_kwargs={"length": 10**9, "with_infos": False},
            restart_budget=0,
        )
        view = registry.create(spec)
        peer = driver(view, RCVTIMEO=int(LONG_S * 1000))
        peer.reset(seed=1)
        ext, body = peer.format.encode([np.array([1, 2, 3, 4])])
        steady = threading.Event()

        def step_on():
            for number in range(10**7):
                if number == 50:
                    steady.set()
                peer.seq += 1
                answer = peer.ask(Kind.STEP, ext, bytes(body), seq=peer.seq, **peer.name)
                if answer.header.kind == Kind.ERROR:
                    return answer.error
            return None

        rollout = thread.submit(step_on)
        assert steady.wait(LONG_S)
        yield view, rollout
        registry.delete(view.pool)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_in_a_rollout_is_named_at_once(stepping, victim):
    """Where no other may take its place the next answer says what happened, and the pool is not stepped any more."""
    view, rollout = stepping
    with Watched(view.stats.worker_pids[victim]) as worker:
        worker.signal(view.stats.worker_pids[victim], signal.SIGKILL)
        error = rollout.result(LONG_S)
    # the step in flight is answered with the death itself, one that came right after it with the pool's
    assert isinstance(error, WorkerDied | PoolBroken)
    assert f"worker {victim}" in error.message
    assert "SIGKILL" in error.message


def test_a_pool_is_quiet_right_after_a_rollout(registry, driver):
    """Nothing spins on when the requests stop coming."""
    view = registry.create(PoolSpec(env_id=env_id("Count-v0"), num_envs=4, workers=2, env_kwargs={"length": 10**9}))
    peer = driver(view)
    peer.reset(seed=1)
    for _ in range(200):
        peer.step(np.array([1, 2, 3, 4]))
    pids = [view.host_pid, *view.stats.worker_pids]
    with Watched(*pids) as processes:
        before = [processor_time(pid) for pid in pids]
        assert processes.running(0.5) == pids
        used = [processor_time(pid) - start for pid, start in zip(pids, before, strict=True)]
    assert max(used) <= 0.1
    registry.delete(view.pool)


def test_a_server_that_closes_does_not_wait_for_the_end_of_a_rollout(driver, context):
    """A driver that never stops stepping keeps no pool alive."""
    with ExitStack() as stack:
        registry = stack.enter_context(open_registry())
        thread = stack.enter_context(ThreadPoolExecutor(1))
        view = registry.create(PoolSpec(env_id=env_id("Count-v0"), num_envs=2, env_kwargs={"length": 10**9}))
        peer = driver(view, "ipc")
        peer.reset(seed=1)
        ext, body = peer.format.encode([np.array([1, 2])])
        digest = digest_of(ext, body)
        over, steady = threading.Event(), threading.Event()

        def step_on():
            while not over.is_set():
                peer.seq += 1
                header = Header(Kind.STEP, digest=digest, body_length=len(body), seq=peer.seq, **peer.name)
                peer.send([header.pack(), ext, bytes(body)])
                while (answer := peer.receive(100)) is None and not over.is_set():
                    continue
                steady.set()
            return answer

        rollout = thread.submit(step_on)
        assert steady.wait(LONG_S)
        with Watched(view.host_pid) as host:
            registry.delete(view.pool)
            assert host.running() == []
        over.set()
        rollout.result(LONG_S)
