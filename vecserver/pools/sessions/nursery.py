"""The process that sessions' processes are copies of: it has loaded what they need, and plays nothing itself.

Its server sends it, over a socket that keeps messages apart, first the options of all sessions and then ``Fork`` (with
a socket) and ``Kill``; it answers ``Forked`` and, once for each process, ``Ended``. When the server closes the
socket, or is gone, the sessions have a moment to close their environments, and end with it.

    python -m vecserver.pools.sessions.nursery CONTROL_FD
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import msgspec

from vecserver.engine.forked import fork_process
from vecserver.engine.orphans import Orphans
from vecserver.outlet import outlive_everywhere
from vecserver.pools.sessions.play import PlayOptions
from vecserver.pools.sessions.process import run_sessions

__all__ = ["MAX_NOTE", "Ended", "Fork", "Forked", "Kill", "Note", "read_note", "write_note"]

MAX_NOTE: Final = 4096
"""Bytes of a message between a server and its nursery."""

_LAST_MOMENT_S: Final = 3.0
"""Seconds for sessions to close their environments when the server goes."""

_LOOK_MS: Final = 50
"""How often it is looked after what ended sessions left running, while there is something."""

_LOADED: Final = ("gymnasium.envs.classic_control", "gymnasium.envs.box2d", "gymnasium.envs.toy_text", "pygame")
"""What the usual environments need, and what starts no thread. Loading it once saves every session of LunarLander a
tenth of a second and 20 MiB."""


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Start a process for sessions; its socket comes along.

    Attributes:
        process: Its number.
        shared: Whether it is for many sessions.
    """

    process: int
    shared: bool


class Kill(msgspec.Struct, frozen=True, tag=True):
    """End a process at once, if it is there."""

    process: int


class Forked(msgspec.Struct, frozen=True, tag=True):
    """A process exists; or does not, and why."""

    process: int
    pid: int
    failure: str = ""


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A process has ended; a negative exit code is a signal's number."""

    process: int
    exitcode: int


Note = Fork | Kill | Forked | Ended
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Note] = msgspec.msgpack.Decoder(Note)


def write_note(note: Note) -> bytes:
    """The bytes of a message between a server and its nursery."""
    return _encode(note)


def read_note(data: bytes) -> Note:
    """The message in these bytes, which this server or its nursery wrote."""
    return _decoder.decode(data)


class _Nursery:
    """Forks, kills and reaps.

    Args:
        control: The socket to the server.
        options: What sessions begin with.
    """

    def __init__(self, control: socket.socket, options: PlayOptions) -> None:
        self._control = control
        self._options = options
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._children: dict[int, tuple[int, int]] = {}  # pidfd → number, pid
        self._orphans = Orphans()
        self._left: list[int] = []  # what sessions that have ended left running

    def run(self) -> None:
        """Serve until the server closes the socket."""
        while True:
            for fd, _ in self._poll.poll(_LOOK_MS if self._left else None):
                if fd in self._children:
                    self._reap(fd)
                elif not self._obey():
                    return
            if self._left:
                self._end_orphans()

    def _obey(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_NOTE, 1)
        except ConnectionError:
            return False
        if not data:
            return False
        note = read_note(data)
        if isinstance(note, Fork):
            self._fork(note, fds[0])
        elif isinstance(note, Kill):
            for fd, (number, _) in self._children.items():
                if number == note.process:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
        return True

    def _fork(self, note: Fork, fd: int) -> None:
        parent, options = os.getpid(), self._options
        try:
            pid = fork_process(lambda: run_sessions(parent, fd, options, shared=note.shared), (fd,))
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._tell(Forked(note.process, 0, str(error)))
            return
        finally:
            os.close(fd)
        self._children[pidfd] = (note.process, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._tell(Forked(note.process, pid))

    def _reap(self, pidfd: int) -> None:
        number, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._tell(Ended(number, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        self._end_orphans()

    def _end_orphans(self) -> None:
        self._left = self._orphans.end_some([pid for _, pid in self._children.values()])

    def _tell(self, note: Note) -> None:
        with suppress(ConnectionError):  # the server is gone: the next look at the socket says so
            self._control.send(write_note(note))

    def end(self) -> None:
        """Wait for the sessions to leave, since the server is gone; kill those that stay."""
        deadline = monotonic() + _LAST_MOMENT_S
        self._poll.unregister(self._control)
        while self._children and (left := deadline - monotonic()) > 0:
            for fd, _ in self._poll.poll(left * 1000):
                self._reap(fd)
        for fd, (_, pid) in self._children.items():
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._orphans.end_all()


def _load() -> None:
    for name in _LOADED:
        with suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)


def _main(control_fd: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=control_fd) as control:
        first: Any = control.recv(MAX_NOTE)
        if not first:
            return
        options = msgspec.msgpack.decode(first, type=PlayOptions)
        _load()
        gc.collect()
        gc.freeze()  # what sessions have in common stays in common: the collector writes into nothing of it
        nursery = _Nursery(control, options)
        nursery.run()
        nursery.end()


if __name__ == "__main__":
    outlive_everywhere()
    _main(int(sys.argv[1]))
