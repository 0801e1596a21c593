"""How much of a server its HTTP callers may have: rates, WebSockets, sizes, times, connections."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import closing, contextmanager

import h11
import pytest
import uvicorn

from tests.control.conftest import serving as in_process
from tests.control.fakes import FakeRegistry
from vecserver.control.app import create_app
from vecserver.control.connections import Connection, connection_class
from vecserver.control.guards import BodyLimit
from vecserver.control.limits import HttpLimits, Rates, WebSocketLimit
from vecserver.pools.rules import EnvRules
from vecserver.serve import _listen, _Server
from vecserver.wire.errors import TooManyRequests

PATIENCE_S = 60.0
SOON_S = 0.3


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_has_a_rate_and_two_seconds_of_it_at_once():
    """What was not used is kept for two seconds; the refusal says how long to wait, and waiting so long is enough."""
    clock = Clock()
    rates = Rates(10.0, 1000.0, clock)
    for _ in range(20):
        rates.take("a")
    with pytest.raises(TooManyRequests) as caught:
        rates.take("a")
    rates.take("b")
    assert (caught.value.details["cap"], caught.value.details["limit"]) == ("request_rate", 10.0)
    clock.now += caught.value.details["retry_after"] + 1e-9
    rates.take("a")
    clock.now += 3600.0
    for _ in range(20):
        rates.take("a")
    with pytest.raises(TooManyRequests):
        rates.take("a")


def test_all_addresses_together_have_a_rate():
    """Many callers that each keep to theirs are refused by the other's name, and what is refused uses up nothing."""
    clock = Clock()
    rates = Rates(10.0, 15.0, clock)
    for i in range(30):
        rates.take(str(i))
    for _ in range(5):
        with pytest.raises(TooManyRequests, match="total_request_rate"):
            rates.take("x")
    clock.now += 1 / 15
    rates.take("x")


def test_few_addresses_are_remembered():
    """Whoever has 2**64 of them takes no more memory than whoever has 4096."""
    rates = Rates(1.0, 1e9, Clock())
    for i in range(5000):
        rates.take(str(i))
    assert len(rates._by_client) == 4096


def test_a_request_beyond_the_rate_is_refused_and_reading_is_not_counted():
    """429 with Retry-After in whole seconds; GET goes on."""
    registry = FakeRegistry()
    with closing(registry), in_process(create_app(registry, limits=HttpLimits(rate=0.1))) as client:
        first = client.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 1})
        assert first.status_code == 201
        second = client.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 1})
        assert (second.status_code, second.json()["code"]) == (429, "too_many_requests")
        assert 1 <= int(second.headers["retry-after"]) <= 10
        assert client.get("/v1/pools").status_code == 200


def test_the_list_of_environments_is_of_those_that_are_allowed():
    """What may not be made is not shown."""
    registry = FakeRegistry()
    registry.rules = EnvRules(allow_env=("CartPole-*",))
    with closing(registry), in_process(create_app(registry)) as client:
        ids = [env["id"] for env in client.get("/v1/envs").json()["envs"]]
    assert ids == ["CartPole-v0", "CartPole-v1"]


def test_so_many_websockets_are_open_and_no_more():
    """One that ends makes room; requests over HTTP are none."""
    entered = []

    async def run():
        release = asyncio.Event()

        async def app(scope, receive, send):
            entered.append(scope["type"])
            await release.wait()

        limited = WebSocketLimit(app, 1)
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "websocket.connect"}

        scope = {"type": "websocket", "path": "/ws", "headers": [], "extensions": {"websocket.http.response": {}}}
        first = asyncio.create_task(limited(scope, receive, send))
        await asyncio.sleep(0)
        await limited(dict(scope), receive, send)
        body = json.loads(b"".join(message.get("body", b"") for message in sent))
        assert (body["code"], body["cap"], body["limit"]) == ("cap_exceeded", "max_websockets", 1)
        release.set()
        await first
        await limited(scope, receive, send)
        assert entered == ["websocket"] * 2

    asyncio.run(run())


def test_a_body_that_does_not_come_is_not_waited_for():
    """408 and the end of the connection."""

    async def run():
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            await asyncio.sleep(PATIENCE_S)

        async def app(scope, receive, send):
            raise AssertionError

        scope = {"type": "http", "method": "POST", "path": "/x", "headers": []}
        await BodyLimit(app, timeout=0.01)(scope, receive, send)
        assert sent[0]["status"] == 408
        assert (b"connection", b"close") in sent[0]["headers"]
        assert json.loads(sent[1]["body"])["cap"] == "body_timeout"

    asyncio.run(run())


@contextmanager
def serving(**limits):
    """A server with small limits; gives its address."""
    listener, ready = _listen("127.0.0.1", 0), threading.Event()
    chosen = HttpLimits(**limits)
    config = uvicorn.Config(
        create_app(FakeRegistry(), limits=chosen),
        log_config=None,
        lifespan="off",
        loop="asyncio",
        http=connection_class(chosen),
    )
    server = _Server(config, on_ready=ready.set, on_stop=lambda: None, drain=lambda: None, abandon=lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


def connected(address) -> socket.socket:
    return socket.create_connection(address, PATIENCE_S)


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def impatient():
    """A server that waits for headers for a third of a second."""
    with serving(header_timeout=SOON_S) as address:
        yield address


def test_headers_that_never_end_are_not_waited_for(impatient):
    """408 with the setting's name, however steadily more of them come."""
    with connected(impatient) as connection:
        connection.sendall(HEAD)
        stop = threading.Event()

        def drip():
            try:
                while not stop.wait(SOON_S / 10):
                    connection.sendall(b"X-A: b\r\n")
            except OSError:
                return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            answer = b""
            while not answer.endswith(b"}"):  # not until the end, which may be a reset: it is still sending
                answer += connection.recv(65536)
        finally:
            stop.set()
            dripping.join()
    assert answer.startswith(b"HTTP/1.1 408 ")
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (problem["code"], problem["cap"], problem["limit"]) == ("request_too_slow", "header_timeout", SOON_S)


def test_a_connection_without_a_request_is_closed(impatient):
    """Without a word: browsers open some in advance."""
    with connected(impatient) as connection:
        assert rest_of(connection) == b""


def test_a_later_request_of_a_connection_has_a_deadline_too(impatient):
    """The first is answered; the headers of the second never end."""
    with connected(impatient) as connection:
        connection.sendall(HEAD + b"\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        connection.sendall(HEAD)
        assert rest_of(connection).startswith(b"HTTP/1.1 408 ")


def test_a_body_has_a_time_of_its_own(impatient):
    """Headers that came in time are not counted against a body that comes later."""
    head = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    with connected(impatient) as connection:
        connection.sendall(head)
        with connected(impatient) as other:
            rest_of(other)  # which takes as long as headers may
        connection.sendall(b"late")
        assert rest_of(connection).startswith(b"HTTP/1.1 200 ")


def test_so_many_connections_are_open_and_no_more():
    """503 for the next, at once; one that ends makes room."""
    with serving(connections=1) as address:
        with connected(address) as first:
            first.sendall(HEAD + b"\r\n")
            assert first.recv(15) == b"HTTP/1.1 200 OK"
            with connected(address) as second:
                refused = rest_of(second)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["cap"] == "max_connections"
        while True:  # until the server has seen the end of the first
            with connected(address) as third:
                third.sendall(HEAD + b"Connection: close\r\n\r\n")
                if rest_of(third).startswith(b"HTTP/1.1 200 "):
                    break


def test_the_bodies_of_all_requests_have_a_limit():
    """The one with which they are too many is refused, by its name, and there is room again when another is done."""

    async def run():
        release, statuses = asyncio.Event(), []

        async def app(scope, receive, send):
            await receive()
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        limited = BodyLimit(app, total=10)

        async def ask(size):
            sent = []

            async def receive():
                return {"type": "http.request", "body": bytes(size), "more_body": False}

            async def send(message):
                sent.append(message)

            await limited({"type": "http", "method": "POST", "path": "/x", "headers": []}, receive, send)
            statuses.append(sent[0]["status"])
            return sent

        first = asyncio.create_task(ask(8))
        await asyncio.sleep(0)
        start, body = await ask(3)
        assert (b"retry-after", b"1") in start["headers"]
        problem = json.loads(body["body"])
        assert (problem["code"], problem["cap"], problem["limit"]) == ("too_many_requests", "max_total_body_bytes", 10)
        release.set()
        await first
        await ask(10)
        assert statuses == [429, 200, 200]

    asyncio.run(run())


class Seen:
    """A transport, a loop and what is done with them."""

    def __init__(self) -> None:
        self.rests, self.read_paused, self.paused = [], False, False

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    def is_closing(self):
        return False

    def call_later(self, seconds, _function):
        self.rests.append(seconds)


def test_a_request_that_trickles_is_read_ever_more_rarely():
    """Its first pieces come as they are; large ones never wait, and the next request begins anew."""
    connection, seen = Connection.__new__(Connection), Seen()
    connection.conn = h11.Connection(h11.SERVER)
    connection.transport = connection.loop = connection.flow = seen

    def come(data):
        connection.conn.receive_data(data)
        while connection.conn.next_event() not in (h11.NEED_DATA, h11.PAUSED):
            pass
        connection._pace(len(data))
        if seen.paused:
            connection._read_on()
        assert not seen.paused

    come(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100012\r\n")
    for _ in range(3):
        come(b"X")
    assert seen.rests == []
    for _ in range(7):
        come(b"X")
    assert seen.rests == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    come(b": a\r\n\r\n")
    assert len(seen.rests) == 8
    come(b"x" * 100_012)
    assert len(seen.rests) == 8
    assert (connection._pieces, connection._rest_s) == (0, 0.05)
