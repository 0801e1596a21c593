"""Every decoder of what another process, a request or an operator has sent: what it takes, what it may raise.

Each begins with inputs that are right, which are then changed as ``mutation`` does. ``tried`` fails where a decoder
raises anything else, takes memory for what an input only claims, or takes long.
"""

from __future__ import annotations

import json
import random
import socket
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import httpx
import msgspec
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from pydantic import ValidationError

from tests.security.mutation import Mutator, Whole
from tests.wire.test_messages import GOLDEN
from vecserver.arena import passing
from vecserver.control import models
from vecserver.engine import channel
from vecserver.pools import declarations
from vecserver.pools.json_actions import batch_from_json
from vecserver.pools.sessions.answers import read_message
from vecserver.pools.sessions.jsonrpc import answer_rpc
from vecserver.pools.spec import Caps
from vecserver.wire import codec, frames, infos, loan, messages, websocket, zmtp
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import EnvFault, InvalidAction, InvalidSpec, ProtocolError, VecServerError
from vecserver.wire.frames import Header, Kind
from vecserver.wire.layout import Layout
from vecserver.wire.session import ResumePoint, Session
from vecserver.wire.side import SideLeaves
from vecserver.wire.spaces import space_from_json, space_to_json
from vecserver.wire.stacks import StackFormat
from vecserver_client import control as client_control
from vecserver_client import direct

FAIR = 1 << 20
"""Bytes that a decoder may take for a small input, and so many more for each byte of it."""
A_BYTE = 300
LONG_S = 10.0
"""Processor seconds for one input: a thousand times what the slowest take."""
MEASURED = 64 << 10
"""Larger inputs are timed only: to trace each of their parts would take long."""
ROWS = 3


@dataclass(frozen=True)
class Decoder:
    """One decoder.

    Attributes:
        name: What it decodes.
        whole: Inputs that are right.
        change: Changes one of them.
        run: Decodes one.
        errors: What it may raise.
    """

    name: str
    whole: Sequence[Any]
    change: Callable[[Mutator, Any], Any]
    run: Callable[[Any], Any]
    errors: tuple[type[Exception], ...] = (ProtocolError,)


def tried(decoder: Decoder, rng: random.Random, *, measured: bool = True) -> str:
    """Decode one changed input; what came of it.

    Args:
        decoder: The decoder.
        rng: Where all choices come from.
        measured: Whether to measure memory too, which takes longer.
    """
    data = decoder.change(Mutator(rng), rng.choice(decoder.whole))
    measured = measured and _size(data) < MEASURED
    if measured:
        tracemalloc.start()
    began, outcome = process_time(), "taken"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium and numpy warn of odd values
            decoder.run(data)
    except decoder.errors as error:
        outcome = type(error).__name__
        assert len(str(error)) < 4096 + 4 * _size(data), "errors travel too"
    finally:
        peak = tracemalloc.get_traced_memory()[1] if measured else 0
        tracemalloc.stop()
    assert measured or process_time() - began < LONG_S, f"{decoder.name}: {process_time() - began:.1f} s"
    allowed = FAIR + A_BYTE * _size(data)
    assert peak <= allowed, f"{decoder.name}: {peak} bytes were taken, {allowed} are fair: {data!r:.300}"
    return outcome


def _size(data: Any) -> int:
    if isinstance(data, bytes | str):
        return len(data)
    if isinstance(data, dict):
        return 8 + sum(_size(key) + _size(value) for key, value in data.items())
    return 8 + sum(map(_size, data)) if isinstance(data, list | tuple) else 8


def _ext(mutator: Mutator, data: bytes) -> bytes:
    for _ in range(mutator.rng.choice((1, 1, 2, 3))):
        data = mutator.ext(data)
    return data


def _frames(mutator: Mutator, frames: list[bytes]) -> list[bytes]:
    header = Header.unpack(frames[0])
    return mutator.frames(Whole(header, *frames[1:], numbered=bool(header.seq)))


def _tree(mutator: Mutator, value: Any) -> Any:
    for _ in range(mutator.rng.choice((1, 1, 2, 3))):
        value = mutator.value(value)
    return value


def _json(mutator: Mutator, value: Any) -> bytes:
    rng = mutator.rng
    if rng.random() < 0.1:
        return rng.choice((b"[", b'{"a":')) * rng.randrange(1, 20_000)
    try:
        text = json.dumps(_tree(mutator, value)).encode()
    except (TypeError, ValueError):
        text = repr(value).encode()
    return mutator.flipped(text) if rng.random() < 0.3 else text


def _text(mutator: Mutator, text: str) -> str:
    if mutator.rng.random() < 0.1:
        at = mutator.rng.randrange(len(text) + 1)
        return text[:at] + mutator.rng.choice(("[", '{"a":', "=", ",")) * mutator.rng.randrange(20_000) + text[at:]
    return mutator.flipped(text.encode()).decode("utf-8", "surrogateescape")


def _stream(mutator: Mutator, frames: list[bytes]) -> bytes:
    opening = zmtp.GREETING + zmtp.READY
    if mutator.rng.random() < 0.4:
        opening = mutator.flipped(opening)
    return opening + b"".join(mutator.stream(frames) for _ in range(3))


def _listen(data: bytes) -> None:
    """What a host makes of all bytes of a connection, in pieces."""
    incoming, rng, left, greeted = (
        zmtp.Incoming((1 << 10, 1 << 16, 1 << 16, 1 << 10)),
        random.Random(len(data)),
        data,
        False,
    )
    while left:
        room = incoming.room()
        count = min(len(room), len(left), rng.choice((1, 7, 64, 1 << 16)))
        room[:count], left = left[:count], left[count:]
        incoming.received(count)
        greeted = greeted or incoming.greeting()
        while greeted and (message := incoming.message()) is not None:
            frames.split(message, 1 << 16)
        for name, about in incoming.commands:
            if name == b"READY":
                zmtp.check_ready(about)
            zmtp.pong(about)
        incoming.commands.clear()


def _over_socket(kind: int, read: Callable[[socket.socket], Any]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, kind)
        with mine, theirs:
            theirs.send(data[: 32 << 10])
            theirs.shutdown(socket.SHUT_WR)
            read(mine)

    return run


def _lent(kind: Any) -> Callable[[socket.socket], None]:
    def read(sock: socket.socket) -> None:
        passing.close_all(passing.receive(sock, kind)[1])

    return read


def _judge(whole: list[bytes]) -> None:
    header = Header.unpack(whole[0])
    session = Session(epoch=7)
    session.grant()
    for _ in range(3):
        verdict = session.judge(header)
        if session.is_next(header):
            session.begin(header)
            session.finish()
        else:
            str(session.refusal(verdict, header))
        session.judge_number(header)
    session.check_resumable(ResumePoint(header.lease, header.epoch, header.seq, pending=False))


def _actions(fmt: ActionFormat) -> Callable[[list[bytes]], None]:
    def run(parts: list[bytes]) -> None:
        fmt.check(fmt.decode(*parts))

    return run


def _merge(data: bytes) -> None:
    envs = VectorEnv()
    envs.num_envs = ROWS
    infos.side_values(data, ROWS)
    infos.merge(data, ROWS, envs._add_info)


def _step_of_json(space: spaces.Space) -> Callable[[bytes], None]:
    fmt = ActionFormat(space, ROWS)

    def run(data: bytes) -> None:
        actions = models.StepRequest.model_validate_json(data).actions
        fmt.check(fmt.coerce(batch_from_json(space, actions)))

    return run


def _pool_of_json(data: bytes) -> None:
    models.PoolRequest.model_validate_json(data).spec().check(Caps())


def _pools_of_toml(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".toml", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        declarations.pools_of_file(Path(file.name))


def _answer_of_http(data: bytes) -> None:
    api = client_control.HttpApi("http://127.0.0.1:8000", None, 1.0)
    for status, kind in ((200, "application/json"), (422, "application/problem+json"), (500, "text/html")):
        try:
            api.read(httpx.Response(status, content=data, headers={"content-type": kind}))
        except VecServerError as error:
            assert str(error) is not None


MIXED = spaces.Dict(
    a=spaces.Text(3),
    b=spaces.Tuple([spaces.Discrete(4, start=-1), spaces.Sequence(spaces.Box(0, 1, (2,)), stack=True)]),
)
PLAIN = spaces.Dict(a=spaces.MultiBinary(3), b=spaces.Box(-1, 1, (2, 2), np.float32), c=spaces.MultiDiscrete([3, 9]))
EVERY = spaces.Dict(
    graph=spaces.Graph(spaces.Discrete(2), spaces.Box(0, 1)),
    one=spaces.OneOf([spaces.Text(3), spaces.Discrete(2)]),
    **MIXED,
)
VALUES = [
    {
        "a": [1, 2.5, None, True],
        "b": (b"bytes", "text", {1: 2**70}),
        "c": np.arange(6.0).reshape(2, 3),
        "d": np.float32(1),
    },
    [np.array(["x", "yz"]), np.array([None, (1,)], object), np.datetime64("2020-01-01"), EVERY.sample()],
]
STACKS = StackFormat.of(
    Layout.of(spaces.Box(0, 255, (4, 8, 8), np.uint8), ROWS), spaces.Box(0, 255, (4, 8, 8), np.uint8)
)
POOL = {
    "env_id": "CartPole-v1",
    "num_envs": 4,
    "env_kwargs": {"sutton_barto_reward": True},
    "wrappers": ["TimeAwareObservation", {"id": "ClipReward", "kwargs": {"max_reward": 1}}],
    "info": ["lives"],
    "workers": 2,
    "name": "train",
    "durable": True,
}
TOML = """[pools.train]
env_id = "CartPole-v1"
num_envs = 64
kwargs = { gravity = 9.8 }
wrappers = ["ClipReward", { id = "TimeLimit", kwargs = { max_episode_steps = 9 } }]
"""
REFUSED = (ValidationError, VecServerError)


def _whole_frames() -> list[list[bytes]]:
    found = []
    for number, kind in enumerate(Kind):
        head = Header(kind, lease=1, epoch=7, seq=number % 3)
        found.append(Whole(head, messages.encode(messages.Attach()), bytes(16), numbered=bool(head.seq)).frames())
    return found


def _parts_of(space: spaces.Space) -> list[bytes]:
    from gymnasium.vector.utils import batch_space

    space.seed(3)
    fmt = ActionFormat(space, ROWS)
    return [bytes(part) for part in fmt.encode(fmt.coerce(batch_space(space, ROWS).sample()))]


def _changed_parts(mutator: Mutator, parts: list[bytes]) -> list[bytes]:
    ext, body = parts
    return [_ext(mutator, ext), body] if mutator.rng.random() < 0.6 else [ext, mutator.body(body)]


def _info_exts() -> list[bytes]:
    episodes = {"rows": [0, 2], "r": [1.0, 2.0], "l": [3, 4], "t": [0.5, 1.0]}
    by_rows = infos.encode_rows([(row, {"lives": row, "x": VALUES[0]}) for row in range(ROWS)], episodes=episodes)
    merged = infos.encode_merged({"a": np.arange(3), "_a": np.array([True] * 3)}, dropped={"p": "q"})
    columns = infos.encode_rows([(row, {"lives": row, "x": 0.5}) for row in range(ROWS)], [b"\x90"] * ROWS)
    shard = infos.encode_merged({"a": np.arange(2)}, shard=(1, 3))
    return [infos.join([each]) for each in (by_rows, merged, columns, shard)]


def _loans() -> list[bytes]:
    return [
        msgspec.msgpack.encode(each)
        for each in (
            *(loan.Borrow(1, 2**63), loan.Fetch(3), loan.Lent([(0, 2), (2, 3)], 4096, 64, 1)),
            *(loan.Fetched(3, [0, 9]), loan.Recalled("lease_lost", "no", {"lease": 2})),
        )
    ]


def _worker_messages() -> list[bytes]:
    said = (
        channel.Ready({"type": "MultiBinary", "n": 1}, {"type": "MultiBinary", "n": 1}, {"render_fps": 5}, None),
        channel.Failed({"row": 0, "type": "E", "message": "no", "traceback": ""}),
        channel.Call("size", codec.pack([[], {}]), False, [1]),
    )
    encoded = [msgspec.msgpack.encode(each) for each in said]
    return [len(each).to_bytes(4, "little") + each for each in encoded]


def _unpack_stack(data: bytes) -> None:
    assert STACKS is not None
    STACKS.unpack(data, np.zeros((ROWS, 4, 64), np.uint8), memoryview(bytearray(STACKS.slot_size)))


def _packed_stacks() -> list[bytes]:
    assert STACKS is not None
    size = STACKS.slot_size
    before = np.zeros((ROWS, 4, 64), np.uint8)
    return [bytes(STACKS.pack(before, bytes(size)) or b"")]


def decoders() -> list[Decoder]:
    """All of them."""
    whole = _whole_frames()
    flipped, flat = Mutator.flipped, [b"".join(each) for each in whole]
    found = [
        Decoder("a header", [each[0] for each in whole], flipped, Header.unpack),
        Decoder("the frames of a message", whole, _frames, lambda each: frames.split(each, 16)),
        Decoder("all bytes of a connection", whole, _stream, _listen),
        Decoder("an answer's frames, in a client", whole, _frames, direct.checked_message, (ProtocolError, IndexError)),
        Decoder("a numbered request", [each for each in whole if each[0][6]], _frames, _judge, (VecServerError, IndexError)),
        Decoder("an ERROR", [messages.encode(each) for each, _ in GOLDEN if type(each) is messages.ErrorReply], _ext, messages.decode_error),
        Decoder("values of environments", [codec.pack(each) for each in VALUES], _ext, codec.unpack),
        Decoder("infos, merged", _info_exts(), _ext, _merge, (ProtocolError, EnvFault)),
        Decoder("infos, by row", _info_exts(), _ext, lambda data: infos.by_row(data, ROWS)),
        Decoder("a space", [space_to_json(PLAIN), space_to_json(EVERY)], _tree, space_from_json, (ProtocolError,)),
        Decoder("actions in arrays", [_parts_of(PLAIN)], _changed_parts, _actions(ActionFormat(PLAIN, ROWS)), (ProtocolError, InvalidAction)),
        Decoder("actions with side values", [_parts_of(EVERY)], _changed_parts, _actions(ActionFormat(EVERY, ROWS)), (ProtocolError, InvalidAction)),
        Decoder("side values of rows", [codec.pack(["x", 1, 2, ((1.0, 2.0),)])], _ext, lambda data: SideLeaves(EVERY).unpack_rows([data] * ROWS, ROWS)),
        Decoder("a packed slot", _packed_stacks(), Mutator.body, _unpack_stack),
        Decoder("a WebSocket message", flat, flipped, websocket.part),
        Decoder("a WebSocket's end", [(4024, "gone"), (1009, "")], _tree, lambda each: websocket.error_of(each[0], each[1]) if isinstance(each, list | tuple) and len(each) == 2 and isinstance(each[0], int) else None),
        Decoder("a resume token", ["1-ff-3", "1-ff-3-pending"], _text, ResumePoint.parse, (InvalidSpec,)),
        Decoder("a driver at the door", _loans(), _ext, _over_socket(socket.SOCK_SEQPACKET, _lent(loan.Borrow | loan.Fetch)), (EOFError, ValueError)),
        Decoder("a host that lends", _loans(), _ext, _over_socket(socket.SOCK_SEQPACKET, _lent(loan.FromHost)), (EOFError, ValueError)),
        Decoder("a worker's messages", _worker_messages(), flipped, _over_socket(socket.SOCK_STREAM, channel.receive), (EOFError,)),
        Decoder("a request to make a pool", [POOL], _json, _pool_of_json, REFUSED),
        Decoder("a request to reset", [{"seed": [1, None, 3], "mask": [True, False, True], "options": {"low": 1}}], _json, models.ResetRequest.model_validate_json, REFUSED),
        Decoder("a request for the lease", [{"driver": "ann", "force": True}], _json, models.LeaseRequest.model_validate_json, REFUSED),
        Decoder("actions in JSON", [{"actions": {"a": [[0, 1, 0]] * 3, "b": [[[0.0, 1], [1, 0]]] * 3, "c": [[1, 2]] * 3}}], _json, _step_of_json(PLAIN), REFUSED),
        Decoder("actions with side values in JSON", [{"actions": {"a": ["x", "y", "z"], "b": [[0, 1, 2], [[[0.5, 0.5]]] * 3]}}], _json, _step_of_json(MIXED), REFUSED),
        Decoder("an OpenEnv message", [{"type": "reset", "data": {"seed": 1}}, {"type": "step", "data": {"action": [1]}}], _json, read_message, (VecServerError,)),
        Decoder("a JSON-RPC request", [{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}], _tree, answer_rpc, ()),
        Decoder("an answer of the HTTP API, in a client", [{"code": "lease_held", "detail": "no", "status": 409, "driver": "x"}, POOL], _json, _answer_of_http, ()),
        Decoder("a pool on the command line", ['name=train,env=CartPole-v1,num_envs=64,kwargs={"gravity": [9.8]}', json.dumps(POOL)], _text, declarations.pool_of_text, (InvalidSpec,)),
        Decoder("a file of pools", [TOML], _text, _pools_of_toml, (InvalidSpec,)),
    ]  # fmt: skip
    for kind in {type(message) for message, _ in GOLDEN}:
        exts = [messages.encode(message) for message, _ in GOLDEN if type(message) is kind]

        def decode(data: bytes, kind: Any = kind) -> None:
            message = messages.decode(data, kind)
            if isinstance(message, messages.Reset | messages.Call):
                messages.check_values(message)

        found.append(Decoder(f"the ext {kind.__name__}", exts, _ext, decode))
    return sorted(found, key=lambda decoder: decoder.name)
