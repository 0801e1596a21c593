"""Who may make a pool now, who waits, and who is sent away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.pools.processes import wait_for
from vecserver.pools.admission import MAX_WAITING, Admission
from vecserver.wire.errors import CapExceeded, PoolStopping

LONG_S = 30.0


def take(admission, timeout):
    with admission.turn(timeout):
        return True


def test_so_many_have_a_turn_and_the_next_waits():
    """Whoever leaves lets the next one in."""
    admission = Admission(2)
    with ThreadPoolExecutor(1) as thread:
        with admission.turn(LONG_S):
            with admission.turn(LONG_S):
                third = thread.submit(take, admission, LONG_S)
                wait_for(lambda: admission._waiting)
                assert not third.done()
            assert third.result(LONG_S)
        assert take(admission, 0.0)


def test_a_turn_that_does_not_come_is_refused_by_name():
    """The cap is named, and nothing is taken by who was refused."""
    admission = Admission(1)
    with admission.turn(LONG_S), pytest.raises(CapExceeded, match="max_creations") as caught, admission.turn(0.001):
        pass
    assert caught.value.details == {"cap": "max_creations", "limit": 1}
    assert take(admission, 0.0)


def test_a_full_queue_is_refused_at_once():
    """Who waits for as long as it takes stands in no queue, and is not sent away by it."""
    admission = Admission(1)
    with ThreadPoolExecutor(MAX_WAITING + 1) as threads:
        with ExitStack() as turn:
            turn.enter_context(admission.turn(LONG_S))
            waiting = [threads.submit(take, admission, LONG_S) for _ in range(MAX_WAITING)]
            wait_for(lambda: admission._waiting == MAX_WAITING)
            patient = threads.submit(take, admission, None)
            with pytest.raises(CapExceeded, match="ask again later"):
                take(admission, LONG_S)
        assert all(each.result(LONG_S) for each in (*waiting, patient))


def test_closing_sends_all_away():
    """Who waits, and who comes later."""
    admission = Admission(1)
    with ThreadPoolExecutor(2) as threads, admission.turn(LONG_S):
        waiting = [threads.submit(take, admission, timeout) for timeout in (LONG_S, None)]
        wait_for(lambda: admission._waiting)
        admission.close()
        for each in waiting:
            with pytest.raises(PoolStopping):
                each.result(LONG_S)
    with pytest.raises(PoolStopping):
        take(admission, LONG_S)
