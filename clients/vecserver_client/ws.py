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
from websockets.protocol import State
from websockets.uri import parse_uri

from vecserver.wire.errors import MalformedMessage, MessageTooLarge, TransportUnavailable
from vecserver.wire.frames import HEADER_SIZE, MAX_EXT
from vecserver.wire.websocket import MAX_REQUEST, WholeFrames, error_of, join, part
from vecserver.wire.zmtp import fresh
from vecserver_client.control import PROBLEM, error_of_problem
from vecserver_client.direct import unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from websockets.http11 import Response

    from vecserver.wire.frames import Buffer
    from vecserver_client.transport import Frames

__all__ = ["KNOCK_S", "WebSocketTransport", "WebSocketWire", "address_of", "checked_request"]

KNOCK_S: Final = 0.05
"""Pause between two tries to connect to an address where nobody answers as a server does."""
_PONG_S: Final = 1.0
"""How long a server that asks for a sign of life may be deaf to it."""
_CHUNK: Final = 64 << 10
_TOO_LARGE: Final = 1009
_SERVER_ERRORS: Final = 500
"""Statuses from here on are of a server that may come back, or of a proxy in front of it."""
_NOTHING_YET: Final = (TimeoutError, BlockingIOError, ssl.SSLWantReadError)


class WebSocketWire:
    """One WebSocket to a pool from the client's end, without I/O: bytes in and out, messages out and in.

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
        self._max_message = HEADER_SIZE + MAX_EXT + max_body
        self._memory = memory
        self._protocol = ClientProtocol(parse_uri(url), max_size=self._max_message)
        self._whole = WholeFrames(masked=False, limit=self._max_message)
        self._greeting = b""
        self._inbox: deque[Buffer] = deque()
        self._pieces: list[Buffer] = []
        self._moved = False
        self.is_open = False
        request = self._protocol.connect()
        request.headers.update(headers)
        self._protocol.send_request(request)

    def __len__(self) -> int:
        return len(self._inbox)

    def to_send(self) -> bytes:
        """What is to be sent now: the request for the WebSocket, messages, answers to signs of life."""
        return b"".join(self._protocol.data_to_send())

    def send(self, message: bytes) -> bool:
        """Have a message sent; False where the WebSocket has been closed."""
        try:
            self._protocol.send_binary(message)
        except WebSocketException:
            return False
        return True

    def received(self, data: bytes) -> None:
        """Take in bytes; none at the connection's end.

        Raises:
            ConnectionError: The connection was lost, or a server answers that may be there again soon.
            MalformedMessage: What answers is none.
            TransportUnavailable: It opens no WebSocket.
            VecServerError: It says why.
        """
        if self.is_open and self._protocol.state is State.OPEN:
            whole = self._whole.payload(data)
            if whole is not None:
                self._inbox.append(whole[1])
                return
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()  # which may be the end of a refusal
        events = self._protocol.events_received()
        if self.is_open:
            self._whole.skim(data)
        else:
            self._greeting += data
            self._check_handshake()
            self.is_open = bool(events)
            events = events[1:]
            if self.is_open:
                self._whole.skim(self._greeting.partition(b"\r\n\r\n")[2])
        self._moved |= not events  # a part of a frame, then
        for event in events:
            assert isinstance(event, Frame)
            self._take_frame(event)
        if not data:
            raise ConnectionResetError("the peer closed the connection")

    def moved(self) -> bool:
        """As ``Transport.moved``."""
        moved, self._moved = self._moved, False
        return moved

    def _check_handshake(self) -> None:
        error = self._protocol.handshake_exc
        if isinstance(error, InvalidStatus):
            self._refused(error.response)
        if isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
            raise ConnectionResetError("the peer closed the connection")
        if error is not None:
            raise MalformedMessage(f"what answers there is no WebSocket: {error}")

    def _refused(self, response: Response) -> None:
        if response.headers.get("Content-Type", "").startswith(PROBLEM):
            raise error_of_problem(msgspec.json.decode(response.body or b"{}", type=dict[str, Any]))
        if response.status_code >= _SERVER_ERRORS:
            raise ConnectionResetError(f"status {response.status_code}")
        raise TransportUnavailable(
            f"{self._url} answers with status {response.status_code} and opens no WebSocket: is a proxy in between "
            "that does not pass them on?"
        )

    def _take_frame(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.BINARY | Opcode.CONT:
                self._pieces.append(frame.data)
                if frame.fin:
                    pieces, self._pieces = self._pieces, []
                    self._inbox.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            case Opcode.TEXT:
                raise MalformedMessage("what answers there is no pool: it sends text")

    def message(self) -> Frames | None:
        """The next message; None where more bytes are needed.

        Raises:
            ConnectionError: The WebSocket was closed.
            ProtocolError: What came is no message.
            VecServerError: What the server closed the WebSocket for.
        """
        if not self._inbox:
            self._check_close()
            return None
        header, _, ext, data = part(self._inbox.popleft())
        if not data:
            return header, bytes(ext), b""
        body = self._memory(len(data))  # it begins where arrays may begin
        body[:] = data
        return header, bytes(ext), body

    def _check_close(self) -> None:
        error, close = self._protocol.parser_exc, self._protocol.close_rcvd
        if isinstance(error, PayloadTooBig):
            raise MessageTooLarge(f"the pool's answer: {error}", limit=self._max_message)
        if isinstance(error, EOFError):
            raise ConnectionResetError("the peer closed the connection")
        if error is not None:
            raise MalformedMessage(f"what answers there is no WebSocket: {error}")
        if close is None:
            return
        if close.code == _TOO_LARGE:
            raise MessageTooLarge("the server takes no message as large as this one", limit=MAX_REQUEST)
        raise error_of(close.code, close.reason) or ConnectionResetError(f"the WebSocket was closed: {close}")


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
        self._address = address_of(url)
        self._arguments = url, headers, max_body, memory
        self._wire = WebSocketWire(*self._arguments)
        self._socket: socket.socket | None = None
        self._buffer = memoryview(bytearray(_CHUNK))

    @property
    def fd(self) -> int:
        """As ``Transport.fd``."""
        return -1 if self._socket is None else self._socket.fileno()

    def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message; errors as ``Transport.send``, and MessageTooLarge where the server takes none so large."""
        message = checked_request(header, ext, body)
        deadline = monotonic() + timeout
        if self._socket is not None and self._sent(self._socket, message, deadline):
            return
        # not connected yet, or not any more: a fresh connection tells whether the pool is still there
        if not self._sent(self._connect(deadline, timeout), message, deadline):
            raise unreachable(self._url, "does not take a message", timeout)

    def _sent(self, sock: socket.socket, message: bytes, deadline: float) -> bool:
        try:
            if self._wire.send(message):
                self._flush(sock, deadline)
                return True
        except OSError:  # what was sent in part ends with its connection
            pass
        self.close()
        return False

    def _flush(self, sock: socket.socket, deadline: float) -> None:
        if data := self._wire.to_send():
            _limit(sock, deadline)
            sock.sendall(data)

    def receive(self, timeout: float) -> Frames | None:
        """Wait for one message; as ``Transport.receive``.

        Raises:
            VecServerError: What the server closed the WebSocket for.
        """
        sock, wire = self._socket, self._wire
        if sock is None:
            raise ConnectionResetError("there is no connection")
        wait, deadline = max(timeout, 0.0), monotonic() + timeout
        while (frames := wire.message()) is None:
            if wait < 0:  # signs of life and parts of a message do not lengthen it
                return None
            sock.settimeout(wait)
            try:
                self._read(sock)
            except _NOTHING_YET:
                return None
            try:
                self._flush(sock, monotonic() + _PONG_S)
            except OSError as error:
                raise ConnectionResetError("the connection was lost") from error
            wait = deadline - monotonic()
        return frames

    def _read(self, sock: socket.socket) -> None:
        try:
            count = sock.recv_into(self._buffer)
        except _NOTHING_YET:
            raise
        except OSError as error:
            raise ConnectionResetError("the connection was lost") from error
        self._wire.received(bytes(self._buffer[:count]))

    def _connect(self, deadline: float, timeout: float) -> socket.socket:
        while True:
            self._wire = WebSocketWire(*self._arguments)
            sock: socket.socket | None = None
            try:
                sock = self._opened(deadline)
                while not self._wire.is_open:
                    self._flush(sock, deadline)
                    _limit(sock, deadline)
                    self._read(sock)
            except OSError as error:
                if sock is not None:
                    sock.close()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise TransportUnavailable(f"{self._url}: {error.verify_message}") from None
                if monotonic() + KNOCK_S >= deadline:
                    raise unreachable(self._url, "does not answer", timeout) from None
                sleep(KNOCK_S)
                continue
            except BaseException:
                if sock is not None:
                    sock.close()
                raise
            self._socket = sock
            return sock

    def _opened(self, deadline: float) -> socket.socket:
        host, port, context = self._address
        sock = socket.create_connection((host, port), _left(deadline))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock if context is None else context.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise

    def moved(self) -> bool:
        """As ``Transport.moved``."""
        return self._wire.moved()

    def close(self) -> None:
        """Close the connection; may be called again."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()


def checked_request(header: bytes, ext: bytes, body: Buffer) -> bytes:
    """A request in one piece.

    Raises:
        MessageTooLarge: The server would close the WebSocket for it.
    """
    message = join(header, ext, body)
    if len(message) > MAX_REQUEST:
        raise MessageTooLarge(
            f"a request of {len(message)} bytes; over a WebSocket it has {MAX_REQUEST} at most", limit=MAX_REQUEST
        )
    return message


def address_of(url: str) -> tuple[str, int, ssl.SSLContext | None]:
    """Host and port of a WebSocket's address, and how it is encrypted."""
    address = urlsplit(url)
    secure = address.scheme == "wss"
    port = address.port or (443 if secure else 80)
    return address.hostname or "", port, ssl.create_default_context() if secure else None


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
