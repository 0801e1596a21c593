"""The greeting between a server and a host: one line each way, however long, and no waiting for the dead."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import pytest

from vecserver.pools.gate import Gate
from vecserver.pools.handshake import HostFailed, HostStart, receive_answer, receive_start, send_line
from vecserver.pools.spec import Caps, PoolSpec


@pytest.fixture
def pair():
    server, host = socket.socketpair()
    with closing(server), closing(host):
        yield server, host


def start(**env_kwargs) -> HostStart:
    return HostStart(
        pool="p-1",
        spec=PoolSpec(env_id="CartPole-v1", num_envs=3, workers=2, env_kwargs=env_kwargs),
        caps=Caps(max_pools=7),
        ipc_path="/tmp/0.sock",
        shm_path="/tmp/0.shm",
        log_path="/tmp/0.log",
        bind_host="127.0.0.1",
        gate=Gate("ticket", "public", "secret"),
        port_range=(5000, 5010),
        start_timeout=60.0,
        grace=5.0,
    )


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_line_arrives_whole(pair, size):
    """Small or much larger than a socket's buffer, the host gets what the server sent."""
    server, host = pair
    message = start(note="x" * size, nested={"newline": "a\nb", "list": [1, None, 2.5]})
    sender = threading.Thread(target=send_line, args=(server, message))
    sender.start()
    assert receive_start(host) == message
    sender.join()


def test_a_failure_arrives_with_its_details(pair):
    """The host's word why there is no pool keeps code, text and details."""
    server, host = pair
    failed = HostFailed("cap_exceeded", "too much: ž", {"cap": "max_pools", "limit": 3})
    send_line(host, failed)
    assert receive_answer(server, 5.0) == failed


def test_the_end_of_the_other_process_ends_the_wait(pair):
    """Whoever waits for a line of a process that is gone is told at once."""
    server, host = pair
    host.close()
    with pytest.raises(EOFError, match="gone"):
        receive_answer(server, 20.0)


def test_half_a_line_is_no_line(pair):
    """A process that ends in the middle of its line has said nothing."""
    server, host = pair
    server.sendall(b'{"pool": "p-1", ')
    server.close()
    with pytest.raises(EOFError):
        receive_start(host)


def test_a_line_that_does_not_come_in_time_is_a_timeout(pair):
    """The wait for a host is bounded, also while bytes still trickle in."""
    server, host = pair
    host.sendall(b"{")
    with pytest.raises(TimeoutError):
        receive_answer(server, 0.05)
