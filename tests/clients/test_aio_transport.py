"""The event loop's connection speaks to ZeroMQ's own, and every odd peer is survived or named in time."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq

from tests.clients.test_aio import in_a_loop
from tests.clients.test_direct import NOT_LONG_S, SOON_S, answering, asked, message, wire, within
from tests.clients.wires import LONG_S, READY, exactly, serve
from tests.pools.registries import start_threads
from vecserver.wire.errors import MalformedMessage, MessageTooLarge, ServerUnreachable, VersionMismatch
from vecserver.wire.zmtp import GREETING, encode
from vecserver.wire.zmtp import READY as CLIENT_READY
from vecserver_client.aio.transport import LoopTransport

MAX_BODY = 1 << 24
PING, PONG = b"\x04\x0b\x04PING\0\x64abcd", b"\x04\x09\x04PONGabcd"


@asynccontextmanager
async def opened(endpoint: str, max_body: int = MAX_BODY):
    """A transport, whose connection has ended at the end."""
    transport = LoopTransport(endpoint, max_body)
    try:
        yield transport
    finally:
        transport.close()
        for _ in range(4):  # the loop ends a connection in its next turns
            await asyncio.sleep(0)


@asynccontextmanager
async def connected(endpoint: str, max_body: int = MAX_BODY):
    """A transport that has sent a request of its own."""
    async with opened(endpoint, max_body) as transport:
        await transport.send(*message(b"ask"), LONG_S)
        yield transport


@pytest.fixture(scope="module")
def context():
    with zmq.Context() as context:
        start_threads(context)
        yield context


@pytest.fixture
def router(context):
    """A ROUTER on both transports, that gives every message back."""
    path = f"{os.environ['VECSERVER_RUNTIME_DIR']}/a"
    over = threading.Event()
    with context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        router.bind("tcp://127.0.0.1:*")
        endpoints = {"tcp": router.getsockopt_string(zmq.LAST_ENDPOINT), "ipc": f"ipc://{path}"}
        router.bind(endpoints["ipc"])

        def echo() -> None:
            while not over.is_set():
                if router.poll(10):
                    router.send_multipart(router.recv_multipart())

        thread = threading.Thread(target=echo, name="echo")
        thread.start()
        yield endpoints
        over.set()
        thread.join()
    Path(path).unlink()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@in_a_loop
async def test_messages_of_every_size_go_both_ways(router, transport):
    """Around each length at which an encoding or a buffer changes, and one that no buffer of the kernel holds."""
    rng = random.Random(3)
    async with opened(router[transport]) as peer:
        for size in (0, 1, 255, 256, 16383, 16384, 32767, 32768, 65535, 65536, 200_000, 9_000_000):
            frames = message(rng.randbytes(size), rng.randbytes(min(size, 70_000)))
            await peer.send(*frames, LONG_S)
            header, ext, body = await peer.receive(LONG_S)
            assert [header.pack(), ext, bytes(body)] == frames
            assert type(ext) is bytes
            body[:1] = b"!"  # its own memory


@in_a_loop
async def test_many_messages_may_wait():
    """More than are kept here at once are given one by one, whole and in order, and then there is none."""
    answers = [wire(bytes([number % 256]) * (number * 37), seq=number) for number in range(300)]
    with serve(answering(b"".join(answers))) as endpoint:
        async with connected(endpoint) as peer:
            await asyncio.sleep(SOON_S)
            for number in range(300):
                header, _, body = await peer.receive(LONG_S)
                assert (header.seq, bytes(body)) == (number, bytes([number % 256]) * (number * 37))
            assert await peer.receive(0.0) is None


@in_a_loop
async def test_an_answer_may_come_in_any_pieces():
    """Cut at every byte, with a command in front of each message and between its frames."""
    frames = message(b"b" * 300, b"e" * 300)
    pieces = [b"".join(encode(frames[:1]))[1:], b"".join(encode(frames[1:2]))[1:], b"".join(encode(frames[2:]))]
    data = PING + b"\x01" + pieces[0] + PING + b"\x03" + pieces[1] + PING + pieces[2]
    pongs, read = [], threading.Event()

    def then(conn):
        pongs.append(exactly(conn, 6 * len(PONG)))
        read.wait(LONG_S)  # its end is another answer

    script = answering(*[data[at : at + 1] for at in range(len(data))], data, then=then)
    with serve(script) as endpoint:
        try:
            async with connected(endpoint) as peer:
                for _ in range(2):
                    header, ext, body = await peer.receive(LONG_S)
                    assert [header.pack(), ext, bytes(body)] == frames
                assert await peer.receive(0.0) is None
        finally:
            read.set()
    assert pongs == [6 * PONG]


@in_a_loop
async def test_a_ping_is_answered_while_nobody_waits():
    """The loop does it, whatever the program's tasks are about."""
    answered = threading.Event()

    def pinged(conn: socket.socket) -> None:
        assert exactly(conn, len(PONG)) == PONG
        answered.set()
        conn.recv(1)

    with serve(answering(PING, then=pinged)) as endpoint:
        async with connected(endpoint):
            assert await asyncio.to_thread(answered.wait, LONG_S)


@in_a_loop
async def test_a_peer_that_asks_and_does_not_read_gets_no_answers():
    """What is not sent is bounded, however often it asks."""
    enough = threading.Event()

    def flood(conn: socket.socket) -> None:
        while not enough.is_set():
            conn.sendall(PING * 1000)

    with serve(answering(then=flood)) as endpoint:
        async with connected(endpoint) as peer:
            assert await peer.receive(1.0) is None
            assert peer._wire._transport.get_write_buffer_size() < 1 << 18
            enough.set()


@in_a_loop
async def test_a_cancelled_wait_loses_nothing_of_an_answer():
    """What has come of it is kept, and the rest is taken later."""
    gate = threading.Event()
    answer = wire(bytes(range(256)) * 400)

    def rest(conn: socket.socket) -> None:
        assert gate.wait(LONG_S)
        conn.sendall(answer[50_000:])
        conn.recv(1)

    with serve(answering(answer[:50_000], then=rest)) as endpoint:
        async with connected(endpoint) as peer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SOON_S):
                    await peer.receive(LONG_S)
            gate.set()
            assert (await peer.receive(LONG_S))[2] == bytes(range(256)) * 400


@in_a_loop
async def test_a_cancelled_send_is_sent_as_a_whole():
    """To a peer that reads late."""
    gate, heard = threading.Event(), []
    request = wire(bytes(1 << 24))

    def script(conn: socket.socket) -> None:
        asked(conn)
        assert gate.wait(LONG_S)
        heard.append(exactly(conn, len(request)) == request)
        conn.sendall(wire(b"thanks"))
        conn.recv(1)

    with serve(script) as endpoint:
        async with connected(endpoint) as peer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SOON_S):
                    await peer.send(*message(bytes(1 << 24)), LONG_S)
            gate.set()
            assert (await peer.receive(LONG_S))[2] == b"thanks"
    assert heard == [True]


@pytest.mark.parametrize("answer", [b"", wire()[:40]], ids=["before", "in the middle of"])
@in_a_loop
async def test_a_lost_connection_is_no_silence(answer):
    """It is said at once, and the next message goes out on a fresh one."""
    scripts = [answering(answer, then=lambda conn: None), answering(wire(b"here"))]
    with serve(*scripts) as endpoint:
        async with connected(endpoint) as peer:
            with within(NOT_LONG_S), pytest.raises(ConnectionError):
                await peer.receive(LONG_S)
            await peer.send(*message(b"ask"), LONG_S)
            assert (await peer.receive(LONG_S))[2] == b"here"


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"\x01\x05short\x01\x00\x00\x00", MalformedMessage, "header"),
        (b"".join(encode(message()[:2])), MalformedMessage, "fewer than 3 frames"),
        (b"".join(encode([*message(), b"more"])), MalformedMessage, "more than 3 frames"),
        (wire(bytes(65)), MessageTooLarge, "65 bytes"),
        (b"\x04\x00", MalformedMessage, "a command without a name"),
        (b"\x04\x0e\x05ERROR\x07go away"[:16], MalformedMessage, "refuses the connection: go away"),
        (wire().replace(b"VECS\x01", b"VECS\x02"), VersionMismatch, "version"),
    ],
)
@in_a_loop
async def test_what_is_no_message_is_named(answer, error, text):
    """At once."""
    with serve(answering(answer)) as endpoint:
        async with connected(endpoint, 64) as peer:
            with within(NOT_LONG_S), pytest.raises(error, match=text):
                await peer.receive(LONG_S)


@pytest.mark.parametrize(
    ("says", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n", "does not speak ZeroMQ: it begins with"),
        (GREETING[:10] + b"\x01\x05", r"before 4\.0"),
        (GREETING.replace(b"NULL", b"CURV"), "demands the security mechanism CURV"),
        (GREETING + b"\x04\x0e\x05ERROR\x07go away"[:16], "refuses the connection: go away"),
        (GREETING + READY + wire(), "speaks before it is asked"),
    ],
)
@in_a_loop
async def test_what_is_no_pool_is_named(says, text):
    """Before anything was asked."""

    def script(conn: socket.socket) -> None:
        conn.sendall(says)
        exactly(conn, 1000)

    with serve(script) as endpoint, within(NOT_LONG_S), pytest.raises(MalformedMessage, match=text):
        async with connected(endpoint):
            pass


@pytest.mark.parametrize(
    "script",
    [
        lambda conn: exactly(conn, 1000),
        lambda conn: None,
        lambda conn: conn.sendall(GREETING[:5]),
        lambda conn: (conn.sendall(GREETING), exactly(conn, 1000)),
    ],
    ids=["silent", "hangs up", "half a greeting", "no ready"],
)
@in_a_loop
async def test_a_peer_that_is_never_ready_is_unreachable_in_time(script):
    """It accepts, and then whatever it likes."""
    with serve(script) as endpoint, within(NOT_LONG_S):
        async with opened(endpoint) as peer:
            with pytest.raises(ServerUnreachable, match=r"does not answer within 0\.3 s"):
                await peer.send(*message(), SOON_S)


@in_a_loop
async def test_nobody_there_is_said_in_time(tmp_path):
    """On a port where nothing listens and for a path that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for endpoint in (f"tcp://127.0.0.1:{port}", f"tcp://localhost:{port}", f"ipc://{tmp_path}/x"):
        async with opened(endpoint) as peer:
            with within(NOT_LONG_S), pytest.raises(ServerUnreachable, match="does not answer"):
                await peer.send(*message(), SOON_S)
            with pytest.raises(ConnectionError):
                await peer.receive(0.0)
            with within(NOT_LONG_S), pytest.raises(ServerUnreachable):
                await peer.send(*message(), 0.0)


@in_a_loop
async def test_a_peer_that_does_not_read_is_unreachable_in_time():
    """More than the kernel's buffers take, and a limit."""

    def deaf(conn: socket.socket) -> None:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        conn.sendall(GREETING + READY)
        assert exactly(conn, len(GREETING + CLIENT_READY))
        over.wait(LONG_S)

    over = threading.Event()
    with serve(deaf) as endpoint:
        async with opened(endpoint) as peer:
            with within(NOT_LONG_S), pytest.raises(ServerUnreachable, match="does not take a message"):
                await peer.send(*message(bytes(1 << 24)), SOON_S)
            over.set()
