"""The WebSocket transport: every odd peer is survived or named in time, and a pool behind it loses and doubles nothing."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from time import monotonic
from urllib.parse import urlsplit

import numpy as np
import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

import vecserver_client as vs
from tests.clients.wires import LONG_S, Relay, serve
from tests.contract.compare import assert_same
from tests.contract.vector_contract import COUNT, make_oracle
from tests.environments import env_id
from vecserver.wire.errors import (
    DeadlineExceeded,
    LeaseHeld,
    LeaseLost,
    MalformedMessage,
    MessageTooLarge,
    PoolLost,
    PoolStopping,
    ServerUnreachable,
    TransportUnavailable,
    UnknownPool,
    VersionMismatch,
)
from vecserver.wire.frames import Flag, Header, Kind
from vecserver.wire.websocket import MAX_REQUEST, close_of, join
from vecserver_client import factory, ways
from vecserver_client.aio.ws import LoopWebSocket
from vecserver_client.ws import WebSocketTransport

MAX_BODY = 1 << 24
SOON_S = 0.3
NOT_LONG_S = 15.0
"""What SOON_S may become on a machine with other things to do; LONG_S is longer."""


def frames(body: bytes = b"body", ext: bytes = b"ext", **fields) -> list[bytes]:
    return [Header(Kind.STEP, Flag.ANSWER, body_length=len(body), **fields).pack(), ext, body]


@contextmanager
def within(limit_s: float):
    began = monotonic()
    yield
    assert monotonic() - began < limit_s


class Peer:
    """The server's end of one connection, for a script."""

    def __init__(self, conn: socket.socket) -> None:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._conn, self.protocol, self.request = conn, ServerProtocol(max_size=None), None
        self._events: deque[Request | Frame] = deque()

    def next(self):
        """What comes next: the request, or a frame."""
        while not self._events:
            data = self._conn.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self.protocol.receive_data(data)
            self._events.extend(self.protocol.events_received())  # two, where the network joins them
        return self._events.popleft()

    def open(self) -> None:
        """Open the WebSocket and take the request that follows."""
        self.request = self.next()
        assert isinstance(self.request, Request)
        self.protocol.send_response(self.protocol.accept(self.request))
        self.flush()
        assert self.next().opcode is Opcode.BINARY

    def flush(self) -> None:
        self._conn.sendall(b"".join(self.protocol.data_to_send()))

    def answer(self, body: bytes = b"body") -> None:
        self.protocol.send_binary(join(*frames(body)))
        self.flush()


def answering(deed, seen: list[Peer] | None = None):
    """A script that opens the WebSocket, takes a request, does something and waits for the client to leave."""

    def script(conn: socket.socket) -> None:
        peer = Peer(conn)
        peer.open()
        if seen is not None:
            seen.append(peer)
        deed(peer, conn)
        conn.recv(1)

    return script


def raw(data: bytes):
    """A script that answers the request for a WebSocket with these bytes, and leaves."""

    def script(conn: socket.socket) -> None:
        Peer(conn).next()
        conn.sendall(data)

    return script


class InALoop:
    """The transport of an event loop, as a blocking one: the same is right of both."""

    def __init__(self, *args) -> None:
        self._runner, self._transport = asyncio.Runner(), LoopWebSocket(*args)

    def send(self, *args) -> None:
        self._runner.run(self._transport.send(*args))

    def receive(self, wait: float):
        return self._runner.run(self._transport.receive(wait))

    def close(self) -> None:
        async def close() -> None:
            self._transport.close()
            for _ in range(4):  # the loop ends a connection in its next turns
                await asyncio.sleep(0)

        self._runner.run(close())
        self._runner.close()


in_both = pytest.mark.parametrize("kind", [WebSocketTransport, InALoop])


@contextmanager
def transport_to(*scripts, kind=WebSocketTransport, path: str = "/v1/pools/p/ws", headers=(), **options):
    with serve(*scripts) as endpoint:
        url = endpoint.replace("tcp://", "ws://") + path
        with closing(kind(url, dict(headers), MAX_BODY, **options)) as transport:
            yield transport


@contextmanager
def asked(*scripts, **options):
    """A transport that has sent a request."""
    with transport_to(*scripts, **options) as transport:
        transport.send(*frames(b"ask"), LONG_S)
        yield transport


@in_both
def test_a_message_is_asked_and_answered(kind):
    """Header, ext and body, in memory that is the caller's own, over and over."""

    def deed(peer, _conn):
        peer.answer(b"first")
        assert bytes(peer.next().data) == join(*frames(b"again"))
        peer.answer(b"")

    with asked(answering(deed), kind=kind) as transport:
        header, ext, body = transport.receive(LONG_S)
        assert (header.kind, ext, bytes(body)) == (Kind.STEP, b"ext", b"first")
        body[:] = b"mine!"
        transport.send(*frames(b"again"), LONG_S)
        assert transport.receive(LONG_S)[2] == b""
        assert transport.receive(0.0) is None
        assert transport.receive(SOON_S) is None


@in_both
def test_the_path_and_headers_are_sent(kind):
    """A prefix that a proxy wants, and a token."""
    seen = []
    options = {"kind": kind, "path": "/some/where/v1/pools/p/ws", "headers": {"Authorization": "Bearer t"}}
    with asked(answering(lambda peer, _conn: peer.answer(), seen), **options) as transport:
        assert transport.receive(LONG_S)
    assert seen[0].request.path == "/some/where/v1/pools/p/ws"
    assert seen[0].request.headers["Authorization"] == "Bearer t"
    assert "Sec-WebSocket-Extensions" not in seen[0].request.headers


def test_a_large_body_is_received_into_the_memory_that_is_given():
    """In many pieces, of the connection and of the WebSocket's own."""
    given, data = [], np.random.default_rng(1).bytes(3 << 20)

    def deed(peer, _conn):
        message = join(*frames(data))
        peer.protocol.send_binary(message[:1000], fin=False)
        peer.protocol.send_continuation(message[1000:70_000], fin=False)
        peer.protocol.send_ping(b"alive?")
        peer.protocol.send_continuation(message[70_000:], fin=True)
        peer.flush()
        assert peer.next().opcode is Opcode.PONG

    def memory(size):
        given.append(memoryview(bytearray(size)))
        return given[-1]

    with asked(answering(deed), memory=memory) as transport:
        body = transport.receive(LONG_S)[2]
        assert body is given[-1]
        assert bytes(body) == data


@in_both
def test_what_came_before_a_close_is_received_first(kind):
    """And then what it was closed for."""

    def deed(peer, _conn):
        peer.protocol.send_binary(join(*frames()))
        peer.protocol.send_close(*close_of(PoolLost("gone")))
        peer.flush()

    with asked(answering(deed), kind=kind) as transport:
        assert transport.receive(LONG_S)
        with pytest.raises(PoolLost, match="gone"):
            transport.receive(LONG_S)


@in_both
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (4024, UnknownPool),
        (4031, PoolLost),
        (4032, PoolStopping),
        (4061, MalformedMessage),
        (4063, VersionMismatch),
        (4070, DeadlineExceeded),
        (1009, MessageTooLarge),
        (1000, ConnectionError),
        (1011, ConnectionError),
        (1012, ConnectionError),
        (1013, ConnectionError),
        (4999, ConnectionError),
    ],
)
def test_a_close_is_the_error_it_stands_for(kind, code, error):
    """The WebSocket protocol's own codes are a connection that is lost."""

    def deed(peer, _conn):
        peer.protocol.send_close(code, "why")
        peer.flush()

    with asked(answering(deed), kind=kind) as transport, pytest.raises(error):
        transport.receive(LONG_S)


@in_both
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (Frame(Opcode.TEXT, b"hello").serialize(mask=False), MalformedMessage),
        (Frame(Opcode.BINARY, b"short").serialize(mask=False), MalformedMessage),
        (Frame(Opcode.BINARY, join(*frames(ext=b""))[:-1]).serialize(mask=False), MalformedMessage),
        (Frame(Opcode.BINARY, b"VECS\x02\x00" + bytes(58)).serialize(mask=False), VersionMismatch),
        (Frame(Opcode.BINARY, join(*frames())).serialize(mask=True), MalformedMessage),
        (b"\xff" * 40, MalformedMessage),
        (b"\x82\x7f" + (1 << 40).to_bytes(8, "big"), MessageTooLarge),
    ],
    ids=["text", "short", "a byte missing", "other version", "masked", "noise", "endless"],  # a mask is random
)
def test_what_is_no_answer_is_refused(kind, data, error):
    """Text, half a message, another version, another protocol, more than a slot."""
    with asked(answering(lambda _peer, conn: conn.sendall(data)), kind=kind) as transport, pytest.raises(error):
        transport.receive(LONG_S)


@in_both
def test_a_connection_that_ends_is_lost_and_made_again(kind):
    """In the middle of a frame, too."""
    half = Frame(Opcode.BINARY, join(*frames())).serialize(mask=False)[:30]

    def leaves(conn):
        Peer(conn).open()
        conn.sendall(half)

    with asked(leaves, answering(lambda peer, _conn: peer.answer(b"second")), kind=kind) as transport:
        with pytest.raises(ConnectionError):
            transport.receive(LONG_S)
        transport.send(*frames(b"ask"), LONG_S)
        assert bytes(transport.receive(LONG_S)[2]) == b"second"


HTML = b"HTTP/1.1 %b\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nhtml"
PROBLEM = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\nContent-Length: 73\r\n\r\n"
    b'{"code": "unknown_pool", "detail": "no pool has this id", "pool": "p-gone"}'
).replace(b"73", b"75")


@in_both
@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (HTML % b"404 Not Found", TransportUnavailable, "404"),
        (HTML % b"403 Forbidden", TransportUnavailable, "proxy"),
        (HTML % b"200 OK", TransportUnavailable, "200"),
        (PROBLEM, UnknownPool, "no pool has this id"),
        (HTML % b"503 Service Unavailable", ServerUnreachable, "does not answer"),
        (b"", ServerUnreachable, "does not answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", MalformedMessage, "no WebSocket"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", MalformedMessage, "no WebSocket"),
    ],
)
def test_who_opens_no_websocket_is_named(kind, answer, error, words):
    """A refusal with its own error; a proxy, a server that is starting, something else."""
    with (
        within(NOT_LONG_S),
        transport_to(raw(answer), kind=kind) as transport,
        pytest.raises(error, match=words) as raised,
    ):
        transport.send(*frames(b"ask"), SOON_S if error is ServerUnreachable else LONG_S)
    if error is UnknownPool:
        assert raised.value.details == {"pool": "p-gone"}


@in_both
def test_nobody_there_and_nobody_who_speaks_are_unreachable_in_time(kind):
    """A port that is closed, and one that takes the connection and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (silent.getsockname()[1], 1):
            transport = kind(f"ws://127.0.0.1:{port}/x", {}, MAX_BODY)
            with closing(transport), within(NOT_LONG_S), pytest.raises(ServerUnreachable):
                transport.send(*frames(b"ask"), SOON_S)


@in_both
def test_a_peer_that_does_not_read_is_unreachable_in_time(kind):
    """Its buffers are full; the connection is given up."""
    done = threading.Event()

    def deaf(conn):
        peer = Peer(conn)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.open()
        done.wait(LONG_S)

    with asked(deaf, kind=kind) as transport, within(NOT_LONG_S), pytest.raises(ServerUnreachable):
        try:
            for _ in range(4):  # more than the kernel keeps
                transport.send(*frames(bytes(MAX_REQUEST - 1000)), SOON_S)
        finally:
            done.set()


def test_what_the_loop_took_before_it_was_lost_is_perhaps_sent():
    """And what never left is not."""
    done = threading.Event()

    def deaf(conn):
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        Peer(conn).open()
        done.wait(LONG_S)

    with asked(deaf, kind=InALoop) as transport:
        try:
            with pytest.raises(ServerUnreachable) as raised:
                for _ in range(4):  # more than the kernel keeps
                    transport.send(*frames(bytes(MAX_REQUEST - 1000)), SOON_S)
        finally:
            done.set()
    assert raised.value.details["perhaps_sent"]
    transport = InALoop("ws://127.0.0.1:1/x", {}, MAX_BODY)
    with closing(transport), pytest.raises(ServerUnreachable) as raised:
        transport.send(*frames(b"ask"), 0.0)
    assert not raised.value.details["perhaps_sent"]


@in_both
def test_a_request_that_is_too_large_is_refused_here(kind):
    """Nothing is sent, and the connection stays."""

    def deed(peer, _conn):
        assert len(peer.next().data) < 100
        peer.answer()

    with asked(answering(deed), kind=kind) as transport:
        with pytest.raises(MessageTooLarge, match=str(MAX_REQUEST)):
            transport.send(*frames(bytes(MAX_REQUEST)), LONG_S)
        transport.send(*frames(b"small"), LONG_S)
        assert transport.receive(LONG_S)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Of 127.0.0.1, signed by itself; the files of certificate and key in one."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + [
            "-keyout",
            path.with_suffix(".key"),
            "-out",
            path.with_suffix(".crt"),
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
        ]
        + ["-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    path.write_text(path.with_suffix(".key").read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.mark.parametrize("trusted", [True, False])
def test_over_tls(certificate, monkeypatch, trusted):
    """A certificate that is trusted encrypts; another is refused by name."""
    data = bytes(range(256)) * 1000

    def encrypted(conn):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        try:
            with context.wrap_socket(conn.dup(), server_side=True) as safe:
                answering(lambda peer, _conn: peer.answer(data))(safe)
        except ssl.SSLError:
            assert not trusted

    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serve(encrypted) as endpoint:
        url = endpoint.replace("tcp://", "wss://") + "/v1/pools/p/ws"
        with closing(WebSocketTransport(url, {}, MAX_BODY)) as transport:
            if not trusted:
                with pytest.raises(TransportUnavailable, match="certificate"):
                    transport.send(*frames(b"ask"), LONG_S)
                return
            transport.send(*frames(b"ask"), LONG_S)
            assert transport.receive(LONG_S)[2] == data
            assert transport.receive(0.0) is None


# A pool at the other end


@pytest.fixture
def control(server):
    with vs.ControlClient(server.url) as client:
        yield client


@pytest.fixture
def relayed(server, monkeypatch):
    """Makes an environment whose WebSockets go through a relay that cuts them."""
    with ExitStack() as stack:

        def make(patience, num_envs=3):
            relays = []

            def reachable(name, endpoints, url):
                relays.append(stack.enter_context(closing(Relay(url.replace("http://", "tcp://"), iter(patience)))))
                return relays[-1].endpoint.replace("tcp://", "ws://") + endpoints["ws"]

            monkeypatch.setattr(factory, "reachable_endpoint", reachable)
            envs = vs.make_vec(COUNT, num_envs, url=server.url, transport="ws", workers=2)
            stack.callback(envs.close)
            return envs, relays[0]

        yield make


def test_a_websocket_cut_anywhere_loses_and_doubles_nothing(relayed):
    """In a handshake, in a request, in an answer: every batch is the oracle's, and was stepped once."""
    rng = random.Random(5)
    # the attach needs a connection that lasts; afterwards from a few bytes to a few batches
    patience = [20_000] + [rng.choice([1, 100, 300, 400, 420, 450, 500, 600, 700, 1500, 4000]) for _ in range(25)]
    envs, relay = relayed(patience)
    with closing(make_oracle(COUNT, 3)) as oracle:
        assert_same(envs.reset(seed=3), oracle.reset(seed=3), "reset")
        actions, batches = np.random.default_rng(5), 0
        while relay.cuts < 15 or batches < 60:
            batch = actions.integers(0, 5, 3)
            assert_same(envs.step(batch), oracle.step(batch), f"step {batches}")
            batches += 1
        assert envs.stats().batches == batches


def test_a_host_that_is_killed_in_a_step_is_a_lost_pool(server, tmp_path, control):
    """The WebSocket's close says so: nobody waits for a time limit."""
    kwargs = {"gate": str(tmp_path / "gate"), "at": 1, "seed": 1, "length": 9}
    envs = vs.make_vec(env_id("Slow-v0"), 2, url=server.url, transport="ws", workers=1, **kwargs)
    try:
        envs.reset(seed=1)
        envs.step_async(np.zeros(2, np.int64))
        with pytest.raises(DeadlineExceeded):
            envs.step_wait(timeout=0.1)
        os.kill(control.get_pool(envs.pool)["host_pid"], signal.SIGKILL)
        with within(NOT_LONG_S), pytest.raises(PoolLost, match="SIGKILL"):
            envs.step_wait()
        with within(NOT_LONG_S), pytest.raises(PoolLost):
            envs.step(np.zeros(2, np.int64))
    finally:
        envs.close(terminate=True)


def test_a_pool_that_is_deleted_is_unknown(server, control):
    """To the driver that it had."""
    with vs.make_vec(COUNT, 2, url=server.url, transport="ws") as envs:
        envs.reset(seed=1)
        control.delete_pool(envs.pool)
        with within(NOT_LONG_S), pytest.raises(UnknownPool):
            envs.step(np.zeros(2, np.int64))


def test_a_server_that_ends_is_a_pool_that_stops_or_is_lost():
    """Whichever the driver hears of first."""
    with closing(vs.LocalServer()) as server, vs.make_vec(COUNT, 2, url=server.url, transport="ws") as envs:
        envs.reset(seed=1)
        server.close()
        with within(NOT_LONG_S), pytest.raises((PoolStopping, PoolLost)):
            envs.step(np.zeros(2, np.int64))


def test_a_second_driver_is_refused_and_a_third_takes_over(server):
    """The rules of the lease are the pool's, over whatever it is driven."""
    with vs.make_vec(COUNT, 2, url=server.url, transport="ws") as envs:
        envs.reset(seed=1)
        with pytest.raises(LeaseHeld):
            vs.attach(server.url, envs.pool, transport="ws")
        assert envs.step(np.array([1, 2]))[0][:, 2:4].tolist() == [[1, 1], [1, 2]]
        with vs.attach(server.url, envs.pool, transport="ws", force=True) as other:
            with pytest.raises(LeaseLost):
                envs.step(np.array([1, 2]))
            assert other.step(np.array([3, 4]))[0][:, 2:4].tolist() == [[2, 3], [2, 4]]


def test_a_pool_refuses_a_body_beyond_its_own_limit(server):
    """With an answer: the WebSocket and the pool go on."""
    with vs.make_vec(COUNT, 2, url=server.url, transport="ws") as envs:
        envs.reset(seed=1)
        with pytest.raises(MessageTooLarge):
            envs.call("echo", bytes(MAX_REQUEST))
        connection = envs._pool_link._connection
        connection.begin(Kind.STEP, b"", bytes(1 << 20), LONG_S)
        with pytest.raises(MessageTooLarge):
            connection.finish(LONG_S)
        assert envs.step(np.array([1, 2]))[0][:, 2:4].tolist() == [[1, 1], [1, 2]]


def test_an_interrupted_send_loses_and_doubles_nothing(server, monkeypatch):
    """Ctrl-C in the middle of a request: the half is dropped with its connection."""
    flush, turn = WebSocketTransport._flush, []

    def torn(self, sock, deadline):
        turn.append(1)
        if len(turn) == 1:
            sock.sendall(self._wire.to_send()[:20])
            raise KeyboardInterrupt
        flush(self, sock, deadline)

    with vs.make_vec(COUNT, 2, url=server.url, transport="ws") as envs:
        envs.reset(seed=1)
        monkeypatch.setattr(WebSocketTransport, "_flush", torn)
        with pytest.raises(KeyboardInterrupt):
            envs.step(np.array([1, 2]))
        assert envs.step_wait()[0][:, 2:4].tolist() == [[1, 1], [1, 2]]
        assert envs.step(np.array([3, 4]))[0][:, 2:4].tolist() == [[2, 3], [2, 4]]
        assert envs.stats().batches == 2


def test_parts_are_driven_over_websockets(server):
    """Each over one of its own, when they end."""
    with vs.make_vec(COUNT, 4, url=server.url, transport="ws", workers=2) as envs:
        envs.reset(seed=1)
        envs.send(np.array([1, 2, 3, 4]))
        rows = []
        while len(rows) < 4:
            observations, *_, infos = envs.recv(min_rows=2)
            assert observations[:, 3].tolist() == [row + 1 for row in infos["env_id"]]
            rows += infos["env_id"].tolist()
        assert sorted(rows) == [0, 1, 2, 3]


# auto


@pytest.fixture
def blocked(server, monkeypatch):
    """As behind an ingress: nothing but the HTTP port, which a relay forwards; gives the address, and a way to block tcp."""
    reach = factory.reachable_endpoint
    with ExitStack() as stack:
        near = stack.enter_context(closing(Relay(server.url.replace("http://", "tcp://"), iter(()))))
        dropping = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = dropping.getsockname()
        for _ in range(4):  # until the kernel drops what comes
            knock = stack.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(address)

        def elsewhere(name, endpoints, url):
            if name in ("ipc", "shm"):
                raise TransportUnavailable("the pool's socket is on another machine, or another user's")
            if name == "tcp":
                return f"tcp://127.0.0.1:{elsewhere.port}"
            return reach(name, endpoints, url)

        elsewhere.dropping, elsewhere.port = address[1], 1
        monkeypatch.setattr(factory, "reachable_endpoint", elsewhere)
        elsewhere.url, elsewhere.token = near.endpoint.replace("tcp://", "http://"), server.token
        yield elsewhere


@pytest.mark.parametrize("how", ["refused", "dropped"])
def test_auto_falls_back_to_the_http_port(blocked, how):
    """Where the data port takes no connection: soon, and it says so."""
    if how == "dropped":
        blocked.port = blocked.dropping
    with within(ways._KNOCK_TIMEOUT + NOT_LONG_S):
        envs = vs.make_vec(COUNT, 2, url=blocked.url, token=blocked.token)
    with envs:
        assert envs.transport == "ws"
        envs.reset(seed=1)
        assert envs.step(np.array([1, 2]))[0][:, 2:4].tolist() == [[1, 1], [1, 2]]


def test_auto_falls_back_where_something_else_has_the_data_port(blocked):
    """Another program of this machine, behind a forwarded HTTP port; or another pool, which is left alone."""
    with serve(lambda conn: conn.sendall(b"SSH-2.0-OpenSSH_9\r\n") or conn.recv(1)) as endpoint:
        blocked.port = urlsplit(endpoint).port
        with vs.make_vec(COUNT, 2, url=blocked.url, token=blocked.token) as envs:
            assert envs.transport == "ws"
    with closing(vs.LocalServer()) as other, vs.ControlClient(other.url) as control:
        pool = control.create_pool(env_id=COUNT, num_envs=2)
        blocked.port = urlsplit(pool["endpoints"]["tcp"]).port
        with vs.make_vec(COUNT, 2, url=blocked.url, token=blocked.token) as envs:
            assert envs.transport == "ws"
        assert control.get_pool(pool["pool"])["stats"]["driver"] == ""


def test_auto_does_not_leave_https():
    """The pools' tcp ports encrypt nothing: only who asks for tcp gets it."""
    with pytest.raises(TransportUnavailable, match="encrypts nothing"):
        ways.check_way("tcp", "tcp://gpu1:5555", "https://gpu1")
    ways.check_way("ws", "wss://gpu1/v1/pools/p/ws", "https://gpu1")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://gpu1:8000", "ws://gpu1:8000/v1/pools/p/ws"),
        ("https://user-space.example", "wss://user-space.example/v1/pools/p/ws"),
        ("https://hub.example/user/me/proxy/8000", "wss://hub.example/user/me/proxy/8000/v1/pools/p/ws"),
        ("http://[::1]:8000", "ws://[::1]:8000/v1/pools/p/ws"),
    ],
)
def test_the_websocket_is_behind_the_servers_own_address(url, endpoint):
    """Whatever lies in between: another host, a path, TLS."""
    assert ways.reachable_endpoint("ws", {"ws": "/v1/pools/p/ws"}, url) == endpoint


def test_a_pool_of_an_older_server_has_none():
    """It is said, and not tried."""
    with pytest.raises(TransportUnavailable, match="no ws endpoint"):
        ways.reachable_endpoint("ws", {"tcp": "tcp://127.0.0.1:1"}, "http://127.0.0.1:8000")


def test_its_library_is_loaded_where_it_is_used():
    """And not by the import of the client."""
    code = "import sys, vecserver_client.factory; sys.exit(any(name.startswith('websockets') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
