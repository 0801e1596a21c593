"""The server's line to a pool, against a pool that misbehaves."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack

import pytest
import zmq

from vecserver.pools.link import PoolLink
from vecserver.wire import messages
from vecserver.wire.errors import DeadlineExceeded, MalformedMessage, PoolLost, UnknownEnv
from vecserver.wire.frames import Flag, Header, Kind

STATS = messages.Stats("ready", "", 1, 2, 3, 4, 5, 0, "", 0.0, 4096, [1], [2], 3)
LONG_S = 20.0
ENDPOINT = f"ipc://@vecserver-test-{os.getpid()}"  # an abstract address: no file


def answer(kind: int, ext: bytes = b"", seq: int = 0) -> list[bytes]:
    return [Header(kind, Flag.ANSWER, seq=seq).pack(), ext, b""]


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def link(stack):
    """Makes a link to a pool that gives prepared answers to the first message."""
    context = stack.enter_context(zmq.Context())

    def make(*answers: list[bytes], check_alive=lambda: None) -> PoolLink:
        router = stack.enter_context(context.socket(zmq.ROUTER))
        router.bind(ENDPOINT)

        def serve() -> None:
            if router.poll(int(LONG_S * 1000)):
                peer = router.recv_multipart()[0]
                for frames in answers:
                    router.send_multipart([peer, *frames])

        thread = threading.Thread(target=serve)
        thread.start()
        stack.callback(thread.join)
        return stack.enter_context(PoolLink(context, ENDPOINT, 64, check_alive))

    return make


def test_an_answer_to_something_else_is_not_taken(link):
    """What belongs to another request, or reports progress, is passed over."""
    others = [answer(Kind.IN_PROGRESS), answer(Kind.DETACH), answer(Kind.PING, b"", seq=9)]
    assert link(*others, answer(Kind.PING, messages.encode(STATS))).ping(LONG_S) == STATS


def test_an_error_comes_out_as_it_is(link):
    """The pool's error is raised as the class it was, with its details."""
    with pytest.raises(UnknownEnv, match="no such") as caught:
        link(answer(Kind.ERROR, messages.encode_error(UnknownEnv("no such", nearest=["a"])))).ping(LONG_S)
    assert caught.value.details == {"nearest": ["a"]}


@pytest.mark.parametrize("frames", [[b"nonsense", b"", b""], [Header(Kind.PING).pack()], answer(Kind.PING, b"\xc1")])
def test_an_answer_that_is_none_is_named(link, frames):
    """Bytes that are no message of this protocol are an error, not a wait without end."""
    with pytest.raises(MalformedMessage):
        link(frames).ping(LONG_S)


def test_a_pool_that_does_not_answer_is_named(link):
    """The wait ends, and says what was not answered."""
    with pytest.raises(DeadlineExceeded, match="PING") as caught:
        link().ping(0.15)
    assert caught.value.details["endpoint"] == ENDPOINT


def test_a_pool_that_died_is_noticed_while_waiting(link):
    """Whoever waits is told that the process is gone long before the time is over."""

    def check_alive() -> None:
        raise PoolLost("it was killed by signal 9")

    with pytest.raises(PoolLost, match="signal 9"):
        link(check_alive=check_alive).ping(LONG_S)


def test_nobody_listens(stack):
    """An address where nobody listens is noticed within the time, too."""
    context = stack.enter_context(zmq.Context())
    link = stack.enter_context(PoolLink(context, f"{ENDPOINT}-nobody", 64, lambda: None))
    with pytest.raises(DeadlineExceeded):
        link.ping(0.15)
