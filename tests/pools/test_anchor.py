"""A thread for children to hang on."""

from __future__ import annotations

import threading

import pytest

from vecserver.pools import anchor as anchor_module
from vecserver.pools.anchor import Anchor

LONG_S = 30.0


def in_a_thread(run):
    """Runs a function in a thread that has ended when this returns; gives its result or error."""
    results = []

    def hold():
        try:
            results.append(run())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join(LONG_S)
    return results.pop()


def test_the_first_thread_is_its_own_anchor():
    """No thread is made where the caller's stays as long as the process."""
    ran_in = []
    Anchor().run(lambda: ran_in.append(threading.current_thread()), lambda: None)
    assert ran_in == [threading.current_thread()]


def test_another_threads_children_hang_on_one_that_stays():
    """It is there when the caller's thread is gone, until it is released."""
    anchor, ran_in = Anchor(), []
    in_a_thread(lambda: anchor.run(lambda: ran_in.append(threading.current_thread()), lambda: None))
    (held,) = ran_in
    assert held.is_alive()
    assert held.daemon
    anchor.release()
    held.join(LONG_S)
    assert not held.is_alive()


def test_an_error_comes_out_where_it_is_waited_for():
    """The thread waits to be released all the same."""

    def fail():
        raise ZeroDivisionError

    anchor = Anchor()
    assert isinstance(in_a_thread(lambda: anchor.run(fail, lambda: None)), ZeroDivisionError)
    anchor.release()


def test_who_is_interrupted_gives_up_first(monkeypatch):
    """The start is told to end, and has ended when the interruption comes out."""
    anchor, given_up, ended = Anchor(), threading.Event(), []

    def start():
        assert given_up.wait(LONG_S)
        ended.append(True)

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            if not given_up.is_set():
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(anchor_module, "Event", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        error = in_a_thread(lambda: anchor.run(start, given_up.set))
        assert ended == [True]
        raise error
    anchor.release()
