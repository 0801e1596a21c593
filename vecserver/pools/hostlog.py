"""What a pool's host and workers write: short on disk, passed on to the server's log, its end at hand for errors."""

from __future__ import annotations

import logging
import os
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Final

from vecserver.logs import record_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OUTPUT", "HostLog"]

OUTPUT: Final = "vecserver.pools.output"
"""The logger of what environments print. It has a level of its own: a server that logs warnings alone passes it on too,
as Gymnasium's own vector environments would."""

_KEPT_LINES: Final = 20
_KEPT_CHARACTERS: Final = 4000
"""Of the end of a log, in an error."""

_LONGEST_LINE: Final = 2000
_MOST_AT_ONCE: Final = 128 << 10
"""Bytes that are read at a time; where a pool writes more, only the end of it is."""

_MOST_ON_DISK: Final = 1 << 20
"""Bytes of a file that has been read, after which it begins anew."""

_output = logging.getLogger(OUTPUT)
_output.setLevel(logging.INFO)


class HostLog:
    """Reads the file that one host process and its workers append to. Thread-safe.

    Args:
        path: The file; removed by ``close``.
        pool: Whose it is.
    """

    def __init__(self, path: Path, pool: str) -> None:
        self.path = path
        self._pool = pool
        self._lock = Lock()
        self._offset = 0
        self._rest = b""  # the beginning of a line whose end was not written yet
        self._kept: deque[str] = deque(maxlen=_KEPT_LINES)

    def pass_on(self, *, last: bool = False) -> None:
        """Log what was written since the last call; with ``last`` also a line that has no end."""
        with self._lock:
            for line in self._lines(last=last):
                self._log(line)

    def tail(self) -> list[str]:
        """The last lines, as a person reads them."""
        self.pass_on(last=True)
        with self._lock:
            kept: list[str] = []
            room = _KEPT_CHARACTERS
            for line in reversed(self._kept):
                room -= len(line)
                if room < 0 and kept:
                    break
                kept.append(line[:_KEPT_CHARACTERS])
            return kept[::-1]

    def close(self) -> None:
        """Pass on what is left, and remove the file; may be called again."""
        try:
            self.pass_on(last=True)
        finally:
            self.path.unlink(missing_ok=True)

    def _lines(self, *, last: bool) -> list[str]:
        data = self._read()
        whole, end, rest = (self._rest + data).rpartition(b"\n")
        if last or len(rest) > _LONGEST_LINE:
            whole, rest = whole + end + rest, b""
        self._rest = rest
        return [line for line in whole.decode("utf-8", "replace").splitlines() if line.strip()]

    def _read(self) -> bytes:
        try:
            size = self.path.stat().st_size
            if size == self._offset:
                return b""
            with self.path.open("r+b", buffering=0) as file:
                missed = size - self._offset - _MOST_AT_ONCE
                if missed > 0:
                    self._offset += missed
                    self._rest = b"[%d bytes are left out]\n" % (missed + len(self._rest))
                data = os.pread(file.fileno(), size - self._offset, self._offset)
                self._offset += len(data)
                if self._offset > _MOST_ON_DISK:
                    # its writers append wherever the end is; what they write between these lines is lost, as the rest
                    # of an excess is
                    file.truncate(0)
                    self._offset = 0
        except OSError:  # removed already
            return b""
        return data

    def _log(self, line: str) -> None:
        record = record_of(line, pool=self._pool)
        if record is not None:
            self._kept.append(f"{record.levelname} {record.getMessage()}"[:_LONGEST_LINE])
            self._kept.extend((record.exc_text or "").splitlines()[-_KEPT_LINES:])
            known = _output.manager.loggerDict.get(record.name)  # loggers stay for ever: no line may make one
            (known if isinstance(known, logging.Logger) else _output).handle(record)
            return
        self._kept.append(line[:_LONGEST_LINE])
        _output.info("%s", line[:_LONGEST_LINE], extra={"pool": self._pool})
