"""What a pool answers to each message: exactly once, and always something."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.desks import EPOCH, MAX_REQUEST, ROWS, TTL_S, Desk
from tests.wire.strategies import broken, fixed
from vecserver.wire import messages
from vecserver.wire.errors import EnvFault, InvalidAction, VersionMismatch, WorkerDied
from vecserver.wire.frames import HEADER_SIZE, PROTOCOL_VERSION, Flag, Header, Kind

QUEUE = 16
SEQUENCED = [
    (Kind.STEP, b"", b"actions", ("step", b"", b"actions")),
    (Kind.RESET, messages.Reset(seeds=[1, None, 2]), b"", ("reset", messages.Reset(seeds=[1, None, 2]))),
    (Kind.RESET, b"", b"", ("reset", messages.Reset())),
    (Kind.CALL, messages.Call("add", b"\x92\x90\x80"), b"", ("call", messages.Call("add", b"\x92\x90\x80"))),
]
every_sequenced = pytest.mark.parametrize(
    ("kind", "ext", "body", "begun"), SEQUENCED, ids=["step", "reset", "reset of all", "call"]
)


@pytest.fixture
def desk():
    """A pool that nobody drives."""
    return Desk()


@pytest.fixture
def driven(desk):
    """A pool with a driver."""
    desk.attach()
    return desk


# Hello, attach, detach, ping


def test_hello_says_who_is_there(desk):
    """A peer that only wants to know who answers needs no lease."""
    answer = desk.send(Kind.HELLO, messages.Hello("probe"))
    assert (answer.header.kind, answer.header.flags) == (Kind.HELLO, Flag.ANSWER)
    assert messages.decode(answer.ext, messages.HelloReply) == messages.HelloReply("vecserver", "p-1")


def test_attach_gives_description_and_lease(desk):
    """The driver learns all it must know, the pool's epoch and its own lease."""
    attached = desk.attach()
    assert attached == messages.Attached(desk.pool.info, 1, EPOCH, 0)
    assert desk.stats().driver == "trainer"
    assert desk.stats().lease == 1


def test_an_observer_gets_the_description_alone(driven):
    """Looking takes nothing from the driver."""
    observed = messages.decode(
        driven.send(Kind.ATTACH, messages.Attach(drive=False), lease=0, peer=b"observer").ext, messages.Attached
    )
    assert (observed.info, observed.lease, observed.epoch) == (driven.pool.info, 0, EPOCH)
    assert driven.step(1) is None


def test_a_driver_without_a_name_has_one(desk):
    """A pool that is driven always says by whom."""
    desk.attach(client="")
    assert desk.stats().driver == "unnamed"


def test_a_second_driver_is_told_who_the_first_is(driven):
    """The refusal names the driver, how long it was silent, and what to do."""
    driven.now_s += 4.0
    error = driven.send(Kind.ATTACH, messages.Attach(client="other"), lease=0, peer=b"other").error
    assert (error.code, error.details) == ("lease_held", {"driver": "trainer", "idle_s": 4.0})
    assert "force" in error.message
    assert driven.step(1) is None


def test_a_silent_driver_may_be_replaced(driven):
    """After the time to live the pool is given to the next who asks, and the one before is fenced off."""
    driven.now_s += TTL_S - 0.001
    assert driven.send(Kind.ATTACH, messages.Attach(), lease=0).error.code == "lease_held"
    driven.now_s += 0.001
    assert driven.attach("other").lease == 2
    error = driven.step(1, lease=1).error
    assert (error.code, error.details) == ("lease_lost", {"lease": 2})
    assert driven.step(1) is None


@pytest.mark.parametrize(
    ("sign", "renews"),
    [
        (lambda desk: desk.step(1), True),
        (lambda desk: desk.send(Kind.PING), True),
        (lambda desk: desk.send(Kind.PING, peer=b"keep-alive"), True),
        (lambda desk: desk.send(Kind.PING, lease=0), False),
        (lambda desk: desk.send(Kind.PING, lease=7), False),
        (lambda desk: desk.send(Kind.HELLO), True),
        (lambda desk: desk.step(5), True),
        (lambda desk: desk.step(1, digest=1), True),
    ],
    ids=["step", "ping", "ping of its own", "observer's ping", "other's ping", "hello", "gap", "damaged step"],
)
def test_the_drivers_own_messages_renew_its_lease(driven, sign, renews):
    """A lease lives as long as its holder is heard, whoever else talks."""
    driven.now_s += TTL_S - 1
    sign(driven)
    if driven.dispatcher.running:
        driven.finish()
    driven.now_s += 2
    answer = driven.send(Kind.ATTACH, messages.Attach(), lease=0, peer=b"other")
    assert (answer.header.kind == Kind.ERROR) is renews


def test_asking_again_renews_the_lease(driven):
    """A driver that waits for a long batch keeps its pool by asking how far it is."""
    driven.step(1)
    for _ in range(3):
        driven.now_s += TTL_S - 1
        assert driven.step(1).header.kind == Kind.IN_PROGRESS
    driven.finish()
    assert driven.send(Kind.ATTACH, messages.Attach(), lease=0).error.code == "lease_held"


def test_force_takes_a_pool_at_once(driven):
    """The driver before cannot step any more, not even repeat its last request."""
    driven.step(1)
    driven.finish()
    assert driven.attach("other", force=True).lease == 2
    for seq in (1, 2):
        assert driven.step(seq, lease=1).error.code == "lease_lost"
    assert driven.step(1) is None


def test_numbers_begin_again_with_a_new_lease(driven):
    """The answer to the driver before is not replayed to the next."""
    driven.step(1)
    driven.finish()
    driven.attach(force=True)
    assert driven.step(0).error.code == "sequence_stale"
    assert driven.step(1) is None


def test_detach_frees_the_pool(driven):
    """The next driver need not wait for the lease to end."""
    answer = driven.send(Kind.DETACH)
    assert (answer.header.kind, answer.header.flags) == (Kind.DETACH, Flag.ANSWER)
    assert driven.stats().driver == ""
    assert driven.stats().idle_s == 0.0
    assert driven.attach("other").lease == 3


@pytest.mark.parametrize("fields", [{"lease": 0}, {"lease": 9}, {"epoch": 1}], ids=["none", "other", "epoch"])
def test_only_the_driver_can_detach_itself(driven, fields):
    """A detach that is late, or somebody else's, is answered and frees nothing."""
    assert driven.send(Kind.DETACH, **fields).header.kind == Kind.DETACH
    assert driven.stats().driver == "trainer"


def test_ping_tells_how_the_pool_is(driven):
    """Refusals are counted, the driver and its silence are named; nobody needs a lease to look."""
    driven.step(7)
    driven.send_frames([b"noise"])
    driven.now_s += 3.0
    stats = driven.stats()
    assert (stats.refused, stats.lease, stats.driver, stats.idle_s) == (2, 1, "trainer", 3.0)


# Sequenced requests


@every_sequenced
def test_a_request_is_begun_once_and_answered_when_it_ended(driven, kind, ext, body, begun):
    """Nothing is answered until the command has ended; then its results are, under the request's number."""
    assert driven.send(kind, ext, body, seq=1) is None
    assert driven.dispatcher.running
    assert driven.pool.begun == [begun]
    driven.now_s += 0.5
    (answer,) = driven.finish(slot=2)
    assert not driven.dispatcher.running
    filled = kind in (Kind.STEP, Kind.RESET)
    expected = bytes(driven.pool.slot_body(2)) if filled else b""
    assert (answer.peer, answer.ext, answer.body) == (b"driver", b"infos", expected)
    assert answer.header == Header(
        kind=kind,
        flags=Flag.ANSWER,
        slot=2 if filled else 0,
        rows=ROWS,
        lease=1,
        epoch=EPOCH,
        seq=1,
        t_steps=1 if kind == Kind.STEP else 0,
        body_length=len(expected),
        clock=100_500_000_000,
    )


@every_sequenced
def test_a_repeated_request_gets_the_same_answer(driven, kind, ext, body, begun):
    """The cached reply goes to whoever asks with the lease, marked as replayed; nothing runs again."""
    driven.send(kind, ext, body, seq=1)
    (first,) = driven.finish()
    for peer in (b"driver", b"its next socket"):
        again = driven.send(kind, ext, body, seq=1, peer=peer)
        assert again == (peer, first.header._replace(flags=Flag.ANSWER | Flag.REPLAYED), first.ext, first.body)
    assert driven.pool.begun == [begun]
    assert driven.send(kind, ext, body, seq=2) is None


@every_sequenced
def test_a_request_that_runs_says_how_far_it_is(driven, kind, ext, body, begun):
    """Whoever repeats a running request hears how long it runs and which rows are late, and gets the answer."""
    driven.send(kind, ext, body, seq=1)
    driven.now_s += 2.5
    progress = driven.send(kind, ext, body, seq=1, peer=b"its next socket")
    assert (progress.peer, progress.header.kind, progress.header.seq) == (b"its next socket", Kind.IN_PROGRESS, 1)
    assert messages.decode(progress.ext, messages.InProgress) == messages.InProgress(2.5, (1, 2))
    (answer,) = driven.finish()
    assert answer.peer == b"its next socket"
    assert driven.pool.begun == [begun]


def test_progress_says_where_the_time_went(driven):
    """How long a request has waited for another one, then since when it runs, and for how long a row was seen at work."""

    def asked(seconds):
        driven.now_s += seconds
        return messages.decode(driven.step(1).ext, messages.InProgress)

    driven.send(Kind.RENDER, peer=b"observer")
    driven.step(1)
    assert asked(1.5) == messages.InProgress(0.0, (1, 2), waited=1.5)
    driven.now_s += 0.5
    driven.finish()
    assert asked(3.0) == messages.InProgress(3.0, (1, 2), waited=2.0, row_elapsed=3.0)
    driven.pool.progress = lambda: (2, 2)
    assert asked(1.0) == messages.InProgress(4.0, (2, 2), waited=2.0)
    assert asked(2.0) == messages.InProgress(6.0, (2, 2), waited=2.0, row_elapsed=2.0)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"seq": 1}, "sequence_stale"),
        ({"seq": 0}, "sequence_stale"),
        ({"seq": 4}, "sequence_gap"),
        ({"seq": 2**64 - 1}, "sequence_gap"),
        ({"seq": 2, "body": b"others"}, "sequence_conflict"),
        ({"seq": 3, "lease": 0}, "lease_lost"),
        ({"seq": 3, "lease": 2}, "lease_lost"),
        ({"seq": 2, "lease": 7}, "lease_lost"),
        ({"seq": 3, "epoch": EPOCH - 1}, "epoch_mismatch"),
        ({"seq": 3, "digest": 1}, "malformed_message"),
        ({"seq": 3, "body_length": 3}, "malformed_message"),
    ],
)
def test_a_request_out_of_turn_is_refused(driven, fields, code):
    """Each reason has its code, nothing is begun, and the right request runs; a wrong number is not called free."""
    for seq in (1, 2):
        driven.step(seq)
        driven.finish()
    answer = driven.step(**fields)
    assert answer.error.code == code
    assert bool(answer.header.flags & Flag.REFUSED) == (code == "malformed_message")
    assert answer.header.seq == fields["seq"]
    assert len(driven.pool.begun) == 2
    assert driven.step(3) is None


def test_another_request_under_the_number_of_a_running_one_is_refused(driven):
    """One number stands for one request, also while that runs; the next number has to wait its turn."""
    driven.step(1)
    assert driven.step(1, b"others").error.code == "sequence_conflict"
    assert driven.send(Kind.RESET, seq=1).error.code == "sequence_conflict"
    assert driven.step(2).error.code == "still_running"
    assert driven.step(3).error.code == "sequence_gap"
    driven.finish()
    assert driven.step(2) is None


def test_nobody_steps_a_pool_without_a_driver(desk):
    """A pool that nobody attached to takes no lease for its own."""
    for lease in (0, 1):
        assert desk.step(1, lease=lease).error.code == "lease_lost"
    assert desk.pool.begun == []


@pytest.mark.parametrize(
    ("kind", "ext"),
    [(Kind.STEP, b""), (Kind.RESET, b"\xc1"), (Kind.RESET, b"\x81\xa1x\x01"), (Kind.CALL, b""), (Kind.CALL, b"\x90")],
    ids=["by the pool", "no message", "unknown field", "missing field", "an array"],
)
def test_a_refused_request_does_not_use_its_number(driven, kind, ext):
    """A batch that does not fit, or bytes that say nothing, can be corrected under the same number."""
    if kind == Kind.STEP:
        driven.pool.refusal = InvalidAction("row 1: action 9", row=1)
    answer = driven.send(kind, ext, seq=1)
    assert answer.error.code == ("invalid_action" if kind == Kind.STEP else "malformed_message")
    assert answer.header.flags == Flag.ANSWER | Flag.REFUSED
    assert not driven.dispatcher.running
    assert driven.step(1, b"corrected") is None
    (answer,) = driven.finish()
    assert answer.header.kind == Kind.STEP


def test_what_an_environment_raised_is_an_answer(driven):
    """A fault uses its number and is replayed like any result, without rows."""
    driven.step(1)
    fault = EnvFault("row 2 raised ValueError: x", faults=[{"row": 2, "type": "ValueError"}])
    (answer,) = driven.finish(error=fault)
    assert (answer.error.code, answer.error.row, answer.body) == ("env_fault", 2, b"")
    assert (answer.header.flags, answer.header.seq) == (Flag.ANSWER, 1)
    again = driven.step(1)
    assert (again.ext, again.header.flags) == (answer.ext, Flag.ANSWER | Flag.REPLAYED)
    assert driven.send(Kind.RESET, seq=2) is None


def test_a_broken_pool_says_why(driven):
    """Nothing is begun any more; looking, attaching and leaving still work."""
    driven.step(1)
    died = WorkerDied("worker 1 was killed by SIGKILL", shard=1)
    driven.pool.broken = died
    (answer,) = driven.finish(error=died)
    assert answer.error.code == "worker_died"
    for answer in (driven.step(2), driven.send(Kind.CALL, seq=2)):
        assert answer.error.code == "pool_broken"
        assert answer.error.details == {"reason": died.message}
        assert answer.header.flags & Flag.REFUSED
    assert driven.send(Kind.RENDER).error.code == "pool_broken"
    for kind in (Kind.PING, Kind.HELLO, Kind.DETACH):
        assert driven.send(kind).header.kind == kind
    assert driven.attach().lease == 3


def test_a_defect_of_the_pool_is_an_answer(driven, caplog):
    """A bug behind the dispatcher reaches the client as such, the log has it, and the pool goes on."""
    driven.pool.refusal = ZeroDivisionError("oops")
    answer = driven.step(1)
    assert answer.error.code == "internal_error"
    assert "oops" in answer.error.message
    assert "ZeroDivisionError" in caplog.text
    assert driven.step(1) is None


# Frames, and what has to wait


@every_sequenced
def test_a_request_waits_for_the_step_of_a_driver_that_has_the_arena(driven, kind, ext, body, begun):
    """It runs when that step is over, once, and then the arena is given back."""
    lending = driven.pool.lending
    lending.lent = lending.taken = True
    assert driven.send(kind, ext, body, seq=1) is None
    assert driven.send(Kind.RENDER, messages.Render([0]), lease=0, peer=b"observer") is None
    assert driven.send(kind, ext, body, seq=1, peer=b"again").header.kind == Kind.IN_PROGRESS
    assert driven.dispatcher.waits
    assert driven.dispatcher.resume() == []  # too early
    assert driven.pool.begun == []
    lending.taken = False
    assert driven.dispatcher.resume() == []
    assert (driven.pool.begun, lending.claimed) == ([begun], True)
    (answer,) = driven.finish()
    assert (answer.peer, answer.header.kind) == (b"again", kind)
    assert driven.pool.begun == [begun, ("render", [0])]
    assert lending.claimed
    driven.finish()
    assert not lending.claimed
    assert not driven.dispatcher.waits


def test_a_refused_request_gives_the_arena_back(driven):
    """What was not begun keeps nobody from stepping."""
    driven.pool.refusal = InvalidAction("row 0: action 9")
    assert driven.step(1).header.kind == Kind.ERROR
    assert not driven.pool.lending.claimed


def test_a_driver_that_has_the_arena_is_alive(driven):
    """Its lease does not expire, however long it says nothing; force takes it, and the arena with it."""
    driven.pool.lending.lent = True
    assert driven.dispatcher.drives(driven.lease, EPOCH)
    driven.now_s += 10 * TTL_S
    assert driven.stats().idle_s == 0
    refused = driven.send(Kind.ATTACH, messages.Attach(client="other"), lease=0, epoch=0)
    assert refused.error.code == "lease_held"
    assert driven.pool.lending.lent
    first = driven.lease
    driven.attach("other", force=True)
    assert not driven.pool.lending.lent
    assert not driven.dispatcher.drives(first, EPOCH)


def test_a_driver_that_detaches_has_the_arena_no_more(driven):
    """Nor is its lease good for another loan."""
    driven.pool.lending.lent = True
    driven.send(Kind.DETACH)
    assert not driven.pool.lending.lent
    assert not driven.dispatcher.drives(driven.lease, EPOCH)


def test_frames_are_rendered_for_whoever_asks(driven):
    """An observer needs neither lease nor number, and gets its answer when the rows are rendered."""
    assert driven.send(Kind.RENDER, messages.Render([2, 0]), lease=0, peer=b"observer") is None
    assert driven.pool.begun == [("render", [2, 0])]
    (answer,) = driven.finish(slot=1, ext=b"frames")
    assert (answer.peer, answer.ext, answer.body) == (b"observer", b"frames", b"")
    assert (answer.header.kind, answer.header.slot) == (Kind.RENDER, 0)


def test_frames_wait_for_the_batch(driven):
    """They are rendered after the batch that runs; the driver's next request waits for them in turn."""
    driven.step(1)
    assert driven.send(Kind.RENDER, peer=b"observer") is None
    (answer,) = driven.finish()
    assert (answer.peer, answer.header.kind) == (b"driver", Kind.STEP)
    assert driven.dispatcher.running
    assert driven.step(2) is None
    assert [command[0] for command in driven.pool.begun] == ["step", "render"]
    (answer,) = driven.finish()
    assert (answer.peer, answer.header.kind) == (b"observer", Kind.RENDER)
    assert driven.dispatcher.running
    (answer,) = driven.finish()
    assert (answer.header.kind, answer.header.seq) == (Kind.STEP, 2)
    assert [command[0] for command in driven.pool.begun] == ["step", "render", "step"]


def test_a_repeated_request_that_waits_runs_once(driven):
    """Asked again while it waits for frames, a step keeps its one place, and its answer goes where it was asked last."""
    driven.send(Kind.RENDER, peer=b"observer")
    assert driven.step(1) is None
    for number in range(QUEUE - 1):
        driven.send(Kind.RENDER, peer=b"observer %d" % number)
    assert driven.step(1, peer=b"its next socket").header.kind == Kind.IN_PROGRESS
    (frames,) = driven.finish()
    assert frames.peer == b"observer"
    (answer,) = driven.finish()
    assert answer.peer == b"its next socket"
    assert [command[0] for command in driven.pool.begun] == ["render", "step", "render"]


def test_observers_who_wait_do_not_keep_the_driver_from_stepping(driven):
    """The driver's next request finds a place behind however many wait, and one place."""
    driven.send(Kind.RENDER, peer=b"observer")
    for number in range(QUEUE):
        assert driven.send(Kind.RENDER, peer=b"observer %d" % number) is None
    assert driven.send(Kind.RENDER, peer=b"one too many").error.code == "still_running"
    assert driven.step(1) is None
    assert driven.send(Kind.RESET, messages.Reset(), seq=1).error.code == "still_running"
    for _ in range(1 + QUEUE):
        driven.finish()
    assert driven.pool.begun[-1][0] == "step"


def test_what_waits_is_small_and_was_decoded(driven):
    """A request for frames that is none is refused at once, and so is one with more than it needs."""
    driven.step(1)
    assert driven.send(Kind.RENDER, b"\x91", peer=b"observer").error.code == "malformed_message"
    for kind in (Kind.HELLO, Kind.ATTACH, Kind.RENDER, Kind.PING, Kind.DETACH, Kind.SPLIT, Kind.JOIN, Kind.RESUME):
        assert driven.send(kind, bytes((1 << 20) + 1)).error.code == "message_too_large"
    assert not driven.dispatcher.waits


def test_frames_do_not_disturb_a_replay(driven):
    """The answer to the last batch is still there after frames were rendered."""
    driven.step(1)
    (first,) = driven.finish(slot=2)
    driven.send(Kind.RENDER, peer=b"observer")
    assert driven.step(1).body == first.body
    driven.finish(slot=0)
    assert driven.step(1).body == first.body


def test_a_new_driver_waits_for_the_command_that_runs(driven):
    """Taking a pool by force does not cut into a batch; whoever only looks is answered at once."""
    driven.step(1)
    assert driven.send(Kind.ATTACH, messages.Attach(client="other", force=True), peer=b"other", lease=0) is None
    assert driven.send(Kind.ATTACH, messages.Attach(drive=False), peer=b"observer", lease=0) is not None
    batch, attached = driven.finish()
    assert (batch.peer, batch.header.kind) == (b"driver", Kind.STEP)
    assert (attached.peer, messages.decode(attached.ext, messages.Attached).lease) == (b"other", 2)


def test_a_driver_that_would_be_refused_anyway_does_not_wait(driven):
    """However long the batch takes, the pool says at once that it is held."""
    driven.step(1)
    assert driven.send(Kind.ATTACH, messages.Attach(), peer=b"other", lease=0).error.code == "lease_held"


def test_only_so_many_requests_may_wait(driven):
    """One request too many is told to come again; those that wait are served in their order."""
    driven.step(1)
    for number in range(QUEUE):
        assert driven.send(Kind.RENDER, messages.Render([number % ROWS]), peer=b"%d" % number) is None
    assert driven.send(Kind.RENDER, peer=b"late").error.code == "still_running"
    served = [driven.finish()[0].peer for _ in range(QUEUE + 1)]
    assert served == [b"driver", *(b"%d" % number for number in range(QUEUE))]
    assert not driven.dispatcher.running


def test_waiting_requests_that_need_no_command_are_answered_together(driven):
    """Leases to be given do not keep those behind them in the queue waiting for another command."""
    driven.step(1)
    driven.send(Kind.ATTACH, messages.Attach(force=True, client="a"), lease=0, peer=b"bad")
    driven.send(Kind.ATTACH, messages.Attach(force=True, client="b"), lease=0, peer=b"worse")
    driven.send(Kind.RENDER, peer=b"good")
    answers = driven.finish()
    assert [(answer.peer, answer.header.kind) for answer in answers] == [
        (b"driver", Kind.STEP),
        (b"bad", Kind.ATTACH),
        (b"worse", Kind.ATTACH),
    ]
    assert [answer.peer for answer in driven.finish()] == [b"good"]


# What is no message


def test_another_version_is_told_both(desk):
    """A peer of another release learns which versions met."""
    header = struct.pack("<4sH58x", b"VECS", PROTOCOL_VERSION + 1)
    error = desk.send_frames([header, b"", b""]).error
    assert isinstance(error, VersionMismatch)
    assert error.details == {"theirs": PROTOCOL_VERSION + 1, "ours": PROTOCOL_VERSION}


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([], "malformed_message"),
        ([b""], "malformed_message"),
        ([b"", b"", b""], "malformed_message"),
        ([b"GET / HTTP/1.1\r\n"], "malformed_message"),
        ([Header(Kind.PING).pack()], "malformed_message"),
        ([Header(Kind.PING).pack(), b""], "malformed_message"),
        ([Header(Kind.PING).pack(), b"", b"", b""], "malformed_message"),
        ([Header(Kind.PING).pack()[:-1], b"", b""], "malformed_message"),
        ([Header(Kind.PING).pack() + b"x", b"", b""], "malformed_message"),
        ([Header(0).pack(), b"", b""], "malformed_message"),
        ([Header(99).pack(), b"", b""], "malformed_message"),
        ([Header(Kind.ERROR).pack(), b"", b""], "malformed_message"),
        ([Header(Kind.IN_PROGRESS).pack(), b"", b""], "malformed_message"),
        ([Header(Kind.PING, body_length=1).pack(), b"", b""], "malformed_message"),
        ([Header(Kind.STEP, body_length=MAX_REQUEST + 1).pack(), b"", bytes(MAX_REQUEST + 1)], "message_too_large"),
        ([Header(Kind.HELLO).pack(), b"\xc1", b""], "malformed_message"),
        ([Header(Kind.ATTACH).pack(), msgspec.msgpack.encode({"drive": "yes"}), b""], "malformed_message"),
        ([Header(Kind.ATTACH).pack(), msgspec.msgpack.encode({"colour": 1}), b""], "malformed_message"),
        ([Header(Kind.RENDER).pack(), msgspec.msgpack.encode({"rows": [0.5]}), b""], "malformed_message"),
    ],
)
def test_bytes_that_are_no_message_are_answered(driven, frames, code):
    """Whatever came, its sender hears what is wrong with it, and the driver is not disturbed."""
    assert driven.send_frames(frames, peer=b"stranger").error.code == code
    assert driven.pool.begun == []
    assert driven.step(1) is None


def test_the_answer_to_half_a_message_has_its_number(driven):
    """Where the header can be read, the sender can match the error to its request."""
    answer = driven.send_frames([Header(Kind.STEP, seq=7, lease=1).pack(), b""])
    assert (answer.header.seq, answer.header.lease) == (7, 1)


whole_messages = st.builds(
    lambda kind, seq, lease, ext: [Header(kind, seq=seq, lease=lease, epoch=EPOCH).pack(), ext, b""],
    st.sampled_from(list(Kind)),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from([messages.encode(each) for each in (messages.Attach(), messages.Reset(), messages.Render())]),
)


@given(st.lists(st.lists(st.binary(max_size=2 * HEADER_SIZE), max_size=4), min_size=1, max_size=8))
@fixed(100)
def test_random_bytes_are_always_answered(batch):
    """No bytes make a pool raise, or begin something."""
    desk = Desk()
    desk.attach()
    for frames in batch:
        assert desk.send_frames(frames).header.kind == Kind.ERROR
    assert desk.pool.begun == []


@given(
    st.lists(
        whole_messages.flatmap(lambda frames: st.tuples(*(broken(st.just(frame)) for frame in frames))), max_size=12
    )
)
@fixed(100)
def test_damaged_messages_are_answered_or_begun(batch):
    """Messages that were changed on the way are answered at once or begin at most one command at a time."""
    desk = Desk()
    desk.attach()
    for frames in batch:
        waiting = desk.dispatcher.running
        answer = desk.send_frames(list(frames))
        assert answer is not None or desk.dispatcher.running
        assert waiting <= desk.dispatcher.running
