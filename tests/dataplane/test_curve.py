"""A pool whose tcp port speaks CURVE: who is known comes in, and nobody else; floods stop nobody."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import zmq
from zmq.utils import z85

from tests.dataplane.peers import Peer
from tests.environments import env_id
from tests.pools.registries import open_registry
from vecserver.dataplane import zmq_router
from vecserver.dataplane.keyring import Keyring
from vecserver.dataplane.zmq_router import ZmqRouter
from vecserver.pools.curve import KeyPair, new_keys
from vecserver.pools.gate import Gate
from vecserver.pools.spec import PoolSpec
from vecserver.wire import messages
from vecserver.wire.errors import InvalidSpec, Unauthorized, UnknownPool
from vecserver.wire.frames import Header, Kind
from vecserver.wire.opening import ClientOpening
from vecserver.wire.zmtp import GREETING, ROUTER_READY, greeting
from vecserver_client.passes import Credentials
from vecserver_client.passes import KeyPair as ClientKeys
from vecserver_client.transport import ZmqTransport

SERVER = new_keys()
PING = [Header(Kind.PING).pack(), b"", b""]
LONG_S = 30.0


@pytest.fixture(scope="module")
def registry():
    """Its pools speak CURVE."""
    with open_registry(keys=SERVER) as registry:
        yield registry


@pytest.fixture(scope="module")
def view(registry):
    """A pool that the tests of this module share."""
    return registry.create(PoolSpec(env_id=env_id("Count-v0"), num_envs=2, env_kwargs={"length": 10**9}))


class CurvePeer(Peer):
    """A DEALER with keys of its own."""

    def __init__(self, context: zmq.Context, endpoint: str, keys: KeyPair, server: str = SERVER.public) -> None:
        names = {"CURVE_SERVERKEY": server, "CURVE_PUBLICKEY": keys.public, "CURVE_SECRETKEY": keys.secret}
        super().__init__(context, endpoint, **{name: z85.decode(text) for name, text in names.items()})


@pytest.fixture
def known(registry, view, context):
    """Opens peers with keys, of which the server was told unless it is said otherwise."""
    with ExitStack() as stack:

        def known(keys: KeyPair | None = None, *, told: bool = True, **options) -> Peer:
            keys = keys or new_keys()
            if told:
                assert registry.access(view.pool, keys.public).server_key == SERVER.public
            return stack.enter_context(CurvePeer(context, view.endpoints["tcp"], keys, **options))

        yield known


def attached(peer: Peer, client: str, **options) -> dict[str, int]:
    """The lease and the epoch that a peer got."""
    answer = peer.ask(Kind.ATTACH, messages.Attach(client=client, **options))
    return {
        "lease": answer.header.lease or messages.decode(answer.ext, messages.Attached).lease,
        "epoch": answer.header.epoch,
    }


def is_silent(peer: Peer) -> bool:
    """Whether nothing is answered while another one is answered many times."""
    peer.send(PING)
    return peer.receive(500) is None


def test_a_key_that_the_server_was_told_of_comes_in(known):
    """At once: the host knows it when the server has said so."""
    for _ in range(5):
        assert known().ask(Kind.PING).header.kind == Kind.PING


def knock(stranger: Peer) -> None:
    """Sends a PING, unless it has been refused already: it has nobody to send to then, and would wait for ever."""
    with suppress(zmq.Again):
        stranger.socket.send_multipart(PING, zmq.NOBLOCK)


def test_others_end_at_the_handshake(known, view, peer):
    """With a key that nobody named, with another server's key, and without any."""
    strangers = [known(told=False), known(server=new_keys().public), peer(view.endpoints["tcp"])]
    strangers.append(peer(view.endpoints["tcp"], "some ticket"))
    for stranger in strangers:
        knock(stranger)
    time_to_come = known()
    for _ in range(100):
        time_to_come.ask(Kind.PING)
    assert [stranger.receive(200) for stranger in strangers] == [None] * len(strangers)


def test_a_client_is_told_that_it_is_not_let_in(view, context):
    """By an error with a code, and not by silence."""
    keys = new_keys()
    own = ClientKeys(keys.public.encode(), keys.secret.encode())
    shown = Credentials(server_key=SERVER.public.encode(), keys=own)
    transport = ZmqTransport(context, view.endpoints["tcp"], 1 << 20, credentials=shown)
    with closing(transport), pytest.raises(Unauthorized, match="does not let this client in"):
        transport.send(*PING, LONG_S)


def test_a_lease_belongs_to_the_key_that_took_it(known, view, peer):
    """Another known key that shows it is refused, and so is a process of this machine; the driver steps on."""
    keys = new_keys()
    driver = known(keys)
    name = attached(driver, "driver", force=True)
    assert known(keys).ask(Kind.PING, **name).header.kind == Kind.PING  # a second connection of the same client
    for stranger in (known(), peer(view.endpoints["ipc"])):
        for kind in (Kind.RESET, Kind.PING, Kind.DETACH):
            fields = {**name, "seq": 1} if kind == Kind.RESET else name
            assert stranger.ask(kind, **fields).error.code == "unauthorized"
    assert driver.ask(Kind.RESET, seq=1, **name).header.kind == Kind.RESET
    driver.ask(Kind.DETACH, **name)


def test_a_key_goes_with_its_lease(known):
    """A driver that has given the pool back is asked for access again."""
    keys = new_keys()
    driver = known(keys)
    driver.ask(Kind.DETACH, **attached(driver, "leaving", force=True))
    assert driver.ask(Kind.PING).error.code == "unauthorized"
    assert is_silent(known(keys, told=False))
    assert known(keys).ask(Kind.PING).header.kind == Kind.PING
    assert driver.ask(Kind.PING).header.kind == Kind.PING


def test_access_is_for_keys_that_are_keys(registry, view):
    """Anything else is refused by name, before the host hears of it."""
    assert registry.access(view.pool).server_key == SERVER.public  # which lets nobody in
    for key in ("", "short", "k" * 41, "~" * 40, "#" * 40, "\u00e9" * 40):
        with pytest.raises(InvalidSpec) as caught:
            registry.access(view.pool, key)
        assert caught.value.details["field"] == "key"
    with pytest.raises(UnknownPool):
        registry.access("nobody", new_keys().public)


def test_secrets_stand_in_no_log_and_no_command_line(registry, view, known):
    """Nor in the environment of the host and its workers."""
    knock(known(told=False))
    known().ask(Kind.PING)
    for pid in (view.host_pid, *view.stats.worker_pids):
        for name in ("cmdline", "environ"):
            assert SERVER.secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    made = registry._listing.find(view.pool)
    assert SERVER.secret not in repr(made)
    assert SERVER.secret not in "".join(made.process.log.tail())


# Floods, of a router in this process


class Served:
    """A router of libzmq in this process, attended by the test: with CURVE, or by a ticket; and a peer of its."""

    def __init__(self, stack: ExitStack, context: zmq.Context, ticket: str = "") -> None:
        self.keys = new_keys()
        self.told = [self.keys.public.encode()]
        self.driver = b""
        keyring = Keyring(self._take, LONG_S, time.monotonic, lambda: self.driver)
        gate = Gate(ticket) if ticket else Gate("", SERVER.public, SERVER.secret)
        self.router = ZmqRouter(1 << 10, gate, keyring)
        stack.callback(self.router.close, 0.0)
        self.endpoint = self.router.bind("127.0.0.1", 0)
        peer = Peer(context, self.endpoint, ticket) if ticket else CurvePeer(context, self.endpoint, self.keys)
        self.peer = stack.enter_context(peer)

    def _take(self) -> list[bytes]:
        told, self.told = self.told, []
        return told

    def heard(self, timeout: float = LONG_S):
        """The next message, or None; attends to the sockets meanwhile."""
        deadline = time.monotonic() + timeout
        while (message := self.router.receive() if self.router.has_message() else None) is None:
            if time.monotonic() > deadline:
                return None
            select_s = min(0.01, max(0.0, deadline - time.monotonic()))
            zmq.select([self.router.fds[0]], [], [], select_s)
        return message


@pytest.fixture
def served(context):
    with ExitStack() as stack:
        yield Served(stack, context)


def test_a_message_of_too_many_frames_is_cut(served):
    """As many are kept as show that there are too many; the next message is whole."""
    served.peer.send([b"x"] * 2000)
    served.peer.send([b"h", b"e", b"b"])
    _, frames, key = served.heard()
    assert frames == [b"x"] * 4
    assert key == served.keys.public.encode()
    assert served.heard()[1] == [b"h", b"e", b"b"]


def exactly(sock: socket.socket, size: int, served: Served) -> bytes:
    """So many bytes of what the router says, which is attended to meanwhile."""
    data = b""
    while len(data) < size:
        assert served.heard(0.0) is None
        if zmq.select([sock], [], [], 0.01)[0]:
            chunk = sock.recv(size - len(data))
            assert chunk
            data += chunk
    return data


def pour(sock: socket.socket, data: bytes, served: Served) -> None:
    """Sends all of it to the router, which is attended to meanwhile: it ends a connection only once it is."""
    rest = memoryview(data)
    while rest:
        assert served.heard(0.0) is None
        if zmq.select([], [sock], [], 0.01)[1]:
            with suppress(BlockingIOError):
                rest = rest[sock.send(rest, socket.MSG_DONTWAIT) :]


def test_a_message_without_an_end_ends_every_connection(context, monkeypatch, caplog):
    """libzmq keeps what has come of it; beyond a limit all of that is forgotten, and clients come back by themselves."""
    limit = 64 << 20
    monkeypatch.setattr(zmq_router, "_MAX_GROWTH", limit)
    monkeypatch.setattr(zmq_router, "_TIDY_S", 0.0)
    caplog.set_level(logging.WARNING)
    with ExitStack() as stack:
        served = Served(stack, context, ticket="a ticket")
        served.peer.send([b"h", b"e", b"b"])
        first = served.heard()[0]
        address = urlsplit(served.endpoint)
        endless = stack.enter_context(socket.create_connection((address.hostname, address.port), LONG_S))
        opening = ClientOpening("a ticket")
        endless.sendall(opening.greeting)
        exactly(endless, len(opening.greeting), served)
        endless.sendall(opening.greeted())
        exactly(endless, 10, served)
        endless.sendall(opening.heard(b"WELCOME", b""))
        exactly(endless, len(ROUTER_READY), served)
        before, frame, most = zmq_router._own_bytes(), b"\x03" + (1 << 16).to_bytes(8, "big") + bytes(1 << 16), 0
        for sent in count(step=len(frame)):
            assert sent < 8 * limit
            try:
                pour(endless, frame, served)
            except ConnectionError:
                break
            most = max(most, zmq_router._own_bytes() - before)
        assert "without an end" in caplog.text
        assert limit < sent
        assert most < 2 * limit
        while True:  # sent again, as a client does that hears nothing
            served.peer.send([b"h", b"e", b"b"])
            message = served.heard(1.0)
            if message is not None:
                break
        assert message[0] != first
        assert message[1] == [b"h", b"e", b"b"]


@pytest.mark.parametrize("opening", [b"", GREETING[:30], greeting(b"CURVE")], ids=["silent", "cut", "greeted"])
def test_half_open_handshakes_stop_no_driver(registry, view, known, opening):
    """Two thousand of them: those that have a connection step on, and the host's memory stays."""
    keys = new_keys()
    registry.access(view.pool, keys.public)
    driver = known(keys)
    name = attached(driver, "honest", force=True)
    driver.ask(Kind.RESET, seq=1, **name)
    stats = messages.decode(driver.ask(Kind.PING, **name).ext, messages.Stats)
    address = urlsplit(view.endpoints["tcp"])
    with ExitStack() as stack:
        for number in range(2000):
            stranger = stack.enter_context(socket.socket())
            stranger.setblocking(False)
            stranger.connect_ex((address.hostname, address.port))
            if number % 20 == 0:
                assert driver.ask(Kind.PING, **name).header.kind == Kind.PING
            try:
                stranger.send(opening)
            except OSError:
                continue
        after = messages.decode(driver.ask(Kind.PING, **name).ext, messages.Stats)
        assert after.host_rss_bytes - stats.host_rss_bytes < 128 << 20
    driver.ask(Kind.DETACH, **name)
