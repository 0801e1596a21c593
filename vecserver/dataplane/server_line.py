"""What a server says to its host once the pool is made: keys to let in, a line each, and by ending that it is over."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from typing import Final

import msgspec

from vecserver.pools.gate import AllowKey

__all__ = ["ServerLine"]

_CHUNK: Final = 64 << 10

_log = logging.getLogger(__name__)


class ServerLine:
    """Reads the control socket behind the greeting. One thread owns it: the loop's.

    Args:
        control: Stays the caller's.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._data = bytearray()
        self._keys: list[bytes] = []
        self._is_over = False

    def is_over(self) -> bool:
        """Whether the server has said stop, or is gone; never waits."""
        self._read()
        return self._is_over

    def new_keys(self) -> list[bytes]:
        """The keys that came since this was asked last; never waits."""
        self._read()
        keys, self._keys = self._keys, []
        return keys

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while chunk := self._received():
                self._data += chunk
            self._is_over = True
        *lines, rest = self._data.split(b"\n")
        self._data = bytearray(rest)
        for line in lines:
            try:
                self._keys.append(msgspec.json.decode(line, type=AllowKey).key.encode())
            except msgspec.MsgspecError:
                _log.exception("a defect of the server: it says what means nothing here")

    def _received(self) -> bytes:
        try:
            return self._control.recv(_CHUNK, socket.MSG_DONTWAIT)
        except ConnectionError:  # reset instead of closed: gone all the same
            return b""
