"""What a dispatcher counts of the messages it sees."""

from __future__ import annotations

import pytest

from tests.dataplane.desks import Desk
from vecserver.wire import messages
from vecserver.wire.frames import HEADER_SIZE, Kind


@pytest.fixture
def driven():
    """A pool with a driver."""
    desk = Desk()
    desk.attach()
    return desk


def test_messages_are_counted_by_kind_and_refusals_by_code(driven):
    """Noise is no message; one that is refused is a message too."""
    driven.step(1)
    driven.finish()
    driven.step(7)
    driven.send(Kind.ATTACH, messages.Attach(client="other"), lease=0, epoch=0)
    driven.send_frames([b"noise"])
    stats = driven.stats()
    assert stats.requests == {"ATTACH": 2, "STEP": 2, "PING": 1}
    assert stats.refusals == {"sequence_gap": 1, "lease_held": 1, "malformed_message": 1}
    assert stats.refused == 3


def test_what_is_answered_again_or_not_yet_is_counted(driven):
    """A driver that asks again tells that it heard nothing."""
    driven.step(1)
    driven.step(1)
    driven.finish()
    driven.step(1)
    driven.step(1)
    stats = driven.stats()
    assert (stats.in_progress, stats.replayed, stats.requests["STEP"]) == (1, 2, 4)


def test_requests_that_wait_are_counted_until_they_begin(driven):
    """Observers wait for the driver's command."""
    driven.step(1)
    for peer in (b"a", b"b"):
        driven.send(Kind.RENDER, messages.Render([0]), peer=peer, lease=0, epoch=0)
    assert driven.stats().waiting == 2
    driven.finish()
    assert driven.stats().waiting == 1


def test_bytes_are_those_of_the_frames(driven):
    """Of what came, noise included, and of what went, repeated answers included."""
    before = driven.stats()
    came = HEADER_SIZE  # of the ping below
    went = 0
    driven.step(1, b"actions")
    (answer,) = driven.finish(ext=b"infos")
    came, went = came + HEADER_SIZE + 7, went + HEADER_SIZE + 5 + len(answer.body)
    again = driven.step(1, b"actions")
    came, went = came + HEADER_SIZE + 7, went + HEADER_SIZE + 5 + len(again.body)
    driven.send_frames([b"noise"])
    came += 5
    after = driven.stats()
    assert after.received_bytes - before.received_bytes == came
    assert after.sent_bytes - before.sent_bytes > went  # the ping's answer and the error besides


def test_parts_count_into_their_pool(driven):
    """What the drivers of a split pool ask for is in the pool's counters, and stays when it is joined."""
    driven.send(Kind.SPLIT, messages.Split(2), seq=1)
    (answer,) = driven.finish(ext=b"")
    parts = messages.decode(answer.ext, messages.SplitReply).parts
    driven.send(Kind.STEP, b"", b"actions", seq=1, lease=parts[0].lease)
    driven.send(Kind.STEP, b"", b"actions", seq=9, lease=parts[1].lease)
    stats = driven.stats()
    assert (stats.requests["SPLIT"], stats.requests["STEP"]) == (1, 2)
    assert stats.refusals == {"sequence_gap": 1}
