"""Who knocks at a pool's door gets the arena for a lease, or hears why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.pools.processes import wait_for
from vecserver.arena.passing import close_all, new_socket, receive, send
from vecserver.pools.results import PoolView
from vecserver.pools.spec import PoolSpec
from vecserver.wire import messages
from vecserver.wire.frames import Kind
from vecserver.wire.loan import Borrow, Fetch, FromHost, Lent, Recalled

COUNT = "tests.environments:vectest/Count-v0"


class Caller:
    """A connection to a pool's door."""

    def __init__(self, view: PoolView) -> None:
        self.sock = new_socket()
        self.sock.connect(view.endpoints["shm"].removeprefix("shm://"))
        self.sock.settimeout(10)
        self.fds: list[int] = []

    def ask(self, message) -> FromHost:
        send(self.sock, message)
        return self.hear()

    def hear(self) -> FromHost:
        message, fds = receive(self.sock, FromHost)
        self.fds += fds
        return message

    def close(self) -> None:
        close_all(self.fds)
        self.sock.close()


@pytest.fixture
def caller() -> Iterator[Callable[[PoolView], Caller]]:
    with ExitStack() as stack:
        yield lambda view: stack.enter_context(closing(Caller(view)))


@pytest.fixture
def view(registry) -> Iterator[PoolView]:
    view = registry.create(PoolSpec(env_id=COUNT, num_envs=2, workers=1))
    yield view
    if view.pool in {each.pool for each in registry.list()}:
        registry.delete(view.pool)


@pytest.fixture
def lease(view, peer) -> Callable[[], Borrow]:
    """Takes the lease, and says what to knock with."""

    def take() -> Borrow:
        answer = peer(view.endpoints["ipc"]).ask(Kind.ATTACH, messages.Attach(force=True, client=os.urandom(4).hex()))
        attached = messages.decode(answer.ext, messages.Attached)
        return Borrow(attached.lease, attached.epoch)

    return take


def test_a_lease_gets_the_arena(view, lease, caller):
    """Its memory, the orders', five bells, and one a worker."""
    driver = caller(view)
    lent = driver.ask(lease())
    assert lent == Lent([(0, 2)], view.arena_bytes, 4096, 0)
    assert len(driver.fds) == 7
    assert [os.fstat(fd).st_size for fd in driver.fds[:2]] == [view.arena_bytes, 4096]


@pytest.mark.parametrize("wrong", ["lease", "epoch", "none"])
def test_no_lease_gets_nothing(view, lease, caller, wrong):
    """Neither an old one nor a made up one; and it is told."""
    first = lease()
    borrow = {
        "lease": Borrow(first.lease + 1, first.epoch),
        "epoch": Borrow(first.lease, first.epoch + 1),
        "none": Borrow(0, first.epoch),
    }[wrong]
    stranger = caller(view)
    answer = stranger.ask(borrow)
    assert isinstance(answer, Recalled)
    assert answer.code == "lease_lost"
    assert stranger.fds == []
    with pytest.raises(EOFError):
        stranger.hear()


def test_a_new_lease_ends_the_loan(view, lease, caller):
    """The old driver hears it, though it says nothing itself; the new one has it lent in turn."""
    old, new = caller(view), caller(view)
    old.ask(lease())
    borrow = lease()
    said = old.hear()
    assert (type(said), said.code) == (Recalled, "lease_lost")
    assert isinstance(new.ask(borrow), Lent)


def test_the_same_driver_may_knock_again(view, lease, caller):
    """What it had before is over; there is one loan."""
    borrow, first, second = lease(), caller(view), caller(view)
    first.ask(borrow)
    assert isinstance(second.ask(borrow), Lent)
    with pytest.raises(EOFError):
        first.hear()


@pytest.mark.parametrize("data", [b"noise", b"\x81\xa4type\xa5Fetch\xa3seq\x01"])
def test_who_knocks_with_something_else_is_shown_out(view, lease, caller, data):
    """And the next one is heard."""
    odd, driver = caller(view), caller(view)
    odd.sock.send(data)
    with pytest.raises(EOFError):
        odd.hear()
    assert isinstance(driver.ask(lease()), Lent)


def test_who_says_nothing_keeps_nobody_out(view, lease, caller):
    """A few may stand at the door; of more the oldest goes."""
    silent = [caller(view) for _ in range(12)]
    driver = caller(view)
    assert isinstance(driver.ask(lease()), Lent)
    for each in silent[:4]:
        with pytest.raises(EOFError):
            each.hear()


def test_a_borrower_that_talks_nonsense_loses_the_arena(view, lease, caller):
    """Its loan ends; the pool goes on."""
    driver = caller(view)
    borrow = lease()
    driver.ask(borrow)
    driver.sock.send(b"noise")
    with pytest.raises(EOFError):
        driver.hear()
    assert isinstance(caller(view).ask(borrow), Lent)


def test_a_fetch_without_a_step_gives_nothing(view, lease, caller):
    """Payloads of no bytes."""
    driver = caller(view)
    driver.ask(lease())
    answer = driver.ask(Fetch(5))
    assert (answer.seq, answer.sizes) == (5, [0])


def test_the_door_is_gone_with_the_pool(registry, view, lease, caller):
    """Its file too; a driver hears the end."""
    driver = caller(view)
    driver.ask(lease())
    path = view.endpoints["shm"].removeprefix("shm://")
    registry.delete(view.pool)
    with pytest.raises(EOFError):
        driver.hear()
    wait_for(lambda: not os.path.exists(path))  # noqa: PTH110 - a path that is text
