"""Messages with descriptors go over whole, to the same user, or not at all."""

from __future__ import annotations

import os
import socket
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest

from vecserver.arena.passing import Peer, check_same_user, close_all, new_socket, peer_of, receive, send
from vecserver.wire.loan import Borrow, Fetch, FromHost, Lent, Recalled


def name_of(fd: int) -> str:
    """What a descriptor of this process is of; nothing where it is closed."""
    with suppress(FileNotFoundError):
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    return ""


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        ours.settimeout(5)
        yield ours, theirs


def test_the_kernel_says_who_the_peer_is(tmp_path):
    """Both the one who listens and the one who connects."""
    with closing(new_socket()) as door, closing(new_socket()) as caller:
        door.bind(str(tmp_path / "door"))
        door.listen(1)
        caller.connect(str(tmp_path / "door"))
        inside, _ = door.accept()
        with closing(inside):
            assert peer_of(inside) == peer_of(caller) == Peer(os.getpid(), os.geteuid(), os.getegid())
            check_same_user(peer_of(inside))


def test_another_user_is_refused():
    """Root too: it has means of its own."""
    with pytest.raises(PermissionError, match=f"process 7 belongs to user {os.geteuid() + 1}"):
        check_same_user(Peer(7, os.geteuid() + 1, 0))


def test_descriptors_arrive_with_their_message(pair):
    """In order, closed on exec, and the receiver's own."""
    ours, theirs = pair
    fds = [os.memfd_create(f"test-{i}") for i in range(3)]
    send(theirs, Lent([(0, 2), (2, 5)], 4096, 8192, 0), fds)
    close_all(fds)
    assert fds == []
    message, got = receive(ours, FromHost)
    try:
        assert message == Lent([(0, 2), (2, 5)], 4096, 8192, 0)
        assert [name_of(fd) for fd in got] == [f"/memfd:test-{i} (deleted)" for i in range(3)]
        assert not any(os.get_inheritable(fd) for fd in got)
    finally:
        close_all(got)


@pytest.mark.parametrize(
    "data",
    [b"\xc1", msgspec.msgpack.encode({"type": "Borrow", "lease": 1}), msgspec.msgpack.encode(Fetch(3)), bytes(70_000)],
    ids=["noise", "a field missing", "another message", "too long"],
)
def test_what_is_no_message_is_refused_with_its_descriptors(pair, data):
    """Nothing that came with it stays open."""
    ours, theirs = pair
    fd = os.memfd_create("unwanted")
    socket.send_fds(theirs, [data], [fd])
    with pytest.raises(ValueError, match="message"):
        receive(ours, Borrow)
    assert [one for one in range(fd + 10) if "unwanted" in name_of(one)] == [fd]
    os.close(fd)


def test_what_was_sent_before_the_end_is_heard(pair):
    """The last words, then the end."""
    ours, theirs = pair
    send(theirs, Recalled("lease_lost", "another drives the pool"))
    theirs.close()
    assert receive(ours, FromHost) == (Recalled("lease_lost", "another drives the pool"), [])
    with pytest.raises(EOFError):
        receive(ours, FromHost)
