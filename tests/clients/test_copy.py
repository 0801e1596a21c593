"""With ``copy=False`` observations stay as they are for two further steps or resets, over every transport."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial

import numpy as np
import pytest
import zmq
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

import vecserver_client as vs
from tests.clients.wires import LONG_S, exactly, greet, serve
from tests.environments import env_id
from tests.sampling import in_turn, of_which
from vecserver.arena.plan import SLOTS
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import EnvFault, InvalidAction, LeaseLost, MalformedMessage, MessageTooLarge
from vecserver.wire.frames import Flag, Header, Kind
from vecserver.wire.layout import Layout
from vecserver.wire.zmtp import encode
from vecserver_client import aio, factory
from vecserver_client.bodies import KEPT, BodyRing
from vecserver_client.direct import DirectTransport
from vecserver_client.link import PoolLink
from vecserver_client.transport import Transport, ZmqTransport

BIG = env_id("Big-v0")
TRANSPORTS = ["shm", "ipc", "tcp", "network"]
NONE = np.zeros(2, np.int64)

in_every_transport = pytest.mark.parametrize("transport", TRANSPORTS)
in_two_transports = of_which("transport", TRANSPORTS, 0, 2)


@pytest.fixture
def make(server, monkeypatch) -> Iterator[Callable[..., vs.RemoteVectorEnv]]:
    """Makes pools whose observations are not copied; closed after the test."""
    with ExitStack() as stack:

        def make_one(transport: str, name: str = BIG, **options) -> vs.RemoteVectorEnv:
            if transport == "network":  # as other machines are reached
                monkeypatch.setattr(factory, "_opener", partial(partial, ZmqTransport))
                transport = "tcp"
            options = {"copy": False, "transport": transport, "url": server.url} | options
            envs = vs.make_vec(name, 2, **options)
            stack.callback(envs.close, terminate=True)
            return envs

        yield make_one


# What stays as it is, and for how long


@in_every_transport
def test_two_further_steps_leave_an_observation_as_it_is_and_the_third_writes_over_it(make, transport):
    """The memory of a step is used again by the third step after it, and not before."""
    envs = make(transport)
    envs.reset(seed=1)
    shown = [envs.step(NONE)[0] for _ in range(KEPT + 1)]
    before = [each.copy() for each in shown]
    assert all(np.array_equal(*pair) for pair in zip(shown, before, strict=True))
    again = envs.step(NONE)[0]
    assert [np.shares_memory(again, each) for each in shown] == [True, False, False]
    assert [np.array_equal(*pair) for pair in zip(shown, before, strict=True)] == [False, True, True]


@in_turn("transport, mode", TRANSPORTS, list(AutoresetMode))
def test_whatever_is_asked_in_between_the_last_three_results_stay(make, transport, mode):
    """Steps, resets of all rows or some, frames, calls, and batches that are refused, in a random order."""
    envs = make(transport, autoreset_mode=mode, render_mode="rgb_array", length=50)
    rng = np.random.default_rng(len(transport))
    kept: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=KEPT + 1)

    def keep(result) -> None:
        kept.append((result[0], result[0].copy()))

    def be_refused() -> None:
        with pytest.raises(InvalidAction):
            envs.step(np.array([0, 9]))

    deeds = [
        *[lambda: keep(envs.step(rng.integers(5, size=2)))] * 4,
        lambda: keep(envs.reset(seed=int(rng.integers(99)))),
        lambda: keep(envs.reset(options={"reset_mask": np.array([True, False])})),
        envs.render,
        lambda: envs.call("add", 1),
        lambda: envs.set_attr("tag", 2.0),
        envs.stats,
        be_refused,
    ]
    keep(envs.reset(seed=0))
    for number in rng.integers(len(deeds), size=60):
        deeds[number]()
        for shown, before in kept:
            assert np.array_equal(shown, before)


@in_two_transports
def test_a_step_that_fails_counts_as_one(make, transport):
    """A step that raises and a reset behind it leave an observation as it is."""
    envs = make(transport, env_id("Raise-v0"), at=2, length=9)
    envs.reset(seed=0)
    shown = envs.step(NONE)[0]
    before = shown.copy()
    with pytest.raises(EnvFault):
        envs.step(NONE)
    assert np.array_equal(shown, before)
    assert envs.reset(seed=0)[0][:, 2].tolist() == [0, 0]
    assert np.array_equal(shown, before)


@in_two_transports
def test_observations_cannot_be_written_to_and_all_else_is_the_callers(make, transport):
    """A caller that normalises in place is told at once; rewards and flags are its own."""
    envs = make(transport)
    for observations in (envs.reset(seed=1)[0], envs.step(NONE)[0]):
        with pytest.raises(ValueError, match="read-only"):
            observations[...] = 0
    own = envs.step(NONE)[1:4]
    before = [each.copy() for each in own]
    for _ in range(KEPT + 2):
        envs.step(NONE)
    assert all(np.array_equal(*pair) for pair in zip(own, before, strict=True))
    assert all(each.flags.writeable for each in own)


@in_two_transports
def test_what_is_nested_follows_the_same_rule(make, transport):
    """Leaves of dicts and tuples are read-only, and as they were two steps later."""
    envs = make(transport, env_id("Nested-v0"))
    envs.reset(seed=1)
    first = envs.step(envs.action_space.sample())[0]

    def leaves(value) -> list[np.ndarray]:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
        return [value] if parts is None else [leaf for part in parts for leaf in leaves(part)]

    before = [leaf.copy() for leaf in leaves(first)]
    for _ in range(KEPT):
        envs.step(envs.action_space.sample())
    assert all(np.array_equal(*pair) for pair in zip(leaves(first), before, strict=True))
    assert not any(leaf.flags.writeable for leaf in leaves(first))


@in_two_transports
def test_observations_outlive_their_environment(make, transport):
    """What was returned last can be read after ``close``: the memory stays as long as its arrays."""
    envs = make(transport)
    envs.reset(seed=1)
    shown = envs.step(NONE)[0]
    before = shown.copy()
    envs.close()
    assert np.array_equal(shown, before)


def test_over_shm_a_client_that_takes_the_pool_writes_over_them(make, server):
    """The memory is the pool's: its next driver's third step is written where the first one's observations are."""
    envs = make("shm")
    envs.reset(seed=1)
    shown = envs.step(NONE)[0]
    before = shown.copy()
    with closing(vs.attach(server.url, envs.pool, transport="shm", copy=False, force=True)) as other:
        other.step(NONE)
        other.step(NONE)
        assert np.array_equal(shown, before)
        other.step(NONE)
        assert not np.array_equal(shown, before)
        with pytest.raises(LeaseLost):
            envs.step(NONE)


def test_without_the_option_everything_is_the_callers_own(make):
    """The default: arrays that can be written to and share no memory."""
    envs = make("tcp", copy=True)
    shown = [envs.reset(seed=1)[0], *[envs.step(NONE)[0] for _ in range(KEPT + 2)]]
    assert all(each.flags.writeable for each in shown)
    assert not any(np.shares_memory(shown[i], shown[j]) for i in range(len(shown)) for j in range(i))


def test_an_event_loop_has_copies_only(server):
    """It reads ahead; the option is refused before anything is made."""
    with pytest.raises(TypeError, match="copy and dedup"):
        asyncio.run(aio.make_vec(BIG, 2, url=server.url, copy=False))


def test_a_connection_has_as_many_buffers_as_an_arena_has_slots():
    """So the rule is one, whatever the transport."""
    assert KEPT + 1 == SLOTS


# The buffers of a connection

LAYOUT = Layout.of(Box(0, 255, (40_000,), np.uint8), 2)


def body_of(number: int) -> bytes:
    """A slot whose every byte is a number; flags may be nothing but 0 and 1, and nobody looks at them here."""
    return bytes([number]) * LAYOUT.slot_size


def frames(number: int, body: bytes, length: int | None = None) -> list[bytes]:
    header = Header(Kind.STEP, Flag.ANSWER, seq=number, body_length=len(body) if length is None else length)
    return [header.pack(), b"", body]


def answer(number: int, body: bytes) -> bytes:
    return b"".join(encode(frames(number, body)))


class _Counting:
    """As much of a Connection as a link needs: asks with numbers from 1 on, skips what has another one."""

    def __init__(self, transport: Transport) -> None:
        self.transport, self.seq = transport, 0

    def begin(self, kind, ext, body, timeout, base=None) -> None:
        assert base is None
        self.seq += 1
        self.transport.send(Header(kind, seq=self.seq, body_length=len(body)).pack(), ext, body, timeout)

    def finish(self, timeout):
        while True:
            message = self.transport.receive(timeout)
            assert message is not None
            if message[0].seq == self.seq:
                return message


ACTIONS = ActionFormat(Discrete(5), 2)
REQUEST_SIZE = len(b"".join(encode((bytes(64), *ACTIONS.encode([NONE])))))


def serving(*answers: bytes):
    """A script that gives one of these for each request."""

    def script(conn: socket.socket) -> None:
        greet(conn)
        for each in answers:
            assert len(exactly(conn, REQUEST_SIZE)) == REQUEST_SIZE
            conn.sendall(each)
        conn.recv(1)

    return script


def step(link: PoolLink) -> np.ndarray:
    link.begin_step([NONE], LONG_S)
    views = link.finish(LONG_S).views
    assert views is not None
    return views.observations[0]


def linked(endpoint: str) -> tuple[PoolLink, DirectTransport]:
    ring = BodyRing(LAYOUT.slot_size)
    transport = DirectTransport(endpoint, LAYOUT.slot_size, ring.room)
    return PoolLink(_Counting(transport), LAYOUT, ACTIONS, bodies=ring), transport


def test_answers_that_nobody_wants_take_no_buffer():
    """An answer that comes twice, or late, is received where the next one goes: those handed out stay."""
    answers = [5 * answer(number - 1, body_of(99)) + answer(number, body_of(number)) for number in range(1, 6)]
    with serve(serving(*answers)) as endpoint:
        link, transport = linked(endpoint)
        with closing(transport):
            shown: list[np.ndarray] = []
            for number in range(1, 6):
                shown.append(step(link))
                last = shown[-KEPT - 1 :]
                assert [int(each.max()) for each in last] == list(range(number - len(last) + 1, number + 1))
                assert all((each == each.flat[0]).all() for each in last)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (frames(1, body_of(1)[:-1]), MalformedMessage),
        (frames(1, bytes(40_000)), MalformedMessage),
        (frames(1, b"short"), MalformedMessage),
        (frames(1, body_of(1)[:-1], LAYOUT.slot_size), MalformedMessage),
        (frames(1, body_of(1), LAYOUT.slot_size - 1), MalformedMessage),
        (frames(1, body_of(1) + b"x"), MessageTooLarge),
    ],
    ids=["a byte short", "half", "small", "shorter than announced", "longer than announced", "too large"],
)
@pytest.mark.parametrize("of_zeromq", [False, True], ids=["plain", "zeromq"])
def test_a_body_of_another_size_is_refused(sent, error, of_zeromq):
    """It is neither cut nor filled up, and nothing is read beyond its end."""
    ring = BodyRing(LAYOUT.slot_size)
    with ExitStack() as stack:
        transport: Transport
        if of_zeromq:
            context = stack.enter_context(zmq.Context())
            router = stack.enter_context(context.socket(zmq.ROUTER))
            router.bind("tcp://127.0.0.1:*")
            endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
            transport = ZmqTransport(context, endpoint, LAYOUT.slot_size, ring.room)
        else:
            endpoint = stack.enter_context(serve(serving(b"".join(encode(sent)))))
            transport = DirectTransport(endpoint, LAYOUT.slot_size, ring.room)
        stack.enter_context(closing(transport))
        link = PoolLink(_Counting(transport), LAYOUT, ACTIONS, bodies=ring)
        link.begin_step([NONE], LONG_S)
        if of_zeromq:
            router.send_multipart([router.recv_multipart()[0], *sent])
        with pytest.raises(error):
            link.finish(LONG_S)


def test_a_body_that_breaks_off_takes_no_buffer():
    """What came of it is written over by the answer that is sent again, and what was handed out stays."""

    def broken(conn: socket.socket) -> None:
        greet(conn)
        for number in (1, 2):
            exactly(conn, REQUEST_SIZE)
            conn.sendall(answer(number, body_of(number)))
        exactly(conn, REQUEST_SIZE)
        conn.sendall(answer(3, body_of(99))[:-1000])

    def whole(conn: socket.socket) -> None:
        greet(conn)
        exactly(conn, REQUEST_SIZE)
        conn.sendall(answer(3, body_of(3)))
        conn.recv(1)

    with serve(broken, whole) as endpoint:
        link, transport = linked(endpoint)
        with closing(transport):
            shown = [step(link), step(link)]
            with pytest.raises(ConnectionError):
                step(link)
            transport.close()
            link._connection.seq -= 1  # asked again, under the same number
            shown.append(step(link))
            assert [(int(each.min()), int(each.max())) for each in shown] == [(1, 1), (2, 2), (3, 3)]
