"""Where the time of a batch goes: a run of a few hundred batches with a host and workers that note what they do when.

Of each batch there is a chain of instants, from the call of ``step`` to its return, along the worker that ended last.
The parts between them are measured and sum to the batch. One is divided further by calculation: a worker's time into
what the bare loop takes for its rows, in the same run, and the rest. A batch whose instants cannot be is left out.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vecserver.arena.doorbell import Doorbell
from vecserver.arena.plan import even_shards
from vecserver.cli.measure.report import LeftOut
from vecserver.cli.measure.stamps import HOST, Stamps, worker_line
from vecserver.cli.measure.subjects import SEED, action_batches
from vecserver.engine.make import EnvMaker
from vecserver.pools.gate import Gate
from vecserver.pools.handshake import HostStart
from vecserver.pools.hosts import HostProcess
from vecserver.pools.spec import Caps
from vecserver.pools.starting import for_environments
from vecserver_client.borrowed import BorrowedArena
from vecserver_client.connection import Connection
from vecserver_client.direct import DirectTransport
from vecserver_client.factory import driver_name
from vecserver_client.passes import Credentials
from vecserver_client.remote_vector_env import RemoteVectorEnv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vecserver.cli.measure.ceiling import Ceiling
    from vecserver.cli.measure.question import PoolChoice, Question
    from vecserver.wire.frames import Buffer
    from vecserver_client.transport import Frames

__all__ = ["NoChains", "Part", "WhereTimeGoes", "parts_of", "where_time_goes"]

_ROUNDS: Final = 5
_BATCHES: Final = 80
"""Of a round, at most: it ends after the seconds of a turn as well."""
_WARM: Final = 10
"""Batches of each round that do not count: it begins behind the bare loops, with cold caches."""
_START_S: Final = 120.0
_GRACE_S: Final = 5.0
_REACH_S: Final = 5.0
_BACK_NS: Final = 5_000
"""How far an instant may lie before the one it follows: the clocks of two cores differ by less than a microsecond."""

_Table = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class NoChains(Exception):
    """Most batches' instants contradict each other; says how many."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a batch.

    Attributes:
        name: ``client``, ``wire``, ``host``, ``bells``, ``workers`` or ``environment``.
        us: Microseconds. A remainder is below nought where the bare loop was slower than the worker.
        per_cent: Of the batch.
        found: How: ``measured``, ``bare loop`` (the time that the bare loop takes for these rows) or ``remainder``.
    """

    name: str
    us: float
    per_cent: float
    found: str


@dataclass(frozen=True, slots=True)
class WhereTimeGoes:
    """Where a batch of one pool goes.

    Attributes:
        subject: The pool.
        batches: How many were measured: half of them are left, those next to the median.
        batch_us: Microseconds of a batch, the mean of these; its parts sum to it.
        left_out: Batches beside these, whose instants contradict each other.
    """

    subject: str
    batches: int
    batch_us: float
    parts: list[Part]
    left_out: int = 0


def where_time_goes(
    question: Question,
    choices: Sequence[PoolChoice],
    ceiling: Ceiling,
    progress: Callable[[str], None],
    left_out: list[LeftOut],
) -> list[WhereTimeGoes]:
    """Measure each pool once more, with a host of its own.

    Args:
        question: What is compared.
        choices: The pools.
        ceiling: The bare loops.
        progress: Called with a sentence now and then.
        left_out: Told of pools whose batches cannot be taken apart.

    Raises:
        VecServerError: A pool cannot be made.
    """
    results = []
    for choice in choices:
        progress(f"{choice.name}: where the time goes")
        with ExitStack() as stack:
            pool = _StampedPool(question, choice, stack)
            row_ns = [_bare_row_ns(ceiling, question.seconds / _ROUNDS)]
            for _ in range(_ROUNDS):
                pool.run(question.seconds)
                row_ns.append(_bare_row_ns(ceiling, question.seconds / _ROUNDS))
            try:
                results.append(parts_of(choice.name, *pool.chains(), float(np.median(row_ns))))
            except NoChains as error:
                left_out.append(LeftOut(f"{choice.name}, where its time goes", str(error)))
    return results


def _bare_row_ns(ceiling: Ceiling, seconds: float) -> float:
    """Nanoseconds that one process takes for one step in a bare loop, while the others run theirs."""
    return float(np.mean([1e9 / rate for rate in ceiling.rates(seconds)]))


class _Client:
    """What the client's end notes of the batch under way."""

    def __init__(self) -> None:
        self.sent = self.heard = 0


class _StampedTransport:
    """A transport that notes when a request leaves and when its answer is there. As ``Transport``.

    Args:
        inner: The transport that does the work.
        notes: Where it is noted.
    """

    def __init__(self, inner: DirectTransport, notes: _Client) -> None:
        self._inner = inner
        self._notes = notes

    @property
    def fd(self) -> int:
        """As ``Transport.fd``."""
        return self._inner.fd

    def send(self, header: bytes, ext: bytes, body: Buffer, timeout: float) -> None:
        """Send one message."""
        self._notes.sent = perf_counter_ns()
        self._inner.send(header, ext, body, timeout)

    def receive(self, timeout: float) -> Frames | None:
        """Wait for one message."""
        frames = self._inner.receive(timeout)
        self._notes.heard = perf_counter_ns()
        return frames

    def moved(self) -> bool:
        """As ``Transport.moved``."""
        return self._inner.moved()

    def close(self) -> None:
        """Close it."""
        self._inner.close()


class _StampedPool:
    """A pool whose host, workers and client note what they do.

    Args:
        question: What is compared.
        choice: The pool.
        stack: Ends what was started.
    """

    def __init__(self, question: Question, choice: PoolChoice, stack: ExitStack) -> None:
        self._rows = question.num_envs
        self._direct = choice.transport == "shm"
        self._notes = _Client()
        self._own: list[tuple[int, int, int, int]] = []
        self._counts: list[bool] = []
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vs-")))
        size = _ROUNDS * (_BATCHES + _WARM)
        self._stamps = Stamps.create(folder / "stamps", self._rows, size)
        command = [sys.executable, "-m", __name__.replace(".where", ".stamped_host")]
        command += [str(folder / "stamps"), str(self._rows), str(size)]
        host = HostProcess(command, _start(question, choice, folder), for_environments(["*"]))
        stack.callback(lambda: host.end(monotonic() + _GRACE_S))
        stack.callback(host.ask_to_stop)
        ready = host.greet()
        self._shards = even_shards(self._rows, ready.info.workers)
        self._envs = self._driver(choice.transport, ready.endpoints, ready.info.layout["slot_size"], host.check_alive)
        stack.callback(self._envs.close)
        self._envs.reset(seed=SEED)
        env = EnvMaker(question.env_id, {}, None)()
        self._actions = cycle(action_batches(env.action_space, self._rows))
        env.close()

    def _driver(
        self, transport: str, endpoints: dict[str, str], slot_size: int, check_alive: Callable[[], None]
    ) -> RemoteVectorEnv:
        endpoint = endpoints["ipc" if self._direct else transport]
        credentials = Credentials(ticket=_TICKET) if endpoint.startswith("tcp://") else None
        connection = Connection(
            driver_name(),
            lambda: _StampedTransport(DirectTransport(endpoint, slot_size, credentials=credentials), self._notes),
            check_alive,
        )
        attached = connection.attach(_REACH_S)
        arena = None
        if self._direct:
            path = endpoints["shm"].removeprefix("shm://")
            arena = BorrowedArena(path, attached.lease, attached.epoch, _REACH_S, check_alive)
        return RemoteVectorEnv(connection, attached, transport, _nothing_to_release, arena)

    def run(self, seconds: float) -> None:
        """Step some batches, for so long at most."""
        envs, notes, own = self._envs, self._notes, self._own
        end = perf_counter_ns() + seconds * 1e9
        with _noted_rings(notes):
            for number in range(_WARM + _BATCHES):
                actions = next(self._actions)
                began = perf_counter_ns()
                envs.step_async(actions)
                rung = perf_counter_ns()
                envs.step_wait()
                now = perf_counter_ns()
                own.append((began, rung if self._direct else notes.sent, notes.heard, now))
                self._counts.append(number >= _WARM)
                if now > end and number > _WARM:
                    break

    def chains(self) -> tuple[_Table, _Table, list[str]]:
        """The instants of each batch in their order, the rows of the worker that ended last, and the parts between."""
        counts = np.array(self._counts)
        own = np.array(self._own)
        stamps = self._stamps.read()[:, : len(own)]
        workers = stamps[[worker_line(first) for first, _ in self._shards], :, :2]
        last = workers[:, :, 1].argmax(axis=0)
        called, finished = workers[last, np.arange(len(own))].T
        rows = np.array([end - first for first, end in self._shards])[last]
        began, left, heard, returned = own.T
        called[(workers[:, :, 0] < began).any(axis=0)] = 0  # one worker's stamps are missing: it may have been the last
        if self._direct:
            chain = [began, left, called, finished, heard, returned]
            names = ["client", "bells", "workers", "bells", "client"]
        else:
            took, rung, ended, answered = stamps[HOST].T
            chain = [began, left, took, rung, called, finished, ended, answered, heard, returned]
            names = ["client", "wire", "host", "bells", "workers", "bells", "host", "wire", "client"]
        return np.stack(chain, axis=1)[counts], rows[counts], names


def parts_of(subject: str, chain: _Table, rows: _Table, names: Sequence[str], row_ns: float) -> WhereTimeGoes:
    """Sum up the batches.

    Args:
        subject: The pool.
        chain: The instants of each batch ``[batch, instant]``, in nanoseconds.
        rows: Rows of the worker that ended last, a batch each.
        names: What happens between two instants.
        row_ns: Nanoseconds that the bare loop takes for a row.

    Raises:
        NoChains: Not half of the batches can be taken apart.
    """
    sound = _sound(chain, names)
    count = int(np.count_nonzero(sound))
    if 2 * count <= len(chain):
        raise NoChains(f"in {len(chain) - count} of {len(chain)} batches what was noted contradicts itself")
    chain, rows = chain[sound], rows[sound]
    # each instant at the earliest of those behind it: a waker's note is late where the one it woke took its core
    chain = np.minimum.accumulate(chain[:, ::-1], axis=1)[:, ::-1]
    total = chain[:, -1] - chain[:, 0]
    low, high = np.percentile(total, [25, 75])
    usual = (low <= total) & (total <= high)
    us = dict.fromkeys(("client", "wire", "host", "bells", "workers", "environment"), 0.0)
    spans = np.diff(chain[usual], axis=1).mean(axis=0) / 1e3
    for name, span in zip(names, spans, strict=True):
        us[name] += float(span)
    us["environment"] = row_ns / 1e3 * float(rows[usual].mean())
    us["workers"] -= us["environment"]
    batch_us = float(total[usual].mean()) / 1e3
    found = {"environment": "bare loop", "workers": "remainder"}
    parts = [Part(name, part, 100 * part / batch_us, found.get(name, "measured")) for name, part in us.items()]
    return WhereTimeGoes(subject, count, batch_us, parts, len(sound) - count)


def _sound(chain: _Table, names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which batches have all of their instants, within the batch and in their order.

    One may come late: the note that the workers were rung. The one that was rung may have taken its waker's core, and
    then the note waits for as long as the worker runs. What comes before the ring bounds it all the same.
    """
    rung = names.index("workers") - 1 if "workers" in names[1:] else None
    in_order = np.ones(len(chain), np.bool_)
    for span, took in enumerate(np.diff(chain, axis=1).T):
        if span == rung:
            took = chain[:, span + 1] - chain[:, max(0, span - 1)]  # noqa: PLW2901 - the span that holds in any case
        in_order &= took >= -_BACK_NS
    within = (chain >= chain[:, :1]) & (chain <= chain[:, -1:])
    return in_order & within.all(axis=1) & (chain > 0).all(axis=1)


_TICKET: Final = secrets.token_urlsafe()
"""Of the host that is measured."""


def _start(question: Question, choice: PoolChoice, folder: Path) -> HostStart:
    return HostStart(
        pool="stamped",
        spec=choice.spec(question.env_id, question.num_envs),
        caps=Caps(),
        ipc_path=str(folder / "sock"),
        shm_path=str(folder / "shm"),
        log_path=str(folder / "log"),
        bind_host="127.0.0.1",
        gate=Gate(_TICKET),
        port_range=None,
        start_timeout=_START_S,
        grace=_GRACE_S,
    )


def _nothing_to_release(_unwanted: bool) -> None:  # noqa: FBT001 - called with it alone
    """The pool ends with its host."""


@contextmanager
def _noted_rings(notes: _Client) -> Iterator[None]:
    """Note when this process hears a bell: over shm that is the end of a batch."""
    take = Doorbell.take

    def noted_take(self: Doorbell) -> int:
        rings = take(self)
        if rings:
            notes.heard = perf_counter_ns()
        return rings

    restore: Callable[[], Any] = partial(setattr, Doorbell, "take", take)
    setattr(Doorbell, "take", noted_take)  # noqa: B010 - a method is put in its place, and back
    try:
        yield
    finally:
        restore()
