"""What the ext of each message holds. Requests refuse unknown fields; answers ignore them, so they may grow.

Values that environments decide (infos, arguments, results) are ``codec`` bytes inside these structs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import MalformedMessage, Unportable, VecServerError, from_code
from vecserver.wire.figures import EpisodeFigures, Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Attach",
    "Attached",
    "Call",
    "ErrorReply",
    "Hello",
    "HelloReply",
    "InProgress",
    "Part",
    "PoolInfo",
    "Render",
    "Reset",
    "ResumeFrom",
    "Split",
    "SplitReply",
    "Stats",
    "check_values",
    "decode",
    "decode_error",
    "encode",
    "encode_error",
    "pack_options",
]

Name = Annotated[str, msgspec.Meta(max_length=256)]
"""What a client calls itself; a host remembers those of some drivers."""


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """HELLO: who asks. The header's version is what is negotiated."""

    client: Name = ""


class HelloReply(msgspec.Struct, frozen=True):
    """Answer to HELLO."""

    server: str
    pool: str


class ResumeFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the driver was before it was started anew: ``session.ResumePoint``, but for what only the driver knows."""

    lease: int
    epoch: int
    seq: int


class Attach(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ATTACH: ask for the pool's description, and with ``drive`` for its lease.

    Attributes:
        drive: Become the driver; without it only the description is asked for.
        force: Take the lease from the driver that holds it.
        client: A name for people: host and process id.
        resume: To go on with the numbers of another life of this driver; left out otherwise.
    """

    drive: bool = True
    force: bool = False
    client: Name = ""
    resume: ResumeFrom | msgspec.UnsetType = msgspec.UNSET


class PoolInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client must know of a pool.

    Attributes:
        observation_space: Single observation space, as ``spaces.space_to_json``.
        action_space: Single action space, likewise.
        layout: ``Layout.describe()``; ``layout_hash`` is its hash.
        metadata: The environments' metadata, JSON values.
        step_timeout: Seconds that a worker may take for a step, a reset or a call before it is replaced.
        max_request: Largest body of a request, in bytes.
        row_observation_spaces: One a row where they may differ in their bounds; None, and not sent, where not.
        lease_expiry: What becomes of the pool when its driver is silent for longer than ``lease_ttl``.
    """

    pool: str
    env_id: str
    num_envs: int
    autoreset_mode: str
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    layout: dict[str, Any]
    layout_hash: int
    metadata: dict[str, Any]
    render_mode: str | None
    engine: str
    workers: int
    step_timeout: float
    lease_ttl: float
    max_request: int
    row_observation_spaces: list[dict[str, Any]] | None = None
    lease_expiry: str = "keep"


class Attached(msgspec.Struct, frozen=True):
    """Answer to ATTACH; ``lease`` is 0 for an observer. The header has lease and epoch too."""

    info: PoolInfo
    lease: int
    epoch: int
    last_seq: int
    features: list[str] = []
    last_kind: int = 0


class Reset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """RESET: seeds and options a row.

    Attributes:
        seeds: One seed or None a row; None for no seeds at all.
        mask: Rows to reset; None for all.
        options: ``codec`` bytes of the options dict, for every row; or a list with such bytes, or None, for each row;
            None for none.
    """

    seeds: list[int | None] | None = None
    mask: list[bool] | None = None
    options: bytes | list[bytes | None] | None = None


def pack_options(options: dict[str, Any] | Sequence[dict[str, Any] | None] | None) -> bytes | list[bytes | None] | None:
    """The ``options`` of a Reset: of one dict for every row, of a list with one dict or None a row, or of None."""
    if options is None or isinstance(options, dict):
        return None if options is None else pack(options)
    return [None if each is None else pack(each) for each in options]


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CALL: call a method or read an attribute of rows, or set one.

    Attributes:
        name: Method or attribute.
        arguments: ``codec`` bytes of ``[args, kwargs]``; for ``assign``, of one value a row.
        assign: Set the attribute instead of calling.
        rows: Which rows, ascending; None for all.
    """

    name: str
    arguments: bytes
    assign: bool = False
    rows: list[int] | None = None


def check_values(request: Reset | Call) -> None:
    """Refuse bytes that hold no values, before any worker has them.

    Raises:
        MalformedMessage: Options that are no mapping, or arguments that are not ``[args, kwargs]``.
    """
    if isinstance(request, Call):
        if not request.assign:  # values to set are taken apart by who gives them out
            match unpack(request.arguments):
                case [list() | tuple(), dict()]:
                    return
            raise MalformedMessage("the arguments of a CALL are a list and a mapping")
        return
    options = request.options if isinstance(request.options, list) else [request.options]
    for each in options:
        if each and not isinstance(unpack(each), dict):
            raise MalformedMessage("the options of a RESET are a mapping")


class Render(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """RENDER: frames of some rows; None for all. Not sequenced."""

    rows: list[int] | None = None


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SPLIT: step the pool in parts, each a driver's of its own.

    Attributes:
        parts: How many; at most one a worker.
    """

    parts: int


class Part(msgspec.Struct, frozen=True):
    """One part of a split pool.

    Attributes:
        info: The part as a pool of its own.
        lease: The right to step it; its requests are numbered from 1.
        first: Which row of the pool its row 0 is.
    """

    info: PoolInfo
    lease: int
    first: int


class SplitReply(msgspec.Struct, frozen=True):
    """Answer to SPLIT: the parts, in the order of their rows."""

    parts: list[Part]


class ErrorReply(msgspec.Struct, frozen=True):
    """ERROR: an error of the tree in ``errors``."""

    code: str
    message: str
    details: dict[str, Any] = {}


class InProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """IN_PROGRESS: the request is running, or waits for another one to end.

    Attributes:
        elapsed: Seconds since it began; 0 while it waits.
        slowest_rows: First and last row of what is left to the shard that is furthest behind: the first is at work.
        waited: Seconds that it waited before it began, or has waited until now.
        row_elapsed: Seconds for which the first of these rows was seen at work: it may have been there for longer.
    """

    elapsed: float
    slowest_rows: tuple[int, int]
    waited: float = 0.0
    row_elapsed: float = 0.0

    def __str__(self) -> str:
        """What is so, after "the pool says that it"."""
        first, last = self.slowest_rows
        row = f"row {first}" + (f" (at work for {self.row_elapsed:.1f} s or more)" if self.row_elapsed else "")
        rows = row if first == last else f"{row} and those up to {last}"
        if not self.elapsed:
            return f"waits, for {self.waited:.1f} s now, for another request, which is at {rows}"
        waited = f"waited {self.waited:.1f} s for other requests and then " if self.waited >= 0.05 else ""
        return f"{waited}began {self.elapsed:.1f} s ago and is still busy with {rows}"


class Stats(msgspec.Struct, frozen=True):
    """Answer to PING. Counters only grow while the pool lives; those of a pool that is split are the whole pool's.

    Attributes:
        state: The pool's state: ``ready`` or ``broken``, with ``reason``.
        batches: STEP requests begun; ``env_steps`` counts rows stepped in them, autoreset steps left out.
        episodes: Episodes that ended.
        refused: Requests that were answered with an error before they did anything; ``refusals`` has them by code.
        rss_bytes: Resident memory of each worker.
        worker_rows: First row and end of each worker's shard; the lists about workers are in the same order.
        worker_batches: Batches that each worker has stepped.
        worker_busy_s: Seconds in which it did, from when it saw the order to when its rows were written. What the
            slowest has more than the mean of all is time in which the others wait.
        worker_last: How often each worker was the last one to finish a batch.
        batch_seconds: From the moment when a batch's actions have been checked and go into the arena to the end of the
            last worker, whoever drives. What comes before and after is not in it: the network, and the client's work.
        episode_figures: Returns and lengths of the episodes that ended.
        requests: Messages that were whole, by kind. A driver that has the arena steps without any.
        replayed: Answers that were sent again; ``in_progress`` those that said how far a request was.
        waiting: Requests that wait for the arena now.
        received_bytes: Of all messages' frames; ``sent_bytes`` likewise.
        lent: Whether a driver on this machine steps in the arena itself.
        restarts: How many workers were replaced, by what had become of them.
        infos_dropped: Values of environments' infos that were left out, for their size or as they cannot travel.
        rebuilt_rows: Rows that went on as they were when another worker took the place of theirs.
    """

    state: str
    reason: str
    batches: int
    env_steps: int
    episodes: int
    resets: int
    refused: int
    lease: int
    driver: str
    idle_s: float
    arena_bytes: int
    worker_pids: list[int]
    rss_bytes: list[int]
    host_rss_bytes: int
    worker_rows: list[tuple[int, int]] = []
    worker_batches: list[int] = []
    worker_busy_s: list[float] = []
    worker_last: list[int] = []
    batch_seconds: Histogram = Histogram()
    episode_figures: EpisodeFigures = EpisodeFigures()
    requests: dict[str, int] = {}
    refusals: dict[str, int] = {}
    replayed: int = 0
    in_progress: int = 0
    waiting: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    lent: bool = False
    restarts: dict[str, int] = {}
    infos_dropped: int = 0
    rebuilt_rows: int = 0


T = TypeVar("T")


def encode(message: msgspec.Struct) -> bytes:
    """Encode a message as the bytes of an ext.

    Raises:
        Unportable: It holds an integer beyond 64 bits, or text with lone surrogates.
    """
    try:
        return msgspec.msgpack.encode(message)
    except (OverflowError, UnicodeEncodeError) as error:
        raise Unportable(f"a {type(message).__name__} with a value that cannot travel: {error}") from None


def decode(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Decode an ext; an empty one is a message of defaults.

    Raises:
        MalformedMessage: The bytes are no such message, or have a field it does not know.
    """
    try:
        return msgspec.msgpack.decode(data if len(data) else b"\x80", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"the ext is no {kind.__name__}: {error}") from None


def encode_error(error: VecServerError) -> bytes:
    """Encode an error as the ext of an ERROR reply."""
    return encode(ErrorReply(error.code, error.message, error.details))


def decode_error(data: bytes | bytearray | memoryview) -> VecServerError:
    """Build the error an ERROR reply carries; not raised."""
    reply = decode(data, ErrorReply)
    return from_code(reply.code, reply.message, reply.details)
