"""The rules that make every sequenced request run exactly once: the table, and a client behind a link that lies."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.wire.strategies import fixed
from vecserver.wire import session as module
from vecserver.wire.errors import (
    EpochMismatch,
    LeaseLost,
    SequenceConflict,
    SequenceGap,
    SequenceStale,
    StillRunning,
)
from vecserver.wire.frames import Header, Kind
from vecserver.wire.session import Session, Verdict

EPOCH, LEASE, LAST, DIGEST = 77, 3, 5, 0xD1
REFUSED = (Verdict.STALE, Verdict.GAP, Verdict.CONFLICT, Verdict.FENCED, Verdict.OTHER_EPOCH)


def _session(*, running: bool) -> Session:
    session = Session(EPOCH)
    for _ in range(LEASE):
        session.grant()
    for seq in range(1, LAST + 1):
        header = Header(Kind.STEP, lease=LEASE, epoch=EPOCH, seq=seq, digest=DIGEST if seq == LAST else 0)
        assert session.judge(header) is Verdict.RUN
        session.begin(header)
        if seq < LAST or not running:
            session.finish()
    return session


# lease, epoch, seq, running, (kind, digest) → verdict; None stands for any. The first row that fits is the answer.
SAME = (Kind.STEP, DIGEST)
TABLE = [
    ((LEASE - 1, None, None, None, None), Verdict.FENCED),
    ((LEASE + 1, None, None, None, None), Verdict.FENCED),
    ((0, None, None, None, None), Verdict.FENCED),
    ((LEASE, EPOCH - 1, None, None, None), Verdict.OTHER_EPOCH),
    ((LEASE, EPOCH, LAST + 1, False, None), Verdict.RUN),
    ((LEASE, EPOCH, LAST + 1, True, None), Verdict.GAP),
    ((LEASE, EPOCH, LAST, False, SAME), Verdict.REPLAY),
    ((LEASE, EPOCH, LAST, True, SAME), Verdict.IN_PROGRESS),
    ((LEASE, EPOCH, LAST, None, None), Verdict.CONFLICT),
    ((LEASE, EPOCH, LAST - 1, None, None), Verdict.STALE),
    ((LEASE, EPOCH, 1, None, None), Verdict.STALE),
    ((LEASE, EPOCH, 0, None, None), Verdict.STALE),
    ((LEASE, EPOCH, LAST + 2, None, None), Verdict.GAP),
    ((LEASE, EPOCH, 2**64 - 1, None, None), Verdict.GAP),
]
CASES = list(
    product(
        (0, LEASE - 1, LEASE, LEASE + 1),
        (EPOCH - 1, EPOCH),
        (0, 1, LAST - 1, LAST, LAST + 1, LAST + 2, 2**64 - 1),
        (False, True),
        (SAME, (Kind.STEP, DIGEST + 1), (Kind.RESET, DIGEST)),
    )
)


def test_the_verdict_is_the_tables():
    """Every combination of lease, epoch, number, state and content; judging changes nothing."""
    for case in CASES:
        lease, epoch, seq, running, (kind, digest) = case
        expected = next(
            verdict
            for pattern, verdict in TABLE
            if all(wanted is None or wanted == value for wanted, value in zip(pattern, case, strict=True))
        )
        session = _session(running=running)
        before = vars(session).copy()
        assert session.judge(Header(kind, lease=lease, epoch=epoch, seq=seq, digest=digest)) is expected, case
        assert vars(session) == before, case


def test_the_table_in_the_code_is_total():
    """Every place of a number, in both states, with both contents."""
    assert set(module._TABLE) == set(product(range(4), (False, True), (False, True)))


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("seq", [0, 1, 2])
def test_before_the_first_request_only_number_one_runs(seq, running):
    """Numbers begin at 1; there is no reply to replay, whatever the digest."""
    session = Session(EPOCH)
    lease = session.grant()
    session.running = running
    verdict = session.judge(Header(Kind.STEP, lease=lease, epoch=EPOCH, seq=seq))
    assert verdict is {0: Verdict.STALE, 1: Verdict.GAP if running else Verdict.RUN, 2: Verdict.GAP}[seq]


def test_nobody_drives_a_new_pool():
    """An observer's lease is 0, and so is a new pool's: it still does not step."""
    session = Session(EPOCH)
    header = Header(Kind.STEP, lease=0, epoch=EPOCH, seq=1)
    assert session.judge(header) is Verdict.FENCED
    assert "nobody does" in session.refusal(Verdict.FENCED, header).message


def test_a_new_driver_starts_at_one_and_fences_off_the_old_one():
    """Leases only rise."""
    session = _session(running=False)
    assert session.grant() == LEASE + 1
    assert session.last == 0
    assert session.judge(Header(Kind.STEP, lease=LEASE, epoch=EPOCH, seq=LAST + 1)) is Verdict.FENCED
    assert session.judge(Header(Kind.STEP, lease=LEASE + 1, epoch=EPOCH, seq=1)) is Verdict.RUN


def test_a_request_that_was_refused_leaves_its_number_free():
    """It was never begun, so another may have the number."""
    session = _session(running=False)
    first, second = (Header(Kind.STEP, lease=LEASE, epoch=EPOCH, seq=LAST + 1, digest=digest) for digest in (1, 2))
    assert session.judge(first) is Verdict.RUN
    assert session.judge(second) is Verdict.RUN


REFUSALS = [
    (Verdict.FENCED, False, {"lease": 1}, LeaseLost, "lease 1 does not drive this pool", {"lease": 3}),
    (Verdict.OTHER_EPOCH, False, {}, EpochMismatch, "attach again", {"epoch": 77}),
    (
        Verdict.STALE,
        False,
        {"seq": 4},
        SequenceStale,
        "4 was acknowledged already; the last is 5",
        {"seq": 4, "last": 5},
    ),
    (Verdict.CONFLICT, False, {"seq": 5}, SequenceConflict, "5 came with other bytes before", {"seq": 5}),
    (Verdict.GAP, False, {"seq": 8}, SequenceGap, "the last is 5, the next is 6", {"seq": 8, "last": 5}),
    (Verdict.GAP, True, {"seq": 8}, SequenceGap, "the last is 5, the next is 6", {"seq": 8, "last": 5}),
    (Verdict.GAP, True, {"seq": 6}, StillRunning, "6 cannot run before another has finished", {"seq": 6}),
]


@pytest.mark.parametrize(("verdict", "running", "fields", "error", "text", "details"), REFUSALS)
def test_a_refusal_says_what_to_do(verdict, running, fields, error, text, details):
    """A class each, with the numbers of both sides."""
    refusal = _session(running=running).refusal(verdict, Header(Kind.STEP, **fields))
    assert type(refusal) is error
    assert text in refusal.message
    assert refusal.details == details


def test_every_refused_verdict_has_an_error():
    """RUN, REPLAY and IN_PROGRESS are answered, not refused."""
    assert (
        {row[0] for row in REFUSALS}
        == set(REFUSED)
        == set(Verdict) - {Verdict.RUN, Verdict.REPLAY, Verdict.IN_PROGRESS}
    )


class _Reply(NamedTuple):
    """What the client hears: the result of a request, that it runs, or why not."""

    lease: int
    seq: int
    result: int | None
    refused: Verdict | None = None


class _Driver:
    """A client: one request at a time, the same one again until its result is there."""

    def __init__(self, lease: int, epoch: int) -> None:
        self.lease, self.epoch = lease, epoch
        self.seq = 0
        self.waiting: Header | None = None
        self.results: list[int] = []
        self.fenced = False

    def next(self, digest: int) -> Header:
        self.seq += 1
        self.waiting = Header(Kind.STEP, lease=self.lease, epoch=self.epoch, seq=self.seq, digest=digest)
        return self.waiting

    def hear(self, reply: _Reply) -> None:
        if reply.lease != self.lease or reply.seq != self.seq or self.waiting is None:
            return  # of an earlier request, or heard already
        if reply.refused is Verdict.FENCED:
            self.fenced, self.waiting = True, None
        elif reply.result is not None:
            self.results.append(reply.result)
            self.waiting = None


class LossyLink(RuleBasedStateMachine):
    """Drivers and a pool, with a link between that drops, doubles and reorders what it carries, both ways.

    The pool counts: each request it runs adds its digest to a total, and the total is the result. A request that is
    lost, doubled, or run out of order gives another total than the driver reckons.
    """

    @initialize(epoch=st.integers(1, 2**64 - 1))
    def make(self, epoch: int) -> None:
        self.session = Session(epoch)
        self.total = 0
        self.runs: list[tuple[int, int, int]] = []
        self.begun: Header | None = None
        self.cached: _Reply | None = None
        self.to_pool: list[Header] = []
        self.to_drivers: list[_Reply] = []
        self.sent: dict[int, list[int]] = {}
        self.drivers: list[_Driver] = []
        self.attach()

    def attach(self) -> None:
        lease = self.session.grant()
        self.sent[lease] = []
        self.drivers.append(_Driver(lease, self.session.epoch))

    @property
    def driver(self) -> _Driver:
        return self.drivers[-1]

    @rule(digest=st.integers(0, 3))
    def send(self, digest: int) -> None:
        if self.driver.waiting is None:
            self.to_pool.append(self.driver.next(digest))
            self.sent[self.driver.lease].append(digest)

    @rule(which=st.integers(0, 3))
    def send_again(self, which: int) -> None:
        """Any driver repeats what it waits for, one that was replaced included."""
        driver = self.drivers[-1 - which % len(self.drivers)]
        if driver.waiting is not None:
            self.to_pool.append(driver.waiting)

    @rule()
    def replace(self) -> None:
        """Another driver takes the pool, perhaps while a request runs."""
        if len(self.drivers) < 4:
            self.attach()

    @precondition(lambda self: self.to_pool)
    @rule(at=st.integers(0, 99), keep=st.booleans())
    def arrive(self, at: int, keep: bool) -> None:
        at %= len(self.to_pool)
        self.take(self.to_pool[at] if keep else self.to_pool.pop(at))

    @precondition(lambda self: self.to_drivers)
    @rule(at=st.integers(0, 99), keep=st.booleans())
    def reply_arrives(self, at: int, keep: bool) -> None:
        at %= len(self.to_drivers)
        reply = self.to_drivers[at] if keep else self.to_drivers.pop(at)
        for driver in self.drivers:
            driver.hear(reply)

    @precondition(lambda self: self.to_pool)
    @rule(at=st.integers(0, 99))
    def lose_request(self, at: int) -> None:
        self.to_pool.pop(at % len(self.to_pool))

    @precondition(lambda self: self.to_drivers)
    @rule(at=st.integers(0, 99))
    def lose_reply(self, at: int) -> None:
        self.to_drivers.pop(at % len(self.to_drivers))

    @precondition(lambda self: self.begun)
    @rule()
    def finish(self) -> None:
        header = self.begun
        self.begun = None
        self.total += header.digest
        self.session.finish()
        self.cached = _Reply(header.lease, header.seq, self.total)
        self.to_drivers.append(self.cached)

    def take(self, header: Header) -> None:
        """What a pool does with a message; the session alone decides."""
        verdict = self.session.judge(header)
        assert verdict not in (Verdict.CONFLICT, Verdict.OTHER_EPOCH), "these drivers never do that"
        if verdict is Verdict.RUN:
            assert self.begun is None, "two requests at once"
            self.session.begin(header)
            self.begun = header
            self.runs.append((header.lease, header.seq, header.digest))
        elif verdict is Verdict.REPLAY:
            assert (self.cached.lease, self.cached.seq) == (header.lease, header.seq), "another request's reply"
            self.to_drivers.append(self.cached)
        elif verdict is Verdict.IN_PROGRESS:
            assert self.begun == header
        else:
            if verdict is Verdict.GAP:
                assert type(self.session.refusal(verdict, header)) is StillRunning, "only the request before may run"
                assert self.begun.lease < header.lease, "a driver's own requests never overtake one another"
            self.to_drivers.append(_Reply(header.lease, header.seq, None, verdict))

    @invariant()
    def each_request_ran_once_and_in_order(self) -> None:
        for lease, sent in self.sent.items():
            ran = [(seq, digest) for of, seq, digest in self.runs if of == lease]
            assert ran == list(enumerate(sent, 1))[: len(ran)]
            assert len(ran) >= len(sent) - 1
        assert [lease for lease, _, _ in self.runs] == sorted(lease for lease, _, _ in self.runs)

    @invariant()
    def each_driver_heard_the_results_of_its_own_requests(self) -> None:
        total, totals = 0, {driver.lease: [] for driver in self.drivers}
        for lease, _, digest in self.runs:
            total += digest
            totals[lease].append(total)
        for driver in self.drivers:
            assert driver.results == totals[driver.lease][: len(driver.results)]

    def teardown(self) -> None:
        """Once the link holds, the driver gets the result it waits for, and one that was replaced learns of it."""
        if not hasattr(self, "session"):
            return
        for _ in range(3):
            for driver in self.drivers:
                if driver.waiting is not None:
                    self.to_pool.append(driver.waiting)
            while self.to_pool:
                self.take(self.to_pool.pop(0))
            if self.begun:
                self.finish()
            while self.to_drivers:
                self.reply_arrives(0, keep=False)
        assert all(driver.waiting is None for driver in self.drivers)
        assert all(driver.fenced or len(driver.results) == driver.seq for driver in self.drivers)
        assert not self.driver.fenced
        self.each_request_ran_once_and_in_order()
        self.each_driver_heard_the_results_of_its_own_requests()


TestLossyLink = LossyLink.TestCase
TestLossyLink.settings = fixed(120, stateful_step_count=50)
