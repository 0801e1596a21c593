"""The plain socket speaks to ZeroMQ's own, and every odd peer is survived or named in time."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq

import vecserver_client as vs
from tests.clients.wires import LONG_S, READY, Relay, exactly, greet, serve, signals
from tests.contract.compare import assert_same
from tests.contract.vector_contract import make_oracle
from tests.environments import env_id
from tests.pools.registries import start_threads
from tests.sampling import of_which
from vecserver.wire.errors import (
    DeadlineExceeded,
    MalformedMessage,
    MessageTooLarge,
    PoolLost,
    ServerUnreachable,
    Unauthorized,
    VersionMismatch,
)
from vecserver.wire.frames import Flag, Header, Kind
from vecserver.wire.zmtp import GREETING, encode
from vecserver.wire.zmtp import READY as CLIENT_READY
from vecserver_client import direct, factory
from vecserver_client.direct import DirectTransport

MAX_BODY = 1 << 24
SOON_S = 0.3
NOT_LONG_S = 15.0
"""What SOON_S may become on a machine with other things to do; LONG_S is longer."""


def message(body: bytes = b"body", ext: bytes = b"ext", **fields) -> list[bytes]:
    """The frames of an answer."""
    return [Header(Kind.STEP, Flag.ANSWER, body_length=len(body), **fields).pack(), ext, body]


def wire(body: bytes = b"body", **fields) -> bytes:
    return b"".join(encode(message(body, **fields)))


@contextmanager
def connected(endpoint: str, max_body: int = MAX_BODY):
    """A transport that has sent a request of its own."""
    with closing(DirectTransport(endpoint, max_body)) as transport:
        transport.send(*message(b"ask"), LONG_S)
        yield transport


def asked(conn: socket.socket) -> None:
    """The script of a server up to the request of ``connected``."""
    greet(conn)
    assert exactly(conn, len(wire(b"ask"))) == wire(b"ask")


def answering(*parts: bytes, then=lambda conn: conn.recv(1)):
    """A script that answers the request with these bytes, one after the other, and waits for the client to leave."""

    def script(conn: socket.socket) -> None:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked(conn)
        for part in parts:
            conn.sendall(part)
        then(conn)

    return script


@contextmanager
def within(limit_s: float, at_least_s: float = 0.0):
    began = time.monotonic()
    yield
    assert at_least_s <= time.monotonic() - began < limit_s


# ZeroMQ's own socket at the other end


@pytest.fixture(scope="module")
def context():
    with zmq.Context() as context:
        start_threads(context)
        yield context


@pytest.fixture
def router(context, request):
    """A ROUTER on both transports."""
    path = f"{os.environ['VECSERVER_RUNTIME_DIR']}/r"
    with context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        for name, value in getattr(request, "param", {}).items():
            router.setsockopt(getattr(zmq, name), value)
        router.bind("tcp://127.0.0.1:*")
        endpoints = {"tcp": router.getsockopt_string(zmq.LAST_ENDPOINT), "ipc": f"ipc://{path}"}
        router.bind(endpoints["ipc"])
        yield router, endpoints
    Path(path).unlink()


def taken(router) -> list[bytes]:
    assert router.poll(LONG_S * 1000)
    return router.recv_multipart()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_messages_of_every_size_go_both_ways(router, transport):
    """Around each length at which an encoding or a buffer changes, and one that no buffer of the kernel holds."""
    router, endpoints = router
    rng = random.Random(3)
    sizes = [0, 1, 255, 256, 8191, 16383, 16384, 32767, 32768, 65535, 65536, 65537, 200_000, 9_000_000]
    with closing(DirectTransport(endpoints[transport], MAX_BODY)) as peer:
        for size in sizes:
            frames = message(rng.randbytes(size), rng.randbytes(min(size, 70_000)))
            answers = threading.Thread(target=lambda: router.send_multipart(taken(router)))
            answers.start()
            peer.send(*frames, LONG_S)
            header, ext, body = peer.receive(LONG_S)
            answers.join()
            assert [header.pack(), ext, bytes(body)] == frames
            assert type(ext) is bytes
            body[:1] = b"!"  # its own memory


def test_many_messages_may_wait(router):
    """Answers that came together are given one by one, whole and in order, and then there is none."""
    router, endpoints = router
    with closing(DirectTransport(endpoints["tcp"], MAX_BODY)) as peer:
        peer.send(*message(), LONG_S)
        name = taken(router)[0]
        for number in range(300):
            router.send_multipart([name, *message(bytes([number % 256]) * (number * 37), seq=number)])
        for number in range(300):
            header, _, body = peer.receive(LONG_S)
            assert (header.seq, bytes(body)) == (number, bytes([number % 256]) * (number * 37))
        assert peer.receive(0.0) is None


HEARTBEATS = {"HEARTBEAT_IVL": 50, "HEARTBEAT_TIMEOUT": 400, "HEARTBEAT_TTL": 1000}
PATIENT = {**HEARTBEATS, "HEARTBEAT_TIMEOUT": 1500}
"""For who must answer in time, on a machine with other things to do."""


@pytest.mark.parametrize("router", [PATIENT], indirect=True)
def test_a_waiting_peer_answers_heartbeats_and_its_wait_is_no_longer(router):
    """The connection stays the same for longer than an unanswered PING may be old, and each wait ends in time."""
    router, endpoints = router
    with closing(DirectTransport(endpoints["tcp"], MAX_BODY)) as peer:
        peer.send(*message(), LONG_S)
        name = taken(router)[0]
        for wait in (SOON_S, 0.8, 0.8):
            with within(NOT_LONG_S, at_least_s=wait):
                assert peer.receive(wait) is None
        router.send_multipart([name, *message(b"still here")])
        assert peer.receive(LONG_S)[2] == b"still here"


@pytest.mark.parametrize("router", [HEARTBEATS], indirect=True)
def test_a_peer_that_was_away_for_long_connects_again(router):
    """A trainer that computed for longer than the pool's heartbeat allows is cut, learns it, and goes on."""
    router, endpoints = router
    with closing(DirectTransport(endpoints["tcp"], MAX_BODY)) as peer:
        peer.send(*message(), LONG_S)
        first = taken(router)[0]
        monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        assert monitor.poll(LONG_S * 1000)
        router.disable_monitor()
        monitor.close()
        with pytest.raises(ConnectionError):
            while peer.receive(LONG_S):
                pass
        while True:
            try:
                peer.send(*message(b"again"), LONG_S)
                assert peer.receive(SOON_S) is None
                break
            except ConnectionError:
                peer.close()
        assert taken(router)[0] != first


def secure_curve(router) -> None:
    router.curve_server, (_, router.curve_secretkey) = True, zmq.curve_keypair()


def secure_plain(router) -> None:
    router.plain_server = True


@pytest.mark.parametrize(("secure", "name"), [(secure_curve, "CURVE"), (secure_plain, "PLAIN")])
def test_a_socket_that_demands_security_is_named(context, secure, name):
    """At once, and by the mechanism that it wants."""
    with context.socket(zmq.ROUTER) as router:
        secure(router)
        router.bind("tcp://127.0.0.1:*")
        with (
            within(NOT_LONG_S),
            pytest.raises(Unauthorized, match=f"demands the security mechanism {name}"),
            connected(router.getsockopt_string(zmq.LAST_ENDPOINT)),
        ):
            pass


# Nobody, and others


def test_nobody_there_is_said_in_time(tmp_path):
    """On a port where nothing listens and for a path that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for endpoint in (
        f"tcp://127.0.0.1:{port}",
        f"tcp://localhost:{port}",
        f"tcp://[::1]:{port}",
        f"ipc://{tmp_path}/x",
    ):
        with closing(DirectTransport(endpoint, MAX_BODY)) as peer:
            with within(NOT_LONG_S), pytest.raises(ServerUnreachable, match=r"does not answer within 0\.3 s"):
                peer.send(*message(), SOON_S)
            with pytest.raises(ConnectionError):
                peer.receive(0.0)
            with within(NOT_LONG_S), pytest.raises(ServerUnreachable):
                peer.send(*message(), 0.0)


def test_a_pool_that_opens_late_is_found(tmp_path, context):
    """A connection is tried until its time is over."""
    path = f"ipc://{os.environ['VECSERVER_RUNTIME_DIR']}/late"
    with context.socket(zmq.ROUTER) as router, closing(DirectTransport(path, MAX_BODY)) as peer:
        opener = threading.Timer(0.2, lambda: router.bind(path))
        opener.start()
        peer.send(*message(), LONG_S)
        opener.join()
        assert taken(router)[1:] == message()
    Path(path.removeprefix("ipc://")).unlink()


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x01\x00",
        b"\xff" * 64,
    ],
)
def test_a_service_that_is_not_zeromq_is_named(says):
    """At once, with what it said."""
    with (
        serve(lambda conn: conn.sendall(says)) as endpoint,
        within(NOT_LONG_S),
        pytest.raises(MalformedMessage, match="does not speak ZeroMQ: it begins with"),
        connected(endpoint),
    ):
        pass


def test_a_zeromq_of_long_ago_is_named():
    """It falls silent after its first eleven bytes."""

    def script(conn):
        conn.sendall(GREETING[:10] + b"\x01\x05")
        conn.recv(100)
        conn.recv(1)

    with (
        serve(script) as endpoint,
        within(NOT_LONG_S),
        pytest.raises(MalformedMessage, match=r"before 4\.0"),
        connected(endpoint),
    ):
        pass


def trickle(conn: socket.socket) -> None:
    pause = threading.Event()
    for byte in GREETING + READY:
        conn.sendall(bytes([byte]))
        pause.wait(0.05)


def trickle_commands(conn: socket.socket) -> None:
    greeting = threading.Thread(target=exactly, args=(conn, len(GREETING + CLIENT_READY)))
    conn.sendall(GREETING)
    greeting.start()
    greeting.join()
    pause = threading.Event()
    while True:
        conn.sendall(b"\x04\x06\x05THING")
        pause.wait(0.01)


@pytest.mark.parametrize(
    "script",
    [
        lambda conn: exactly(conn, 1000),
        lambda conn: None,
        lambda conn: conn.sendall(GREETING[:5]),
        lambda conn: conn.sendall(GREETING + READY[:9]),
        lambda conn: (conn.sendall(GREETING), exactly(conn, 1000)),
        trickle,
        trickle_commands,
    ],
    ids=["silent", "hangs up", "half a greeting", "half a ready", "no ready", "byte by byte", "commands for ever"],
)
def test_a_peer_that_is_never_ready_is_unreachable_in_time(script):
    """It accepts, and then whatever it likes."""
    with (
        serve(script) as endpoint,
        within(NOT_LONG_S),
        closing(DirectTransport(endpoint, MAX_BODY)) as peer,
        pytest.raises(ServerUnreachable, match="does not answer"),
    ):
        peer.send(*message(), SOON_S)


def test_a_backlog_that_nobody_empties_is_unreachable_in_time():
    """The kernel connects, and no process is there."""
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        closing(DirectTransport(f"tcp://127.0.0.1:{deaf.getsockname()[1]}", MAX_BODY)) as peer,
        within(NOT_LONG_S),
        pytest.raises(ServerUnreachable),
    ):
        peer.send(*message(), SOON_S)


def test_a_connection_that_fails_at_first_is_made_again():
    """A host that is just starting, or a queue that was just full."""
    scripts = [lambda conn: None, lambda conn: conn.sendall(GREETING[:30]), answering(wire(b"at last"))]
    with serve(*scripts) as endpoint, connected(endpoint) as peer:
        assert peer.receive(LONG_S)[2] == b"at last"


def test_a_refusal_in_the_handshake_is_told():
    """With the peer's own reason."""

    def script(conn):
        conn.sendall(GREETING + b"\x04\x0e\x05ERROR\x07go away"[:16])
        exactly(conn, len(GREETING + CLIENT_READY))

    with (
        serve(script) as endpoint,
        pytest.raises(MalformedMessage, match="refuses the connection: go away"),
        connected(endpoint),
    ):
        pass


def test_a_peer_that_speaks_unasked_is_no_pool():
    """A message behind its READY was meant for nobody."""

    def script(conn):
        conn.sendall(GREETING + READY + wire())
        exactly(conn, 1000)

    with (
        serve(script) as endpoint,
        pytest.raises(MalformedMessage, match="speaks before it is asked"),
        connected(endpoint),
    ):
        pass


# Answers


def test_an_answer_may_come_in_any_pieces():
    """Cut at every byte, with a command in front of each message and between its frames."""
    ping = b"\x04\x0b\x04PING\0\x64abcd"
    frames = message(b"b" * 300, b"e" * 300)
    pieces = [b"".join(encode(frames[:1]))[1:], b"".join(encode(frames[1:2]))[1:], b"".join(encode(frames[2:]))]
    data = ping + b"\x01" + pieces[0] + ping + b"\x03" + pieces[1] + ping + pieces[2]
    pongs = []
    script = answering(
        *[data[at : at + 1] for at in range(len(data))],
        data,
        then=lambda conn: pongs.append(exactly(conn, 6 * 11)),
    )
    with serve(script) as endpoint, connected(endpoint) as peer:
        for _ in range(2):
            header, ext, body = peer.receive(LONG_S)
            assert [header.pack(), ext, bytes(body)] == frames
        assert peer.receive(0.0) is None
    assert pongs == [6 * b"\x04\x09\x04PONGabcd"]


def test_a_ping_is_answered_before_anything_else_is_waited_for():
    """Not with the next message."""
    sent, gate = [], threading.Event()

    def pinged(conn):
        sent.append(exactly(conn, 11))
        gate.set()
        conn.recv(1)

    with (
        serve(answering(b"\x04\x0b\x04PING\0\x64abcd", then=pinged)) as endpoint,
        connected(endpoint) as peer,
    ):
        waiting = threading.Thread(target=peer.receive, args=(SOON_S,))
        waiting.start()
        assert gate.wait(LONG_S)
        waiting.join()
    assert sent == [b"\x04\x09\x04PONGabcd"]


def test_a_wait_that_ends_in_the_middle_of_an_answer_goes_on_later():
    """What has come of it is kept."""
    gate = threading.Event()
    answer = wire(bytes(range(256)) * 400)

    def rest(conn):
        assert gate.wait(LONG_S)
        conn.sendall(answer[50_000:])
        conn.recv(1)

    with serve(answering(answer[:50_000], then=rest)) as endpoint, connected(endpoint) as peer:
        with within(NOT_LONG_S, at_least_s=SOON_S):
            assert peer.receive(SOON_S) is None
        gate.set()
        assert peer.receive(LONG_S)[2] == bytes(range(256)) * 400


def test_noise_without_end_does_not_lengthen_a_wait():
    """Commands that come faster than they are read."""

    def flood(conn):
        while True:
            conn.sendall(b"\x04\x06\x05THING" * 1000)

    with serve(answering(then=flood)) as endpoint, connected(endpoint) as peer, within(NOT_LONG_S):
        assert peer.receive(SOON_S) is None


@pytest.mark.parametrize("answer", [b"", wire()[:40]], ids=["before", "in the middle of"])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "end"])
def test_a_lost_connection_is_no_silence(answer, reset):
    """It is said at once, whether the peer ended it or the kernel did."""

    def leave(conn):
        if reset:
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with (
        serve(answering(answer, then=leave)) as endpoint,
        connected(endpoint) as peer,
        within(NOT_LONG_S),
        pytest.raises(ConnectionError),
    ):
        peer.receive(LONG_S)


class Failing:
    """A socket that the kernel has given up."""

    def __init__(self, sock: socket.socket, error: OSError) -> None:
        self._socket, self._error = sock, error

    def fail(self, *_args):
        raise self._error

    recv_into = sendmsg = sendall = fail

    def settimeout(self, _seconds: float) -> None:
        pass

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EAGAIN])
@pytest.mark.parametrize("command", [b"", b"\x04\x07\x04PING\0\x64"], ids=["answer", "ping"])
def test_whatever_fails_in_the_kernel_is_a_lost_connection(number, command):
    """And not an error that nobody expects."""
    with serve(answering(command or wire())) as endpoint, connected(endpoint) as peer:
        assert peer._poll.poll(LONG_S * 1000)
        if command:
            peer._read(peer._socket)
        peer._socket = Failing(peer._socket, OSError(number, os.strerror(number)))
        with pytest.raises(ConnectionError):
            peer.receive(LONG_S)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"\x01\x41" + bytes(65), MessageTooLarge, "at most 64"),
        (b"".join(encode([*message()[:2], bytes(1001)])), MessageTooLarge, "at most 1000"),
        (b"\x01\x40" + message()[0] + b"\x03\0\0\0\0\x7f\0\0\0", MessageTooLarge, "at most 67108864"),
        (b"".join(encode([*message(), b"more"])), MalformedMessage, "more than 3 frames"),
        (b"".join(encode(message()[:2])), MalformedMessage, "fewer than 3 frames"),
        (b"".join(encode(message()[:1])), MalformedMessage, "fewer than 3 frames"),
        (b"".join(encode([*message()[:2], b"longer"])), MalformedMessage, "announces a body of 4 bytes, it has 6"),
        (b"\x00\x06hello!", MalformedMessage, "not a vecserver message"),
        (b"".join(encode([b"VECS\x09\0" + bytes(58), b"", b""])), VersionMismatch, "version 9"),
        (b"\x04\x01\x09", MalformedMessage, "without a name"),
        (b"\x04\x0b\x05ERROR\x04late", MalformedMessage, "refuses the connection: late"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_tree(answer, error, text):
    """And says what is wrong with it."""
    with serve(answering(answer)) as endpoint, connected(endpoint, 1000) as peer, pytest.raises(error, match=text):
        peer.receive(LONG_S)


# Signals and time


def test_signals_neither_lengthen_nor_shorten_a_wait(router):
    """A program that has a timer, a profiler say, waits as long as one that has none."""
    router, endpoints = router
    with closing(DirectTransport(endpoints["tcp"], MAX_BODY)) as peer:
        peer.send(*message(), LONG_S)
        name = taken(router)[0]
        with signals(0.01) as heard, within(NOT_LONG_S, at_least_s=SOON_S):
            assert peer.receive(SOON_S) is None
        assert len(heard) > 5
        router.send_multipart([name, *message()])
        assert peer.receive(LONG_S)


def test_a_large_message_goes_through_a_slow_reader_and_signals():
    """Sent in many parts, it arrives whole, on one connection."""
    body = random.Random(1).randbytes(8 << 20)
    ask, got = b"".join(encode(message(body))), []

    def script(conn):
        greet(conn)
        threading.Event().wait(0.05)  # until no buffer takes more
        got.append(exactly(conn, len(ask)))
        conn.sendall(wire(b"thanks"))
        conn.recv(1)

    with serve(script) as endpoint, closing(DirectTransport(endpoint, MAX_BODY)) as peer, signals(0.001):
        peer.send(*message(body), LONG_S)
        assert peer.receive(LONG_S)[2] == b"thanks"
    assert got == [ask]


def test_a_peer_that_does_not_read_is_unreachable_in_time():
    """However much of the message its buffers took; the rest is never taken for another one."""
    done = threading.Event()

    def deaf(conn):
        greet(conn)
        done.wait(LONG_S)

    with serve(deaf) as endpoint, closing(DirectTransport(endpoint, MAX_BODY)) as peer:
        with within(NOT_LONG_S), pytest.raises(ServerUnreachable, match="does not"):
            peer.send(*message(bytes(16 << 20)), SOON_S)
        done.set()
        with pytest.raises(ConnectionError):
            peer.receive(SOON_S)


def test_a_message_for_a_peer_that_left_is_sent_on_a_fresh_connection():
    """The pool is still there; only its end of the connection was closed."""
    scripts = [answering(wire(), then=lambda conn: None), answering(wire(b"second"))]
    with serve(*scripts) as endpoint, connected(endpoint) as peer:
        assert peer.receive(LONG_S)
        with pytest.raises(ConnectionError):
            peer.receive(LONG_S)
        peer.close()
        peer.close()
        peer.send(*message(b"ask"), LONG_S)
        assert peer.receive(LONG_S)[2] == b"second"


# A pool at the other end


COUNT = env_id("Count-v0")


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        ("ipc:///run/x", "DirectTransport"),
        ("tcp://127.0.0.1:5", "DirectTransport"),
        ("tcp://localhost:5", "DirectTransport"),
        ("tcp://[::1]:5", "DirectTransport"),
        ("tcp://10.0.0.1:5", "ZmqTransport"),
        ("tcp://gpu1:5", "ZmqTransport"),
    ],
)
def test_the_plain_socket_is_for_one_machine(endpoint, kind):
    """Across a network ZeroMQ's own thread is worth its wakes."""
    assert factory._opener(None, endpoint, 1).func.__name__ == kind


@pytest.fixture
def slow(server, tmp_path):
    """An environment whose first step waits until a file is made; the file, and the host's process."""
    gate = tmp_path / "gate"
    with ExitStack() as stack:

        def make(transport: str, **options):
            kwargs = {"gate": str(gate), "at": 1, "seed": 1, "length": 9}
            envs = vs.make_vec(
                env_id("Slow-v0"), 2, url=server.url, transport=transport, workers=1, **kwargs, **options
            )
            stack.callback(envs.close, terminate=True)
            envs.reset(seed=1)
            with vs.ControlClient(server.url) as control:
                return envs, gate, control.get_pool(envs.pool)["host_pid"]

        yield make


@of_which("transport", ["tcp", "ipc"], 1)
def test_a_host_that_is_killed_in_a_step_is_a_lost_pool(slow, transport):
    """The connection's end says so: nobody waits for a time limit."""
    envs, _, host = slow(transport)
    envs.step_async(np.zeros(2, np.int64))
    with pytest.raises(DeadlineExceeded):
        envs.step_wait(timeout=0.1)
    os.kill(host, signal.SIGKILL)
    with within(NOT_LONG_S), pytest.raises(PoolLost):
        envs.step_wait()
    with within(NOT_LONG_S), pytest.raises(PoolLost):
        envs.step(np.zeros(2, np.int64))


def test_a_host_that_stands_still_is_a_deadline(slow):
    """Stopped, not dead: every wait ends, and the same step's result comes when it goes on."""
    envs, gate, host = slow("tcp")
    gate.touch()
    os.kill(host, signal.SIGSTOP)
    try:
        envs.step_async(np.ones(2, np.int64))
        with signals(0.05), within(NOT_LONG_S, at_least_s=1.5), pytest.raises(DeadlineExceeded):
            envs.step_wait(timeout=1.5)
    finally:
        os.kill(host, signal.SIGCONT)
    observations, *_ = envs.step_wait()
    assert observations[:, 2:4].tolist() == [[1, 1], [1, 1]]


@pytest.fixture
def relayed(server, monkeypatch):
    """Makes an environment whose connections go through a relay that cuts them."""
    with ExitStack() as stack:

        def make(patience, num_envs=3):
            relays = []

            def reachable(name, endpoints, url):
                relays.append(stack.enter_context(closing(Relay(endpoints["tcp"], iter(patience)))))
                return relays[-1].endpoint

            monkeypatch.setattr(factory, "reachable_endpoint", reachable)
            envs = vs.make_vec(COUNT, num_envs, url=server.url, transport="tcp", workers=2)
            stack.callback(envs.close)
            return envs, relays[0]

        yield make


def test_a_connection_cut_anywhere_loses_and_doubles_nothing(relayed):
    """In a greeting, in a request, in an answer: every batch is the oracle's, and was stepped once."""
    rng = random.Random(5)
    # the attach needs a connection that lasts; afterwards from a few bytes to a few batches
    patience = [20_000] + [rng.choice([1, 40, 64, 100, 160, 200, 300, 700, 1500, 4000]) for _ in range(25)]
    envs, relay = relayed(patience)
    oracle = make_oracle(COUNT, 3)
    try:
        assert_same(envs.reset(seed=3), oracle.reset(seed=3), "reset")
        actions = np.random.default_rng(5)
        batches = 0
        while relay.cuts < 15 or batches < 60:
            batch = actions.integers(0, 5, 3)
            assert_same(envs.step(batch), oracle.step(batch), f"step {batches}")
            batches += 1
        assert envs.stats().batches == batches
    finally:
        oracle.close()


@pytest.mark.parametrize("when", ["first", "repeat"])
def test_an_interrupt_between_two_parts_of_a_request_loses_and_doubles_nothing(server, monkeypatch, when):
    """Ctrl-C in the middle of a send, the first or a repeated one: the half is dropped with its connection."""
    write, turn = direct._write, []

    def torn(sock, buffers, timeout):
        turn.append(when)
        if len(turn) == {"first": 1, "repeat": 2}[when]:
            write(sock, [b"".join(buffers)[:70]], timeout)
            raise KeyboardInterrupt
        if when == "repeat" and len(turn) == 1:
            return  # the request is lost on the way
        write(sock, buffers, timeout)

    with vs.make_vec(COUNT, 2, url=server.url, transport="tcp") as envs:
        envs.reset(seed=1)
        monkeypatch.setattr(direct, "_write", torn)
        with pytest.raises(KeyboardInterrupt):
            envs.step(np.array([1, 2]))
        observations, *_ = envs.step_wait()
        assert observations[:, 2:4].tolist() == [[1, 1], [1, 2]]
        observations, *_ = envs.step(np.array([3, 4]))
        assert observations[:, 2:4].tolist() == [[2, 3], [2, 4]]
        assert envs.stats().batches == 2


def test_an_interrupted_wait_is_taken_up_again(slow):
    """Ctrl-C in the middle of a wait costs the connection, not the step."""
    envs, gate, _ = slow("ipc")

    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    envs.step_async(np.array([1, 2]))
    before = signal.signal(signal.SIGUSR2, interrupt)
    alarm = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR2))
    with pytest.raises(KeyboardInterrupt):
        alarm.start()
        envs.step_wait()
    alarm.join()
    signal.signal(signal.SIGUSR2, before)
    gate.touch()
    observations, *_ = envs.step_wait()
    assert observations[:, 2:4].tolist() == [[1, 1], [1, 2]]


def test_more_than_a_message_takes_is_refused_here(server):
    """The pool would hang up on it without a word."""
    with vs.make_vec(COUNT, 1, url=server.url, transport="tcp") as envs:
        with pytest.raises(MessageTooLarge, match="67108864"):
            envs.call("echo", bytes((64 << 20) + 1))
        assert envs.reset(seed=1)[0][0, 0] == 1
