"""A way past ASGI for WebSockets whose messages are only passed on: what comes is handed over where it was read.

ASGI makes an event, a place in a queue and a turn of a task of each message, which for a small batch is as much work
as all the rest of passing it on.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import apply_mask  # type: ignore[attr-defined]  # the faster one of its two, where it is there
from websockets.protocol import State

from vecserver.wire.websocket import WholeFrames, head_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from websockets.http11 import Request

    from vecserver.wire.frames import Buffer

__all__ = ["SHORTCUT", "ShortcutProtocol"]

SHORTCUT: Final = "vecserver.shortcut"
"""The ASGI extension that is a WebSocket's ``ShortcutProtocol``; not there where another server runs the app."""


class ShortcutProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, with a route that may take binary messages and send some without an event for each.

    Whatever it does not take comes as an event, in its order, and makes the client wait until that is received.
    """

    _taker: Callable[[bytes], bool] | None = None
    _frames: WholeFrames

    def handle_connect(self, event: Request) -> None:
        """As uvicorn's; the application is told of this object."""
        super().handle_connect(event)
        self._frames = WholeFrames(masked=True, limit=self.config.ws_max_size)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            extensions: Any = self.scope["extensions"]
            extensions[SHORTCUT] = self

    def take(self, taker: Callable[[bytes], bool]) -> None:
        """Have messages handed to a function from here on, in the event loop's thread.

        Args:
            taker: Says whether it took a message; it raises nothing. Called while no earlier one waits as an event.
        """
        self._taker = taker

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, where nobody takes the message that these bytes are."""
        if not self.handshake_initiated:  # these are the request
            super().data_received(data)
            return
        if self._taker is not None and self.queue.empty() and self.conn.state is State.OPEN:
            found = self._frames.payload(data)
            if found is not None and self._taker(apply_mask(found[1], found[0])):
                return
        self._frames.skim(data)
        super().data_received(data)

    def pass_on(self, parts: Sequence[Buffer]) -> bool:
        """Send the parts of a binary message now; False where it cannot be.

        Earlier ones wait for the client then, or it is leaving, or it was agreed that messages are packed.
        """
        if self.conn.state is not State.OPEN or self.disconnected or not self.writable.is_set() or self.conn.extensions:
            return False
        self.transport.write(b"".join((head_of(sum(map(len, parts))), *parts)))
        return True
