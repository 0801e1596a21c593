"""What a server of default settings listens on, as the kernel says it."""

from __future__ import annotations

import ipaddress
from contextlib import closing
from pathlib import Path

from vecserver_client import ControlClient, LocalServer

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
    """HTTP and the sockets of its pools, with a pool and a session of OpenEnv's nursery."""
    with closing(LocalServer()) as server, ControlClient(server.url) as control:
        pool = control.create_pool(env_id="CartPole-v1", num_envs=2)
        sockets = listening(server.pid)
        assert {port for _, port in sockets} >= {int(server.url.rpartition(":")[2])}
        assert int(pool["endpoints"]["tcp"].rpartition(":")[2]) in {port for _, port in sockets}
        assert all(address.is_loopback for address, _ in sockets), sockets
        control.delete_pool(pool["pool"])
