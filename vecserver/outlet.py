"""Streams to a log that may be on a full disk: what cannot be written is lost and counted, and nobody fails for it."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer

__all__ = ["Outlet", "outlive", "outlive_everywhere"]


class Outlet(io.FileIO):
    """A descriptor to write to, whose ``write`` takes everything; the descriptor stays the caller's.

    Once there is room again, a line says how much was lost. One thread at a time, as a ``BufferedWriter`` sees to.

    Args:
        fd: The descriptor.
        line: Makes a line of a sentence.
    """

    def __init__(self, fd: int, line: Callable[[str], str]) -> None:
        super().__init__(fd, "w", closefd=False)
        self._line = line
        self._lines = self._bytes = 0
        self._why = ""
        self._is_cut = False  # the last line that was written has no end

    def write(self, data: ReadableBuffer, /) -> int:
        """Write it, or lose it; returns its length."""
        view = memoryview(data).cast("B")
        if self._bytes and not self._tell():
            self._lose(view)
        else:
            self._lose(view[self._write(view) :])
        return len(view)

    def _write(self, view: memoryview) -> int:
        """How much could be written."""
        done = 0
        try:
            while done < len(view):
                done += os.write(self.fileno(), view[done:])
        except OSError as error:
            self._why = error.strerror or str(error)
        if done:
            self._is_cut = view[done - 1] != ord("\n")
        return done

    def _lose(self, view: memoryview) -> None:
        self._bytes += len(view)
        self._lines += bytes(view).count(b"\n")

    def _tell(self) -> bool:
        """Say what was lost; whether that could be written."""
        text = self._line(f"{self._lines} lines ({self._bytes} bytes) could not be written here: {self._why}")
        data = memoryview(f"{text}\n".encode(errors="backslashreplace"))
        if self._is_cut and not self._write(memoryview(b"\n")):
            return False
        if self._write(data) < len(data):
            return False
        self._lines = self._bytes = 0
        return True


def outlive(stream: TextIO, line: Callable[[str], str] = "[{}]".format) -> TextIO:
    """A stream to where another one writes, which a full disk does not make fail.

    Args:
        stream: The other one; given back where it has no descriptor.
        line: Makes the line that says what was lost.
    """
    try:
        fd = stream.fileno()
    except io.UnsupportedOperation:
        return stream
    stream.flush()
    buffer = io.BufferedWriter(Outlet(fd, line))
    by_line = bool(stream.line_buffering)
    return io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=by_line)


def outlive_everywhere() -> None:
    """Have ``print`` in this process, and in its copies, never fail: environments may print in each step."""
    sys.stdout, sys.stderr = outlive(sys.stdout), outlive(sys.stderr)
