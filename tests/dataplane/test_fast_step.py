"""The fast way of a STEP decides nothing: every message has the answer that the long way gives."""

from __future__ import annotations

import zlib
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.desks import EPOCH, MAX_REQUEST, Desk
from tests.wire.strategies import fixed
from vecserver.dataplane.splitting import PoolDispatcher
from vecserver.pools.host import Outcome
from vecserver.wire import messages
from vecserver.wire.errors import EnvFault, InvalidAction, WorkerDied
from vecserver.wire.frames import Header, Kind

MAX_EXT = 40

FLAWS = {
    "kind": [*Kind],
    "ahead": [0, -1, 2],
    "body": [b"", b"other", bytes(MAX_REQUEST), bytes(MAX_REQUEST + 1)],
    "ext": [b"\x80", b"\x91\xa3<i4", bytes(MAX_EXT), bytes(MAX_EXT + 1), b"\xff"],
    "peer": [b"another"],
    "field": [("lease", 0), ("lease", 9), ("epoch", 1), ("digest", 0), ("body_length", 5), ("flags", 255), ("seq", 0)],
    "break": ["header", "fewer", "more", "none", "magic", "unknown"],
}
NEXT_STEP = {"kind": Kind.STEP, "ahead": 1}
flaws = st.sampled_from([(name, value) for name, values in FLAWS.items() for value in values])
happenings = st.one_of(
    st.just(("message", NEXT_STEP)),
    st.tuples(st.just("message"), flaws.map(lambda flaw: NEXT_STEP | dict([flaw]))),
    st.tuples(st.just("message"), st.lists(flaws, max_size=3).map(lambda some: NEXT_STEP | dict(some))),
    st.just(("finish", None)),
    st.tuples(st.just("finish"), st.none() | st.builds(EnvFault, st.just("row 0"))),
    st.tuples(
        st.just("refusal"), st.builds(InvalidAction, st.just("row 1")) | st.builds(ValueError, st.just("a defect"))
    ),
    st.tuples(st.just("attach"), st.sampled_from(["trainer", "other"])),
    st.tuples(st.just("clock"), st.floats(0.0, 20.0)),
)
days = st.tuples(
    st.lists(happenings, max_size=2),
    st.just([("attach", "trainer")]),
    st.lists(happenings, min_size=5, max_size=40),
    st.lists(st.tuples(st.just("broken"), st.builds(WorkerDied, st.just("shard 1"))), max_size=1),
    st.lists(happenings, max_size=4),
).map(lambda parts: sum(parts, []))


def frames_of(desk: Desk, told: dict) -> list[bytes]:
    """A message as it is told, numbered after the last request of this desk."""
    ext, body = told.get("ext", b""), told.get("body", b"actions")
    fields = {
        "lease": desk.dispatcher._session.lease,
        "epoch": EPOCH,
        "seq": max(0, desk.dispatcher._session.last + told["ahead"]),
        "digest": zlib.crc32(ext + body),
        "body_length": len(body),
    }
    fields |= dict([told["field"]] if "field" in told else [])
    whole = [Header(told["kind"], **fields).pack(), ext, body]
    head = whole[0]
    return {
        "header": [head[:-1], ext, body],
        "fewer": whole[:2],
        "more": [*whole, b""],
        "none": [],
        "magic": [b"X" + head[1:], ext, body],
        "unknown": [head[:6] + b"\x63" + head[7:], ext, body],
        None: whole,
    }[told.get("break")]


def happen(desk: Desk, what: str, told: object, message: list[bytes] | None) -> list:
    """Everything that a desk says to one happening, byte for byte."""
    if what == "message":
        reply = desk.dispatcher.message(told.get("peer", b"driver"), message)
        return [reply]
    if what == "attach":
        ext = messages.encode(messages.Attach(client=told))
        return [desk.dispatcher.message(b"attacher", [Header(Kind.ATTACH).pack(), ext, b""])]
    if what == "finish":
        return desk.dispatcher.finished(Outcome(1, b"infos", told)) if desk.dispatcher.running else []
    if what == "clock":
        desk.now_s += told
    else:
        setattr(desk.pool, what, told)
    return []


def state(desk: Desk) -> tuple:
    dispatcher, session = desk.dispatcher, desk.dispatcher._session
    running = dispatcher._running and dispatcher._running._asdict()
    return (
        *(
            running,
            [*dispatcher._waiting],
            deepcopy(dispatcher.counts),
            dispatcher._tenancy.driver,
            dispatcher._tenancy.seen_ns,
        ),
        *(session.last, session.lease, session.running, session._request, desk.pool.begun, desk.pool.refusal),
    )


def test_both_ways_say_the_same():
    """Two pools, of which one has no fast way, through the same random days: same bytes, same commands, same state."""
    taken = []

    class Fast(PoolDispatcher):
        def _next_step(self, message):
            header = super()._next_step(message)
            taken.append(header is not None)
            return header

    class Slow(PoolDispatcher):
        def _next_step(self, message):
            return None

    @fixed(400)
    @given(days)
    def check(day):
        desks = [Desk(), Desk()]
        for desk, kind in zip(desks, (Fast, Slow), strict=True):
            desk.dispatcher.__class__ = kind
            desk.pool.max_ext = MAX_EXT
        for what, told in day:
            message = frames_of(desks[0], told) if what == "message" else None
            fast, slow = (happen(desk, what, told, message) for desk in desks)
            assert fast == slow
            assert state(desks[0]) == state(desks[1])

    check()
    assert sum(taken) > 60
    assert taken.count(False) > 60


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"body": bytes(MAX_REQUEST + 1)}, "message_too_large"),
        ({"field": ("digest", 1)}, "malformed_message"),
        ({"field": ("body_length", 1)}, "malformed_message"),
        ({"field": ("epoch", 1)}, "epoch_mismatch"),
        ({"field": ("lease", 9)}, "lease_lost"),
        ({"ahead": 2}, "sequence_gap"),
    ],
)
def test_what_the_fast_way_passes_over_is_judged_by_the_long_one(told, code):
    """A refused STEP begins nothing, and the right one runs afterwards."""
    desk = Desk()
    desk.attach()
    whole = {"kind": Kind.STEP, "ahead": 1}
    assert desk.send_frames(frames_of(desk, whole | told)).error.code == code
    assert desk.pool.begun == []
    assert desk.send_frames(frames_of(desk, whole)) is None
    assert desk.pool.begun == [("step", b"", b"actions")]
