"""Plain sockets in the place of libzmq's ROUTER: any cut, any noise, and no peer that costs another one anything."""

from __future__ import annotations

import itertools
import os
import random
import resource
import select
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tests.environments import env_id
from tests.wire.strategies import broken, fixed
from vecserver.arena.passing import Peer
from vecserver.dataplane import connection, plain_router
from vecserver.dataplane.connection import Connection
from vecserver.dataplane.plain_router import PlainRouter
from vecserver.dataplane.requests import Reply
from vecserver.pools.spec import PoolSpec
from vecserver.wire import messages
from vecserver.wire.errors import MalformedMessage, MessageTooLarge, Unauthorized
from vecserver.wire.frames import MAX_EXT, Header, Kind
from vecserver.wire.opening import ClientOpening
from vecserver.wire.zmtp import GREETING, READY, ROUTER_READY, encode

MAX_REQUEST = 1 << 10
LIMITS = (1 << 10, 1 << 16, 1 << 16, 1 << 10)
ASK = [b"h" * 64, b"", b"actions"]
PING = b"\x04\x0b\x04PING\0\x64ctx!"
PONG = b"\x04\x09\x04PONGctx!"
LARGE = 24 << 20
"""More than the kernel keeps of one connection."""


def wire(frames) -> bytes:
    return b"".join(encode(frames))


def ready(kind: bytes, *, name: bytes = b"Socket-Type") -> bytes:
    """The READY of a socket of some kind."""
    data = b"\x05READY" + bytes([len(name)]) + name + struct.pack(">I", len(kind)) + kind
    return bytes([4, len(data)]) + data


def shown(ticket: str) -> bytes:
    """All that a peer sends that shows a ticket and waits for nothing."""
    opening = ClientOpening(ticket)
    return opening.greeting + opening.greeted() + opening.heard(b"WELCOME", b"")


class Clock:
    """Time that only a test lets go by."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (connection, plain_router):
        monkeypatch.setattr(module, "monotonic", clock)
    return clock


class Room:
    """A router with both listeners, and the peers that a test connects."""

    def __init__(self, stack: ExitStack, ticket: str = "") -> None:
        self._stack = stack
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.ipc = socket.socket(socket.AF_UNIX)
        path = Path(os.environ["VECSERVER_RUNTIME_DIR"]) / "plain.sock"
        self.ipc.bind(str(path))
        stack.callback(path.unlink)
        self.ipc.listen()
        self.router = PlainRouter([self.tcp, self.ipc], MAX_REQUEST, ticket)
        stack.callback(self.router.close, 0.0)

    def connect(self, transport: str = "tcp", first: bytes = b"", **buffers: int) -> socket.socket:
        """A peer that has sent this, and no more."""
        listener = getattr(self, transport)
        peer = self._stack.enter_context(socket.socket(listener.family))
        for name, size in buffers.items():
            peer.setsockopt(socket.SOL_SOCKET, getattr(socket, name), size)
        peer.connect(listener.getsockname())
        peer.settimeout(30.0)
        peer.sendall(first)
        return peer

    def greeted(self, transport: str = "tcp", **buffers: int) -> socket.socket:
        """A peer that may ask."""
        peer = self.connect(transport, GREETING + READY, **buffers)
        self.heard()
        assert exactly(peer, len(GREETING + ROUTER_READY)) == GREETING + ROUTER_READY
        return peer

    def heard(self) -> list[tuple[bytes, list[bytes]]]:
        """All that came."""
        found = []
        quiet = 0
        while quiet < 3:
            if not self.router.has_message() and not select.select(self.router.fds, [], [], 0.01)[0]:
                quiet += 1
            while (message := self.router.receive()) is not None:
                found.append((message[0], [bytes(frame) for frame in message[1]]))
                quiet = 0
        return found

    def next(self) -> tuple[bytes, list[bytes]]:
        """One message, waited for."""
        while (message := self.router.receive()) is None:
            assert select.select(self.router.fds, [], [], 30.0)[0]
        return message[0], message[1]

    def ask(self, peer: socket.socket) -> None:
        """One question, one answer."""
        peer.sendall(wire(ASK))
        name, _ = self.next()
        self.router.send(Reply(name, b"answer", b"", b"slot"))
        answer = wire([b"answer", b"", b"slot"])
        assert exactly(peer, len(answer)) == answer

    def read(self, peer: socket.socket, count: int) -> bytes:
        """So many bytes of what the router sends, which goes on sending."""
        got = bytearray()
        while len(got) < count:
            assert self.router.receive() is None
            try:
                chunk = peer.recv(min(1 << 20, count - len(got)), socket.MSG_DONTWAIT)
            except BlockingIOError:
                assert select.select([peer, *self.router.fds], [], [], 30.0)[0]
                continue
            assert chunk
            got += chunk
        return bytes(got)

    def is_ended(self, peer: socket.socket) -> bool:
        """Whether the router has closed this connection."""
        self.heard()
        try:
            return not peer.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


def exactly(peer: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = peer.recv(min(1 << 20, count - len(data)))
        assert chunk
        data += chunk
    return bytes(data)


@pytest.fixture
def room():
    with ExitStack() as stack:
        yield Room(stack)


BOTH = pytest.mark.parametrize("transport", ["tcp", "ipc"])

# Any cut


def pushed(pieces: list[bytes]) -> tuple[list[list[bytes]], bytes]:
    """The messages that a connection gives when its peer sends these pieces, and what it sent back."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        conn = Connection(ours, b"peer", LIMITS)
        conn.greet()
        found = []
        for piece in pieces:
            theirs.sendall(piece)
            while select.select([ours], [], [], 0)[0] or conn.unread:
                frames = conn.receive()
                if frames is not None:
                    found.append([bytes(frame) for frame in frames])
                elif not select.select([ours], [], [], 0)[0]:
                    break
        return found, theirs.recv(1 << 16)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Pieces of these sizes in turn; after a thousand the rest in one, for bodies are long and their bytes all alike."""
    pieces, at = [], 0
    for size in itertools.islice(itertools.cycle(cuts), 1000):
        if at < len(data):
            pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]] if at < len(data) else pieces


requests = st.lists(
    st.lists(st.binary(max_size=300) | st.sampled_from([32767, 32768, 40_000]).map(bytes), min_size=3, max_size=3).map(
        lambda frames: [frames[0][:64], *frames[1:]]
    ),
    max_size=4,
)


@fixed(80)
@given(requests, st.lists(st.integers(1, 50_000), min_size=1, max_size=6), st.booleans())
def test_any_cut_of_a_conversation_gives_the_same_messages(sent, cuts, pinged):
    """From the first byte of the greeting on; signs of life between messages are answered and are none themselves."""
    data = GREETING + READY + b"".join(PING * pinged + wire(frames) for frames in sent)
    assert pushed(cut(data, cuts)) == (sent, GREETING + ROUTER_READY + PONG * pinged * len(sent))


def test_a_conversation_is_the_same_cut_at_every_byte():
    """One byte after the other, and in two pieces."""
    data = GREETING + READY + PING + wire(ASK)
    expected = ([ASK], GREETING + ROUTER_READY + PONG)
    assert pushed([data[i : i + 1] for i in range(len(data))]) == expected
    for at in range(1, len(data)):
        assert pushed([data[:at], data[at:]]) == expected


@fixed(300)
@given(
    broken(requests.map(lambda sent: (GREETING + READY + b"".join(map(wire, sent)))[:3000]) | st.binary(max_size=200)),
    st.lists(st.integers(1, 400), min_size=1, max_size=4),
)
def test_noise_ends_a_connection_or_is_messages(data, cuts):
    """Nothing but errors of the protocol comes out, and nothing beyond the limits."""
    try:
        found, _ = pushed(cut(data, cuts))
    except (MalformedMessage, MessageTooLarge, Unauthorized, ConnectionResetError):
        return
    for frames in found:
        assert 1 <= len(frames) <= len(LIMITS)
        assert all(len(frame) <= limit for frame, limit in zip(frames, LIMITS, strict=False))


# Who may speak


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        GREETING[:10] + b"\x01",
        GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32),
        GREETING + wire(ASK),
        GREETING + b"\x04\x06\x05ERROR",
        GREETING + ready(b"SUB"),
        GREETING + ready(b"DEALER", name=b"Identity"),
        GREETING + ready(b"DEALER")[:-1] + b"\x04\x01\x00",
        GREETING + b"\x04\x08\x05READY\xff\xff",
        GREETING + READY + b"\x04\x08\x05ERROR\x01x",
        GREETING + READY + b"\x04\x02\x05P",
        GREETING + READY + b"\x02" + b"\xff" * 8,
        GREETING + READY + b"\x03" + (1025).to_bytes(8, "big"),
        GREETING + READY + b"\x01\0\x03" + (MAX_EXT + 1).to_bytes(8, "big"),
        GREETING + READY + b"\x01\0" * 16,
    ],
)
def test_who_breaks_the_protocol_is_cut_off(room, data):
    """At once, and nobody else is."""
    honest = room.greeted()
    stranger = room.connect(first=data)
    assert room.heard() == []
    assert len(room.router._by_fd) == 1
    stranger.settimeout(1.0)
    try:
        while stranger.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass  # the kernel's word for bytes that nobody read
    room.ask(honest)


@pytest.mark.parametrize(
    "more", [b"", b"\x04\x0b\x09SUBSCRIBEx", b"\x04\x06\x05HELLO", ready(b"DEALER"), PING, b"\x04\x05\x04PONG"]
)
def test_what_means_nothing_to_a_router_is_passed_over(room, more):
    """Commands of other kinds of sockets and of later versions, between any two messages."""
    peer = room.connect(first=GREETING[:10] + b"\x03\x01" + GREETING[12:] + ready(b"DEALER") + more + wire(ASK) + more)
    assert [frames for _, frames in room.heard()] == [ASK]
    peer.sendall(wire(ASK))
    assert [frames for _, frames in room.heard()] == [ASK]


@BOTH
@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_libzmqs_own_sockets_are_served(room, context, transport, kind):
    """With heartbeats of theirs, over which they keep their connection while nothing is asked."""
    address = room.tcp.getsockname()
    endpoint = f"tcp://127.0.0.1:{address[1]}" if transport == "tcp" else f"ipc://{room.ipc.getsockname()}"
    with context.socket(kind) as peer:
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.HEARTBEAT_IVL, 20)
        peer.setsockopt(zmq.HEARTBEAT_TIMEOUT, 200)
        peer.connect(endpoint)
        frames = ASK if kind == zmq.DEALER else ASK[1:]
        names = set()
        for size in (5, 300, 70_000):
            peer.send_multipart([*frames[:-1], bytes(size)])
            name, (*_, body) = room.next()
            names.add(name)
            room.router.send(Reply(name, b"" if kind == zmq.REQ else b"h", b"ext", body))
            assert peer.poll(30_000)
            assert peer.recv_multipart()[-1] == bytes(size)
            for _ in range(40):  # more than a heartbeat's patience
                select.select([], [], [], 0.01)
                assert room.router.receive() is None
        assert names == {b"\0\0\0\0\0\0\0\x01"}


# Silence


def test_a_peer_that_does_not_greet_is_given_up(room, clock):
    """However slowly it goes on, and only that one."""
    honest, silent = room.greeted(), room.connect()
    slow = room.connect(first=GREETING[:20])
    assert room.heard() == []
    for byte in GREETING[20:24]:
        clock.now += 1.0
        slow.sendall(bytes([byte]))
        room.heard()
    assert len(room.router._by_fd) == 3
    clock.now += 2.0
    room.heard()
    assert len(room.router._by_fd) == 1
    assert exactly(silent, 64) == GREETING
    assert room.is_ended(silent)
    room.ask(honest)


@BOTH
def test_a_trainer_may_be_silent_for_days(room, clock, transport):
    """Between two messages nothing is asked of it."""
    trainer = room.greeted(transport)
    room.ask(trainer)
    for _ in range(20):
        clock.now += 10_000.0
        assert room.heard() == []
    room.ask(trainer)


@pytest.mark.parametrize("part", [1, 40, 66, 80_000])
def test_a_message_that_does_not_go_on_is_given_up(room, clock, part):
    """A minute after its last byte; a slow one is waited for."""
    message = wire([*ASK[:1], bytes(100_000), b""])
    slow, stuck = room.greeted(), room.greeted()
    for peer in (slow, stuck):
        peer.sendall(message[:part])
    room.heard()
    for at in range(part, part + 4):
        clock.now += 40.0
        slow.sendall(message[at : at + 1])
        room.heard()
    assert room.is_ended(stuck)
    slow.sendall(message[part + 4 :])
    assert len(room.heard()) == 1
    clock.now += 1000.0
    room.ask(slow)


def test_a_reader_that_stopped_is_given_up(room, clock):
    """A minute after it took its last byte; it asks again by the same number when it is back."""
    peer = room.greeted(SO_RCVBUF=4096)
    peer.sendall(wire(ASK))
    name, _ = room.next()
    room.router.send(Reply(name, b"", b"", bytes(LARGE)))
    for _ in range(3):
        clock.now += 50.0
        room.read(peer, LARGE // 8)
        assert len(room.router._by_fd) == 1
    clock.now += 62.0
    room.heard()
    assert len(room.router._by_fd) == 0


# Those who do not read


@BOTH
def test_a_large_answer_goes_out_as_it_is_read(room, transport):
    """From the memory that it lies in, in parts, while others are answered."""
    reader, other = room.greeted(transport), room.greeted()
    body = np.random.default_rng(1).integers(0, 256, LARGE, np.uint8)
    reader.sendall(wire(ASK))
    name, _ = room.next()
    room.router.send(Reply(name, b"h", b"", body.data))
    (blocked,) = room.router._blocked
    assert np.shares_memory(np.frombuffer(blocked.unsent[0], np.uint8), body)
    room.ask(other)
    expected = wire([b"h", b"", body.tobytes()])
    assert room.read(reader, len(expected)) == expected
    room.ask(reader)


def test_an_answers_memory_may_be_written_again_after_the_next_answer(room):
    """Whoever was too slow for it gets the bytes that it was sent."""
    slow, driver = room.greeted(), room.greeted()
    body = bytearray(b"a" * LARGE)
    slow.sendall(wire(ASK))
    name, _ = room.next()
    room.router.send(Reply(name, b"h", b"", memoryview(body)))
    room.ask(driver)
    body[:] = b"b" * LARGE
    expected = wire([b"h", b"", b"a" * LARGE])
    assert room.read(slow, len(expected)) == expected


def test_who_does_not_read_is_not_read_from(room):
    """So that its questions stay with it, and not their answers here; all are answered once it reads."""
    deaf = room.greeted(SO_RCVBUF=4096)
    honest = room.greeted()
    questions = 60
    deaf.sendall(b"".join(wire([bytes([number]), b"", b""]) for number in range(questions)))
    size = 1 << 20
    answered = 0

    def answer() -> None:
        nonlocal answered
        while (message := room.router.receive()) is not None:
            room.router.send(Reply(message[0], bytes(message[1][0]), b"", bytes(size)))
            answered += 1

    for _ in range(200):
        answer()
    assert answered < questions / 3
    assert sum(conn.held for conn in room.router._by_fd.values()) < 2 * size
    room.ask(honest)
    each = len(wire([b"n", b"", bytes(size)]))
    for number in range(questions):
        got = b""
        while len(got) < each:
            answer()
            readable, _, _ = select.select([deaf], [], [], 0.01)
            got += deaf.recv(each - len(got)) if readable else b""
        assert got[:3] == b"\x01\x01" + bytes([number])


# Those who leave


@BOTH
@pytest.mark.parametrize("sent", [b"", GREETING, GREETING + READY, GREETING + READY + wire(ASK)[:80]])
def test_whoever_leaves_leaves_nothing(room, transport, sent):
    """Wherever in a conversation it was, and whether it closes, half-closes or resets."""
    for how in ("close", "half", "reset"):
        peer = room.connect(transport, sent)
        room.heard()
        if how == "half":
            peer.shutdown(socket.SHUT_WR)
        elif how == "reset" and transport == "tcp":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how != "half":
            peer.close()
        room.heard()
        assert room.router._by_fd == {}
        assert room.router._by_peer == {}


def test_an_answer_to_nobody_is_dropped(room):
    """To one who left before it, or in the middle of it, or was never there."""
    room.router.send(Reply(b"nobody", b"", b"", b""))
    before, amid = room.greeted(), room.greeted()
    for peer in (before, amid):
        peer.sendall(wire(ASK))
    names = [name for name, _ in room.heard()]
    before.close()
    room.router.send(Reply(names[1], b"", b"", bytes(LARGE)))
    amid.close()
    room.router.send(Reply(names[0], b"", b"", bytes(LARGE)))
    room.heard()
    assert room.router._by_fd == {}
    assert not room.router._blocked
    assert not select.select(room.router.fds, [], [], 0)[0]


# Too much


def test_one_who_floods_gets_no_more_turns_than_others(room):
    """A request of another comes out among the first, whatever waits."""
    flood, honest = room.greeted(), room.greeted()
    flood.sendall(wire(ASK) * 3000)
    room.next()
    honest.sendall(wire([b"honest", b"", b""]))
    for _ in range(6):
        if room.next()[1][0] == b"honest":
            break
    else:
        pytest.fail("the flood goes first")
    assert len(room.heard()) > 2900


def test_a_trickle_of_bytes_keeps_nobody(room):
    """A receive ends, though there is always one more byte that is no message."""
    peer = room.greeted()
    peer.sendall(b"\x03" + (1 << 9).to_bytes(8, "big"))
    for _ in range(100):
        peer.sendall(b"x")
        assert room.router.receive() is None


def test_connections_are_counted(room, monkeypatch, caplog, clock):
    """One too many is closed at once and said in the log; a place that is free is taken."""
    monkeypatch.setattr(plain_router, "_MAX_CONNECTIONS", 3)
    peers = [room.greeted() for _ in range(3)]
    late = room.connect()
    assert room.is_ended(late)
    clock.now += 2.0
    room.heard()
    assert "refused 1 connections beyond 3" in caplog.text
    peers.pop().close()
    room.heard()
    room.ask(room.greeted("ipc"))
    for peer in peers:
        room.ask(peer)


def test_announced_bytes_take_no_memory(room):
    """A length alone, however often, is no more than nine bytes."""
    before = resident()
    for _ in range(40):
        room.greeted().sendall(b"\x01\0\x03" + MAX_EXT.to_bytes(8, "big") + b"x")
    room.heard()
    assert len(room.router._by_fd) == 40
    assert resident() - before < 16 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_unfinished_messages_are_bounded_together(room, monkeypatch, clock):
    """The one that has stood still longest makes way; who goes on, comes through."""
    monkeypatch.setattr(plain_router, "_MAX_HELD", 1 << 20)
    message = wire([b"h", bytes(600_000), b""])
    first, second, third = (room.greeted() for _ in range(3))
    for peer in (first, second):
        peer.sendall(message[:400_000])
        room.heard()
        clock.now += 1.0
    first.sendall(message[400_000:410_000])  # goes on, so that the second is the older one
    room.heard()
    clock.now += 1.0
    third.sendall(message[:400_000])
    assert room.heard() == []
    assert room.is_ended(second)
    for peer, sent in ((first, 410_000), (third, 400_000)):
        peer.sendall(message[sent:])
        assert len(room.heard()) == 1


def test_without_descriptors_the_listener_rests(room, clock, caplog):
    """Instead of keeping the loop awake; when some are free again it listens."""
    honest = room.greeted()
    with socket.socket() as late:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = os.dup(late.fileno())
        os.close(limit)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            late.connect(room.tcp.getsockname())
            assert room.router.receive() is None
            assert not select.select(room.router.fds, [], [], 0)[0]
            room.ask(honest)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "cannot accept a connection" in caplog.text
        clock.now += 2.0
        late.settimeout(30.0)
        late.sendall(GREETING + READY)
        room.heard()
        exactly(late, len(GREETING + ROUTER_READY))
        room.ask(late)


# The end


@pytest.mark.parametrize("reads", [True, False])
def test_the_last_answer_has_a_moment_to_leave(reads):
    """A reader gets all of it; one that does not read is not waited for any longer."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        router = PlainRouter([listener], MAX_REQUEST)
        threads = stack.enter_context(ThreadPoolExecutor(1))
        with closing(socket.create_connection(listener.getsockname(), timeout=30.0)) as peer:
            idle = stack.enter_context(socket.create_connection(listener.getsockname()))
            peer.sendall(GREETING + READY + wire(ASK))
            while (message := router.receive()) is None:
                select.select(router.fds, [], [], 1.0)
            idle.sendall(GREETING)  # readable, and of no interest any more
            router.send(Reply(message[0], b"h", b"", bytes(LARGE)))
            if reads:
                got = threads.submit(read_all, peer)
            router.close(30.0 if reads else 0.1)
            if reads:
                assert got.result(30.0) == len(GREETING + ROUTER_READY + wire([b"h", b"", bytes(LARGE)]))


def read_all(peer: socket.socket) -> int:
    count = 0
    while chunk := peer.recv(1 << 20):
        count += len(chunk)
    return count


# A real pool


def test_a_pool_of_one_machine_has_one_thread_and_no_libzmq(registry, driver):
    """Its host reads and writes the sockets itself."""
    view = registry.create(PoolSpec(env_id=env_id("Count-v0"), num_envs=2))
    driver(view).reset(seed=1)
    assert len([*Path(f"/proc/{view.host_pid}/task").iterdir()]) == 1
    assert "zmq" not in Path(f"/proc/{view.host_pid}/maps").read_text()
    registry.delete(view.pool)


def test_a_pool_survives_a_siege(registry, driver):
    """Half-open, truncated, announcing, flooding and vanishing peers; each batch of the driver's is the right one."""
    view = registry.create(PoolSpec(env_id=env_id("Count-v0"), num_envs=2, env_kwargs={"length": 10**9}))
    honest = driver(view, "ipc")
    honest.reset(seed=1)
    stats = messages.decode(honest.ask(Kind.PING).ext, messages.Stats)
    rng = random.Random(5)
    port = int(view.endpoints["tcp"].rpartition(":")[2])
    hello = wire([Header(Kind.HELLO).pack(), b"", b""])
    let_in = shown(registry.access(view.pool).ticket)
    openings = [
        b"",
        GREETING[:30],
        GREETING + READY,
        shown("a ticket of its own"),
        let_in,
        let_in + hello[:50],
        let_in + b"\x01\0\x03" + MAX_EXT.to_bytes(8, "big") + bytes(1000),
        let_in + hello * 500,
        rng.randbytes(500),
    ]
    with ExitStack() as stack:
        for step in range(150):
            stranger = socket.create_connection(("127.0.0.1", port))
            stranger.setblocking(False)
            stranger.send(openings[step % len(openings)])
            if step % 3:
                stack.enter_context(stranger)
            else:
                stranger.close()
            observations = honest.step(np.array([1, 2])).observations[0]
            assert observations[:, 2:4].tolist() == [[step + 1, 1], [step + 1, 2]]
        after = messages.decode(honest.ask(Kind.PING).ext, messages.Stats)
        assert after.host_rss_bytes - stats.host_rss_bytes < 32 << 20
    registry.delete(view.pool)


def test_a_large_answer_over_tcp_is_with_the_kernel_in_pieces(room):
    """The kernel takes no more than the buffer that was chosen, however much is to be sent; the peer gets all of it."""
    peer = room.greeted()
    peer.sendall(wire(ASK))
    name, _ = room.next()
    body = bytes(8 << 20)
    room.router.send(Reply(name, b"answer", b"", memoryview(body)))
    (conn,) = room.router._by_fd.values()
    assert conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * plain_router._IN_FLIGHT  # it counts twice
    answer = wire([b"answer", b"", body])
    assert room.read(peer, len(answer)) == answer


# Who comes in


@pytest.fixture
def guarded():
    with ExitStack() as stack:
        yield Room(stack, "a ticket")


def test_a_ticket_opens_the_tcp_port_to_any_zeromq(guarded, context):
    """Shown by PLAIN, beside any name; another ticket, or none, gets nothing, and hears no answer."""
    host, port = guarded.tcp.getsockname()
    with ExitStack() as stack:
        peers = []
        for ticket in ("a ticket", "another", ""):
            peer = stack.enter_context(context.socket(zmq.DEALER))
            peer.setsockopt(zmq.LINGER, 0)
            if ticket:
                peer.plain_username, peer.plain_password = b"anybody", ticket.encode()
            peer.connect(f"tcp://{host}:{port}")
            peer.send_multipart([ticket.encode(), b"", b""])
            peers.append(peer)
        name, frames = guarded.next()
        assert bytes(frames[0]) == b"a ticket"
        assert guarded.heard() == []
        guarded.router.send(Reply(name, b"h", b"", b"b"))
        assert peers[0].poll(30_000)
        assert not any(peer.poll(0) for peer in peers[1:])


def test_a_unix_socket_asks_the_kernel_and_no_ticket(guarded, monkeypatch, caplog):
    """A process of the same user comes in as it is; another user's does not, whatever it says."""
    guarded.ask(guarded.greeted("ipc"))
    monkeypatch.setattr(plain_router, "peer_of", lambda _sock: Peer(1, os.geteuid() + 1, 0))
    stranger = guarded.connect("ipc", GREETING + READY)
    assert guarded.heard() == []
    assert guarded.is_ended(stranger)
    assert f"belongs to user {os.geteuid() + 1}" in caplog.text


def test_connections_that_come_to_nothing_are_few_in_a_second(guarded, clock, monkeypatch, caplog):
    """Beyond that nobody comes in by tcp until it is over; those who are in go on, and a Unix socket is open."""
    driver = guarded.connect(first=shown("a ticket"))
    guarded.heard()
    exactly(driver, len(GREETING) + 10 + len(ROUTER_READY))
    monkeypatch.setattr(plain_router, "_MAX_FRUITLESS", 3)
    strangers = [guarded.connect(first=shown("another")) for _ in range(4)]
    assert guarded.heard() == []
    assert all(read_all(stranger) for stranger in strangers)
    late = guarded.connect(first=shown("a ticket"))
    assert guarded.heard() == []
    assert not select.select([late], [], [], 0)[0]
    guarded.ask(driver)
    guarded.ask(guarded.greeted("ipc"))
    clock.now += 2.0
    guarded.heard()
    exactly(late, len(GREETING) + 10 + len(ROUTER_READY))
    guarded.ask(late)
    assert "4 connections in a second" in caplog.text


def test_connections_that_say_nothing_keep_nobody_out(guarded, clock):
    """Of those that are not let in yet the oldest makes way; those that are let in stay."""
    driver = guarded.connect(first=shown("a ticket"))
    guarded.heard()
    exactly(driver, len(GREETING) + 10 + len(ROUTER_READY))
    silent = []
    for _ in range(2 * plain_router._MAX_STRANGERS):
        clock.now += 0.001
        silent.append(guarded.connect())
        guarded.heard()
    assert len(guarded.router._by_fd) == 1 + plain_router._MAX_STRANGERS
    assert read_all(silent[0]) == len(GREETING)  # and the end
    guarded.ask(driver)
    late = guarded.connect(first=shown("a ticket"))
    guarded.heard()
    exactly(late, len(GREETING) + 10 + len(ROUTER_READY))
    guarded.ask(late)
