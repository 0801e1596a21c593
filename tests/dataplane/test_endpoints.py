"""The addresses of a pool: bound with care, or refused with what to do."""

from __future__ import annotations

import os
import select
import socket
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from tests import leaks
from tests.environments import env_id
from tests.pools.registries import open_registry
from vecserver.dataplane.endpoints import MAX_IPC_PATH, open_door, open_router
from vecserver.dataplane.plain_router import PlainRouter
from vecserver.dataplane.zmq_router import ZmqRouter
from vecserver.pools.gate import Gate
from vecserver.pools.spec import PoolSpec
from vecserver.wire.errors import PortUnavailable
from vecserver.wire.frames import MAX_EXT

COUNT = env_id("Count-v0")
TICKET = "a ticket of 43 characters, or of another length"
HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"], ids=["loopback", "network"])


@pytest.fixture
def path():
    """Where a pool's Unix socket may be made."""
    path = Path(os.environ[leaks.RUNTIME_DIR]) / "pool.sock"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def bind(path):
    """Opens a pool's socket, closed after the test."""
    opened = []

    def bind(**options):
        defaults = {"ipc_path": path, "bind_host": "127.0.0.1", "port_range": None, "max_request": 100}
        defaults |= {"gate": Gate(TICKET), "keyring": None}
        router, endpoints = open_router(**defaults | options)
        opened.append(router)
        return router, endpoints

    yield bind
    for router in opened:
        router.close(0.0)


def heard(router) -> list[bytes]:
    """The frames of the next message."""
    while (message := router.receive()) is None:
        assert router.has_message() or select.select(router.fds, [], [], 30.0)[0]
    return message[1]


@pytest.fixture
def taken():
    """A port that somebody else listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def port_of(endpoints) -> int:
    return int(endpoints["tcp"].rpartition(":")[2])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "0.0.0.0"])
def test_a_pool_listens_on_tcp_and_on_a_unix_socket(bind, path, peer, host):
    """Both addresses reach the same pool, and say where they are."""
    router, endpoints = bind(bind_host=host)
    assert endpoints == {"tcp": f"tcp://{host}:{port_of(endpoints)}", "ipc": f"ipc://{path}"}
    for endpoint in endpoints.values():
        peer(endpoint, TICKET if endpoint.startswith("tcp") else "").send([endpoint.encode()])
    assert {bytes(heard(router)[0]).decode() for _ in endpoints} == {*endpoints.values()}


def test_two_pools_get_two_ports(bind, path):
    """Without a range every pool takes a free port."""
    ports = [port_of(bind(ipc_path=path)[1]) for _ in range(2)]
    assert ports[0] != ports[1]


def test_every_queue_and_message_of_the_network_is_bounded():
    """No peer can make a pool keep messages without end, nor keep the process from leaving."""
    large, small = ZmqRouter(1 << 30, Gate(TICKET), None), ZmqRouter(8, Gate(TICKET), None)
    router = large._socket
    assert 0 < router.getsockopt(zmq.SNDHWM) <= 64
    assert 0 < router.getsockopt(zmq.RCVHWM) <= 64
    assert router.getsockopt(zmq.MAXMSGSIZE) == 1 << 30
    assert small._socket.getsockopt(zmq.MAXMSGSIZE) == MAX_EXT
    assert router.getsockopt(zmq.LINGER) == 0
    assert router.getsockopt(zmq.HANDSHAKE_IVL) > 0
    assert router.getsockopt(zmq.HEARTBEAT_IVL) > 0
    for each in (large, small):
        each.close(0.0)


def test_localhost_is_this_machine_alone(bind, peer):
    """The name counts as the address it stands for, as in the settings: no ZeroMQ, and the address is given."""
    router, endpoints = bind(bind_host="localhost")
    assert isinstance(router, PlainRouter)
    assert endpoints["tcp"].startswith("tcp://127.0.0.1:")
    peer(endpoints["tcp"], TICKET).send([b"hello"])
    assert heard(router) == [b"hello"]


def test_a_socket_of_a_host_that_was_killed_is_replaced(bind, path):
    """Of a pool and of a door alike: the path is this host's."""
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(os.fspath(path))
    bind()
    with closing(open_door(path)[0]):
        assert path.is_socket()


@HOSTS
def test_a_range_gives_its_first_free_port(bind, taken, host):
    """A port in use is passed over."""
    assert taken < port_of(bind(bind_host=host, port_range=(taken, taken + 50))[1]) <= taken + 50


@HOSTS
def test_a_range_without_a_free_port_is_named(bind, taken, path, host):
    """The refusal says which ports were tried and what to do; nothing is left bound."""
    with pytest.raises(PortUnavailable, match=f"no port from {taken} to {taken} is free") as caught:
        bind(bind_host=host, port_range=(taken, taken))
    assert caught.value.details == {"host": host}
    assert not path.exists()


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.interface"])
def test_an_address_of_another_machine_is_named(bind, host):
    """An address that this machine does not have cannot be listened on."""
    with pytest.raises(PortUnavailable, match=f"cannot bind tcp on {host}"):
        bind(bind_host=host)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_ipv6_address_stands_in_brackets(bind, peer, host):
    """The address can be connected to as it is given."""
    router, endpoints = bind(bind_host=host)
    assert endpoints["tcp"].startswith(f"tcp://[{host}]:")
    peer(endpoints["tcp"], TICKET, IPV6=1).send([b"hello"])
    assert heard(router) == [b"hello"]


def test_a_long_path_is_named(bind, path):
    """The operating system takes no longer ones; the refusal says which setting to change."""
    fits = Path(str(path).ljust(MAX_IPC_PATH, "x"))
    with pytest.raises(PortUnavailable, match="VECSERVER_RUNTIME_DIR"):
        bind(ipc_path=Path(f"{fits}x"))
    try:
        bind(ipc_path=fits)
    finally:
        fits.unlink()


def test_pools_share_the_servers_range():
    """The last free port makes the last pool; deleting a pool gives its port to the next."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    spec = PoolSpec(env_id=COUNT, num_envs=1)
    with open_registry(port_range=(port, port)) as registry:
        first = registry.create(spec)
        assert port_of(first.endpoints) == port
        with pytest.raises(PortUnavailable, match="delete a pool"):
            registry.create(spec)
        registry.delete(first.pool)
        assert port_of(registry.create(spec).endpoints) == port
