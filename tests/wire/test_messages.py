"""What the ext of each message holds, byte for byte, and what is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import fixed, little_memory
from vecserver.wire import messages
from vecserver.wire.codec import pack
from vecserver.wire.errors import InvalidAction, MalformedMessage, RemoteError, Unportable
from vecserver.wire.figures import EpisodeFigures, Histogram
from vecserver.wire.messages import (
    Attach,
    Attached,
    Call,
    ErrorReply,
    Hello,
    HelloReply,
    InProgress,
    Part,
    PoolInfo,
    Render,
    Reset,
    ResumeFrom,
    Split,
    SplitReply,
    Stats,
    check_values,
    decode,
    decode_error,
    encode,
    encode_error,
)

REQUESTS = (Hello, Attach, ResumeFrom, Reset, Call, Render, Split)
ANSWERS = (HelloReply, Attached, PoolInfo, SplitReply, Part, ErrorReply, InProgress, Stats)

INFO = PoolInfo(
    pool="p",
    env_id="CartPole-v1",
    num_envs=4,
    autoreset_mode="NextStep",
    observation_space={"type": "MultiBinary", "n": 1},
    action_space={"type": "MultiBinary", "n": 1},
    layout={"num_envs": 4},
    layout_hash=2**32 - 1,
    metadata={"render_fps": 50},
    render_mode=None,
    engine="envs",
    workers=2,
    step_timeout=60.0,
    lease_ttl=60.0,
    max_request=32,
)


def _hex(text: str) -> str:
    """Hex, with text between quotes as it is, for reading."""
    parts = text.split("'")
    return "".join(part.encode().hex() if i % 2 else bytes.fromhex(part).hex() for i, part in enumerate(parts))


INFO_HEX = (
    "a4'info' de000f a4'pool' a1'p' a6'env_id' ab'CartPole-v1' a8'num_envs' 04 ae'autoreset_mode' a8'NextStep'"
    "b1'observation_space' 82 a4'type' ab'MultiBinary' a1'n' 01"
    "ac'action_space' 82 a4'type' ab'MultiBinary' a1'n' 01"
    "a6'layout' 81 a8'num_envs' 04 ab'layout_hash' ceffffffff a8'metadata' 81 aa'render_fps' 32"
    "ab'render_mode' c0 a6'engine' a4'envs' a7'workers' 02 ac'step_timeout' cb404e000000000000"
    "a9'lease_ttl' cb404e000000000000 ab'max_request' 20"
)

GOLDEN = [
    (Hello("me"), "81 a6'client' a2'me'"),
    (HelloReply("vecserver", "p-1"), "82 a6'server' a9'vecserver' a4'pool' a3'p-1'"),
    (Attach(), "83 a5'drive'c3 a5'force'c2 a6'client'a0"),
    (Attach(drive=False, force=True, client="host:1"), "83 a5'drive'c2 a5'force'c3 a6'client'a6'host:1'"),
    (
        Attach(resume=ResumeFrom(1, 2**63, 7)),
        "84 a5'drive'c3 a5'force'c2 a6'client'a0 a6'resume' 83 a5'lease' 01 a5'epoch' cf8000000000000000 a3'seq' 07",
    ),
    (Reset(), "83 a5'seeds'c0 a4'mask'c0 a7'options'c0"),
    (
        Reset(options=[b"\x80", None]),
        "83 a5'seeds'c0 a4'mask'c0 a7'options' 92 c401 80 c0",
    ),
    (
        Reset(seeds=[7, None], mask=[True, False], options=b"\x80"),
        "83 a5'seeds' 92 07 c0 a4'mask' 92 c3 c2 a7'options' c401 80",
    ),
    (
        Call("get_size", b"\x92\x90\x80", rows=[2]),
        "84 a4'name' a8'get_size' a9'arguments' c403 929080 a6'assign' c2 a4'rows' 91 02",
    ),
    (Render(), "81 a4'rows' c0"),
    (Render(rows=[0, 3]), "81 a4'rows' 92 00 03"),
    (Split(2), "81 a5'parts' 02"),
    (
        SplitReply([Part(INFO, 2**48 + 1, 4)]),
        f"81 a5'parts' 91 83 {INFO_HEX} a5'lease' cf0001000000000001 a5'first' 04",
    ),
    (
        ErrorReply("invalid_action", "no", {"row": 2}),
        "83 a4'code' ae'invalid_action' a7'message' a2'no' a7'details' 81 a3'row' 02",
    ),
    (InProgress(0.5, (0, 7)), "82 a7'elapsed' cb3fe0000000000000 ac'slowest_rows' 92 00 07"),
    (
        Attached(INFO, 1, 2**63, 3, [], 4),
        (f"86 {INFO_HEX}a5'lease' 01 a5'epoch' cf8000000000000000 a8'last_seq' 03 a8'features' 90 a9'last_kind' 04"),
    ),
    (
        Stats(
            *("ready", "", 9, 36, 1, 2, 0, 1, "host:1", 0.5, 4096, [5], [6], 7),
            worker_rows=[(0, 4)],
            worker_batches=[9],
            worker_busy_s=[0.5],
            worker_last=[9],
            batch_seconds=Histogram([0.5], [8, 1], 0.5),
            episode_figures=EpisodeFigures(1, 0, 0.5, 0.0, 3, [(0.5, None, 3)]),
            requests={"STEP": 9},
            refusals={"lease_held": 1},
            replayed=1,
            restarts={"exit": 1},
        ),
        (
            "de001f a5'state' a5'ready' a6'reason' a0 a7'batches' 09 a9'env_steps' 24 a8'episodes' 01 a6'resets' 02"
            "a7'refused' 00 a5'lease' 01 a6'driver' a6'host:1' a6'idle_s' cb3fe0000000000000"
            "ab'arena_bytes' cd1000 ab'worker_pids' 91 05 a9'rss_bytes' 91 06 ae'host_rss_bytes' 07"
            "ab'worker_rows' 91 92 00 04 ae'worker_batches' 91 09 ad'worker_busy_s' 91 cb3fe0000000000000"
            "ab'worker_last' 91 09 ad'batch_seconds' 83 a6'bounds' 91 cb3fe0000000000000 a6'counts' 92 08 01"
            "a3'sum' cb3fe0000000000000 af'episode_figures' 86 a5'count' 01 a8'left_out' 00"
            "a6'gained' cb3fe0000000000000 a4'lost' cb0000000000000000 a5'steps' 03"
            "a6'recent' 91 93 cb3fe0000000000000 c0 03 a8'requests' 81 a4'STEP' 09"
            "a8'refusals' 81 aa'lease_held' 01 a8'replayed' 01 ab'in_progress' 00 a7'waiting' 00"
            "ae'received_bytes' 00 aa'sent_bytes' 00 a4'lent' c2 a8'restarts' 81 a4'exit' 01"
            "ad'infos_dropped' 00 ac'rebuilt_rows' 00"
        ),
    ),
]


@pytest.mark.parametrize(("message", "text"), GOLDEN, ids=lambda value: type(value).__name__)
def test_a_message_has_fixed_bytes(message, text):
    """Field names and their order, in both directions."""
    assert encode(message).hex() == _hex(text)
    assert decode(memoryview(bytes.fromhex(_hex(text))), type(message)) == message


def test_every_message_is_golden():
    """A message that is added gets its bytes here."""
    structs = {
        value
        for value in vars(messages).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == messages.__name__
    }
    assert structs == {*REQUESTS, *ANSWERS}
    assert structs - {type(message) for message, _ in GOLDEN} == {PoolInfo, Part, ResumeFrom}  # inside others
    assert {"check_values", "decode", "decode_error", "encode", "encode_error", "pack_options"} | {
        cls.__name__ for cls in structs
    } == set(messages.__all__)


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_with_an_unknown_field_is_refused(kind):
    """A client that asks for what this server does not know must not believe it was done."""
    data = msgspec.msgpack.encode({"name": "x", "arguments": b"", "surprise": 1} if kind is Call else {"surprise": 1})
    with pytest.raises(MalformedMessage, match=f"no {kind.__name__}: .*surprise"):
        decode(data, kind)


@pytest.mark.parametrize(
    ("message", "_text"), [(m, t) for m, t in GOLDEN if isinstance(m, ANSWERS)], ids=lambda v: type(v).__name__
)
def test_an_answer_may_grow(message, _text):
    """A client reads what it knows of a newer server's answer."""
    data = msgspec.msgpack.encode(msgspec.to_builtins(message, builtin_types=(bytes,)) | {"surprise": 1})
    assert decode(data, type(message)) == message


@pytest.mark.parametrize("kind", [Hello, Attach, Reset, Render])
def test_an_empty_ext_is_a_request_of_defaults(kind):
    """Nothing to say takes no bytes."""
    assert decode(b"", kind) == kind()


@pytest.mark.parametrize("kind", [Call, *ANSWERS])
def test_an_empty_ext_is_refused_where_something_must_be_said(kind):
    """The missing field is named."""
    with pytest.raises(MalformedMessage, match="missing required field"):
        decode(b"", kind)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Hello, "81 a6'client' 01"),
        (Hello, "81 a6'client' a1 ff"),
        (Hello, "80 80"),
        (Hello, "c1"),
        (Attach, "81 a5'drive' 01"),
        (Reset, "81 a5'seeds' 91 cb3ff8000000000000"),
        (Reset, "81 a4'mask' 91 01"),
        (Reset, "81 a5'seeds' ddffffffff"),
        (Reset, "81 a7'options' a1'x'"),
        (Call, "82 a4'name' a1'x' a9'arguments' 90"),
        (Render, "81 a4'rows' 91 c0"),
        (Render, "91" * 5000),
        (ErrorReply, "83 a4'code' a1'x' a7'message' a1'x' a7'details' 81 01 01"),
    ],
)
def test_an_ext_that_is_no_such_message_is_refused(kind, text):
    """Types are checked, text is UTF-8, sizes are those of the bytes; the error names the message."""
    data = bytes.fromhex(_hex(text))
    with little_memory(1 << 20), pytest.raises(MalformedMessage, match=f"the ext is no {kind.__name__}: "):
        decode(data, kind)


seeds = st.none() | st.lists(st.none() | st.integers(-(2**63), 2**64 - 1), max_size=5)
masks = st.none() | st.lists(st.booleans(), max_size=5)
details = st.dictionaries(
    st.text(), st.none() | st.integers(0, 9) | st.text() | st.lists(st.text(), max_size=2), max_size=4
)


@fixed(100)
@given(
    st.one_of(
        st.builds(Hello, st.text()),
        st.builds(Attach, st.booleans(), st.booleans(), st.text()),
        st.builds(Reset, seeds, masks, st.none() | st.binary()),
        st.builds(Call, st.text(), st.binary(), st.booleans(), st.none() | st.lists(st.integers(0, 9))),
        st.builds(Render, st.none() | st.lists(st.integers(0, 9))),
        st.builds(ErrorReply, st.text(), st.text(), details),
    )
)
def test_a_message_comes_back(message):
    """Round trip."""
    assert decode(encode(message), type(message)) == message


@fixed(100)
@given(st.text(), details)
def test_an_error_reply_is_an_error(message, details):
    """Whatever names its details have."""
    error = decode_error(encode_error(InvalidAction(message, **details)))
    assert type(error) is InvalidAction
    assert (error.message, error.details) == (message, details)


@pytest.mark.parametrize("message", [Reset(seeds=[2**70]), Call("\ud800", b""), ErrorReply("x", "\udfff", {})])
def test_a_message_that_cannot_travel_is_refused(message):
    """By the sender, with an error that says which message it was."""
    with pytest.raises(Unportable, match=f"^a {type(message).__name__} with a value that cannot travel"):
        encode(message)


def test_an_error_reply_of_a_newer_server_is_an_error():
    """Its code is not known here."""
    error = decode_error(encode(ErrorReply("brand_new", "text", {"self": 1, "message": 2})))
    assert (type(error), error.message, error.details) == (RemoteError, "text", {"self": 1, "message": 2})


@pytest.mark.parametrize("kind", [Hello, Attach])
def test_the_name_of_a_client_has_a_limit(kind):
    """A host remembers the names of some drivers: they are short."""
    assert decode(encode(kind(client="x" * 256)), kind).client
    with pytest.raises(MalformedMessage, match="256"):
        decode(encode(kind(client="x" * 257)), kind)


@pytest.mark.parametrize(
    "request_",
    [
        Reset(options=b"\x90"),
        Reset(options=[None, b"\x81"]),
        Call("size", pack([[], []])),
        Call("size", pack([[]])),
        Call("size", b""),
        Call("size", b"\xdd\xff\xff\xff\xff"),
    ],
)
def test_bytes_that_hold_no_values_are_refused_by_the_host(request_):
    """Options that are no mapping and arguments that are no pair reach no worker."""
    with pytest.raises(MalformedMessage):
        check_values(request_)


@pytest.mark.parametrize(
    "request_",
    [
        Reset(),
        Reset(options=b""),
        Reset(options=pack({"low": 1})),
        Reset(options=[None, pack({1: 2})]),
        Call("size", pack([(1,), {"a": 2}])),
        Call("size", b"judged by who gives the values out", assign=True),
    ],
)
def test_bytes_that_hold_values_are_taken(request_):
    """A mapping of options, for all rows or for each, and a pair of arguments."""
    check_values(request_)
