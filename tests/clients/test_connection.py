"""A connection numbers requests, keeps them until they are answered, and asks again without running anything twice.

By blocking calls and from an event loop: the tests are the same.
"""

from __future__ import annotations

import asyncio

import pytest

from vecserver.wire import messages
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvFault,
    InvalidAction,
    LocalError,
    MalformedMessage,
    MessageTooLarge,
    PoolLost,
    ServerUnreachable,
)
from vecserver.wire.frames import MAX_EXT, Flag, Header, Kind
from vecserver_client import Connection, MockTransport
from vecserver_client.aio.connection import AsyncConnection

INFO = messages.PoolInfo(
    pool="p",
    env_id="CartPole-v1",
    num_envs=2,
    autoreset_mode="NextStep",
    observation_space={},
    action_space={},
    layout={},
    layout_hash=1,
    metadata={},
    render_mode=None,
    engine="envs",
    workers=1,
    step_timeout=1.0,
    lease_ttl=60.0,
    max_request=64,
)


class LoopedTransport:
    """A transport of an event loop over one of blocking calls that never block."""

    def __init__(self, transport: MockTransport) -> None:
        self._transport = transport

    async def send(self, *message) -> None:
        self._transport.send(*message)

    async def receive(self, timeout: float):
        return self._transport.receive(timeout)

    def moved(self) -> bool:
        return self._transport.moved()

    def close(self) -> None:
        self._transport.close()


class LoopedConnection:
    """An AsyncConnection by blocking calls, each in a loop of its own."""

    def __init__(self, name, open_transport, check_pool) -> None:
        self._open_transport, self._check_pool = open_transport, check_pool
        self._connection = AsyncConnection(name, lambda: LoopedTransport(self._open_transport()), self._checked)

    async def _checked(self) -> None:
        self._check_pool()

    @property
    def pending(self) -> bool:
        return self._connection.pending

    def __getattr__(self, name):
        return lambda *args: asyncio.run(getattr(self._connection, name)(*args))


class Pool:
    """A pool in a function: notes what it was asked, and answers as it is told."""

    def __init__(self, shell) -> None:
        self.shell = shell
        self.seen: list[tuple[Header, bytes, bytes]] = []
        self.transports: list[MockTransport] = []
        self.silent = False
        self.silent_until = 10**9  # messages
        self.extra: list = []
        self.error = None
        self.refuses = False

    def open(self) -> MockTransport:
        self.transports.append(MockTransport(self.answer))
        return self.transports[-1]

    def answer(self, header, ext, body):
        self.seen.append((header, ext, body))
        if header.kind == Kind.ATTACH:
            attached = messages.encode(messages.Attached(INFO, 7, 99, 0))
            return [(Header(Kind.ATTACH, Flag.ANSWER), attached, b"")]
        if self.silent and len(self.seen) < self.silent_until:
            return []
        if self.error is not None:
            flags = Flag.ANSWER | (Flag.REFUSED if self.refuses else 0)
            reply = Header(Kind.ERROR, flags, self.error.number, seq=header.seq)
            return [*self.extra, (reply, messages.encode_error(self.error), b"")]
        return [*self.extra, (Header(header.kind, Flag.ANSWER, seq=header.seq), b"", b"slot")]


@pytest.fixture(params=[Connection, LoopedConnection])
def pool(request) -> Pool:
    """To be driven by either."""
    return Pool(request.param)


with_blocking_calls = pytest.mark.parametrize("pool", [Connection], indirect=True)
"""Ctrl-C stops an event loop between two calls, and not in one."""


def connect(pool: Pool, check_pool=lambda: None):
    connection = pool.shell("test", pool.open, check_pool)
    connection.attach(1.0)
    return connection


def run(connection, body: bytes = b"body"):
    connection.begin(Kind.STEP, b"", body, 1.0)
    return connection.finish(1.0)


def test_requests_are_numbered_from_one_under_the_lease_of_the_attach(pool):
    """Each sequenced request has the next number, the lease and the epoch."""
    connection = connect(pool)
    for _ in range(3):
        run(connection)
    assert [(h.seq, h.lease, h.epoch) for h, _, _ in pool.seen[1:]] == [(1, 7, 99), (2, 7, 99), (3, 7, 99)]


def test_a_second_request_before_the_answer_is_refused(pool):
    """Lockstep: one request at a time."""
    connection = connect(pool)
    connection.begin(Kind.STEP, b"", b"", 1.0)
    with pytest.raises(LocalError, match="was not answered yet"):
        connection.begin(Kind.STEP, b"", b"", 1.0)


def test_waiting_for_nothing_is_refused(pool):
    """There must be a request to wait for."""
    with pytest.raises(LocalError, match="no request is pending"):
        connect(pool).finish(1.0)


def test_a_refused_request_gives_its_number_back(pool):
    """What the pool did not run has used no number."""
    connection = connect(pool)
    pool.error, pool.refuses = InvalidAction("row 1: no"), True
    with pytest.raises(InvalidAction, match="row 1"):
        run(connection)
    pool.error = None
    run(connection)
    assert [h.seq for h, _, _ in pool.seen[1:]] == [1, 1]


def test_a_fault_has_used_its_number(pool):
    """A batch that raised in an environment was stepped."""
    connection = connect(pool)
    pool.error = EnvFault("row 0 raised", faults=[{"row": 0, "type": "ValueError", "message": "", "traceback": ""}])
    with pytest.raises(EnvFault):
        run(connection)
    pool.error = None
    run(connection)
    assert [h.seq for h, _, _ in pool.seen[1:]] == [1, 2]


def test_late_answers_to_earlier_requests_are_passed_over(pool):
    """Only the answer with the pending number counts."""
    connection = connect(pool)
    run(connection)
    pool.extra = [(Header(Kind.STEP, Flag.ANSWER, seq=1), b"", b"old!")]
    assert run(connection)[2] == b"slot"


def test_silence_is_a_deadline_and_the_request_stays_pending(pool):
    """After a deadline the same call may be waited for again, under the same number and bytes."""
    connection = connect(pool)
    pool.silent = True
    connection.begin(Kind.STEP, b"", b"actions", 1.0)
    with pytest.raises(DeadlineExceeded, match=r"0 s after it was sent: the pool was not asked yet how far it is"):
        connection.finish(0.0)
    assert connection.pending
    pool.silent_until = 4
    # a patient wait asks again on the same transport, and then on a fresh one
    assert connection.finish(30.0)[2] == b"slot"
    first, *repeats = pool.seen[1:]
    assert repeats == [first, first]
    assert pool.transports[0].closed


def test_progress_is_named_when_the_deadline_comes(pool):
    """A slow batch says which rows it is busy with."""
    connection = connect(pool)
    progress = messages.encode(messages.InProgress(3.5, (4, 7)))
    pool.transports[0]._answer = lambda h, e, b: [(Header(Kind.IN_PROGRESS, Flag.ANSWER, seq=h.seq), progress, b"")]
    connection.begin(Kind.STEP, b"", b"", 1.0)
    with pytest.raises(
        DeadlineExceeded, match=r"the pool said that it began 3.5 s ago and is still busy with row 4 and those up to 7"
    ):
        connection.finish(0.0)


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        ((0.0, (0, 3), 1.5), "waits, for 1.5 s now, for another request, which is at row 0 and those up to 3"),
        (
            (2.0, (3, 3), 1.5, 1.2),
            r"waited 1.5 s for other requests and then began 2.0 s ago and is still busy with row 3 ",
        ),
        (
            (2.0, (3, 3), 0.0, 1.2),
            r"that it began 2.0 s ago and is still busy with row 3 \(at work for 1.2 s or more\)",
        ),
    ],
)
def test_a_deadline_says_where_the_time_went(pool, progress, words):
    """Waiting for others, the step itself, and the row that is at work."""
    connection = connect(pool)
    ext = messages.encode(messages.InProgress(*progress))
    pool.transports[0]._answer = lambda h, e, b: [(Header(Kind.IN_PROGRESS, Flag.ANSWER, seq=h.seq), ext, b"")]
    connection.begin(Kind.STEP, b"", b"", 1.0)
    with pytest.raises(DeadlineExceeded, match=words) as caught:
        connection.finish(0.0)
    assert caught.value.details == {"rows": list(progress[1])}


def test_a_deadline_tells_a_pool_that_is_deaf_from_one_that_was_not_asked(pool):
    """How often it was asked, and what it said."""
    connection = connect(pool)
    pool.silent = True
    connection.begin(Kind.STEP, b"", b"", 1.0)
    with pytest.raises(DeadlineExceeded, match=r"was sent, and \d+ times again: the pool has said nothing"):
        connection.finish(1.5)


def test_a_pool_that_is_gone_is_named_instead_of_a_timeout(pool):
    """Silence makes the connection ask whether the pool exists."""

    def lost() -> None:
        raise PoolLost("its host was killed")

    connection = connect(pool, lost)
    pool.silent = True
    connection.begin(Kind.STEP, b"", b"", 1.0)
    with pytest.raises(PoolLost, match="killed"):
        connection.finish(30.0)


def test_a_server_that_takes_nothing_is_unreachable(pool):
    """A send that never succeeds ends with its own deadline, and no number is used."""
    connection = connect(pool)
    deaf = pool.transports[0]

    def refuse(*_args) -> None:
        raise ServerUnreachable("nobody")

    deaf.send = refuse
    with pytest.raises(ServerUnreachable):
        connection.begin(Kind.STEP, b"", b"", 0.0)
    del deaf.send
    run(connection)
    assert pool.seen[-1][0].seq == 1


def test_an_exception_in_the_middle_of_a_message_costs_the_socket_not_the_request(pool):
    """After a broken receive the request is still pending, on a fresh transport."""
    connection = connect(pool)
    connection.begin(Kind.STEP, b"", b"", 1.0)
    broken = pool.transports[0]

    def tear(_timeout) -> None:
        raise MalformedMessage("half a message")

    broken.receive = tear
    with pytest.raises(MalformedMessage):
        connection.finish(1.0)
    assert broken.closed
    assert connection.finish(30.0)[2] == b"slot"


def test_the_body_is_the_connections_own(pool):
    """A caller may change its actions after they were sent."""
    connection = connect(pool)
    pool.silent = True
    actions = bytearray(b"1234")
    connection.begin(Kind.STEP, b"", memoryview(actions), 1.0)
    actions[:] = b"9999"
    pool.silent = False
    connection.finish(30.0)
    assert [bytes(body) for _, _, body in pool.seen[1:]] == [b"1234", b"1234"]


def test_closing_gives_the_lease_back_whatever_the_pool_says(pool):
    """A detach that is refused or unanswered does not keep the transport open."""
    for error in (None, EnvFault("no"), "silence"):
        connection = connect(pool)
        pool.silent, pool.error = error == "silence", None if error == "silence" else error
        connection.close(0.0)
        assert pool.transports[-1].closed
        pool.silent, pool.error = False, None


@with_blocking_calls
def test_an_interrupted_send_is_asked_for_again_under_its_number(pool):
    """Ctrl-C between two frames costs the socket: the request is known, and its number is not used for another one."""
    connection = connect(pool)
    torn = pool.transports[0]

    def interrupt(*_args) -> None:
        raise KeyboardInterrupt

    torn.send = interrupt
    with pytest.raises(KeyboardInterrupt):
        connection.begin(Kind.STEP, b"", b"one", 1.0)
    assert torn.closed
    assert connection.pending
    assert connection.finish(30.0)[2] == b"slot"
    assert [(header.seq, body) for header, _, body in pool.seen[1:]] == [(1, b"one")]


def test_a_late_answer_is_not_taken_for_the_next_ones(pool):
    """A request without a number that was given up leaves nothing behind on the transport."""
    connection = connect(pool)
    pool.silent = True
    with pytest.raises(DeadlineExceeded):
        connection.ask(Kind.PING, b"", 0.001)
    assert pool.transports[0].closed


def lose(transport: MockTransport) -> None:
    """Has a transport say at its next receive that its connection is gone."""

    def gone(_timeout) -> None:
        raise ConnectionResetError

    transport.receive = gone


@with_blocking_calls
def test_an_interrupted_repeat_costs_the_transport_too(pool):
    """Half of a repeated request is never followed by another message."""
    connection = connect(pool)
    pool.silent = True
    torn = pool.transports[0]
    send, turns = torn.send, []

    def interrupt(*args) -> None:
        turns.append(args)
        if len(turns) == 2:
            raise KeyboardInterrupt
        send(*args)

    torn.send = interrupt
    connection.begin(Kind.STEP, b"", b"one", 1.0)
    with pytest.raises(KeyboardInterrupt):
        connection.finish(30.0)
    assert torn.closed
    pool.silent = False
    assert connection.finish(30.0)[2] == b"slot"
    assert [(header.seq, body) for header, _, body in pool.seen[1:]] == [(1, b"one"), (1, b"one")]


@with_blocking_calls
def test_an_interrupted_question_costs_the_transport_too(pool):
    """The same for a request that has no number."""
    connection = connect(pool)
    torn = pool.transports[0]

    def interrupt(*_args) -> None:
        raise KeyboardInterrupt

    torn.send = interrupt
    with pytest.raises(KeyboardInterrupt):
        connection.ask(Kind.PING, b"", 1.0)
    assert torn.closed
    assert connection.ask(Kind.PING, b"", 1.0)[0].kind == Kind.PING


def test_a_request_whose_connection_was_lost_is_sent_again_at_once(pool):
    """On a fresh transport, under the same number, after the pool was asked for; the next loss waits for a moment."""
    asked, slept = [], []
    connection = connect(pool, lambda: asked.append(1))
    connection.begin(Kind.STEP, b"", b"one", 1.0)
    lose(pool.transports[0])
    opened, lost = pool.open, []

    def open_and_lose() -> MockTransport:
        transport = opened()
        if len(lost) < 2:
            lost.append(transport)
            lose(transport)
        return transport

    connection._open_transport = open_and_lose

    async def pause(seconds: float) -> None:
        slept.append(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vecserver_client.connection.sleep", slept.append)
        patch.setattr("vecserver_client.aio.connection.asyncio.sleep", pause)
        assert connection.finish(30.0)[2] == b"slot"
    first, *repeats = pool.seen[1:]
    assert repeats == [first] * 3
    assert len(asked) == 3
    assert slept[0] == 0.0
    assert min(slept[1:]) > 0.0


def test_a_question_whose_connection_was_lost_is_asked_again(pool):
    """Likewise, and what is lost for good is said."""
    connection = connect(pool)
    lose(pool.transports[0])
    assert connection.ask(Kind.RENDER, b"", 1.0)[0].kind == Kind.RENDER
    assert [header.kind for header, _, _ in pool.seen[1:]] == [Kind.RENDER] * 2

    def lost() -> None:
        raise PoolLost("its host was killed")

    connection._check_pool = lost
    lose(pool.transports[-1])
    with pytest.raises(PoolLost):
        connection.ask(Kind.RENDER, b"", 1.0)
    assert connection.ask(Kind.RENDER, b"", 1.0)[0].kind == Kind.RENDER


def test_silence_after_a_loss_is_silence_again(pool):
    """The next repeat but one is sent on a fresh transport, as if no connection had been lost before."""
    connection = connect(pool)
    lose(pool.transports[0])
    run(connection)
    pool.silent, pool.silent_until = True, len(pool.seen) + 3
    connection.begin(Kind.STEP, b"", b"two", 1.0)
    assert connection.finish(30.0)[2] == b"slot"
    assert [body for _, _, body in pool.seen[3:]] == [b"two"] * 3
    assert [transport.closed for transport in pool.transports] == [True, True, False]


def test_a_connection_that_is_always_lost_is_a_deadline(pool):
    """Every try is followed by a pause, and the time limit holds."""
    connection = connect(pool)
    opened = pool.open

    def open_and_lose() -> MockTransport:
        transport = opened()
        lose(transport)
        return transport

    connection._open_transport = open_and_lose
    lose(pool.transports[0])
    with pytest.raises(DeadlineExceeded):
        connection.ask(Kind.PING, b"", 0.5)
    assert len(pool.transports) < 10
    connection.begin(Kind.STEP, b"", b"", 1.0)
    with pytest.raises(DeadlineExceeded):
        connection.finish(0.5)
    assert connection.pending
    assert len(pool.transports) < 20


def test_what_no_message_takes_is_refused_before_it_is_sent(pool):
    """The pool would end the connection without a word; the number stays free."""
    connection = connect(pool)
    with pytest.raises(MessageTooLarge):
        connection.begin(Kind.CALL, bytes(MAX_EXT + 1), b"", 1.0)
    assert not connection.pending
    run(connection)
    assert [h.seq for h, _, _ in pool.seen[1:]] == [1]
