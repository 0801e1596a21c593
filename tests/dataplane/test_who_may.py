"""Every kind of message by everybody who may not send it: refused by its code, and nothing is done."""

from __future__ import annotations

import select
import socket
import zlib
from typing import Any, NamedTuple

import pytest

from tests.dataplane.desks import EPOCH, Desk
from vecserver.dataplane.connection import Connection
from vecserver.wire import messages
from vecserver.wire.errors import LeaseHeld, Unauthorized
from vecserver.wire.frames import Header, Kind
from vecserver.wire.opening import ClientOpening
from vecserver.wire.session import ResumePoint
from vecserver.wire.zmtp import encode

TICKET = "the pool's ticket"
LIMITS = (1 << 10, 1 << 16, 1 << 16)
A, B = b"a" * 40, b"b" * 40


class Example(NamedTuple):
    """A message of a kind that its driver could send."""

    ext: Any = b""
    body: bytes = b""
    seq: int = 1


EXAMPLES = {
    Kind.HELLO: Example(messages.Hello("stranger"), seq=0),
    Kind.ATTACH: Example(messages.Attach(client="stranger", force=True), seq=0),
    Kind.STEP: Example(body=b"actions"),
    Kind.RESET: Example(messages.Reset()),
    Kind.CALL: Example(messages.Call("add", b"\x90")),
    Kind.RENDER: Example(messages.Render(), seq=0),
    Kind.PING: Example(seq=0),
    Kind.DETACH: Example(seq=0),
    Kind.ERROR: Example(seq=0),
    Kind.IN_PROGRESS: Example(seq=0),
    Kind.SPLIT: Example(messages.Split(2)),
    Kind.JOIN: Example(),
    Kind.RESUME: Example(seq=0),
}
"""One of each kind: a kind that is added has no example, and the tests below fail."""

every_kind = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)


def frames_of(kind: Kind, lease: int = 1) -> list[bytes]:
    example = EXAMPLES[kind]
    ext = example.ext if isinstance(example.ext, bytes) else messages.encode(example.ext)
    digest = zlib.crc32(ext + example.body) if kind != Kind.ATTACH else 0
    header = Header(kind, lease=lease, epoch=EPOCH, seq=example.seq, digest=digest, body_length=len(example.body))
    return [header.pack(), ext, example.body]


def said_to_a_port(ticket: str, shown: str, frames: list[bytes]) -> tuple[list[bytes] | None, bytes]:
    """The message that a port with this ticket makes of what a peer sends at once, and what the port says last."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        conn = Connection(ours, b"peer", LIMITS, ticket)
        conn.greet()
        opening = ClientOpening(shown)
        theirs.sendall(opening.greeting + opening.greeted() + opening.heard(b"WELCOME", b""))
        theirs.sendall(b"".join(encode(frames)))
        found = None
        try:
            while found is None and (conn.unread or select.select([ours], [], [], 0)[0]):
                found = conn.receive()
        except Unauthorized:
            assert conn.is_stranger
        said = theirs.recv(1 << 16)
        return None if found is None else [bytes(frame) for frame in found], said[len(opening.greeting) :]


@every_kind
def test_without_a_ticket_nothing_is_a_message(kind):
    """The connection ends by the greeting, before it is looked at what is said."""
    assert said_to_a_port(TICKET, "", frames_of(kind)) == (None, b"")


@every_kind
def test_with_a_wrong_ticket_nothing_is_a_message(kind):
    """The connection ends with ZeroMQ's word for it."""
    found, said = said_to_a_port(TICKET, "another ticket", frames_of(kind))
    assert found is None
    assert said.endswith(b"\x05ERROR\x03400")


@every_kind
def test_with_the_ticket_everything_is_a_message(kind):
    """So that the tests above show the ticket and nothing else."""
    assert said_to_a_port(TICKET, TICKET, frames_of(kind))[0] == frames_of(kind)


def nothing_was_done(desk: Desk, lease: int) -> None:
    stats = desk.stats()
    assert desk.pool.begun == []
    assert (stats.lease, stats.driver) == (lease, "trainer")
    assert stats.refusals == {"unauthorized": 1}
    assert not desk.dispatcher.running


@every_kind
@pytest.mark.parametrize(
    ("owner", "sender"), [(A, B), (A, b""), (b"", A)], ids=["another key", "no key", "a key for none"]
)
def test_a_lease_of_another_key_is_refused(kind, owner, sender):
    """Whoever shows it; it is not renewed by that, and its owner goes on."""
    desk = Desk()
    lease = desk.attach(key=owner).lease
    desk.now_s += 3.0
    answer = desk.send_frames(frames_of(kind, lease), b"stranger", sender)
    assert answer.header.kind == Kind.ERROR
    assert type(answer.error) is Unauthorized
    nothing_was_done(desk, lease)
    assert desk.stats().idle_s == pytest.approx(3.0)
    assert desk.send(Kind.STEP, b"", b"actions", seq=1, key=owner) is None
    assert desk.pool.begun == [("step", b"", b"actions")]


@every_kind
def test_a_key_that_was_forgotten_may_send_nothing(kind):
    """Its connection is open still; the driver's lease does not help it."""
    desk = Desk()
    lease = desk.attach(key=A).lease
    answer = desk.send_frames(frames_of(kind, lease), b"stranger", None)
    assert type(answer.error) is Unauthorized
    nothing_was_done(desk, lease)


@every_kind
def test_the_lease_of_a_part_is_bound_too(kind):
    """To the key of the driver that split the pool."""
    desk = Desk()
    desk.attach(key=A)
    desk.send(Kind.SPLIT, messages.Split(2), seq=1, key=A)
    (split,) = desk.finish()
    part = messages.decode(split.ext, messages.SplitReply).parts[0]
    answer = desk.send_frames(frames_of(kind, part.lease), b"stranger", B)
    assert type(answer.error) is Unauthorized
    assert desk.pool.parts[0].begun == []
    assert desk.send(Kind.STEP, b"", b"actions", seq=1, lease=part.lease, key=A) is None


def test_another_key_takes_the_pool_as_any_other_client_does():
    """Not by the driver's name alone, but by force or by resuming, and with a lease of its own."""
    desk = Desk()
    first = desk.attach(key=A).lease
    name = messages.Attach(client="trainer")
    assert type(desk.send(Kind.ATTACH, name, lease=0, digest=1, key=B).error) is LeaseHeld
    assert desk.attach(key=B, force=True).lease == first + 1
    assert desk.send(Kind.STEP, b"", b"actions", seq=1, lease=first, key=A).error.code == "lease_lost"
    assert desk.send(Kind.STEP, b"", b"actions", seq=1, key=B) is None
    desk.finish()
    point = ResumePoint(desk.lease, EPOCH, 1, pending=False)
    resumed = desk.attach(key=A, resume=messages.ResumeFrom(point.lease, point.epoch, point.seq))
    assert (resumed.lease, resumed.last_seq) == (first + 2, 1)
    assert desk.send(Kind.STEP, b"", b"actions", seq=2, key=B).error.code == "unauthorized"
    assert desk.send(Kind.STEP, b"", b"actions", seq=2, key=A) is None


def test_the_answer_to_an_attach_is_given_again_to_its_own_key_alone():
    """A client that asks by the driver's name and tag is not given the driver's lease."""
    desk = Desk()
    attach = messages.Attach(client="trainer")
    answers = [desk.send(Kind.ATTACH, attach, lease=0, epoch=0, digest=7, key=key) for key in (A, A, B)]
    leases = [messages.decode(answer.ext, messages.Attached).lease for answer in answers[:2]]
    assert leases[0] == leases[1]
    assert answers[2].error.code == "lease_lost"  # a late one, under this name
