"""Messages with descriptors between two processes of one user, over a Unix socket that keeps messages apart."""

from __future__ import annotations

import os
import socket
import struct
from array import array
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAX_DESCRIPTORS",
    "Peer",
    "check_same_user",
    "close_all",
    "new_socket",
    "peer_of",
    "receive",
    "receive_fds",
    "send",
]

MAX_DESCRIPTORS: Final = 253
"""Descriptors that the kernel takes with one message."""

_MAX_MESSAGE: Final = 64 << 10
_INT_SIZE: Final = array("i").itemsize
_CREDENTIALS: Final = struct.Struct("3i")


class Peer(NamedTuple):
    """The process that connected a socket, or that listened for it; the kernel says so."""

    pid: int
    uid: int
    gid: int


def new_socket() -> socket.socket:
    """A socket that is not connected."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer_of(sock: socket.socket) -> Peer:
    """Who is at the other end; its pid is 0 where this process cannot see it."""
    return Peer(*_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def check_same_user(peer: Peer) -> None:
    """Make sure that both ends belong to one user.

    Raises:
        PermissionError: They do not.
    """
    if peer.uid != os.geteuid():
        raise PermissionError(f"process {peer.pid} belongs to user {peer.uid}, this one to {os.geteuid()}")


def send(sock: socket.socket, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
    """Send one message, and descriptors with it, which stay the caller's.

    Raises:
        OSError: The other process is gone, or does not take it in the socket's time.
    """
    socket.send_fds(sock, [msgspec.msgpack.encode(message)], fds)


def receive(sock: socket.socket, kind: Any) -> tuple[Any, list[int]]:
    """Receive one message, and the descriptors that came with it, now the caller's to close.

    Args:
        sock: Where from.
        kind: A msgspec struct, or a union of tagged ones.

    Raises:
        EOFError: The other process is gone.
        ValueError: What came is no such message; its descriptors are closed.
        OSError: Nothing came in the socket's time.
    """
    data, fds, flags = receive_fds(sock, _MAX_MESSAGE)
    try:
        return _decoded(data, flags, kind), fds
    except BaseException:
        close_all(fds)
        raise


def receive_fds(sock: socket.socket, size: int) -> tuple[bytes, list[int], int]:
    """Receive bytes and the descriptors that came with them, closed on exec: ``socket.recv_fds`` does not ask for it.

    Returns:
        The bytes, the descriptors, now the caller's to close, and the flags of the message.
    """
    data, control, flags, _ = sock.recvmsg(
        size, socket.CMSG_SPACE(_INT_SIZE * MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
    )
    fds = array("i")
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) // _INT_SIZE * _INT_SIZE])
    return data, fds.tolist(), flags


def _decoded(data: bytes, flags: int, kind: Any) -> Any:
    if not data:
        raise EOFError("the process at the other end of the socket is gone")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ValueError("a message that did not arrive whole")
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no message of this socket: {error}") from None


def close_all(fds: list[int]) -> None:
    """Close descriptors that came with a message."""
    while fds:
        os.close(fds.pop())
