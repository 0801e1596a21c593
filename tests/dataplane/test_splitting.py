"""The rules of a pool that is split: a session a part, who is fenced when, and how it gets whole again."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.dataplane.desks import TTL_S, Answer, Desk
from tests.wire.strategies import fixed
from vecserver.pools.host import Outcome
from vecserver.wire import messages
from vecserver.wire.errors import (
    InvalidSpec,
    LeaseHeld,
    LeaseLost,
    MalformedMessage,
    PoolBroken,
    PoolSplit,
    SequenceConflict,
    SequenceGap,
    SequenceStale,
    WorkerDied,
)
from vecserver.wire.frames import Flag, Kind
from vecserver.wire.session import PART_LEASES


class SplitDesk(Desk):
    """A pool that is split into three parts of a row each, by a driver whose next number is 2."""

    def __init__(self) -> None:
        super().__init__()
        self.attach()
        assert self.send(Kind.SPLIT, messages.Split(3), seq=1) is None
        (answer,) = self.finish(ext=b"")
        assert answer.header.kind == Kind.SPLIT
        self.described = messages.decode(answer.ext, messages.SplitReply).parts
        self.leases = [part.lease for part in self.described]
        self.parts = self.pool.parts

    def finish_part(self, part: int, slot: int = 1) -> list[Answer]:
        dispatcher = self.dispatcher.desks[self.leases[part]].dispatcher
        return [Answer.of(reply) for reply in dispatcher.finished(Outcome(slot, b"", None))]

    def settle(self) -> None:
        """What a loop does in between: the pool is made whole if it can be."""
        self.dispatcher.settle()
        for chore in self.pool.lending.chores:
            for _ in chore:
                pass
        self.pool.lending.chores.clear()

    def resume(self) -> list[Answer]:
        return [Answer.of(reply) for reply in self.dispatcher.resume()]


@pytest.fixture
def desk() -> SplitDesk:
    return SplitDesk()


def test_each_part_is_described_and_has_a_lease_of_its_own(desk):
    """Above those that pools have; none is given twice, also by the next split."""
    assert desk.pool.begun == [("split", 3)]
    assert [(part.first, part.info.num_envs) for part in desk.described] == [(0, 1), (1, 1), (2, 1)]
    assert desk.leases == [PART_LEASES + 1, PART_LEASES + 2, PART_LEASES + 3]
    assert desk.send(Kind.JOIN, seq=2) is None
    desk.settle()
    desk.resume()
    assert desk.send(Kind.SPLIT, messages.Split(1), seq=3) is None
    (answer,) = desk.finish(ext=b"")
    assert messages.decode(answer.ext, messages.SplitReply).parts[0].lease == PART_LEASES + 4


def test_parts_run_beside_each_other(desk):
    """Each has a number, a running request and a kept answer of its own."""
    assert desk.step(1, lease=desk.leases[0]) is None
    assert desk.step(1, b"others", lease=desk.leases[1]) is None
    assert [part.begun for part in desk.parts] == [[("step", b"", b"actions")], [("step", b"", b"others")], []]
    assert desk.step(1, lease=desk.leases[0]).header.kind == Kind.IN_PROGRESS
    (second,) = desk.finish_part(1)
    assert (second.header.lease, second.header.seq, second.header.rows) == (desk.leases[1], 1, 1)
    assert desk.step(2, lease=desk.leases[1]) is None
    (first,) = desk.finish_part(0, slot=2)
    again = desk.step(1, lease=desk.leases[0])
    assert again.header.flags == Flag.ANSWER | Flag.REPLAYED
    assert again.body == first.body
    assert len(desk.parts[0].begun) == 1


def test_a_parts_numbers_are_judged_by_its_own_session(desk):
    """Gaps, conflicts and stale numbers, whatever the other parts have had."""
    for seq in (1, 2):
        desk.step(seq, lease=desk.leases[0])
        desk.finish_part(0)
    assert type(desk.step(1, lease=desk.leases[0]).error) is SequenceStale
    assert type(desk.step(2, b"other", lease=desk.leases[0]).error) is SequenceConflict
    assert type(desk.step(4, lease=desk.leases[0]).error) is SequenceGap
    assert type(desk.step(2, lease=desk.leases[1]).error) is SequenceGap
    assert desk.step(1, lease=desk.leases[1]) is None


@pytest.mark.parametrize("kind", [Kind.STEP, Kind.RESET, Kind.CALL, Kind.SPLIT])
def test_the_whole_is_refused_while_it_is_split(desk, kind):
    """Also while its parts are busy; the number stays free."""
    desk.step(1, lease=desk.leases[0])
    ext = {Kind.CALL: messages.Call("f", b""), Kind.SPLIT: messages.Split(1)}.get(kind, b"")
    answer = desk.send(kind, ext, seq=2)
    assert type(answer.error) is PoolSplit
    assert answer.header.flags == Flag.ANSWER | Flag.REFUSED
    assert desk.pool.begun == [("split", 3)]


@pytest.mark.parametrize("kind", [Kind.ATTACH, Kind.SPLIT, Kind.JOIN])
def test_a_part_has_no_say_over_the_whole(desk, kind):
    """Its driver attaches, splits and joins with the pool's lease."""
    ext = {Kind.ATTACH: messages.Attach(), Kind.SPLIT: messages.Split(1), Kind.JOIN: b""}[kind]
    answer = desk.send(kind, ext, seq=0 if kind == Kind.ATTACH else 1, lease=desk.leases[0])
    assert type(answer.error) is MalformedMessage
    assert desk.dispatcher.drivers


def test_a_join_waits_for_what_runs_and_is_answered_once(desk):
    """No part takes anything more; asked again it is the same answer, and the whole steps."""
    desk.step(1, lease=desk.leases[0])
    assert desk.send(Kind.JOIN, seq=2) is None
    assert type(desk.step(1, lease=desk.leases[1]).error) is LeaseLost
    desk.settle()
    assert desk.resume() == []
    assert desk.pool.begun == [("split", 3)]
    desk.finish_part(0)
    desk.settle()
    (answer,) = desk.resume()
    assert (answer.header.kind, answer.header.seq, desk.pool.begun[-1]) == (Kind.JOIN, 2, ("join",))
    assert desk.send(Kind.JOIN, seq=2).header.flags == Flag.ANSWER | Flag.REPLAYED
    assert desk.step(3) is None
    assert desk.pool.begun[-1] == ("step", b"", b"actions")


def test_a_pool_that_is_whole_is_joined_at_once():
    """There is nothing to do; the number is used."""
    desk = Desk()
    desk.attach()
    assert desk.send(Kind.JOIN, seq=1).header.kind == Kind.JOIN
    assert desk.step(2) is None


@pytest.mark.parametrize("kind", [Kind.STEP, Kind.RESET, Kind.CALL, Kind.RENDER])
def test_a_part_that_has_ended_is_not_the_whole(desk, kind):
    """Its lease reaches nothing, though its rows would be the pool's first ones."""
    desk.send(Kind.JOIN, seq=2)
    desk.settle()
    desk.resume()
    answer = desk.send(kind, seq=0 if kind == Kind.RENDER else 1, lease=desk.leases[0])
    assert type(answer.error) is LeaseLost


def test_who_takes_the_pool_waits_until_it_is_whole(desk):
    """The parts are fenced off at once; the new driver is answered when nothing runs there any more."""
    desk.step(1, lease=desk.leases[2])
    with pytest.raises(LeaseHeld):
        raise desk.send(Kind.ATTACH, messages.Attach(client="other"), lease=0).error
    assert desk.send(Kind.ATTACH, messages.Attach(client="other", force=True), lease=0, peer=b"other") is None
    assert type(desk.step(2, lease=desk.leases[2]).error) is LeaseLost
    desk.finish_part(2)
    desk.settle()
    (answer,) = desk.resume()
    assert (answer.peer, answer.header.kind) == (b"other", Kind.ATTACH)
    assert type(desk.step(3).error) is LeaseLost
    assert not desk.pool.parts


def test_who_takes_the_pool_while_it_is_being_split_is_answered():
    """The parts end as soon as they are there; an observer who waited as well is heard in their time."""
    desk = Desk()
    desk.attach()
    assert desk.send(Kind.RENDER, messages.Render(None), peer=b"painter") is None
    assert desk.send(Kind.SPLIT, messages.Split(3), seq=1) is None, "it waits for the frame"
    assert desk.send(Kind.RENDER, messages.Render([1]), peer=b"observer") is None
    (frame,) = desk.finish(ext=b"frame")
    assert (frame.peer, desk.pool.begun[-1]) == (b"painter", ("split", 3))
    assert desk.send(Kind.ATTACH, messages.Attach(client="other", force=True), lease=0, peer=b"other") is None
    (split,) = desk.finish(ext=b"")
    assert split.header.kind == Kind.SPLIT
    parts = desk.pool.parts
    assert parts[1].begun == [("render", [0])]
    (dispatcher,) = [each.dispatcher for each in desk.dispatcher.desks.values() if each.dispatcher.running]
    assert [reply.peer for reply in dispatcher.finished(Outcome(0, b"frame", None))] == [b"observer"]
    SplitDesk.settle(desk)
    (answer,) = SplitDesk.resume(desk)
    assert (answer.peer, answer.header.kind) == (b"other", Kind.ATTACH)
    assert not desk.pool.parts


def test_a_driver_that_leaves_leaves_a_whole_pool(desk):
    """Its parts end with its lease."""
    assert desk.send(Kind.DETACH).header.kind == Kind.DETACH
    desk.settle()
    assert not desk.pool.parts
    assert desk.attach("other").lease == desk.lease


def test_a_part_keeps_the_pools_lease_alive(desk):
    """A driver that steps its parts has not gone silent."""
    desk.now_s += 0.9 * TTL_S
    desk.step(1, lease=desk.leases[0])
    desk.now_s += 0.9 * TTL_S
    desk.finish_part(0)
    desk.now_s += 0.9 * TTL_S
    assert type(desk.send(Kind.ATTACH, messages.Attach(client="other"), lease=0).error) is LeaseHeld
    desk.now_s += 0.2 * TTL_S
    assert desk.send(Kind.ATTACH, messages.Attach(client="other"), lease=0) is None
    desk.settle()
    assert [answer.header.kind for answer in desk.resume()] == [Kind.ATTACH]


def test_an_observer_sees_rows_of_one_part_at_a_time(desk):
    """In the numbers of the pool."""
    assert desk.send(Kind.RENDER, messages.Render([2]), lease=0) is None
    assert desk.parts[2].begun == [("render", [0])]
    for rows in (None, [0, 1]):
        assert type(desk.send(Kind.RENDER, messages.Render(rows), lease=0).error) is PoolSplit


def test_a_broken_pool_says_so_to_everyone(desk):
    """To its parts, and to each other step; nobody waits for ever."""
    desk.step(1, lease=desk.leases[0])
    assert desk.send(Kind.CALL, messages.Call("x", b""), seq=2).header.kind == Kind.ERROR
    for pool in (desk.pool, *desk.parts):
        pool.broken = WorkerDied("worker 1")
    assert type(desk.send(Kind.STEP, seq=2).error) is PoolBroken
    assert type(desk.send(Kind.SPLIT, messages.Split(2), seq=2).error) is PoolBroken
    assert type(desk.step(1, lease=desk.leases[1]).error) is PoolBroken


@pytest.mark.parametrize("waits", [False, True])
def test_a_broken_pool_can_be_joined_and_reset(desk, waits):
    """Its workers are not asked: the parts are no more, and the reset has all made again. A join that waited ends too."""
    if waits:
        desk.step(1, lease=desk.leases[0])
        assert desk.send(Kind.JOIN, seq=2) is None
    for pool in (desk.pool, *desk.parts):
        pool.broken = WorkerDied("worker 1")
    (joined,) = desk.resume() if waits else [desk.send(Kind.JOIN, seq=2)]
    assert joined.header.kind == Kind.JOIN
    assert type(desk.send(Kind.STEP, lease=desk.leases[0], seq=2).error) is LeaseLost
    assert type(desk.send(Kind.STEP, seq=3).error) is PoolBroken
    assert desk.send(Kind.RESET, seq=3) is None
    assert [begun[0] for begun in desk.pool.begun[-3:]] == ["abandon", "revive", "reset"]


def test_a_reset_makes_a_broken_pool_whole(desk):
    """All its workers are made again, so its parts are no more; a part's own reset cannot have that done."""
    for pool in (desk.pool, *desk.parts):
        pool.broken = WorkerDied("worker 1")
    assert type(desk.send(Kind.RESET, lease=desk.leases[0], seq=1).error) is PoolBroken
    assert desk.send(Kind.RESET, seq=2) is None
    assert [begun[0] for begun in desk.pool.begun[-2:]] == ["revive", "reset"]
    assert type(desk.send(Kind.STEP, lease=desk.leases[0], seq=1).error) is LeaseLost


def test_a_split_that_is_refused_leaves_the_pool_whole():
    """More parts than workers, say; the number is free."""
    desk = Desk()
    desk.attach()
    desk.pool.refusal = InvalidSpec("2 parts")
    assert type(desk.send(Kind.SPLIT, messages.Split(2), seq=1).error) is InvalidSpec
    assert desk.step(1) is None


class SplitLink(RuleBasedStateMachine):
    """The driver of three parts, with a link between that loses and doubles what it carries, both ways.

    Each part is asked for numbered steps. However messages are mixed, each step begins once, in its own part and in
    order, and each answer is that of the step that it names.
    """

    @initialize()
    def make(self) -> None:
        self.desk = SplitDesk()
        self.sent = [0, 0, 0]
        self.heard = [0, 0, 0]
        self.running = [False] * 3
        self.on_the_way: list[tuple[int, int]] = []

    @rule(part=st.integers(0, 2))
    def ask(self, part: int) -> None:
        if self.heard[part] == self.sent[part]:
            self.sent[part] += 1
        self.on_the_way.append((part, self.sent[part]))

    @precondition(lambda self: self.on_the_way)
    @rule(at=st.integers(0, 99), keep=st.booleans(), loses=st.booleans())
    def arrive(self, at: int, keep: bool, loses: bool) -> None:
        at %= len(self.on_the_way)
        part, seq = self.on_the_way[at] if keep else self.on_the_way.pop(at)
        answer = self.desk.step(seq, bytes([part, seq % 256]), lease=self.desk.leases[part])
        if answer is None:
            self.running[part] = True
        elif not loses:
            self.hear(answer)

    @rule(part=st.integers(0, 2), loses=st.booleans())
    def finish(self, part: int, loses: bool) -> None:
        if self.running[part]:
            self.running[part] = False
            (answer,) = self.desk.finish_part(part)
            if not loses:
                self.hear(answer)

    def hear(self, answer: Answer) -> None:
        part = self.desk.leases.index(answer.header.lease)
        if answer.header.kind == Kind.STEP and answer.header.seq == self.sent[part]:
            self.heard[part] = self.sent[part]

    @invariant()
    def each_step_began_once_in_its_part(self) -> None:
        if not hasattr(self, "desk"):
            return
        for part, pool in enumerate(self.desk.parts):
            expected = [("step", b"", bytes([part, seq % 256])) for seq in range(1, len(pool.begun) + 1)]
            assert pool.begun == expected
            assert self.heard[part] <= len(pool.begun) <= self.sent[part]


TestSplitLink = SplitLink.TestCase
TestSplitLink.settings = fixed(60, stateful_step_count=40)
