"""The transport for where only the server's HTTP port is open: the protocol's messages over a WebSocket.

What frames, masks and closes is the ``websockets`` package's own protocol without I/O, on a plain socket of the calling
thread: its ready-made client reads in a thread of its own, and every message would wait for two wakes more.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidMessage, InvalidStatus, PayloadTooBig, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from vecserver.wire.errors import MalformedMessage, MessageTooLarge, TransportUnavailable
from vecserver.wire.frames import HEADER_SIZE, MAX_EXT
from vecserver.wire.websocket import MAX_REQUEST, error_of, join, part
from vecserver.wire.zmtp import fresh
from vecserver_client.control import PROBLEM, error_of_problem
from vecserver_client.direct import unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from websockets.http11 import Response
    from websockets.protocol import Event

    from vecserver.wire.frames import Buffer
    from vecserver_client.transport import Frames

__all__ = ["WebSocketTransport"]

_KNOCK_S: Final = 0.05
"""Pause between two tries to connect to an address where nobody answers as a server does."""
_PONG_S: Final = 1.0
"""How long a server that asks for a sign of life may be deaf to it."""
_CHUNK: Final = 64 << 10
_TOO_LARGE: Final = 1009
_SERVER_ERRORS: Final = 500
"""Statuses from here on are of a server that may come back, or of a proxy in front of it."""
_NOTHING_YET: Final = (TimeoutError, BlockingIOError, ssl.SSLWantReadError)


class WebSocketTransport:
    """A WebSocket to one pool; connects when it is first used, and again after it was lost.

    Args:
        url: ``ws://…`` or ``wss://…``.
        headers: Sent with the request for the WebSocket.
        max_body: Largest legal body of an answer, in bytes.
        memory: Gives memory of a size for a body.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], max_body: int, memory: Callable[[int], memoryview] = fresh
    ) -> None:
        self._url = url
        self._headers = headers
        self._max_message = HEADER_SIZE + MAX_EXT + max_body
        self._memory = memory
        self._socket: socket.socket | None = None
        self._buffer = memoryview(bytearray(_CHUNK))
        self._reset()

    def _reset(self) -> None:
        self._protocol = ClientProtocol(parse_uri(self._url), max_size=self._max_message)
        self._inbox: deque[Buffer] = deque()
        self._pieces: list[Buffer] = []

    @property
    def fd(self) -> int:
        """As ``Transport.fd``."""
        return -1 if self._socket is None else self._socket.fileno()

    def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``Transport.send``, and MessageTooLarge where the server takes none so large."""
        message = join(header, ext, body)
        if len(message) > MAX_REQUEST:
            raise MessageTooLarge(
                f"a request of {len(message)} bytes; over a WebSocket it has {MAX_REQUEST} at most", limit=MAX_REQUEST
            )
        deadline = monotonic() + timeout
        if self._socket is not None and self._sent(self._socket, message, deadline):
            return
        # not connected yet, or not any more: a fresh connection tells whether the pool is still there
        if not self._sent(self._connect(deadline, timeout), message, deadline):
            raise unreachable(self._url, "does not take a message", timeout)

    def _sent(self, sock: socket.socket, message: bytes, deadline: float) -> bool:
        try:
            self._protocol.send_binary(message)
            self._flush(sock, deadline)
        except (OSError, WebSocketException):  # what was sent in part ends with its connection
            self._drop()
            return False
        return True

    def _flush(self, sock: socket.socket, deadline: float) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data:
            _limit(sock, deadline)
            sock.sendall(data)

    def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``Transport.receive``.

        Raises:
            VecServerError: What the server closed the WebSocket for.
        """
        sock, inbox = self._socket, self._inbox
        if sock is None:
            raise ConnectionResetError("there is no connection")
        wait, deadline = max(timeout, 0.0), monotonic() + timeout
        while not inbox:
            self._check_close()
            if wait < 0:  # signs of life and parts of a message do not lengthen it
                return None
            sock.settimeout(wait)
            try:
                self._read(sock)
            except _NOTHING_YET:
                return None
            self._take_in(sock)
            wait = deadline - monotonic()
        header, _, ext, body = part(inbox.popleft())
        return header, bytes(ext), self._own(body)

    def _own(self, data: memoryview) -> memoryview | bytes:
        """The body in memory that begins where arrays may begin."""
        if not data:
            return b""
        body = self._memory(len(data))
        body[:] = data
        return body

    def _read(self, sock: socket.socket) -> None:
        try:
            count = sock.recv_into(self._buffer)
        except _NOTHING_YET:
            raise
        except OSError as error:
            raise ConnectionResetError("the connection was lost") from error
        if not count:
            raise ConnectionResetError("the peer closed the connection")
        self._protocol.receive_data(bytes(self._buffer[:count]))

    def _take_in(self, sock: socket.socket) -> None:
        for event in self._protocol.events_received():
            self._take_frame(event)
        try:
            self._flush(sock, monotonic() + _PONG_S)
        except OSError as error:
            raise ConnectionResetError("the connection was lost") from error

    def _take_frame(self, frame: Event) -> None:
        assert isinstance(frame, Frame)
        match frame.opcode:
            case Opcode.BINARY | Opcode.CONT:
                self._pieces.append(frame.data)
                if frame.fin:
                    pieces, self._pieces = self._pieces, []
                    self._inbox.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            case Opcode.TEXT:
                raise MalformedMessage("what answers there is no pool: it sends text")

    def _check_close(self) -> None:
        """Raise what ended the WebSocket, if it has ended."""
        protocol = self._protocol
        if isinstance(protocol.parser_exc, PayloadTooBig):
            raise MessageTooLarge(f"the pool's answer: {protocol.parser_exc}", limit=self._max_message)
        if protocol.parser_exc is not None:
            raise MalformedMessage(f"what answers there is no WebSocket: {protocol.parser_exc}")
        close = protocol.close_rcvd
        if close is None:
            return
        if close.code == _TOO_LARGE:
            raise MessageTooLarge("the server takes no message as large as this one", limit=MAX_REQUEST)
        raise error_of(close.code, close.reason) or ConnectionResetError(f"the WebSocket was closed: {close}")

    def _connect(self, deadline: float, timeout: float) -> socket.socket:
        while True:
            self._reset()
            sock: socket.socket | None = None
            try:
                sock = self._opened(deadline)
                self._shake_hands(sock, deadline)
            except OSError as error:
                if sock is not None:
                    sock.close()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise TransportUnavailable(f"{self._url}: {error.verify_message}") from None
                if monotonic() + _KNOCK_S >= deadline:
                    raise unreachable(self._url, "does not answer", timeout) from None
                sleep(_KNOCK_S)
                continue
            except BaseException:
                if sock is not None:
                    sock.close()
                raise
            self._socket = sock
            return sock

    def _opened(self, deadline: float) -> socket.socket:
        address = urlsplit(self._url)
        secure, host = address.scheme == "wss", address.hostname or ""
        sock = socket.create_connection((host, address.port or (443 if secure else 80)), _left(deadline))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return ssl.create_default_context().wrap_socket(sock, server_hostname=host) if secure else sock
        except BaseException:
            sock.close()
            raise

    def _shake_hands(self, sock: socket.socket, deadline: float) -> None:
        protocol = self._protocol
        request = protocol.connect()
        request.headers.update(self._headers)
        protocol.send_request(request)
        self._flush(sock, deadline)
        events = protocol.events_received()
        while not events and protocol.handshake_exc is None:
            _limit(sock, deadline)
            if data := sock.recv(_CHUNK):
                protocol.receive_data(data)
            else:
                protocol.receive_eof()  # which may be the end of an answer
            events = protocol.events_received()
        if isinstance(protocol.handshake_exc, InvalidStatus):
            self._refused(protocol.handshake_exc.response)
        if isinstance(protocol.handshake_exc, InvalidMessage) and isinstance(
            protocol.handshake_exc.__cause__, EOFError
        ):
            raise ConnectionResetError("the peer closed the connection")
        if protocol.handshake_exc is not None:
            raise MalformedMessage(f"what answers there is no WebSocket: {protocol.handshake_exc}")
        for event in events[1:]:
            self._take_frame(event)

    def _refused(self, response: Response) -> None:
        if response.headers.get("Content-Type", "").startswith(PROBLEM):
            raise error_of_problem(msgspec.json.decode(response.body or b"{}", type=dict[str, Any]))
        if response.status_code >= _SERVER_ERRORS:
            raise ConnectionResetError(f"status {response.status_code}")
        raise TransportUnavailable(
            f"{self._url} answers with status {response.status_code} and opens no WebSocket: is a proxy in between "
            "that does not pass them on?"
        )

    def _drop(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """Close the connection; may be called again."""
        self._drop()


def _left(deadline: float) -> float:
    """Seconds until a deadline.

    Raises:
        TimeoutError: It has passed.
    """
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _limit(sock: socket.socket, deadline: float) -> None:
    """Have the next call on a socket end at a deadline."""
    sock.settimeout(_left(deadline))
