"""A trainer that computes keeps its pool: a thread renews the lease while nothing is asked."""

from __future__ import annotations

import gc
import queue
import threading

import pytest
import zmq

from vecserver.wire.errors import ServerUnreachable
from vecserver.wire.frames import Header, Kind
from vecserver_client.keepalive import KeepAlive
from vecserver_client.transport import MockTransport, ZmqTransport

LONG_S = 10.0
TTL_S = 0.03


class Driver:
    """A driver whose last request is always the same, unless a test says otherwise."""

    def __init__(self) -> None:
        self.standing = (7, 99, 0)


class Pool:
    """Notes each word."""

    def __init__(self) -> None:
        self.words: queue.Queue[Header] = queue.Queue()
        self.error: Exception | None = None
        self.opened: list[MockTransport] = []

    def open(self) -> MockTransport:
        self.opened.append(MockTransport(self.answer))
        return self.opened[-1]

    def answer(self, header, ext, body):
        self.words.put(header)
        if self.error is not None:
            raise self.error
        return []


@pytest.fixture
def pool() -> Pool:
    return Pool()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "keep-alive" in thread.name]


def test_a_word_is_said_again_and_again(pool):
    """With the driver's lease and epoch, each on a connection of its own that is closed."""
    driver = Driver()
    keep = KeepAlive(driver, pool.open, TTL_S)
    words = [pool.words.get(timeout=LONG_S) for _ in range(3)]
    keep.close()
    assert words == [Header(Kind.PING, lease=7, epoch=99)] * 3
    assert all(transport.closed for transport in pool.opened)
    assert threads() == []


def test_a_pool_that_is_out_of_reach_is_asked_again(pool):
    """The driver's next request says what is wrong with it."""
    driver = Driver()
    pool.error = ServerUnreachable("no way")
    keep = KeepAlive(driver, pool.open, TTL_S)
    for _ in range(3):
        pool.words.get(timeout=LONG_S)
    keep.close()


def test_a_context_that_is_destroyed_meanwhile_is_no_traceback(pool):
    """While a word is said, and before one is."""
    driver, context, closed = Driver(), zmq.Context(), threading.Semaphore(0)
    context.destroy()

    def open_transport():
        closed.release()
        return ZmqTransport(context, "tcp://127.0.0.1:1", 64)

    pool.error = zmq.ContextTerminated()
    keeps = [KeepAlive(driver, open_transport, TTL_S), KeepAlive(driver, pool.open, TTL_S)]
    for _ in range(2):
        assert closed.acquire(timeout=LONG_S)
        pool.words.get(timeout=LONG_S)
    for keep in keeps:
        keep.close()
    assert all(transport.closed for transport in pool.opened)


def test_who_stops_it_does_not_wait(pool):
    """Though a word is being said; the thread ends once it was."""
    driver, said, gate = Driver(), threading.Event(), threading.Event()

    def open_transport():
        said.set()
        gate.wait(LONG_S)
        return pool.open()

    keep = KeepAlive(driver, open_transport, TTL_S)
    assert said.wait(LONG_S)
    keep.stop()
    assert threads() != []
    gate.set()
    keep._thread.join(LONG_S)
    assert threads() == []


def test_the_thread_keeps_nobody_alive(pool):
    """It ends by itself once the driver was collected."""
    driver = Driver()
    keep = KeepAlive(driver, pool.open, TTL_S)
    pool.words.get(timeout=LONG_S)
    del driver
    gc.collect()
    keep._thread.join(LONG_S)
    assert threads() == []


def test_requests_are_words_enough(pool):
    """While the driver asks for batches nothing else is said."""
    seen = threading.Semaphore(0)

    class Busy:
        seq = 0

        @property
        def standing(self):
            self.seq += 1
            seen.release()
            return 7, 99, self.seq

    driver = Busy()
    keep = KeepAlive(driver, pool.open, TTL_S)
    for _ in range(5):
        assert seen.acquire(timeout=LONG_S)
    keep.close()
    assert pool.words.empty()
