"""A private server for one program: started with it, gone with it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Final

from vecserver.wire.errors import HostStartFailed
from vecserver_client.credentials import without_token

__all__ = ["LocalServer"]

_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 20.0
"""Seconds for its pools to close their environments; then it is killed, and they with it."""


class LocalServer:
    """Starts ``vecserver serve`` on a free port of the loopback interface. Close it.

    It holds the other end of a socket and leaves when that socket ends, so it does not outlive this process whatever
    kills it.

    Raises:
        HostStartFailed: It did not start.

    Attributes:
        url: Its address.
        token: Its token.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._life, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a request
                [
                    sys.executable,
                    "-m",
                    "vecserver",
                    "serve",
                    "--port",
                    "0",
                    "--log-level",
                    "warning",
                    "--parent-fd",
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=without_token(os.environ),  # which is for another server
                pass_fds=(theirs.fileno(),),
                # a group of its own: Ctrl-C is for the trainer, which closes its environments in order. Not a session
                # of its own: the kernel shares the cores evenly between sessions, not between the processes in them
                process_group=0,
            )
        try:
            self.url, self.token = self._ready()
        except BaseException:
            self.close()
            raise

    def _ready(self) -> tuple[str, str]:
        line = bytearray()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._life], [], [], _START_TIMEOUT)
            chunk = self._life.recv(4096) if ready else b""
            if not chunk:
                raise HostStartFailed("the private server did not start; what it says is above")
            line += chunk
        said = json.loads(line)
        return str(said["url"]), str(said["token"])

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def close(self) -> None:
        """End the server and all its pools; may be called again. Does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        with suppress(OSError):
            self._life.shutdown(socket.SHUT_RDWR)
        self._life.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
