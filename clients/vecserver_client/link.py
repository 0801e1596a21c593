"""The seam between a vector environment and the arena that it drives, and the link to an arena of a server."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from vecserver.wire import messages
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import EnvFault, MalformedMessage, VersionMismatch
from vecserver.wire.frames import Flag, Kind
from vecserver.wire.layout import Layout
from vecserver.wire.spaces import space_from_json
from vecserver_client.bodies import BodyRing
from vecserver_client.faults import as_original

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import numpy as np

    from vecserver.wire.frames import Buffer, Header
    from vecserver.wire.layout import SlotViews
    from vecserver.wire.stacks import StackFormat
    from vecserver_client.transport import Frames

__all__ = ["Answer", "Divisible", "Link", "LinkToPart", "Messenger", "PartLink", "PartMessenger", "PoolLink", "Watched"]

_CLOSE_TIMEOUT: Final = 2.0
"""Seconds to wait for the pool's word when it is given back; its lease ends by itself otherwise."""


class Answer(NamedTuple):
    """What a request left.

    Attributes:
        views: The arrays of a step or reset; None after a call.
        ext: Infos or results: see ``docs/protocol.md``.
    """

    views: SlotViews | None
    ext: Buffer


class Link(Protocol):
    """The way to an arena. One request at a time: begin it, then finish it; one thread owns it.

    Faults are raised as ``faults.as_original`` makes them.
    """

    @property
    def pending(self) -> bool:
        """Whether a request was begun and not finished."""

    def values(self) -> AbstractContextManager[Any]:
        """Entered around what packs values for the environments, or unpacks theirs."""

    def begin_step(self, arrays: Sequence[np.ndarray[Any, Any]], timeout: float) -> None:
        """Begin to step every row with a coerced action batch, one array a leaf.

        Raises:
            InvalidAction: A value outside its space, where it can be judged here; nothing was begun.
        """

    def begin(self, request: messages.Reset | messages.Call, timeout: float) -> None:
        """Begin to reset rows, or to call them."""

    def finish(self, timeout: float) -> Answer:
        """Wait for the answer; it stays pending when none comes in time.

        Raises:
            DeadlineExceeded: None came; call again to go on waiting.
            EnvFault: An environment raised.
        """

    def render(self, rows: Sequence[int] | None, timeout: float) -> Buffer:
        """The frames of rows, ascending, as the ext of an answer; None for all."""

    def close(self, timeout: float | None) -> None:
        """Give the arena back; returns after ``timeout`` seconds at the latest, None for what is usual."""


class Watched(Link, Protocol):
    """A link whose end of a request can be waited for together with others."""

    @property
    def fds(self) -> Sequence[int]:
        """Descriptors of which one becomes readable when ``ready`` is worth a call; now and then it is so anyway."""

    def ready(self) -> bool:
        """Whether the request has ended, so that ``finish`` returns or raises at once; never waits for it."""


class LinkToPart(NamedTuple):
    """A part of a pool as its link gives it.

    Attributes:
        rows: Which rows of the pool.
        link: The way to them, where they count from 0.
        transport: The name of that way where it is not the whole's: ``ipc`` where an arena could not be borrowed.
    """

    rows: range
    link: Watched
    transport: str | None = None


class Divisible(Link, Protocol):
    """What a link can do besides where it leads to a whole pool."""

    @property
    def workers(self) -> int:
        """Worker processes: a part has one or more."""

    def split(self, parts: int, timeout: float) -> Sequence[LinkToPart]:
        """Split the pool; asked again after a DeadlineExceeded or an interrupt, it goes on.

        Raises:
            InvalidSpec: There are fewer workers.
        """

    def join(self, timeout: float) -> None:
        """Make it whole again, likewise; the links to its parts are closed."""


class Messenger(Protocol):
    """What a link to a server's pool needs of a ``Connection``."""

    @property
    def pending(self) -> bool:
        """Whether a request waits for its answer."""

    @property
    def lease(self) -> int:
        """The right to drive the pool."""

    def begin(self, kind: Kind, ext: bytes, body: Buffer, timeout: float, base: int | None = None) -> None:
        """Send a sequenced request, with ``base`` one whose answer may be packed."""

    def finish(self, timeout: float) -> Frames:
        """Wait for its answer."""

    def ask(self, kind: Kind, ext: bytes, timeout: float) -> Frames:
        """Send a request without a number and wait for its answer."""

    def close(self, timeout: float) -> None:
        """Give the pool back."""

    def of_part(self, lease: int) -> PartMessenger:
        """One for a part of the pool."""


class PartMessenger(Messenger, Protocol):
    """What a link to a part of it needs besides."""

    @property
    def fds(self) -> Sequence[int]:
        """As ``Watched``'s."""

    def ready(self) -> bool:
        """As ``Watched``'s."""


class PoolLink:
    """The link to a server's pool.

    Args:
        connection: An attached connection.
        layout: What the body of an answer holds.
        actions: How action batches are encoded.
        workers: Worker processes of the pool.
        bodies: The memory that bodies are received into, where observations are to stay in it; None where each body
            has memory of its own.
        stacks: How bodies may be packed; None where they may not.
    """

    def __init__(
        self,
        connection: Messenger,
        layout: Layout,
        actions: ActionFormat,
        workers: int = 1,
        bodies: BodyRing | None = None,
        stacks: StackFormat | None = None,
    ) -> None:
        self._copy = bodies is None
        # the next body is unpacked against the last one, which must not be the caller's to write to
        self._bodies = BodyRing(layout.slot_size) if bodies is None and stacks is not None else bodies
        self._stacks = stacks
        self._base = None if stacks is None else 0  # the number of the answer that had the last slot
        self._last: Buffer = b""
        self._connection = connection
        self.layout = layout
        self.actions = actions
        self.workers = workers

    @property
    def lease(self) -> int:
        """The right to step the pool."""
        return self._connection.lease

    @property
    def pending(self) -> bool:
        """Whether a request was begun and not finished."""
        return self._connection.pending

    def values(self) -> AbstractContextManager[Any]:
        """Nothing: towards a server there are plain values only."""
        return nullcontext()

    def begin_step(self, arrays: Sequence[np.ndarray[Any, Any]], timeout: float) -> None:
        """Begin to step every row; values are judged by the pool."""
        ext, body = self.actions.encode(arrays)
        self._connection.begin(Kind.STEP, ext, body, timeout, self._base)

    def begin(self, request: messages.Reset | messages.Call, timeout: float) -> None:
        """Begin to reset rows, or to call them."""
        kind = Kind.RESET if isinstance(request, messages.Reset) else Kind.CALL
        base = self._base if kind is Kind.RESET else None  # the answer to a call has no slot
        self._connection.begin(kind, messages.encode(request), b"", timeout, base)

    def finish(self, timeout: float) -> Answer:
        """Wait for the answer."""
        try:
            header, ext, body = self._connection.finish(timeout)
        except EnvFault as fault:
            raise as_original(fault) from None
        return Answer(self._views(header, body) if len(body) else None, ext)

    def _views(self, header: Header, body: Buffer) -> SlotViews:
        if header.flags & Flag.FRAMES:
            body = self._unpacked(body)
        if len(body) != self.layout.slot_size:
            raise MalformedMessage(f"a body of {len(body)} bytes; a slot has {self.layout.slot_size}")
        if self._bodies is None:
            return self.layout.views(body)
        views = self.layout.views(memoryview(body).toreadonly())
        self._bodies.keep()
        if self._stacks is not None:
            self._base, self._last = header.seq, body
        return views.handed_out(copy=self._copy)

    def _unpacked(self, packed: Buffer) -> Buffer:
        if self._stacks is None or self._bodies is None or not self._base:
            raise MalformedMessage("a packed body, which was not asked for")
        body = self._bodies.room(self.layout.slot_size)
        self._stacks.unpack(packed, self._stacks.stacks(self._last), body)
        return body

    def render(self, rows: Sequence[int] | None, timeout: float) -> Buffer:
        """Frames of rows."""
        request = messages.Render(None if rows is None else list(rows))
        try:
            return self._connection.ask(Kind.RENDER, messages.encode(request), timeout)[1]
        except EnvFault as fault:
            raise as_original(fault) from None

    def stats(self, timeout: float) -> messages.Stats:
        """The pool's counters."""
        return messages.decode(self._connection.ask(Kind.PING, b"", timeout)[1], messages.Stats)

    def split(self, parts: int, timeout: float) -> list[LinkToPart]:
        """Split the pool."""
        return [LinkToPart(rows, link) for rows, link in self.split_pool(parts, timeout)]

    def split_pool(self, parts: int, timeout: float) -> list[tuple[range, PartLink]]:
        """Split the pool; returns which rows each part has, and the link to it."""
        if not self._connection.pending:
            self._connection.begin(Kind.SPLIT, messages.encode(messages.Split(parts)), b"", timeout)
        reply = messages.decode(self.finish(timeout).ext, messages.SplitReply)
        return [(range(part.first, part.first + part.info.num_envs), self._to_part(part)) for part in reply.parts]

    def _to_part(self, part: messages.Part) -> PartLink:
        info = part.info
        layout = Layout.of(space_from_json(info.observation_space), info.num_envs)
        if layout.hash != info.layout_hash:
            raise VersionMismatch("the pool lays out its results in another way: install the same release on both ends")
        actions = ActionFormat(self.actions.space, info.num_envs)
        return PartLink(self._connection.of_part(part.lease), layout, actions)

    def join(self, timeout: float) -> None:
        """Make it whole again."""
        if not self._connection.pending:
            self._connection.begin(Kind.JOIN, b"", b"", timeout)
        self.finish(timeout)

    def close(self, timeout: float | None) -> None:
        """Give the lease back; the pool's word comes soon or not at all."""
        del timeout
        self._connection.close(_CLOSE_TIMEOUT)


class PartLink(PoolLink):
    """The link to a part of a server's pool."""

    _connection: PartMessenger

    def __init__(self, connection: PartMessenger, layout: Layout, actions: ActionFormat) -> None:
        super().__init__(connection, layout, actions)

    @property
    def fds(self) -> Sequence[int]:
        """As ``Watched``'s."""
        return self._connection.fds

    def ready(self) -> bool:
        """As ``Watched``'s."""
        return self._connection.ready()
