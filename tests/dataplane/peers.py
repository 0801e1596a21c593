"""Sockets that speak to a pool without a client's care."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple, Self

import msgspec
import zmq

from vecserver.pools.results import PoolView
from vecserver.wire import messages
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import VecServerError
from vecserver.wire.frames import Flag, Header, Kind
from vecserver.wire.layout import Layout, SlotViews
from vecserver.wire.spaces import space_from_json
from vecserver_client.passes import Credentials

LONG_MS = 30_000


class Answer(NamedTuple):
    """Three frames, the first one decoded."""

    header: Header
    ext: bytes
    body: bytes

    @property
    def error(self) -> VecServerError:
        assert self.header.kind == Kind.ERROR
        return messages.decode_error(self.ext)


class Peer:
    """A DEALER that sends whatever frames it is given; a context manager."""

    def __init__(self, context: zmq.Context, endpoint: str, ticket: str = "", **options: int) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if ticket:
            Credentials(ticket=ticket).apply(self.socket)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, frames: list[Any]) -> None:
        self.socket.send_multipart(frames)

    def receive(self, timeout_ms: int = LONG_MS) -> Answer | None:
        if not self.socket.poll(timeout_ms):
            return None
        header, ext, body = self.socket.recv_multipart()
        return Answer(Header.unpack(header), ext, body)

    def ask(self, kind: Kind, ext: bytes | msgspec.Struct = b"", body: bytes = b"", **fields: Any) -> Answer:
        """Sends one message and waits for its answer."""
        data = ext if isinstance(ext, bytes) else messages.encode(ext)
        digest = zlib.crc32(data + body) if "seq" in fields else 0
        self.send([Header(kind, digest=digest, body_length=len(body), **fields).pack(), data, body])
        answer = self.receive()
        assert answer is not None
        return answer


class Driver(Peer):
    """Attaches to a pool and numbers its requests."""

    def __init__(self, context: zmq.Context, view: PoolView, transport: str, ticket: str, **options: int) -> None:
        super().__init__(context, view.endpoints[transport], ticket if transport == "tcp" else "", **options)
        info = view.info
        self.layout = Layout.of(space_from_json(info.observation_space), info.num_envs)
        self.format = ActionFormat(space_from_json(info.action_space), info.num_envs)
        answer = self.ask(Kind.ATTACH, messages.Attach(client=transport))
        attached = messages.decode(answer.ext, messages.Attached)
        self.name = {"lease": attached.lease, "epoch": attached.epoch}
        self.seq = 0

    def run(self, kind: Kind, ext: bytes | msgspec.Struct = b"", body: bytes = b"") -> Answer:
        self.seq += 1
        return self.ask(kind, ext, body, seq=self.seq, **self.name)

    def reset(self, seed: int) -> SlotViews:
        return self.views(self.run(Kind.RESET, messages.Reset([seed + row for row in range(self.format.num_envs)])))

    def step(self, actions: Any) -> SlotViews:
        ext, body = self.format.encode(self.format.coerce(actions))
        return self.views(self.run(Kind.STEP, ext, bytes(body)))

    def views(self, answer: Answer) -> SlotViews:
        if answer.header.kind == Kind.ERROR:
            raise answer.error
        assert answer.header.flags & Flag.ANSWER
        assert len(answer.body) == self.layout.slot_size
        return self.layout.views(bytearray(answer.body))
