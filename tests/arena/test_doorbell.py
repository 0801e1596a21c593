"""The bell: rings are counted, waits are bounded, the end of the other process ends them."""

from __future__ import annotations

import os
import select
import socket
import threading
import time

import pytest

from vecserver.arena import doorbell
from vecserver.arena.doorbell import MAX_SPIN_US, Doorbell, FinishLine, make_bell, make_tokens, spin_until

LONG_S = 20.0


@pytest.fixture
def bell():
    fd = make_bell()
    yield Doorbell(fd)
    os.close(fd)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    fd = make_bell()
    yield Doorbell(fd, hangup_fd=ours.fileno()), theirs
    ours.close()
    theirs.close()
    os.close(fd)


def test_no_ring_is_no_ring(bell):
    """A bell that nobody rang has nothing to take."""
    assert bell.take() == 0
    assert bell.wait(0) == 0


def test_rings_are_counted(bell):
    """Three rings before anybody looks are three rings, once."""
    for _ in range(3):
        bell.ring()
    assert bell.take() == 3
    assert bell.take() == 0


def test_rings_of_many_threads_are_all_counted(bell):
    """No ring is lost, however many ring at once."""

    def ring() -> None:
        for _ in range(500):
            bell.ring()

    threads = [threading.Thread(target=ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    heard = 0
    while heard < 2000:
        rings = bell.wait(LONG_S)
        assert rings
        heard += rings
    for thread in threads:
        thread.join()
    assert (heard, bell.take()) == (2000, 0)


def test_a_ring_before_the_wait_is_heard_at_once(bell):
    """A waiter that comes late misses nothing."""
    bell.ring()
    assert bell.wait() == 1


def test_a_ring_ends_a_wait_without_a_limit(bell):
    """A wait without a timeout goes on until somebody rings."""
    threading.Thread(target=bell.ring).start()
    assert bell.wait() == 1


def test_a_wait_ends_when_its_time_is_over(bell):
    """Nobody rings: the wait takes its timeout and says so."""
    began = time.monotonic()
    assert bell.wait(0.05) == 0
    assert 0.045 <= time.monotonic() - began < LONG_S


def test_a_ring_makes_the_descriptor_readable(bell):
    """A poller that waits for other things too sees the ring."""
    assert not select.select([bell.fd], [], [], 0)[0]
    bell.ring()
    assert select.select([bell.fd], [], [], 0)[0]


@pytest.mark.parametrize("timeout", [None, LONG_S])
def test_the_end_of_the_other_process_ends_a_wait(pair, timeout):
    """A wait does not outlive the process that would ring."""
    bell, theirs = pair
    threading.Thread(target=theirs.close).start()
    with pytest.raises(EOFError, match="gone"):
        bell.wait(timeout)


def test_a_ring_before_the_end_is_heard_first(pair):
    """What was announced before the other process ended is taken; the end shows in the next wait."""
    bell, theirs = pair
    bell.ring()
    theirs.close()
    assert bell.wait() == 1
    with pytest.raises(EOFError):
        bell.wait()


def test_a_message_on_the_socket_is_no_hang_up(pair):
    """Bytes that come over the watched socket neither end nor disturb a wait."""
    bell, theirs = pair
    theirs.sendall(b"hello")
    assert bell.wait(0.01) == 0
    bell.ring()
    assert bell.wait() == 1


def test_an_idle_wait_uses_no_processor_time(bell):
    """Blocking is blocking: the thread does not run while nobody rings."""
    used = time.thread_time()
    bell.wait(0.25)
    assert time.thread_time() - used < 0.025


@pytest.fixture
def finish(bell):
    """A finish line that rings the bell."""
    fd = make_tokens()
    yield FinishLine(fd, bell)
    os.close(fd)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_last_over_the_finish_line_rings_once(finish, workers):
    """Nobody is woken before all have finished, and once is enough, command after command."""
    for _ in range(3):
        finish.arm(workers)
        for _ in range(workers - 1):
            finish.cross()
            assert finish.bell.take() == 0
        finish.cross()
        assert finish.bell.take() == 1


def test_of_workers_that_finish_together_one_rings(finish):
    """However they race for the line, every command ends with exactly one ring."""
    workers, commands = 4, 200
    start = threading.Barrier(workers + 1)

    def run() -> None:
        for _ in range(commands):
            start.wait(LONG_S)
            finish.cross()

    threads = [threading.Thread(target=run) for _ in range(workers)]
    for thread in threads:
        thread.start()
    rings = []
    for _ in range(commands):
        finish.arm(workers)
        start.wait(LONG_S)
        rings.append(finish.bell.wait(LONG_S))
    for thread in threads:
        thread.join()
    assert rings == [1] * commands
    assert finish.bell.take() == 0


class Clock:
    """Nanoseconds that pass by a fixed amount with every look."""

    def __init__(self, step_us: int) -> None:
        self.now, self.step = 0, step_us * 1000

    def __call__(self) -> int:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(step_us=1)
    monkeypatch.setattr(doorbell, "perf_counter_ns", clock)
    return clock


def never() -> bool:
    return False


def test_a_condition_that_holds_needs_no_spin(clock):
    """A condition that is true already costs one look and no clock."""
    assert spin_until(lambda: True, 50)
    assert clock.now == 0


@pytest.mark.parametrize("spin_us", [0, -1])
def test_no_spin_is_one_look(clock, spin_us):
    """Without time to spin the condition is looked at once."""
    looks = []
    assert not spin_until(lambda: looks.append(0), spin_us)
    assert (len(looks), clock.now) == (1, 0)


def test_a_spin_ends_when_the_condition_comes_true(clock):
    """The spinner sees the change and stops."""
    assert spin_until(lambda: clock.now >= 20_000, 100)
    assert clock.now <= 22_000


@pytest.mark.parametrize(("asked_us", "spun_us"), [(30, 30), (MAX_SPIN_US, MAX_SPIN_US), (1e12, MAX_SPIN_US)])
def test_a_spin_is_bounded(clock, asked_us, spun_us):
    """A spin gives up after its time, and after the longest sensible time whatever was asked."""
    assert not spin_until(never, asked_us)
    assert spun_us <= clock.now / 1000 <= spun_us + 3
