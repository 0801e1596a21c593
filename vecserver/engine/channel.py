"""Messages between a host and its worker, over a socket pair: a four-byte length, then msgpack.

The step path comes here only where actions have side values. Commands that need more than an opcode do (start, reset,
call, render), and payloads that are larger than a side area.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import socket

__all__ = [
    "UNBOUNDED",
    "Adopt",
    "Bind",
    "Call",
    "Died",
    "Drop",
    "Failed",
    "Fetch",
    "Home",
    "Lost",
    "Measure",
    "Measured",
    "Message",
    "Move",
    "Pause",
    "Ready",
    "Records",
    "Render",
    "Reset",
    "Start",
    "Step",
    "receive",
    "receive_bytes",
    "send",
]

_LENGTH: Final = struct.Struct("<I")
UNBOUNDED: Final = (1 << 32) - 1
"""Bytes: what a length can say. For those who trust each other."""

_CHUNK: Final = 256 << 10
"""Bytes for which memory is taken before they have come."""


class Lost(msgspec.Struct, frozen=True):
    """What became of the rows of a worker that has ended, for the one that takes its place.

    Attributes:
        cause: How the worker ended, for people.
        under_way: Whether the rows had ever been reset.
        autoreset_mode: Of the pool.
        over: The rows whose episode was over; none in SameStep, where a row is reset in the step that ends it.
        observations: What each row gave last: its leaves in a slot, as codec bytes.
        side: The side values beside them, one encoded row each; None where there are none, or they are lost.
        seeds: For the first reset of each row that has no seed of its own.
    """

    cause: str
    under_way: bool
    autoreset_mode: str
    over: list[bool]
    observations: list[bytes]
    side: list[bytes] | None
    seeds: list[int | None]


class Start(msgspec.Struct, frozen=True, tag=True):
    """First message to a worker: what to make.

    Attributes:
        rows: First and end row of its shard.
        wrappers: Names, or ``{"id", "kwargs"}``, the innermost first.
        info: As ``PoolSpec.info``.
        program: What ``engine.pickled.Program`` wrote: callables that make the rows, in the place of ``env_id``.
            Only a program that drives workers of its own sends it; a server's host never does, see ``engine.pickled``.
        lost: What became of the rows, where this worker takes the place of one that has ended.
        replay: Whether it keeps a record of its rows, and rebuilds those.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    render_mode: str | None
    autoreset_mode: str
    engine: str
    num_envs: int
    rows: tuple[int, int]
    program: bytes = b""
    observation_mode: str = "same"
    wrappers: list[str | dict[str, Any]] = []
    info: str | list[str] = "all"
    episode_statistics: bool = False
    lost: Lost | None = None
    replay: bool = False


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Instead of Start: time a step of an environment made for it alone, answer, and leave."""

    start: Start


class Measured(msgspec.Struct, frozen=True, tag=True):
    """The answer: microseconds; None where the environment raised."""

    row_us: float | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A worker's answer to Start: its environments exist. Spaces as ``wire.spaces`` describes them.

    Attributes:
        objects: In answer to a program's own callables both spaces and the metadata themselves, as codec bytes.
        row_observation_spaces: One a row of the shard where the pool's rows may differ; None where they may not.
        steps_kept: How many batches of actions its record is to hold, where it keeps one.
        rebuilt: In answer to Bind, why each row could not be rebuilt, empty for one that was; nothing where no rows
            were lost, or no record is kept.
    """

    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    metadata: dict[str, Any]
    render_mode: str | None
    row_observation_spaces: list[dict[str, Any]] | None = None
    objects: bytes = b""
    steps_kept: int = 0
    rebuilt: list[str] = []


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A worker's answer when its environments could not be made, or cannot be a pool.

    Attributes:
        fault: Row, type, message, traceback.
        code: The code of the error that this is, with its details.
    """

    fault: dict[str, Any]
    code: str = "env_creation_failed"
    details: dict[str, Any] = {}


class Records(msgspec.Struct, frozen=True):
    """The memory where the workers keep records of their rows; its descriptor comes behind the message, first of all.

    Attributes:
        size: Of all records, in bytes.
        begins: Where this worker's begins.
        steps: How many batches of actions it holds.
    """

    size: int
    begins: int
    steps: int


class Bind(msgspec.Struct, frozen=True, tag=True):
    """The arena has its size: map it.

    Attributes:
        shards: The rows of every worker, from which the plan of the arena follows.
        shard: Which of them is this worker's.
        core: The core to stay on; None for any.
        move: Where the worker is that this one takes the place of: in the arena of a part. Descriptors come behind it.
        adopt: Whom that one obeys besides; their descriptors come last.
        obeyed: Whether it still does.
        death: The fault with which the next step ends; None where it is like any other.
        records: Where it keeps a record of its rows; None where it keeps none.
    """

    shards: tuple[tuple[int, int], ...]
    shard: int
    layout_hash: int
    core: int | None
    move: Move | None = None
    adopt: Adopt | None = None
    obeyed: bool = True
    death: dict[str, Any] | None = None
    records: Records | None = None


class Step(msgspec.Struct, frozen=True, tag=True):
    """Step the shard with the actions in the arena and these side values, one encoded row each."""

    side: list[bytes]


class Reset(msgspec.Struct, frozen=True, tag=True):
    """Reset rows of the shard; ``options`` are codec bytes, for every row or for each, empty for None."""

    seeds: list[int | None]
    mask: list[bool] | None
    options: bytes | list[bytes | None]


class Call(msgspec.Struct, frozen=True, tag=True):
    """Call a method or read an attribute of rows, or set one; ``arguments`` are codec bytes.

    Attributes:
        rows: Rows of the shard, by their number in the pool; None for all.
    """

    name: str
    arguments: bytes
    assign: bool
    rows: list[int] | None = None


class Died(msgspec.Struct, frozen=True, tag=True):
    """Instead of a command that a worker died in and that is not to be run twice: end it with this fault."""

    fault: dict[str, Any]


class Render(msgspec.Struct, frozen=True, tag=True):
    """Render rows of the shard, given by their number in the pool."""

    rows: list[int]


class Adopt(msgspec.Struct, frozen=True, tag=True):
    """Obey a driver in another process too.

    Behind it come, as descriptors, the memory of its orders and the tokens and the bell of its finish line.

    Attributes:
        size: Bytes of the memory.
    """

    size: int


class Pause(msgspec.Struct, frozen=True, tag=True):
    """Obey that driver no more, once its command that runs here is finished."""


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Let go of that driver's memory.

    Attributes:
        slot: Step with its last actions into this slot first: other workers have done that already. None where the
            worker has, or none has.
    """

    slot: int | None


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Give the payload of that driver's last command, which did not fit the side area; nothing where it did."""


class Move(msgspec.Struct, frozen=True, tag=True):
    """The pool is split: work in the arena of a part, until told to come home.

    Behind it come, as descriptors, that arena's memory and the tokens and the bell of its finish line.

    Attributes:
        shards: The rows of every worker of the part, from 0.
        shard: Which of them is this worker's.
    """

    shards: tuple[tuple[int, int], ...]
    shard: int
    layout_hash: int


class Home(msgspec.Struct, frozen=True, tag=True):
    """The pool is joined: work in its own arena again."""


Message = (
    Start
    | Measure
    | Measured
    | Ready
    | Failed
    | Bind
    | Step
    | Reset
    | Call
    | Died
    | Render
    | Adopt
    | Pause
    | Drop
    | Fetch
    | Move
    | Home
)
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def send(sock: socket.socket, message: Message | bytes | memoryview) -> None:
    """Send a message, or raw bytes, whole.

    Raises:
        OSError: The other process is gone or did not take it in time.
    """
    data = message if isinstance(message, bytes | memoryview) else _encoder.encode(message)
    if len(data) > UNBOUNDED:
        raise OSError(f"a payload of {len(data)} bytes does not fit a message")
    sock.sendall(_LENGTH.pack(len(data)))
    sock.sendall(data)


def receive(sock: socket.socket, limit: int = UNBOUNDED) -> Message:
    """Receive one message.

    Raises:
        EOFError: The other process is gone, or sends what is no message, or one of more bytes than ``limit``:
            environments may write to what they find.
        OSError: Nothing came in the socket's time.
    """
    try:
        return _decoder.decode(_exactly(sock, _length(sock, limit)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EOFError(f"no message of a host or worker: {error}") from None


def receive_bytes(sock: socket.socket, limit: int = UNBOUNDED) -> bytearray:
    """Receive the raw bytes of one message; errors as ``receive``.

    Of one that is longer than ``limit`` one byte more is kept, which says so, and the rest is read and dropped: the
    next message can be told from it.
    """
    length = _length(sock, UNBOUNDED)
    data = _exactly(sock, min(length, limit + 1))
    rest, bin_ = length - len(data), memoryview(bytearray(_CHUNK))
    while rest:
        taken = min(rest, _CHUNK)
        _fill(sock, bin_[:taken])
        rest -= taken
    return data


def _length(sock: socket.socket, limit: int) -> int:
    length: int
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    if length > limit:
        raise EOFError(f"no message of a host or worker: it has {length} bytes")
    return length


def _exactly(sock: socket.socket, size: int) -> bytearray:
    data = bytearray()
    while len(data) < size:  # as it comes: a length alone takes no memory
        begin = len(data)
        data += bytes(min(size - begin, _CHUNK))
        _fill(sock, memoryview(data)[begin:])
    return data


def _fill(sock: socket.socket, view: memoryview) -> None:
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError("the process at the other end of the socket is gone")
        view = view[count:]
