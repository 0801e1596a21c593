"""A request with a key is run once, however often it comes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from vecserver.pools.keys import Keys
from vecserver.pools.results import Batch
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvFault,
    InvalidAction,
    InvalidSpec,
    PoolLost,
    SequenceConflict,
    SequenceStale,
    StillRunning,
)

LONG_S = 30.0


class Pool:
    """Counts its steps, and fails as it is told."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.steps = 0
        self.error: Exception | None = None

    def step(self) -> Batch:
        if isinstance(self.error, InvalidAction):
            raise self.error
        self.steps += 1
        if self.error is not None:
            raise self.error
        return Batch(self.steps, None, None, None, {})

    def ask(self, key: str, digest: bytes = b"d", timeout: float = LONG_S) -> tuple[int, bool]:
        batch, was_there = self.keys.run_once(key, digest, self.step, timeout)
        return batch.observations, was_there


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_the_same_request_gets_the_same_answer(pool):
    """The second time nothing is run."""
    assert [pool.ask("a"), pool.ask("a"), pool.ask("b"), pool.ask("b")] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]


def test_a_key_stands_for_one_request(pool):
    """Another request with it is refused, and so is one whose answer is not kept any more."""
    pool.ask("a")
    with pytest.raises(SequenceConflict, match="another request"):
        pool.ask("a", b"other")
    pool.ask("b")
    with pytest.raises(SequenceStale, match="another one since"):
        pool.ask("a")
    assert pool.steps == 2


@pytest.mark.parametrize("error", [EnvFault("row 0 raised", faults=[]), DeadlineExceeded("no answer")])
def test_a_request_that_may_have_been_run_is_not_run_again(pool, error):
    """What it ended with is its answer."""
    pool.error = error
    for _ in range(2):
        with pytest.raises(type(error)):
            pool.ask("a")
    assert pool.steps == 1


def test_a_request_that_was_refused_leaves_its_key_free(pool):
    """Nothing was done: it may be mended and sent again."""
    pool.error = InvalidAction("row 1: no")
    with pytest.raises(InvalidAction):
        pool.ask("a")
    pool.error = None
    assert pool.ask("a", b"mended") == (1, False)


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_has_a_length(pool, key):
    """From 1 to 255 characters."""
    with pytest.raises(InvalidSpec, match="1 to 255"):
        pool.ask(key)
    assert pool.steps == 0


def test_a_request_that_comes_again_while_it_runs_waits_for_its_answer(pool):
    """It is not run beside itself, and another one has to come later."""
    entered, gate = threading.Event(), threading.Event()

    def slow() -> Batch:
        entered.set()
        assert gate.wait(LONG_S)
        return pool.step()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.keys.run_once, "a", b"d", slow, LONG_S)
        assert entered.wait(LONG_S)
        with pytest.raises(StillRunning, match="still runs"):
            pool.ask("a", timeout=0.0)
        with pytest.raises(StillRunning, match="still runs"):
            pool.ask("b")
        again = threads.submit(pool.ask, "a")
        gate.set()
        assert first.result(LONG_S)[1] is False
        assert again.result(LONG_S) == (1, True)


def test_few_repeats_wait_for_an_answer(pool):
    """Those beyond are refused at once, by name, and so are those that find no place to wait."""
    entered, gate, placed = threading.Event(), threading.Event(), threading.Semaphore(0)

    def slow() -> Batch:
        entered.set()
        assert gate.wait(LONG_S)
        return pool.step()

    @contextmanager
    def place():
        placed.release()
        yield

    @contextmanager
    def no_place():
        raise StillRunning("12 requests step pools already")
        yield

    def again(place=place) -> tuple[Batch, bool]:
        return pool.keys.run_once("a", b"d", pool.step, LONG_S, place=place)

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(pool.keys.run_once, "a", b"d", slow, LONG_S)
        assert entered.wait(LONG_S)
        try:
            with pytest.raises(StillRunning, match="12 requests"):
                again(no_place)
            repeats = [threads.submit(again) for _ in range(2)]
            for _ in repeats:
                assert placed.acquire(timeout=LONG_S)
            with pytest.raises(StillRunning, match="2 repeats of it wait"):
                again()
        finally:
            gate.set()
        assert [each.result(LONG_S)[1] for each in (first, *repeats)] == [False, True, True]
    assert again(no_place)[1]


def test_what_could_not_be_begun_leaves_its_key_free(pool):
    """A pool that has no host now is the same key's later."""

    def check() -> None:
        raise PoolLost("it is being made again")

    with pytest.raises(PoolLost):
        pool.keys.run_once("a", b"d", pool.step, LONG_S, check)
    assert pool.ask("a") == (1, False)
    assert pool.keys.run_once("a", b"d", pool.step, LONG_S, check)[1]


def test_keys_are_forgotten_in_the_end(pool):
    """Some thousand of them: memory stays flat."""
    for number in range(2000):
        pool.ask(str(number))
    assert len(pool.keys._requests) == 1024
