"""What goes through the dispatch: a message that came, the command that runs, the queue for it, and the reply."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from vecserver.wire.errors import StillRunning
from vecserver.wire.frames import Kind

if TYPE_CHECKING:
    from vecserver.wire.frames import Buffer, Header

__all__ = ["SEQUENCED", "Queue", "Reply", "Request", "Running"]

SEQUENCED: Final = frozenset(map(int, (Kind.STEP, Kind.RESET, Kind.CALL, Kind.SPLIT, Kind.JOIN)))
"""Kinds that have a number in their driver's sequence."""

_MAX_WAITING: Final = 16
"""Requests that may wait for the command that runs; observers beyond it are told to come again. The driver's next one
waits in any case: nobody who looks keeps it from stepping."""


class Request(NamedTuple):
    """One message from one peer, whole.

    Attributes:
        key: The key that the peer has proved to have; empty where none was asked for.
    """

    peer: bytes
    header: Header
    ext: Buffer
    body: Buffer
    came_ns: int = 0
    key: bytes = b""


class Reply(NamedTuple):
    """One message to one peer."""

    peer: bytes
    header: bytes
    ext: bytes
    body: bytes | memoryview


class Running(NamedTuple):
    """The command that runs and whom its reply goes to."""

    peer: bytes
    header: Header
    since_ns: int
    waited_ns: int = 0


class Queue(deque[Request]):
    """Requests that wait for the command that runs, in the order in which they came."""

    def put(self, request: Request) -> int | None:
        """Have a request wait.

        Returns:
            None; or, where it waits already and is asked again, perhaps from a fresh socket, when it first came: in
            nanoseconds, as ``Request.came_ns``.

        Raises:
            StillRunning: There is no room.
        """
        for i, other in enumerate(self):
            # a sequenced request, or an attach under the same name
            again = request.header == other.header and request.ext == other.ext
            if again and (request.header.seq or request.header.kind == Kind.ATTACH):
                self[i] = request._replace(came_ns=other.came_ns)
                return other.came_ns
        if len(self) >= _MAX_WAITING and not self._is_first_sequenced(request):
            raise StillRunning(f"{_MAX_WAITING} requests wait for this pool already: ask again later")
        self.append(request)
        return None

    def _is_first_sequenced(self, request: Request) -> bool:
        kinds = [request.header.kind, *(other.header.kind for other in self)]
        return kinds[0] in SEQUENCED and SEQUENCED.isdisjoint(kinds[1:])
