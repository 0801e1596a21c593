"""``/v1/pools/{pool}/ws``: the protocol's messages over the HTTP port, whatever a client does with them."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from gymnasium import spaces
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

import vecserver_client as vs
from tests.bearer import headers
from tests.contract.vector_contract import COUNT
from tests.environments import env_id
from vecserver.control.guards import MAX_BODY_BYTES
from vecserver.wire import messages
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import ERRORS, UnknownPool
from vecserver.wire.frames import Flag, Header, Kind, digest_of
from vecserver.wire.websocket import join, part
from vecserver.wire.zmtp import GREETING, READY, ROUTER_READY
from vecserver_client.ws import WebSocketWire

PATIENCE_S = 30.0
REPEATS = 50


@pytest.fixture(scope="module")
def server():
    """A private server of the test run."""
    with closing(vs.LocalServer()) as running:
        yield running


@pytest.fixture
def control(server):
    with vs.ControlClient(server.url) as client:
        yield client


@pytest.fixture
def pool(control):
    """A pool of two rows that tell how often they were stepped, as the server describes it."""
    made = control.create_pool(env_id=COUNT, num_envs=2, workers=1)
    yield made
    with suppress(UnknownPool):
        control.delete_pool(made["pool"])


class Bare:
    """A WebSocket without a thread that reads: what is not asked for is not read."""

    def __init__(self, sock: socket.socket, wire: WebSocketWire) -> None:
        self._sock, self._wire = sock, wire
        sock.sendall(wire.to_send())
        while not wire.is_open:
            wire.received(sock.recv(1 << 16))

    def send(self, message: bytes) -> None:
        self._wire.send(message)
        self._sock.sendall(self._wire.to_send())

    def recv(self, _patience_s: float) -> bytes:
        while (frames := self._wire.message()) is None:
            self._wire.received(self._sock.recv(1 << 16))
        return join(frames[0].pack(), *frames[1:])


class Peer:
    """A WebSocket to a pool, and the numbers of whoever drives it."""

    def __init__(self, ws) -> None:
        self.ws, self.lease, self.epoch, self.seq = ws, 0, 0, 0

    def request(self, kind: Kind, ext: bytes = b"", body: bytes = b"", seq: int = 0) -> bytes:
        digest = digest_of(ext, body) if seq else 0
        return join(Header(kind, 0, 0, 0, 0, self.lease, self.epoch, seq, 0, digest, len(body)).pack(), ext, body)

    def hear(self) -> tuple[Header, bytes, bytes]:
        header, _, ext, body = part(self.ws.recv(PATIENCE_S))
        return header, bytes(ext), bytes(body)

    def ask(self, *args, **options) -> tuple[Header, bytes, bytes]:
        self.ws.send(self.request(*args, **options))
        return self.hear()

    def drive(self) -> None:
        header, ext, _ = self.ask(Kind.ATTACH, messages.encode(messages.Attach(client=os.urandom(4).hex())))
        self.epoch, self.lease = header.epoch, messages.decode(ext, messages.Attached).lease
        self.seq = 1
        assert self.ask(Kind.RESET, messages.encode(messages.Reset()), seq=1)[0].kind == Kind.RESET

    def a_step(self) -> bytes:
        """A step's bytes, under the next number."""
        self.seq += 1
        actions = ActionFormat(spaces.Discrete(5), 2)
        ext, body = actions.encode(actions.coerce(np.array([1, 2])))
        return self.request(Kind.STEP, ext, bytes(body), seq=self.seq)

    def closed(self) -> tuple[int, str]:
        """The close's code and reason."""
        with pytest.raises(ConnectionClosed) as closed:
            self.ws.recv(PATIENCE_S)
        return closed.value.rcvd.code, closed.value.rcvd.reason


def address(server, pool: str) -> str:
    return f"{server.url.replace('http', 'ws')}/v1/pools/{pool}/ws"


@contextmanager
def peer_of(server, pool, **options):
    name = pool if isinstance(pool, str) else pool["pool"]
    own = {"compression": None, "proxy": None, "max_size": None, "additional_headers": headers(server.url)}
    options = own | options
    with connect(address(server, name), **options) as ws:
        yield Peer(ws)


def files_of(control, pool) -> int:
    """Descriptors that the server's process has open."""
    host = control.get_pool(pool["pool"])["host_pid"]
    server = int(Path(f"/proc/{host}/stat").read_text().rpartition(")")[2].split()[1])
    return len(list(Path(f"/proc/{server}/fd").iterdir()))


def test_a_pool_is_driven_by_its_messages(server, pool, control):
    """The same header, ext and body as over any transport; a repeat is answered again and not run again."""
    with peer_of(server, pool) as peer:
        peer.drive()
        step = peer.a_step()
        peer.ws.send(step)
        header, ext, body = peer.hear()
        assert (header.kind, header.seq, header.flags) == (Kind.STEP, 2, Flag.ANSWER)
        peer.ws.send(step)
        again, *rest = peer.hear()
        assert again.flags == Flag.ANSWER | Flag.REPLAYED
        assert rest == [ext, body]
    with peer_of(server, pool) as other:
        other.lease, other.epoch, other.seq = peer.lease, peer.epoch, peer.seq
        other.ws.send(step)
        assert other.hear()[0].flags == Flag.ANSWER | Flag.REPLAYED, "on a fresh WebSocket too"
    assert control.get_pool(pool["pool"])["stats"]["batches"] == 1


def test_several_requests_may_be_under_way(server, pool):
    """Of observers, say; each is answered, in order."""
    with peer_of(server, pool) as peer:
        for _ in range(50):
            peer.ws.send(peer.request(Kind.PING))
        assert [peer.hear()[0].kind for _ in range(50)] == [Kind.PING] * 50


def test_messages_keep_their_order_however_they_come(server, pool):
    """In parts, several at once, with a sign of life between them, before the server has answered."""
    with peer_of(server, pool) as peer:
        peer.drive()
        step, ping = peer.a_step(), peer.request(Kind.PING)
        peer.ws.send(step)
        peer.hear()
        sent = [ping, step, ping, ping, step, step]  # the steps are repeats by now
        frames = [Frame(Opcode.BINARY, message).serialize(mask=True) for message in sent]
        frames[1] = Frame(Opcode.BINARY, step[:9], fin=False).serialize(mask=True)
        frames[1] += Frame(Opcode.PING, b"there?").serialize(mask=True)
        frames[1] += Frame(Opcode.CONT, step[9:]).serialize(mask=True)
        for piece in (frames[0] + frames[1][:12], frames[1][12:] + frames[2], frames[3], frames[4] + frames[5]):
            peer.ws.socket.sendall(piece)
        heard = [peer.hear()[0].kind for _ in sent]
        assert heard == [Kind.PING, Kind.STEP, Kind.PING, Kind.PING, Kind.STEP, Kind.STEP]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("a text", "malformed_message"),
        (b"", "malformed_message"),
        (b"short", "malformed_message"),
        (Header(Kind.STEP, body_length=1).pack(), "malformed_message"),
        (b"VECS\x02\x00" + bytes(58), "version_mismatch"),
        (b"GET / HTTP/1.1\r\n" * 10, "malformed_message"),
    ],
)
def test_what_is_no_message_ends_its_connection_and_steps_nothing(server, pool, control, message, code):
    """With the error's number; another connection goes on."""
    with peer_of(server, pool) as peer, peer_of(server, pool) as other:
        peer.drive()
        other.ws.send(message)
        assert other.closed()[0] == 4000 + ERRORS[code].number
        peer.ws.send(peer.a_step())
        assert peer.hear()[0].seq == 2
    assert control.get_pool(pool["pool"])["stats"]["batches"] == 1


def test_a_message_beyond_the_servers_limit_ends_its_connection(server, pool, control):
    """Before it is whole."""
    with peer_of(server, pool) as peer:
        peer.drive()
        peer.ws.socket.sendall(b"\x82\xff" + (MAX_BODY_BYTES + 1).to_bytes(8, "big") + b"mask" + b"and the first bytes")
        assert peer.closed()[0] == 1009
    assert control.get_pool(pool["pool"])["stats"]["batches"] == 0


def test_a_message_beyond_the_pools_limit_is_the_pools_to_refuse(server, pool):
    """By an answer that names it; the connection goes on."""
    with peer_of(server, pool) as peer:
        peer.drive()
        header, ext, _ = peer.ask(Kind.STEP, b"", bytes(1 << 20), seq=2)
        assert (header.kind, header.flags) == (Kind.ERROR, Flag.ANSWER | Flag.REFUSED)
        assert messages.decode_error(ext).code == "message_too_large"
        peer.ws.send(peer.a_step())
        assert peer.hear()[0].kind == Kind.STEP


@pytest.mark.parametrize("whole", [False, True])
def test_a_client_that_vanishes_in_the_middle_of_a_frame_steps_nothing(server, pool, control, whole):
    """Only what came whole is handed on."""
    with peer_of(server, pool) as peer:
        peer.drive()
        frame = Frame(Opcode.BINARY, peer.a_step()).serialize(mask=True)
        peer.ws.socket.sendall(frame if whole else frame[:-1])
        if whole:
            peer.hear()
        peer.ws.socket.shutdown(socket.SHUT_RDWR)
    with peer_of(server, pool) as other:
        other.lease, other.epoch, other.seq = peer.lease, peer.epoch, 1
        other.ws.send(other.a_step())
        assert bool(other.hear()[0].flags & Flag.REPLAYED) == whole
    assert control.get_pool(pool["pool"])["stats"]["batches"] == 1


def test_two_drivers_are_one_too_many(server, pool, control):
    """The pool refuses the second, and one whose lease was taken; nothing is stepped by either."""
    with peer_of(server, pool) as first, peer_of(server, pool) as second:
        first.drive()
        header, ext, _ = second.ask(Kind.ATTACH, messages.encode(messages.Attach(client="second")))
        assert (header.kind, messages.decode_error(ext).code) == (Kind.ERROR, "lease_held")
        second.ask(Kind.ATTACH, messages.encode(messages.Attach(client="second", force=True)))
        first.ws.send(first.a_step())
        header, ext, _ = first.hear()
        assert (header.kind, messages.decode_error(ext).code) == (Kind.ERROR, "lease_lost")
    assert control.get_pool(pool["pool"])["stats"]["batches"] == 0


def test_a_pool_that_is_not_there_is_named(server):
    """By the close that follows the opening."""
    with peer_of(server, "nobody") as peer:
        code, reason = peer.closed()
    assert code == 4000 + UnknownPool.number
    assert "nobody" in reason


@pytest.mark.parametrize("how", ["deleted", "killed"])
def test_the_end_of_a_pool_closes_its_websockets(server, pool, control, how):
    """With what happened to it."""
    with peer_of(server, pool) as peer:
        peer.drive()
        if how == "deleted":
            control.delete_pool(pool["pool"])
        else:
            os.kill(pool["host_pid"], signal.SIGKILL)
        code, reason = peer.closed()
    assert ERRORS["unknown_pool" if how == "deleted" else "pool_lost"].number == code - 4000
    assert pool["pool"] in reason or "SIGKILL" in reason


@pytest.mark.parametrize(
    "wrong", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "http://127.0.0.1:1"}]
)
def test_a_page_of_another_server_opens_nothing(server, pool, wrong):
    """As for any other WebSocket here."""
    url = urlsplit(address(server, pool["pool"]))
    lines = {"Host": url.netloc, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    lines |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} | headers(server.url) | wrong
    with socket.create_connection((url.hostname, url.port)) as conn:
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        conn.sendall(f"GET {url.path} HTTP/1.1\r\n{head}\r\n".encode())
        conn.settimeout(PATIENCE_S)
        assert conn.recv(100).split()[1] == b"400"


def test_nothing_is_compressed(server, pool):
    """Packing takes longer than sending."""
    with peer_of(server, pool, compression="deflate") as peer:
        assert peer.ws.protocol.extensions == []


def test_a_host_that_stands_still_stops_its_own_clients_only(server, pool, control):
    """The web server goes on, and so does the pool when it does."""
    with peer_of(server, pool) as peer, peer_of(server, pool) as late:
        peer.drive()
        os.kill(pool["host_pid"], signal.SIGSTOP)
        try:
            step = peer.a_step()
            for _ in range(1 + REPEATS):
                peer.ws.send(step)
            late.ws.send(late.request(Kind.PING))
            assert httpx.get(f"{server.url}/healthz", timeout=PATIENCE_S).status_code == 200
            with pytest.raises(TimeoutError):
                peer.ws.recv(0.2)
        finally:
            os.kill(pool["host_pid"], signal.SIGCONT)
        assert [peer.hear()[0].seq for _ in range(1 + REPEATS)] == [2] * (1 + REPEATS)
        assert late.hear()[0].kind == Kind.PING
    assert control.get_pool(pool["pool"])["stats"]["batches"] == 1


def test_a_client_that_does_not_read_is_not_read_from(server, control):
    """What waits for it is bounded: by the kernel's buffers, and a few answers here and at the host."""
    made = control.create_pool(env_id=env_id("Big-v0"), num_envs=8, workers=1)
    pid = int(Path(f"/proc/{made['host_pid']}/stat").read_text().rpartition(")")[2].split()[1])

    def resident() -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    url = address(server, made["pool"])
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as sock:
        peer = Peer(Bare(sock, WebSocketWire(url, headers(server.url), made["layout"]["slot_size"])))
        peer.drive()
        before = resident()
        repeat = Frame(Opcode.BINARY, peer.request(Kind.RESET, messages.encode(messages.Reset()), seq=1))
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(100_000):
                sock.sendall(repeat.serialize(mask=True))
        grown = resident() - before
    assert grown < 10 * made["layout"]["slot_size"] + (4 << 20)
    control.delete_pool(made["pool"])


def test_a_host_with_all_the_connections_it_takes_says_so(server, pool):
    """The WebSocket is closed; it may be tried again."""
    with peer_of(server, pool) as first:
        first.ask(Kind.PING)
        crowd = []
        path = pool["endpoints"]["ipc"].removeprefix("ipc://")
        try:
            for _ in range(140):
                crowd.append(socket.socket(socket.AF_UNIX))
                crowd[-1].connect(path)
                crowd[-1].sendall(GREETING + READY)  # one that says nothing would make way
                crowd[-1].settimeout(30.0)
                try:
                    ends = crowd[-1].recv(len(GREETING + ROUTER_READY), socket.MSG_WAITALL)
                except ConnectionError:
                    ends = b""
                if not ends:
                    break
            with peer_of(server, pool) as late:
                assert late.closed()[0] == 1013
            first.ask(Kind.PING)
        finally:
            for each in crowd:
                each.close()


def test_it_leaves_nothing_behind(server, pool, control):
    """However a WebSocket ends, the server has as many descriptors as before."""
    with peer_of(server, pool) as peer:
        peer.ask(Kind.PING)
    before = files_of(control, pool)
    for turn in range(30):
        with peer_of(server, pool if turn % 3 else "nobody") as peer:
            if turn % 3 == 1:
                peer.ask(Kind.PING)
            elif turn % 3 == 2:
                peer.ws.send("text")
    deadline = time.monotonic() + PATIENCE_S
    while files_of(control, pool) > before:
        assert time.monotonic() < deadline
