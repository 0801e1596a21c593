"""The client's connection and the pool's dispatcher, with a link between that Hypothesis breaks: each batch runs once.

Nothing waits: both ends look at a clock that only goes on when the client would wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.dataplane.desks import TTL_S, Desk
from tests.wire.strategies import fixed
from vecserver.dataplane.requests import Reply
from vecserver.pools.host import Outcome
from vecserver.wire.errors import DeadlineExceeded, LeaseHeld, LeaseLost, SequenceStale, ServerUnreachable
from vecserver.wire.frames import Header, Kind
from vecserver_client import Connection, connection, conversation
from vecserver_client.transport import Frames

PATIENCE_S = 20.0
FATES = ("arrive", "lose", "double", "late", "cut before", "cut behind", "unreachable", "repeat old")
Fates = st.lists(st.sampled_from(FATES), max_size=6)


class Link:
    """A transport to the pool of a machine."""

    def __init__(self, net: Net, peer: bytes) -> None:
        self._net, self.peer = net, peer
        self.inbox: deque[Frames] = deque()
        self.is_cut = self.closed = False
        self.fd = -1

    def send(self, header: bytes, ext: bytes, body: Any, timeout: float) -> None:
        fate = self._net.fate()
        if fate == "unreachable":
            self._net.now += timeout
            raise ServerUnreachable("no way to the pool")
        self.is_cut = False  # a transport connects anew by itself
        self._net.carry(self, [header, bytes(ext), bytes(body)], fate)

    def receive(self, timeout: float) -> Frames | None:
        if not self.inbox and not self.is_cut:
            self._net.pass_time(timeout)
        if self.inbox:
            return self.inbox.popleft()
        if self.is_cut:
            raise ConnectionResetError
        return None

    def moved(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class Client:
    """A driver, and what it knows of its batches."""

    def __init__(self, net: Net, name: str) -> None:
        self.name = name
        self.connection = Connection(name, net.open, lambda: None)
        self.fenced = False
        self.sent: bytes | None = None  # that is pending
        self.heard: list[bytes] = []


class Net(RuleBasedStateMachine):
    """Drivers, a pool that notes what it begins, and a link that does what the fates say.

    The pool answers a step with the actions that it began; each batch of actions is another. So a batch that is lost,
    doubled or swapped shows.
    """

    @initialize()
    def make(self) -> None:
        self.desk = Desk()
        self.links: dict[bytes, Link] = {}
        self.fates: deque[str] = deque()
        self.late: list[tuple[Link, list[bytes]]] = []
        self.old: list[tuple[Link, list[bytes]]] = []
        self.numbers = 0
        self.orphans: set[bytes] = set()  # batches whose drivers were replaced before they heard of them
        self.before = conversation.monotonic, connection.monotonic, connection.sleep
        conversation.monotonic = connection.monotonic = lambda: self.now
        connection.sleep = self.sleep
        self.clients = [Client(self, "driver 0")]
        self.driver.connection.attach(PATIENCE_S)

    @property
    def driver(self) -> Client:
        return self.clients[-1]

    @property
    def now(self) -> float:
        return self.desk.now_s

    @now.setter
    def now(self, value: float) -> None:
        self.desk.now_s = value

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    # The link

    def open(self) -> Link:
        link = Link(self, b"peer %d" % len(self.links))
        self.links[link.peer] = link
        return link

    def fate(self) -> str:
        return self.fates.popleft() if self.fates else "arrive"

    def carry(self, link: Link, frames: list[bytes], fate: str) -> None:
        self.old.append((link, frames))
        if fate in ("cut before", "cut behind"):
            link.is_cut = True
        if fate == "late":
            self.late.append((link, frames))
        if fate in ("arrive", "double", "cut behind", "repeat old"):
            self.arrive(link, frames)
        if fate == "double":
            self.arrive(link, frames)
        elif fate == "repeat old":
            self.arrive(*self.old[len(self.old) // 2])

    def arrive(self, link: Link, frames: list[bytes]) -> None:
        reply = self.desk.dispatcher.message(link.peer, frames)
        if reply is not None:
            self.reply(reply)

    def reply(self, reply: Reply) -> None:
        link, fate = self.links[reply.peer], self.fate()
        if link.closed or link.is_cut:
            return
        frames = Header.unpack(reply.header), bytes(reply.ext), bytes(reply.body)
        if fate in ("arrive", "double", "repeat old"):
            link.inbox.extend([frames] * (1 + (fate == "double")))
        elif fate in ("cut before", "cut behind"):
            link.is_cut = True

    def pass_time(self, seconds: float) -> None:
        """What happens while a client waits: what was late arrives, and a batch comes to its end."""
        while self.late:
            self.arrive(*self.late.pop(0))
        if self.desk.dispatcher.running and self.fate() != "lose":
            self.finish()
        else:
            self.now += seconds

    def finish(self) -> None:
        what, *request = self.desk.pool.begun[-1]
        ext = request[-1] if what == "step" else b""
        for reply in self.desk.dispatcher.finished(Outcome(1, ext, None)):
            self.reply(reply)

    # What the drivers do

    def let(self, client: Client, call: Callable[[], Frames]) -> None:
        """Waits for the result of what is pending; it stays so where none comes."""
        try:
            header, ext, _ = call()
        except (DeadlineExceeded, ServerUnreachable):
            if not client.connection.pending:
                client.sent = None  # nothing has left: the batch is given up
            return
        except LeaseLost:
            assert client is not self.driver, "nobody took its lease"
            client.fenced, client.sent = True, None
            return
        assert header.kind == Kind.STEP
        assert ext == client.sent, "another batch's answer"
        client.heard.append(ext)
        client.sent = None

    @rule(which=st.integers(0, 2), fates=Fates)
    def step(self, which: int, fates: list[str]) -> None:
        """Any driver steps, one that was replaced included."""
        client = self.clients[-1 - which % len(self.clients)]
        if client.fenced:
            return
        self.fates = deque(fates)

        def call() -> Frames:
            if client.sent is None:
                self.numbers += 1
                client.sent = b"batch %d" % self.numbers
                client.connection.begin(Kind.STEP, b"", client.sent, PATIENCE_S)
            return client.connection.finish(PATIENCE_S)

        self.let(client, call)

    @rule(waits=st.booleans(), fates=Fates)
    def replace(self, waits: bool, fates: list[str]) -> None:
        """Another takes the pool, by force or after the time to live."""
        if len(self.clients) == 5:
            return
        if waits:
            if self.desk.dispatcher.running:
                self.finish()
            self.now += TTL_S + 1
        self.fates = deque(fates)
        client = Client(self, f"driver {len(self.clients)}")
        try:
            client.connection.attach(PATIENCE_S, force=not waits)
        except (DeadlineExceeded, ServerUnreachable, LeaseHeld):
            self.fates.clear()
            client.connection.attach(PATIENCE_S, force=True)
        self.orphan(self.driver)
        self.clients.append(client)

    @rule(fates=Fates, older=st.booleans())
    def restart(self, fates: list[str], older: bool) -> None:
        """The driver's process ends and another life of it goes on, with a token that may be one call old."""
        if len(self.clients) == 5:
            return
        before, heard = self.driver, [*self.driver.heard]
        token = before.connection.point
        if before.sent is None and older:
            self.step(0, fates)
        self.fates = deque(fates)
        client = Client(self, f"driver {len(self.clients)}")
        try:
            client.connection.attach(PATIENCE_S, resume=token)
        except (DeadlineExceeded, ServerUnreachable):
            self.fates.clear()
            client.connection.attach(PATIENCE_S, resume=token)
        except SequenceStale:
            raise AssertionError("one call is not too old") from None
        begun = self.begun()
        unheard = [batch for batch in (*before.heard, before.sent) if batch in begun and batch not in heard]
        assert client.connection.pending == bool(unheard), "what was taken and not heard is pending, and nothing else"
        client.sent = unheard[-1] if unheard else None
        self.clients.append(client)

    @precondition(lambda self: self.old)
    @rule(at=st.integers(0, 999))
    def stray(self, at: int) -> None:
        """An old message of whomever arrives once more."""
        self.arrive(*self.old[at % len(self.old)])

    def orphan(self, client: Client) -> None:
        if client.sent is not None:
            self.orphans.add(client.sent)

    def begun(self) -> list[bytes]:
        return [what[-1] for what in self.desk.pool.begun if what[0] == "step"]

    @invariant()
    def each_batch_was_begun_once_and_in_order(self) -> None:
        if not hasattr(self, "clients"):
            return
        begun = self.begun()
        assert len(set(begun)) == len(begun), "stepped twice"
        numbers = [int(batch.split()[1]) for batch in begun]
        for client in self.clients:
            heard = [int(batch.split()[1]) for batch in client.heard]
            assert [number for number in numbers if number in heard] == heard, "swapped"

    @invariant()
    def each_batch_that_was_begun_is_known_to_somebody(self) -> None:
        if not hasattr(self, "clients"):
            return
        known = {batch for client in self.clients for batch in (*client.heard, client.sent)} | self.orphans
        assert set(self.begun()) <= known, "stepped behind the driver's back"

    def teardown(self) -> None:
        """Once the link holds, the driver gets its answer, and those that were replaced hear why."""
        if not hasattr(self, "clients"):
            return
        try:
            for which in range(len(self.clients)):
                for _ in range(3):
                    self.step(which, [])
            for client in self.clients[:-1]:
                assert client.fenced
            assert self.driver.sent is None
            assert self.driver.heard
            self.each_batch_was_begun_once_and_in_order()
            self.each_batch_that_was_begun_is_known_to_somebody()
        finally:
            conversation.monotonic, connection.monotonic, connection.sleep = self.before


TestNet = Net.TestCase
TestNet.settings = fixed(100, stateful_step_count=30)
