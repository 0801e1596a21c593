"""Mutated messages against hosts that live: plain sockets, many connections, and an honest driver beside them.

Two pools are tried. On the *driven* one the sender has the lease, so that its requests reach the decoders of actions,
seeds, options and arguments, and run where they are right. On the *shared* one somebody else has it, and steps as if
nothing were.
"""

from __future__ import annotations

import itertools
import random
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import gymnasium
import numpy as np
import zmq
from gymnasium.vector.utils import batch_space

from tests.dataplane.peers import Driver
from tests.environments import env_id
from tests.pools.registries import start_threads
from tests.security.mutation import Mutator, Whole
from vecserver.pools.registry import Registry
from vecserver.pools.results import PoolView
from vecserver.pools.spec import PoolSpec
from vecserver.wire import messages, zmtp
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack
from vecserver.wire.frames import MAX_EXT, Flag, Header, Kind

LINES = 8
BATCH = 50
"""Messages that go out on each connection before its answers are waited for."""
HANG_S = 60.0
"""Longer than a host takes for a batch on the slowest machine: each environment's step takes microseconds."""
STEP_S = 5.0
"""A worker that a mutated argument keeps busy for longer is replaced: that is no hang of a host."""
ROWS = 3


class Hanging(AssertionError):
    """A host gave no answer to a PING behind a batch."""


class Line:
    """One connection to a host, which may be ended at any time and is made again then."""

    def __init__(self, path: str, max_body: int) -> None:
        self._path, self._max_body = path, max_body
        self.sock: socket.socket | None = None
        self.outbox = b""
        self.tag = 0  # of the PING behind the batch, while it is waited for

    def connect(self) -> None:
        """Connect, and say what is spoken here."""
        self.close()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)
        self.sock.setblocking(False)
        self._incoming = zmtp.Incoming((64, MAX_EXT, self._max_body))
        self._greeted = False
        self.outbox = zmtp.GREETING + zmtp.READY

    def write(self) -> None:
        """Send as much as there is room for."""
        assert self.sock is not None
        with suppress(BlockingIOError):
            self.outbox = self.outbox[self.sock.send(self.outbox) :]

    def read(self) -> Iterator[tuple[Header, bytes]]:
        """The answers that have come; raises ConnectionError where the host has ended the connection."""
        assert self.sock is not None
        while True:
            try:
                count = self.sock.recv_into(self._incoming.room())
            except BlockingIOError:
                return
            if not count:
                raise ConnectionResetError("the host ended it")
            self._incoming.received(count)
            if not self._greeted and not self._incoming.greeting():
                continue
            self._greeted = True
            while (frames := self._incoming.message()) is not None:
                yield Header.unpack(frames[0]), bytes(frames[1])
            self._incoming.commands.clear()

    def close(self) -> None:
        """Hang up."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


@dataclass
class Sender:
    """Sends mutated messages to one pool, and counts what becomes of them.

    Args:
        view: The pool.
        mutator: Changes the messages.
        drives: Whether to take the pool's lease before each round, by force.

    Attributes:
        sent: Mutated messages.
        outcomes: Answers by the error's code or the kind; and what became of connections.
    """

    view: PoolView
    mutator: Mutator
    drives: bool
    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        path = self.view.endpoints["ipc"].removeprefix("ipc://")
        self._lines = [Line(path, self.view.info.layout["slot_size"]) for _ in range(LINES)]
        self._tags = itertools.count(1)
        self._whole = [*requests(self.view)]

    def close(self) -> None:
        """Hang up everywhere."""
        for line in self._lines:
            line.close()

    def post(self) -> None:
        """Make a round's messages and begin to send them."""
        rng = self.mutator.rng
        for line in self._lines:
            if line.sock is None:
                line.connect()
        at = self._attach(self._lines[0]) if self.drives else {}
        for line in self._lines:
            at = at if self.drives else {"lease": rng.randrange(3), "epoch": rng.getrandbits(64)}
            line.outbox += b"".join(itertools.islice(self._mutated(at), BATCH))
            self.sent += BATCH
            self._await(line)
            line.write()

    def _attach(self, line: Line) -> dict[str, int]:
        """Become the driver: with new numbers, whatever the last round has done."""
        ask = messages.encode(messages.Attach(force=True, client="sender"))
        attached: list[messages.Attached] = []
        refused = True

        def take(header: Header, ext: bytes) -> None:
            nonlocal refused
            if header.kind == Kind.ATTACH and header.flags & Flag.ANSWER:
                attached.append(messages.decode(ext, messages.Attached))
            refused = refused or header.kind == Kind.ERROR

        deadline = monotonic() + HANG_S
        while not attached:  # it waits for the command that runs
            if monotonic() > deadline:
                raise Hanging(f"the pool was not given within {HANG_S:g} s")
            if line.sock is None:
                line.connect()
                refused = True
            if refused:  # at first, and where as many others wait as may
                line.outbox += _wire([Header(Kind.ATTACH, digest=next(self._tags)).pack(), ask, b""])
                refused = False
            self._await(line)
            self._settle([line], take)
        return {"lease": attached[-1].lease, "epoch": attached[-1].epoch}

    def check(self) -> None:
        """Have the pool reset and step as if nothing had been."""
        for line in self._lines:
            line.connect()
        line, heard = self._lines[0], set()
        at = self._attach(line)
        step = next(whole for whole in self._whole if whole.header.kind == Kind.STEP)
        for seq, whole in enumerate((Whole(Header(Kind.RESET), numbered=True), step), 1):
            deadline = monotonic() + HANG_S
            line.outbox += _wire(whole.with_(**at, seq=seq).frames())
            while whole.header.kind not in heard:
                assert monotonic() < deadline, f"no answer, or a refusal, to {Kind(whole.header.kind).name}"
                self._await(line)
                self._settle([line], lambda header, _: heard.add(header.kind))

    def _mutated(self, at: dict[str, int]) -> Iterator[bytes]:
        rng = self.mutator.rng
        for seq in itertools.count(1):
            whole = rng.choice(self._whole)
            if whole.numbered or whole.header.kind == Kind.RESUME:
                whole = whole.with_(**at, seq=rng.randrange(1, 3 + seq // 10))
            elif whole.header.kind != Kind.DETACH or rng.random() < 0.02:  # which ends the lease for the round
                whole = whole.with_(**at)
            frames = self.mutator.frames(whole)
            if self.drives or not takes_pool(frames):
                yield _wire(frames)

    def _await(self, line: Line) -> None:
        line.tag = next(self._tags) | 1 << 31
        line.outbox += _wire([Header(Kind.PING, digest=line.tag).pack(), b"", b""])

    def settle(self) -> None:
        """Take in all answers of the round, then send what ends connections, or leaves them with half a message."""
        self._settle(self._lines, self._count)
        for line in self._lines:
            if line.sock is not None and self.mutator.rng.random() < 0.75:
                frames = self.mutator.frames(self.mutator.rng.choice(self._whole))
                if takes_pool(frames):
                    continue
                line.outbox += self.mutator.stream(frames)
                self.sent += 1
                with suppress(ConnectionError):
                    line.write()
                    self.outcomes["connection left behind by its peer"] += 1
                    for header, ext in line.read():
                        self._count(header, ext)
                line.close()

    def _count(self, header: Header, ext: bytes) -> None:
        name = Kind(header.kind).name
        if header.kind == Kind.ERROR:
            name = messages.decode(ext, messages.ErrorReply).code
        self.outcomes[name] += 1

    def _settle(self, lines: list[Line], take: Callable[[Header, bytes], None]) -> None:
        """Send and receive until each PING is answered, or its connection was ended."""
        deadline = monotonic() + HANG_S
        waiting = {line.sock.fileno(): line for line in lines if line.sock is not None and line.tag}
        poll = select.poll()
        for fd in waiting:
            poll.register(fd, select.POLLIN | select.POLLOUT)
        while waiting:
            if monotonic() > deadline:
                raise Hanging(f"no answer to a PING within {HANG_S:g} s")
            for fd, events in poll.poll(1000):
                line = waiting[fd]
                try:
                    if events & select.POLLOUT:
                        line.write()
                        if not line.outbox:
                            poll.modify(fd, select.POLLIN)
                    for header, ext in line.read() if events & ~select.POLLOUT else ():
                        if header.kind == Kind.PING and header.digest == line.tag:
                            line.tag = 0
                        else:
                            take(header, ext)
                except ConnectionError:
                    self.outcomes["connection ended by the host"] += 1
                    line.tag = 0
                    poll.unregister(fd)
                    line.close()
                    line.outbox = b""
                    del waiting[fd]
                    continue
                if not line.tag:
                    poll.unregister(fd)
                    del waiting[fd]


def _wire(frames: list[bytes]) -> bytes:
    return b"".join(map(bytes, zmtp.encode(frames)))


def takes_pool(frames: list[bytes]) -> bool:
    """Whether this is a right request to become the driver by force, which a pool without secrets grants to anybody."""
    try:
        attach = messages.decode(frames[1], messages.Attach)
        return Header.unpack(frames[0]).kind == Kind.ATTACH and attach.drive and attach.force
    except Exception:  # noqa: BLE001 - it is broken in one of many ways
        return False


def requests(view: PoolView) -> Iterator[Whole]:
    """A pool's requests as they ought to be; what each does often is there more often."""
    with closing(gymnasium.make(view.spec.env_id)) as env:
        space = env.action_space  # that of the environment itself: what travels cannot be sampled where it is custom
    space.seed(1)
    fmt = ActionFormat(space, view.info.num_envs)
    for _ in range(4):
        ext, body = fmt.encode(fmt.coerce(batch_space(space, view.info.num_envs).sample()))
        yield Whole(Header(Kind.STEP, t_steps=1), ext, bytes(body), numbered=True)
    seeds = messages.Reset([1, None, 2], [True, False, True], pack({"low": -0.01}))
    yield Whole(Header(Kind.RESET), messages.encode(seeds), numbered=True)
    yield Whole(Header(Kind.RESET), messages.encode(messages.Reset(options=[pack({}), None, None])), numbered=True)
    call = messages.Call("reset_count", pack([[], {}]), rows=[0, 2])
    yield Whole(Header(Kind.CALL), messages.encode(call), numbered=True)
    values = pack([1, np.arange(3.0), ("a", b"b")])
    yield Whole(Header(Kind.CALL), messages.encode(messages.Call("mark", values, assign=True)), numbered=True)
    yield Whole(Header(Kind.SPLIT), messages.encode(messages.Split(2)), numbered=True)
    yield Whole(Header(Kind.JOIN), numbered=True)
    yield Whole(Header(Kind.HELLO), messages.encode(messages.Hello("somebody")))
    yield Whole(Header(Kind.ATTACH, digest=5), messages.encode(messages.Attach(drive=False, client="observer")))
    resume = messages.ResumeFrom(1, 2**60, 3)
    yield Whole(Header(Kind.ATTACH), messages.encode(messages.Attach(client="later", resume=resume)))
    yield Whole(Header(Kind.RENDER), messages.encode(messages.Render([0, 1])))
    yield Whole(Header(Kind.PING))
    yield Whole(Header(Kind.DETACH))
    yield Whole(Header(Kind.RESUME))


class Honest:
    """A driver whose every batch is compared with Gymnasium's own environments."""

    def __init__(self, context: zmq.Context, view: PoolView) -> None:
        self._driver = Driver(context, view, "ipc", ticket="")
        self._oracle = gymnasium.make_vec(view.spec.env_id, view.spec.num_envs, vectorization_mode="sync")
        self._rng = np.random.default_rng(1)
        self.batches = 0
        self._same(self._driver.reset(7).observations[0], self._oracle.reset(seed=7)[0])

    @staticmethod
    def _same(got: np.ndarray, wanted: np.ndarray) -> None:
        assert got.tobytes() == wanted.tobytes(), "a batch of the honest driver is another"

    def step(self) -> None:
        """Step once, and compare."""
        actions = self._rng.integers(0, 2, self._oracle.num_envs)
        views, wanted = self._driver.step(actions), self._oracle.step(actions)
        parts = (views.observations[0], views.rewards, views.terminated, views.truncated)
        for got, right in zip(parts, wanted[:4], strict=True):
            self._same(got, right)
        self.batches += 1

    def close(self) -> None:
        """Give the pool back."""
        self._driver.socket.close()
        self._oracle.close()


@dataclass
class Outcome:
    """What a run saw.

    Attributes:
        sent: Mutated messages.
        outcomes: Pool → what became of them → how often.
        batches: Steps of the honest driver meanwhile, each compared.
        growth: Pool → bytes by which its host's own memory has grown.
        seconds: How long it took.
    """

    sent: int
    outcomes: dict[str, Counter[str]]
    batches: int
    growth: dict[str, int]
    seconds: float


def own_memory(pid: int) -> int:
    """Resident bytes of a process, shared memory left out: the arena's pages are counted where they are first written."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kib = {name: int(lines[name].split()[0]) for name in ("VmRSS", "RssShmem")}
    return 1024 * (kib["VmRSS"] - kib["RssShmem"])


@contextmanager
def pools(registry: Registry) -> Iterator[dict[str, PoolView]]:
    """The pools that are tried, by what they are called in reports."""
    made = {
        "shared": registry.create(PoolSpec(env_id="CartPole-v1", num_envs=ROWS, engine="envs", workers=2)),
        "driven": registry.create(
            PoolSpec(
                env_id="CartPole-v1", num_envs=ROWS, engine="envs", workers=2, step_timeout=STEP_S, restart_budget=None
            )
        ),
        "driven, side values": registry.create(
            PoolSpec(
                env_id=env_id("Mixed-v0"),
                num_envs=ROWS,
                engine="envs",
                workers=2,
                step_timeout=STEP_S,
                restart_budget=None,
            )
        ),
    }
    try:
        yield made
    finally:
        for view in made.values():
            registry.delete(view.pool, force=True)


def run(registry: Registry, count: int, seed: int, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Send so many mutated messages, half of them to the shared pool.

    Raises:
        AssertionError: A host has ended or gives no answer, or the honest driver saw another batch than it should.
    """
    began = monotonic()
    with pools(registry) as views, zmq.Context() as context:
        start_threads(context)
        senders = {
            name: Sender(view, Mutator(random.Random(f"{seed} {name}")), drives=name != "shared")
            for name, view in views.items()
        }
        honest = Honest(context, views["shared"])
        before: dict[str, int] = {}
        try:
            turns = itertools.cycle(("shared", "driven", "shared", "driven, side values"))
            told = 0
            while (sent := sum(sender.sent for sender in senders.values())) < count:
                sender = senders[next(turns)]
                sender.post()
                honest.step()
                sender.settle()
                if not before and sent >= min(count // 10, 20_000):  # every path was taken, every buffer made
                    before = {name: own_memory(view.host_pid) for name, view in views.items()}
                if sent - told >= 100_000:
                    told = sent
                    tell(f"{sent:,} messages, {monotonic() - began:.0f} s")
            for name, sender in senders.items():
                if sender.drives:
                    sender.check()
                sender.close()
                assert registry.get(views[name].pool).stats is not None, f"the host of the {name} pool is gone"
            growth = {name: own_memory(view.host_pid) - before[name] for name, view in views.items()}
        finally:
            honest.close()
            for sender in senders.values():
                sender.close()
    outcomes = {name: sender.outcomes for name, sender in senders.items()}
    sent = sum(sender.sent for sender in senders.values())
    return Outcome(sent, outcomes, honest.batches, growth, monotonic() - began)
