"""Who drives a pool, for how long, and what one who does not is told. Nothing is stepped for one who may not."""

from __future__ import annotations

import math

import msgspec
import pytest

from tests.dataplane.desks import EPOCH, TTL_S, Desk
from vecserver.pools.host import Outcome
from vecserver.wire import messages
from vecserver.wire.frames import Flag, Kind


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.attach()
    return desk


def expiring(expiry: str) -> Desk:
    desk = Desk()
    desk.pool.info = msgspec.structs.replace(desk.pool.info, lease_expiry=expiry)
    desk.attach()
    return desk


def resume(desk: Desk, seq: int, client: str = "anew", **other: int) -> messages.Attached:
    point = messages.ResumeFrom(**{"lease": desk.lease, "epoch": EPOCH, "seq": seq, **other})
    return desk.attach(client, resume=point)


def refused(desk: Desk, *args, **fields) -> str:
    """The code of the answer to a message that must not begin anything."""
    begun = [*desk.pool.begun]
    answer = desk.send(*args, **fields)
    assert desk.pool.begun == begun, "something was stepped"
    return answer.error.code


def run(desk: Desk, seq: int, ext: bytes = b"infos") -> None:
    assert desk.step(seq) is None
    desk.finish(ext=ext)


# What a driver sends that it must not

BAD = {
    "out of order": ({"seq": 4}, "sequence_gap"),
    "of long ago": ({"seq": 1}, "sequence_stale"),
    "the same number, other bytes": ({"seq": 2, "body": b"others"}, "sequence_conflict"),
    "without a number": ({"seq": 0}, "sequence_stale"),
    "of another epoch": ({"seq": 3, "epoch": EPOCH - 2}, "epoch_mismatch"),
    "of a lease that was lost": ({"seq": 3, "lease": 0}, "lease_lost"),
    "of a lease that nobody has": ({"seq": 3, "lease": 99}, "lease_lost"),
    "with a wrong digest": ({"seq": 3, "digest": 1}, "malformed_message"),
}


@pytest.mark.parametrize(("fields", "code"), BAD.values(), ids=BAD)
def test_what_must_not_be_sent_has_a_code_each_and_begins_nothing(desk, fields, code):
    """And the next request runs all the same."""
    run(desk, 1)
    run(desk, 2)
    body = fields.pop("body", b"actions") if "body" in fields else b"actions"
    assert refused(desk, Kind.STEP, b"", body, **fields) == code
    assert desk.step(3) is None


def test_the_same_request_again_is_answered_and_begins_nothing(desk):
    """While it runs by how far it is, afterwards by its answer."""
    desk.step(1)
    assert desk.step(1, peer=b"fresh").header.kind == Kind.IN_PROGRESS
    assert desk.finish()[0].peer == b"fresh"
    assert desk.step(1).header.flags & Flag.REPLAYED
    assert len(desk.pool.begun) == 1


@pytest.mark.parametrize("how", ["by force", "of silence", "given it back", "attached again"])
def test_a_driver_that_lost_its_lease_is_told_why(desk, how):
    """Who has it now, and how that came about."""
    old = desk.lease
    if how == "given it back":
        desk.send(Kind.DETACH)
    else:
        desk.now_s += TTL_S + 2 if how == "of silence" else 1
        desk.attach("trainer" if how == "attached again" else "ann", force=how == "by force")
    message = desk.step(1, lease=old).error.message
    assert how in message
    assert ("ann" in message) == (how in {"by force", "of silence"})
    assert refused(desk, Kind.STEP, seq=1, lease=old) == "lease_lost"


# The same attach, late or again


def test_an_attach_that_comes_again_gives_the_same_lease(desk):
    """Its answer may have been lost; the driver is not fenced off by its own repeat."""
    ext = messages.Attach(client="ann", force=True)
    first, again = (desk.send(Kind.ATTACH, ext, lease=0, digest=7, peer=peer) for peer in (b"one", b"two"))
    assert first.header.digest == again.header.digest == 7
    assert first.ext == again.ext
    desk.lease = messages.decode(first.ext, messages.Attached).lease
    assert desk.step(1) is None
    assert desk.send(Kind.ATTACH, ext, lease=0, digest=7).ext != first.ext  # of what was run since


def test_an_attach_that_is_late_takes_nothing(desk):
    """Its sender has sent another one since, or another driver has taken the pool by now."""
    ext = messages.Attach(client="ann", force=True)
    desk.send(Kind.ATTACH, ext, lease=0, digest=8)
    assert refused(desk, Kind.ATTACH, ext, lease=0, digest=7) == "lease_lost"
    desk.attach("bob", force=True)
    assert refused(desk, Kind.ATTACH, ext, lease=0, digest=8) == "lease_lost"
    assert desk.stats().driver == "bob"


# Expiry


def test_a_pool_that_is_kept_waits_for_its_driver(desk):
    """Silence alone changes nothing."""
    desk.now_s += 100 * TTL_S
    assert desk.dispatcher.lease_left_s == math.inf
    assert desk.step(1) is None


def test_a_pool_that_is_reset_is_reset_when_the_lease_ends(desk):
    """The driver is fenced off, and told why; whoever comes next finds fresh rows."""
    desk = expiring("reset")
    run(desk, 1)
    desk.now_s += TTL_S - 1
    assert desk.dispatcher.lease_left_s == pytest.approx(1.0)
    desk.now_s += 2
    assert desk.dispatcher.lease_left_s < 0
    assert desk.dispatcher.expire() == []
    assert desk.pool.begun[-1] == ("reset", messages.Reset())
    assert desk.send(Kind.ATTACH, messages.Attach(client="next"), lease=0) is None  # until that has finished
    to_nobody, attached = desk.finish()
    assert to_nobody.peer == b"\0nobody"
    assert attached.header.kind == Kind.ATTACH
    assert "silence" not in desk.step(2).error.message
    desk.now_s += 0.5
    assert desk.dispatcher.lease_left_s == pytest.approx(TTL_S - 0.5)


def test_a_driver_whose_lease_ended_by_silence_is_told_so():
    """Nobody drives then, and nothing counts down."""
    desk = expiring("destroy")
    desk.now_s += TTL_S + 1
    assert desk.dispatcher.expire() == []
    assert desk.pool.begun == []
    assert "ended after 10 s of silence" in desk.step(1).error.message
    assert desk.dispatcher.lease_left_s == math.inf


@pytest.mark.parametrize("sign", ["a request that runs", "an arena that is lent", "a ping"])
def test_a_sign_of_life_keeps_a_lease(sign):
    """Of whatever kind; the silence begins when it ends."""
    desk = expiring("reset")
    if sign == "a request that runs":
        desk.step(1)
    desk.pool.lending.lent = sign == "an arena that is lent"
    for _ in range(3):
        desk.now_s += TTL_S - 1
        if sign == "a ping":
            desk.send(Kind.PING)
        assert desk.dispatcher.lease_left_s == TTL_S
    desk.pool.lending.lent = False
    if sign == "a request that runs":
        desk.finish()
    desk.now_s += TTL_S - 1
    assert desk.dispatcher.lease_left_s == pytest.approx(1.0)


def test_a_part_that_steps_keeps_the_whole_lease():
    """And its end by silence makes the pool whole."""
    desk = expiring("reset")
    desk.send(Kind.SPLIT, messages.Split(2), seq=1)
    parts = messages.decode(desk.finish()[0].ext, messages.SplitReply).parts
    desk.now_s += TTL_S - 1
    desk.step(1, lease=parts[0].lease)
    desk.now_s += 2
    assert desk.dispatcher.lease_left_s == TTL_S
    desk.dispatcher.desks[parts[0].lease].dispatcher.finished(Outcome(0, b""))
    desk.now_s += TTL_S + 1
    desk.dispatcher.expire()
    desk.dispatcher.settle()
    assert len(desk.pool.lending.chores) == 1  # which makes it whole, and then it is reset


# Resuming


def test_a_driver_that_was_started_anew_gets_the_answer_it_has_not_heard(desk):
    """It asks by the number alone, as often as it likes; the former life is fenced off."""
    run(desk, 1, b"first")
    run(desk, 2, b"second")
    old = desk.lease
    attached = resume(desk, 2)
    assert (attached.lease, attached.last_seq, attached.last_kind) == (old + 1, 2, Kind.STEP)
    for _ in range(2):
        answer = desk.send(Kind.RESUME, seq=2)
        assert (answer.header.kind, answer.header.seq, answer.ext) == (Kind.STEP, 2, b"second")
        assert answer.header.flags & Flag.REPLAYED
    assert refused(desk, Kind.STEP, seq=3, lease=old) == "lease_lost"
    assert "anew has resumed it" in desk.step(3, lease=old).error.message
    assert desk.step(3) is None


def test_a_request_that_runs_is_waited_for_by_the_next_life(desk):
    """Its answer goes to where it is asked for."""
    desk.step(1)
    assert resume(desk, 1).last_seq == 1
    assert desk.send(Kind.RESUME, seq=1, peer=b"anew").header.kind == Kind.IN_PROGRESS
    (answer,) = desk.finish(ext=b"late")
    assert (answer.peer, answer.ext, answer.header.seq) == (b"anew", b"late", 1)


def test_a_life_that_ends_before_it_has_noted_its_lease_is_followed_by_another(desk):
    """By the lease of the one before it, as long as nobody has begun anything since, and only of the same driver."""
    run(desk, 1, b"first")
    first = desk.lease
    second = resume(desk, 1).lease
    third = resume(desk, 1, lease=first).lease
    assert (first, second, third) == (first, first + 1, first + 2)
    assert refused(desk, Kind.STEP, seq=2, lease=second) == "lease_lost"
    assert desk.send(Kind.RESUME, seq=1, lease=third).ext == b"first"
    assert desk.step(2, lease=third) is None
    desk.finish()
    for old in (first, second):
        point = messages.ResumeFrom(lease=old, epoch=EPOCH, seq=2)
        assert refused(desk, Kind.ATTACH, messages.Attach(client="anew", resume=point), lease=0) == "lease_lost"
    desk.attach("another", force=True)
    point = messages.ResumeFrom(lease=third, epoch=EPOCH, seq=0)
    assert refused(desk, Kind.ATTACH, messages.Attach(client="anew", resume=point), lease=0) == "lease_lost"


@pytest.mark.parametrize(
    ("point", "code"),
    [
        ({"seq": 1}, "sequence_stale"),
        ({"seq": 5}, "sequence_gap"),
        ({"seq": 3, "epoch": EPOCH - 2}, "epoch_mismatch"),
        ({"seq": 3, "lease": 99}, "lease_lost"),
        ({"seq": 3, "lease": 0}, "lease_lost"),
    ],
)
def test_a_life_whose_numbers_do_not_fit_is_refused(desk, point, code):
    """And takes the lease from nobody."""
    for seq in (1, 2, 3):
        run(desk, seq)
    ext = messages.Attach(client="anew", resume=messages.ResumeFrom(**{"lease": desk.lease, "epoch": EPOCH, **point}))
    assert refused(desk, Kind.ATTACH, ext, lease=0) == code
    assert desk.step(4) is None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"seq": 1}, "sequence_stale"),
        ({"seq": 3}, "sequence_gap"),
        ({"seq": 2, "epoch": EPOCH - 2}, "epoch_mismatch"),
        ({"seq": 2, "lease": 99}, "lease_lost"),
    ],
)
def test_only_the_last_answer_is_kept(desk, fields, code):
    """And for its driver alone."""
    run(desk, 1)
    run(desk, 2)
    assert refused(desk, Kind.RESUME, **fields) == code


def test_before_the_first_request_there_is_no_answer(desk):
    """Nor has it a kind."""
    assert resume(desk, 0).last_kind == 0
    assert refused(desk, Kind.RESUME, seq=0) == "sequence_stale"
