"""The documents say what the code does: tables are compared, examples are run."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from tests.contract.compare import assert_same
from vecserver.config import Settings
from vecserver.engine.wrappers import ALLOWED_WRAPPERS, REFUSED_WRAPPERS
from vecserver.pools.spec import ENGINES
from vecserver.wire import codec, frames, infos, messages, websocket
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import ERRORS, InvalidAction
from vecserver.wire.frames import PROTOCOL_VERSION, Flag, Header, Kind, digest_of, split
from vecserver.wire.layout import Layout
from vecserver.wire.session import PART_LEASES, Session, Verdict
from vecserver.wire.stacks import StackFormat

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text()


def _table(text: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose head begins with this column."""
    body = text.split(f"\n| {first_column} |", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()[2:]]
    assert rows, first_column
    return rows


def _examples(text: str) -> dict[str, list[bytes]]:
    """The hex examples: name → frames."""
    found = {}
    for name, block in re.findall(r"^```hex (\S+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        parts: list[bytearray] = []
        for line in block.splitlines():
            if head := re.fullmatch(r"(header|ext|body|message) (\d+)", line):
                parts.append(bytearray(int(head[2])))
                continue
            shown = re.fullmatch(r" *(\d+)  ([0-9a-f ]+?)(?: {3,}\S.*)?", line)
            assert shown, line
            data = bytes.fromhex(shown[2])
            at = int(shown[1])
            assert at + len(data) <= len(parts[-1]), line
            assert not any(parts[-1][at : at + len(data)]), f"shown twice: {line}"
            parts[-1][at : at + len(data)] = data
        found[name] = [bytes(part) for part in parts] + [b""] * (3 - len(parts))
    return found


EXAMPLES = _examples(PROTOCOL)
EPOCH = 0x1122334455667788
CLOCK = 10**10


def _decoded(name: str) -> tuple[Header, bytes, bytes]:
    header, ext, body = split(EXAMPLES[name], 1024)
    assert header.pack() == EXAMPLES[name][0]
    return header, bytes(ext), bytes(body)


def test_every_example_is_decoded_here():
    """An example that is added gets a test."""
    assert set(EXAMPLES) == {
        "attach",
        "step",
        "step-answer",
        "packed-answer",
        "error",
        "in-progress",
        "split",
        "part-step",
        "websocket-step",
    }


def test_the_example_of_attach():
    """Its bytes are what this release sends."""
    header, ext, _ = _decoded("attach")
    request = messages.Attach(client="trainer")
    assert header == Header(Kind.ATTACH)
    assert messages.decode(ext, messages.Attach) == request
    assert messages.encode(request) == ext


def test_the_example_of_a_step():
    """Digest, dtypes and actions."""
    header, ext, body = _decoded("step")
    actions = ActionFormat(spaces.Discrete(2), 2)
    assert header == Header(
        Kind.STEP, lease=1, epoch=EPOCH, seq=7, t_steps=1, digest=digest_of(ext, body), body_length=8
    )
    assert_same(actions.decode(ext, body), [np.array([1, 0], np.int32)])
    assert actions.encode(actions.coerce(np.array([1, 0], np.int32))) == (ext, body)


def test_the_example_of_a_steps_answer():
    """Infos and a slot."""
    header, ext, body = _decoded("step-answer")
    assert header == Header(
        Kind.STEP, Flag.ANSWER | Flag.REPLAYED, 0, 2, 2, 1, EPOCH, 7, 1, body_length=320, clock=CLOCK
    )
    envs = VectorEnv()
    envs.num_envs = 2
    merged, dropped, _ = infos.merge(ext, 2, envs._add_info)
    assert {key: value.tolist() for key, value in merged.items()} == {
        "lives": [3, 0],
        "_lives": [True, False],
        "won": [False, True],
        "_won": [False, True],
    }
    assert dropped == {}
    assert infos.join([infos.encode_rows([(0, {"lives": 3})]), infos.encode_rows([(1, {"won": True})])]) == ext
    layout = Layout.of(spaces.Box(-10, 10, (1,), np.float32), 2)
    assert layout.slot_size == len(body)
    views = layout.views(body)
    assert [array.tolist() for array in (*views.observations, views.rewards, views.terminated)] == [
        [[1.5], [-2.0]],
        [1.0, 0.5],
        [False, True],
    ]
    assert not views.truncated.any()
    assert not views.autoreset.any()


def test_the_example_of_a_packed_answer():
    """What it is unpacked to, and that a host packs it so."""
    header, ext, body = _decoded("packed-answer")
    assert header == Header(
        Kind.STEP, Flag.ANSWER | Flag.FRAMES, 0, 2, 2, 1, EPOCH, 8, 1, body_length=len(body), clock=CLOCK
    )
    assert ext == b""
    space = spaces.Box(0, 255, (2, 40), np.uint8)
    layout = Layout.of(space, 2)
    form = StackFormat.of(layout, space)
    assert layout.slot_size == 448
    before, slot = bytearray(form.size), bytearray(layout.slot_size)
    form.stacks(before)[:, :, 0] = [[1, 2], [3, 4]]
    form.unpack(body, form.stacks(before), memoryview(slot))
    views = layout.views(slot)
    assert views.observations[0][:, :, 0].tolist() == [[2, 5], [6, 7]]
    assert not views.observations[0][:, :, 1:].any()
    assert (views.rewards.tolist(), views.terminated.tolist()) == ([1.0, 0.5], [False, True])
    assert bytes(form.pack(form.stacks(before), slot)) == body


def test_the_example_of_an_error():
    """The class, its number and its details."""
    header, ext, _ = _decoded("error")
    assert header == Header(
        Kind.ERROR, Flag.ANSWER | Flag.REFUSED, InvalidAction.number, lease=1, epoch=EPOCH, seq=8, clock=CLOCK
    )
    error = messages.decode_error(ext)
    assert type(error) is InvalidAction
    assert (error.message, error.details) == ("row 1: action 5", {"row": 1})
    assert messages.encode_error(error) == ext


def test_the_example_of_progress():
    """How long, and which rows."""
    header, ext, _ = _decoded("in-progress")
    assert header == Header(Kind.IN_PROGRESS, Flag.ANSWER, lease=1, epoch=EPOCH, seq=9, clock=CLOCK)
    assert messages.decode(ext, messages.InProgress) == messages.InProgress(0.5, (0, 1))
    assert messages.encode(messages.InProgress(0.5, (0, 1))) == ext


def test_the_examples_of_a_split():
    """A request of the pool's driver, and one of a part's."""
    header, ext, _ = _decoded("split")
    assert header == Header(Kind.SPLIT, lease=1, epoch=EPOCH, seq=10, digest=digest_of(ext, b""))
    assert messages.encode(messages.Split(2)) == ext
    header, ext, body = _decoded("part-step")
    assert header == Header(
        Kind.STEP,
        lease=PART_LEASES + 1,
        epoch=EPOCH,
        seq=1,
        t_steps=1,
        digest=digest_of(ext, body),
        body_length=8,
    )
    assert ActionFormat(spaces.Discrete(2), 1).encode([np.array([1], np.int32)]) == (ext, body)


def test_the_example_of_a_websocket_message():
    """The frames of the step, in one piece."""
    message, *_ = EXAMPLES["websocket-step"]
    assert websocket.join(*EXAMPLES["step"]) == message
    header, *parts = websocket.part(message)
    assert header.body_length == 8
    assert [bytes(each) for each in parts] == EXAMPLES["step"]


def test_the_websockets_close_codes_are_those_of_errors():
    """4000 and the error's number."""
    codes = [re.fullmatch(r"(\d+) \(`(\w+)`\)", row[0]) for row in _table(PROTOCOL, "close code")]
    named = {code[2]: int(code[1]) for code in codes if code}
    assert {"unknown_pool", "pool_lost", "pool_stopping", "malformed_message"} <= set(named)
    for name, code in named.items():
        assert websocket.close_of(ERRORS[name]("why"))[0] == code


def test_the_header_is_described_field_by_field():
    """Offset, size, name and order."""
    sizes = {"H": 2, "B": 1, "I": 4, "Q": 8}
    expected, offset = [["0", "4", "magic"]], 4
    for name, code in zip(("version", *Header._fields), frames._HEADER.format.removeprefix("<4s"), strict=True):
        expected.append([str(offset), str(sizes[code]), name])
        offset += sizes[code]
    assert offset == frames.HEADER_SIZE
    assert [row[:3] for row in _table(PROTOCOL, "offset")] == expected


def test_kinds_and_flags_are_described():
    """With their numbers, and nothing else."""
    assert [(row[0], int(row[1])) for row in _table(PROTOCOL, "kind")] == [(kind.name, kind.value) for kind in Kind]
    assert [(row[1], int(row[0])) for row in _table(PROTOCOL, "bit")] == [(flag.name, flag.value) for flag in Flag]


def test_every_message_is_described_with_its_fields_and_defaults():
    """A field that is added is written down."""
    structs = {
        name: value
        for name, value in vars(messages).items()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }
    described = {row[0].strip("`"): row[1] for row in _table(PROTOCOL, "message")}
    assert set(described) == set(structs)
    for name, struct in structs.items():
        text = re.sub(r"\([^()]*\)", "", described[name])
        fields = msgspec.structs.fields(struct)
        assert set(re.findall(r"`(\w+)`", text)) == {field.name for field in fields}, name
        if struct.__struct_config__.forbid_unknown_fields:
            defaults = dict(re.findall(r"`(\w+)` = (\S+?),?(?= |$)", text + " "))
            words = {None: "nil", True: "true", False: "false", "": '""', msgspec.UNSET: "unset"}
            assert defaults == {
                field.name: words[field.default] for field in fields if field.default is not msgspec.NODEFAULT
            }, name


def test_extension_types_are_described():
    """Each number once."""
    assert [int(row[0]) for row in _table(PROTOCOL, "ext type")] == sorted(codec._BUILDERS | {codec._BIGINT: None})


def test_errors_are_numbered_as_in_the_code():
    """Every error has its row: number, code and HTTP status."""
    assert [(int(row[0]), row[1], int(row[2])) for row in _table(PROTOCOL, "number")] == sorted(
        (cls.number, cls.code, cls.http_status) for cls in ERRORS.values()
    )


def test_every_wrapper_is_listed():
    """As taken, or with the reason why it is not."""
    listed = {row[0].strip("`"): row[1] for row in _table((DOCS / "infos.md").read_text(), "wrapper")}
    assert listed == dict.fromkeys(ALLOWED_WRAPPERS, "yes") | REFUSED_WRAPPERS


def test_the_version_is_the_codes():
    """In the title and in the header's table."""
    assert PROTOCOL.startswith(f"# The wire protocol, version {PROTOCOL_VERSION}\n")
    assert f"| 4 | 2 | version | {PROTOCOL_VERSION} |" in PROTOCOL


def _fits(row: list[str], header: Header, session: Session, *, same: bool) -> bool:
    lease, epoch, seq, state, request = row[:5]
    last = session.last
    places = {
        "any": True,
        "last": header.seq == last,
        "last + 1": header.seq == last + 1,
        "< last": header.seq < last,
        "> last + 1": header.seq > last + 1,
    }
    return (
        (lease == "same") == (header.lease == session.lease)
        and epoch in ("any", "same" if header.epoch == session.epoch else "other")
        and places[seq]
        and state in ("any", "running" if session.running else "finished")
        and request in ("any", "yes" if same else "no")
    )


@pytest.mark.parametrize("running", [False, True])
def test_the_session_table_is_what_the_code_does(running):
    """The first row that fits is the verdict, and the error it names is the one that comes."""
    rows = _table(PROTOCOL, "lease")
    assert {row[5] for row in rows} == {verdict.name for verdict in Verdict}
    session = Session(EPOCH)
    session.grant()
    for seq in range(1, 5):
        session.begin(Header(Kind.STEP, lease=1, epoch=EPOCH, seq=seq, digest=seq))
        session.finish()
    session.running = running
    used = set()
    for lease, epoch, seq, digest in product((0, 1, 2), (EPOCH, 1), range(8), (4, 5)):
        header = Header(Kind.STEP, lease=lease, epoch=epoch, seq=seq, digest=digest)
        row = next(row for row in rows if _fits(row, header, session, same=digest == 4))
        used.add(tuple(row))
        verdict = session.judge(header)
        assert verdict.name == row[5], (header, row)
        if code := re.match(r"`(\w+)`", row[6]):
            assert session.refusal(verdict, header).code == code[1]
        else:
            assert verdict in (Verdict.RUN, Verdict.REPLAY, Verdict.IN_PROGRESS)
    assert used == {tuple(row) for row in rows if row[3] in ("any", "running" if running else "finished")}


def test_every_engine_is_described():
    """In the table of docs/engines.md."""
    rows = _table((DOCS / "engines.md").read_text(), "engine")
    assert {row[0].strip("`") for row in rows} == set(ENGINES)


def test_the_limits_are_those_of_the_settings():
    """Each has a row with its default and a code that exists, and there are no others."""
    rows = _table((DOCS / "operations.md").read_text().split("\n## Limits\n")[1], "setting")
    named = {row[0].strip("`"): row for row in rows}
    limits = {name for name in Settings.model_fields if name.startswith("max_") or name.endswith(("_rate", "_timeout"))}
    assert named.keys() == limits | {"openenv_sessions"}
    for name, (_, default, refused, code) in named.items():
        assert refused
        assert code.strip("`") in ERRORS, name
        if name != "max_total_arena_bytes":
            number, *unit = default.split()
            factor = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit[0]] if unit else 1
            assert int(number) * factor == Settings.model_fields[name].default, name


def test_the_settings_about_environments_are_described():
    """What is allowed, and what processes may use: names and defaults."""
    text = (DOCS / "operations.md").read_text()
    shown = {}
    for title in ("Which environments", "What environments may use"):
        for row in _table(text.split(f"\n## {title}\n")[1], "setting"):
            name = row[0].strip("`").split()[0].removeprefix("--").removeprefix("VECSERVER_").lower().replace("-", "_")
            shown[name] = row[1].strip("`")
    known = {name for name in Settings.model_fields if name.startswith(("allow_", "worker_", "pass_"))}
    assert shown.keys() == known
    for name, text in shown.items():
        default = Settings.model_fields[name].default
        assert text == ("none" if default in (None, ()) else default[0] if isinstance(default, tuple) else str(default))
