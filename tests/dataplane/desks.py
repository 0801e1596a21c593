"""A dispatcher at work, without sockets: a pool that only notes what was begun, a clock that a test turns."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from gymnasium import spaces

from vecserver.dataplane.counts import Counts, Moment
from vecserver.dataplane.requests import Reply
from vecserver.dataplane.splitting import PoolDispatcher
from vecserver.pools.host import Outcome
from vecserver.wire import messages
from vecserver.wire.errors import VecServerError
from vecserver.wire.frames import MAX_EXT, Header, Kind
from vecserver.wire.layout import Layout
from vecserver.wire.messages import PoolInfo, Stats
from vecserver.wire.spaces import space_to_json
from vecserver.wire.stacks import StackFormat

EPOCH = 2**63 + 5
TTL_S = 10.0
ROWS = 3
MAX_REQUEST = 1024


class NotedLending:
    """An arena that another may have.

    Attributes:
        lent: Whether a driver in another process has it.
        taken: Whether that driver's step is under way.
        claimed: Whether the pool has it.
    """

    def __init__(self) -> None:
        self.lent = self.taken = self.claimed = False
        self.chores: list[Generator[None, None, None]] = []

    def claim(self) -> bool:
        self.claimed = not self.taken and not self.chores
        return self.claimed

    def release(self) -> None:
        self.claimed = False

    def recall(self) -> None:
        self.lent = self.taken = False

    @property
    def busy(self) -> bool:
        return bool(self.chores)

    def add(self, chore: Generator[None, None, None]) -> None:
        self.chores.append(chore)


class NotedPool:
    """Begins nothing, and notes what it was asked to.

    Attributes:
        begun: The commands begun, as tuples of a name and what they were given.
        refusal: Raised instead by the next command, if set.
    """

    def __init__(self, space: spaces.Space[Any] | None = None) -> None:
        space = space or spaces.Box(-1, 1, (2,))
        self.layout = layout = Layout.of(space, ROWS)
        self.info = PoolInfo(
            pool="p-1",
            env_id="Test-v0",
            num_envs=ROWS,
            autoreset_mode="NextStep",
            observation_space=space_to_json(space),
            action_space=space_to_json(spaces.Discrete(2)),
            layout=layout.describe(),
            layout_hash=layout.hash,
            metadata={},
            render_mode=None,
            engine="envs",
            workers=1,
            step_timeout=60.0,
            lease_ttl=TTL_S,
            max_request=MAX_REQUEST,
        )
        self.max_ext = MAX_EXT
        self.lending = NotedLending()
        self.broken: VecServerError | None = None
        self.begun: list[tuple[Any, ...]] = []
        self.refusal: Exception | None = None
        self.parts: list[NotedPart] = []
        self._slots = [np.full(layout.slot_size, 17 * (slot + 1), np.uint8).data for slot in range(3)]

    def _begin(self, *what: Any) -> None:
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        self.begun.append(what)

    def begin_step(self, ext: Any, body: Any) -> None:
        self._begin("step", bytes(ext), bytes(body))

    def begin_reset(self, request: messages.Reset) -> None:
        self._begin("reset", request)

    def begin_call(self, request: messages.Call) -> None:
        self._begin("call", request)

    def begin_render(self, rows: list[int] | None) -> None:
        self._begin("render", rows)

    def abandon_parts(self) -> None:
        self._begin("abandon")
        self.parts = []

    def revive(self) -> None:
        self._begin("revive")
        self.broken, self.parts = None, []

    def begin_split(self, count: int) -> None:
        self._begin("split", count)
        self.parts = [NotedPart(row) for row in range(count)]

    def joining(self) -> Generator[None, None, None]:
        self._begin("join")
        yield
        self.parts = []

    def slot_body(self, slot: int) -> memoryview:
        return self._slots[slot]

    def progress(self) -> tuple[int, int]:
        return 1, 2


class NotedPart(NotedPool):
    """A part of one row, which notes as well."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.rows = (row, row + 1)
        self.info = msgspec.structs.replace(self.info, num_envs=1)


class Answer(NamedTuple):
    """A reply, decoded."""

    peer: bytes
    header: Header
    ext: bytes
    body: bytes

    @classmethod
    def of(cls, reply: Reply) -> Answer:
        header = Header.unpack(reply.header)
        assert header.body_length == len(reply.body)
        return cls(reply.peer, header, reply.ext, bytes(reply.body))

    @property
    def error(self) -> VecServerError:
        assert self.header.kind == Kind.ERROR
        error = messages.decode_error(self.ext)
        assert error.number == self.header.status
        return error


class Desk:
    """A dispatcher and the peers that write to it."""

    def __init__(self, space: spaces.Space[Any] | None = None) -> None:
        self.now_s = 100.0
        space = space or spaces.Box(-1, 1, (2,))
        self.pool = NotedPool(space)
        self.stacks = StackFormat.of(self.pool.layout, space)
        self.dispatcher = PoolDispatcher(self.pool, EPOCH, lambda: round(self.now_s * 1e9), self._stats, self.stacks)
        self.lease = 0

    def _stats(self, counts: Counts, moment: Moment) -> Stats:
        return Stats(
            *("ready", "", 0, 0, 0, 0, sum(counts.refusals.values())),
            *(moment.lease, moment.driver, moment.idle_s, 0, [], [], 0),
            requests=counts.by_kind(),
            refusals=dict(counts.refusals),
            replayed=counts.replayed,
            in_progress=counts.in_progress,
            waiting=moment.waiting,
            received_bytes=counts.received_bytes,
            sent_bytes=counts.sent_bytes,
            lent=moment.lent,
        )

    def send(
        self,
        kind: int,
        ext: bytes | msgspec.Struct = b"",
        body: bytes = b"",
        *,
        seq: int = 0,
        peer: bytes = b"driver",
        lease: int | None = None,
        key: bytes | None = b"",
        **fields: Any,
    ) -> Answer | None:
        """Sends one message; the answer, or None when it comes later. The lease is the last one granted."""
        data = ext if isinstance(ext, bytes) else messages.encode(ext)
        digest = 0 if kind == Kind.ATTACH else zlib.crc32(data + body)  # there it would be a tag
        defaults = {"epoch": EPOCH, "digest": digest, "body_length": len(body)}
        header = Header(kind, seq=seq, lease=self.lease if lease is None else lease, **defaults | fields)
        return self.send_frames([header.pack(), data, body], peer, key)

    def send_frames(self, frames: list[bytes], peer: bytes = b"driver", key: bytes | None = b"") -> Answer | None:
        reply = self.dispatcher.message(peer, frames, key)
        return None if reply is None else Answer.of(reply)

    def attach(self, client: str = "trainer", key: bytes = b"", **options: Any) -> messages.Attached:
        """Becomes the driver."""
        answer = self.send(Kind.ATTACH, messages.Attach(client=client, **options), lease=0, epoch=0, key=key)
        attached = messages.decode(answer.ext, messages.Attached)
        self.lease = attached.lease
        return attached

    def finish(self, slot: int = 1, ext: bytes = b"infos", error: VecServerError | None = None) -> list[Answer]:
        """The command that runs ends."""
        return [Answer.of(reply) for reply in self.dispatcher.finished(Outcome(slot, ext, error))]

    def step(self, seq: int, body: bytes = b"actions", **fields: Any) -> Answer | None:
        return self.send(Kind.STEP, b"", body, seq=seq, **fields)

    def stats(self, peer: bytes = b"observer") -> Stats:
        return messages.decode(self.send(Kind.PING, lease=0, peer=peer).ext, Stats)
