"""What a server of default settings listens on, as the kernel says it."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import closing
from pathlib import Path

import vecserver_client as vs
from tests.e2e.test_access import started
from vecserver.wire.zmtp import GREETING, greeting
from vecserver_client import ControlClient, LocalServer
from vecserver_client.openenv import GymEnvironment

LISTENING = "0A"


def _family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    found, children = {pid}, [pid]
    while children:
        for task in Path(f"/proc/{children.pop()}/task").iterdir():
            new = {int(child) for child in (task / "children").read_text().split()} - found
            found |= new
            children += new
    return found


def _inodes(pid: int) -> set[str]:
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")}


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """As /proc has it: words of four bytes, each in the machine's order."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    return ipaddress.ip_address(b"".join(words))


def listening(pid: int) -> list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Address and port of each TCP or UDP socket that waits for others, of a process and its descendants."""
    mine = set().union(*map(_inodes, _family(pid)))
    found = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        table = Path(f"/proc/{pid}/net/{kind}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[9] in mine and (kind.startswith("udp") or fields[3] == LISTENING):
                address, _, port = fields[1].partition(":")
                found.append((_address(address), int(port, 16)))
    return found


def test_a_default_server_listens_on_loopback_alone():
    """HTTP and the sockets of its pools, with a pool that is lent and a session of OpenEnv's."""
    with closing(LocalServer()) as server, ControlClient(server.url) as control:
        pool = control.create_pool(env_id="CartPole-v1", num_envs=2)
        with GymEnvironment(server.url) as env, vs.attach(server.url, pool["pool"], transport="shm") as envs:
            env.reset(seed=1)
            assert envs.transport == "shm"
            sockets = listening(server.pid)
        assert {port for _, port in sockets} >= {int(server.url.rpartition(":")[2])}
        assert int(pool["endpoints"]["tcp"].rpartition(":")[2]) in {port for _, port in sockets}
        assert all(address.is_loopback for address, _ in sockets), sockets
        control.delete_pool(pool["pool"])


def _mechanism(port: int) -> bytes:
    """What a port speaks, as its greeting in ZeroMQ's protocol has it."""
    with socket.create_connection(("127.0.0.1", port), timeout=30.0) as sock:
        sock.sendall(greeting(b"CURVE"))
        said = b""
        while len(said) < len(GREETING) and (more := sock.recv(len(GREETING) - len(said))):
            said += more
    return said[12:32].rstrip(b"\0")


def test_a_server_for_all_addresses_shows_http_and_encrypted_ports_alone():
    """Each pool's tcp port speaks CURVE, and there is no other: not with a loan, a session or a WebSocket either."""
    with (
        started("--host", "0.0.0.0") as server,
        vs.make_vec("CartPole-v1", 2, url=server.url, transport="shm") as lent,
        vs.make_vec("CartPole-v1", 2, url=server.url, transport="ws") as relayed,
        GymEnvironment(server.url) as env,
        vs.ControlClient(server.url) as control,
    ):
        env.reset(seed=1)
        assert [envs.transport for envs in (lent, relayed)] == ["shm", "ws"]
        pools = [control.get_pool(envs.pool) for envs in (lent, relayed)]
        tcp = {int(pool["endpoints"]["tcp"].rpartition(":")[2]) for pool in pools}
        found = {port for address, port in listening(server.process.pid) if not address.is_loopback}
        assert found == {int(server.url.rpartition(":")[2])} | tcp
        assert {_mechanism(port) for port in tcp} == {b"CURVE"}
