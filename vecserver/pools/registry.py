"""The pools of one server: create, get, list, step, reset, delete. Thread-safe."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import zmq

from vecserver.pools.access import access_through, gate_of
from vecserver.pools.admission import Admission
from vecserver.pools.batches import decode_batch
from vecserver.pools.handshake import EXPIRED, HostReady, HostStart
from vecserver.pools.hosts import HostProcess, NoHost
from vecserver.pools.json_actions import batch_from_json
from vecserver.pools.keeping import Keeper
from vecserver.pools.keys import Keys
from vecserver.pools.link import PoolLink
from vecserver.pools.pictures import RENDER_MODE, as_picture
from vecserver.pools.results import Grant, PoolView, unmade
from vecserver.pools.sizing import RowCosts, is_measured
from vecserver.pools.spec import Caps, check_pool_name
from vecserver.pools.supervision import Supervisor
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import (
    CapExceeded,
    DeadlineExceeded,
    InvalidSpec,
    PoolLost,
    PoolStopping,
    StateUnavailable,
    StillRunning,
    UnknownPool,
    VecServerError,
)
from vecserver.wire.frames import Kind
from vecserver.wire.messages import Reset, pack_options
from vecserver.wire.session import REPLACEMENT_S, ResumePoint
from vecserver.wire.spaces import space_from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from vecserver.pools.access import Access
    from vecserver.pools.curve import KeyPair
    from vecserver.pools.results import Batch
    from vecserver.pools.spec import PoolSpec
    from vecserver.pools.store import DurablePool, PoolStore
    from vecserver.wire.messages import PoolInfo, Stats

__all__ = ["HostAddress", "Registry"]

# named here because inside the registry ``list`` is a method
_Seeds = list[int | None]
_Mask = list[bool]

_EXIT_SLACK: Final = 2.0
"""Seconds for an interpreter to leave, on top of what its pool may take."""

_LAST_ANSWERS_S: Final = 1.0
"""Seconds that answers of pools that have ended may take on their way through this process."""

_PING_TIMEOUT: Final = 2.0
"""Seconds a host may take to say how it is: it answers between batches and while they run."""

_RENDER_TIMEOUT: Final = 10.0
"""Seconds a frame may take, the batch that it waits for included: whoever looks can look again."""

_MAX_CONVERSATIONS: Final = 12
"""Resets and steps over HTTP at a time: each holds a thread of the control plane, as do creations and those that wait
for one (8 and 16). It has 40, so that some are left for what only looks."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pool:
    """A pool that was made, or is to be made because it is durable.

    Attributes:
        durable: Whether it is made again when its host has ended.
        restarts: How often it was.
        last_loss: How the host before this one ended.
    """

    process: HostProcess | NoHost
    spec: PoolSpec
    ready: HostReady
    created: float
    creation_s: float
    durable: bool = False
    restarts: int = 0
    last_loss: str = ""
    keys: Keys = field(default_factory=Keys)


@dataclass(eq=False, slots=True)
class _Reservation:
    """A name that one maker holds until its pool is listed; whoever deletes the pool takes it away.

    Attributes:
        process: What makes the pool, once it was started.
    """

    pool: str
    process: HostProcess | None = None


class HostAddress(NamedTuple):
    """Where a pool's host is reached from this process.

    Attributes:
        path: Its Unix socket, which speaks the protocol of ``docs/protocol.md``.
        info: The pool's spaces, layout and limits.
    """

    path: str
    info: PoolInfo


class Registry:
    """Owns the pools of a server and their host processes.

    Args:
        host_command: The argv prefix of a host process.
        runtime_dir: A private folder for sockets and logs; stays the caller's.
        bind_host: Address of the interface that pools listen on.
        port_range: First and last tcp port for pools; None for any free one.
        caps: Limits.
        start_timeout: Seconds a pool's environments may take to be made.
        grace: Seconds a pool may take to finish its batch and close its environments.
        store: Where durable pools are kept; closed by ``close``. None for a server that keeps none.
        keys: By which pools speak CURVE on tcp; None where that is not encrypted.
        insecure: Whether it is not although other machines reach it.
    """

    def __init__(
        self,
        *,
        host_command: Sequence[str],
        runtime_dir: Path,
        bind_host: str = "127.0.0.1",
        port_range: tuple[int, int] | None = None,
        caps: Caps | None = None,
        start_timeout: float = 60.0,
        grace: float = 5.0,
        store: PoolStore | None = None,
        keys: KeyPair | None = None,
        insecure: bool = False,
    ) -> None:
        self._curve = keys
        self.insecure = insecure
        self._host_command = tuple(host_command)
        self._runtime_dir = runtime_dir
        self._bind_host = bind_host
        self._port_range = port_range
        self.caps = caps or Caps()
        self._start_timeout = start_timeout
        self._grace = grace
        self._row_costs = RowCosts()
        self._context = zmq.Context()
        self._lock = threading.Lock()
        self._conversations = 0
        self._quiet = threading.Condition()
        self._pools: dict[str, _Pool] = {}
        self._starting: dict[str, _Reservation] = {}
        self._ending: set[HostProcess | NoHost] = set()
        self._sockets = itertools.count()
        self._admission = Admission(self.caps.max_creations)
        self.closing = False
        self._closed = False
        self._supervisor = Supervisor(self._note_end)
        self._keeper = Keeper(store, self._supervisor, self._make_again)

    def create(self, spec: PoolSpec, name: str | None = None, *, durable: bool = False) -> PoolView:
        """Make a pool; returns when it can be stepped.

        Args:
            spec: What to make.
            name: Its id; one is made up when it is None.
            durable: Keep it: it is made again when its host has ended, and when the server starts again.

        Raises:
            InvalidSpec: An option or the name is not allowed, or the name is taken; or nothing is kept here.
            CapExceeded: A limit of the server; names it.
            UnknownEnv: The environment id is not registered; names the nearest.
            EnvCreationFailed: An environment could not be made; has its own message.
            HostStartFailed: The host process failed.
            PortUnavailable: No port is free.
            StateUnavailable: It could not be kept, and was not made.
            PoolStopping: The server is shutting down.
        """
        spec.check(self.caps)
        if durable:
            self._keeper.check()
        reservation = self._reserve(name)
        pool = reservation.pool
        try:
            with self._admission.turn(self._start_timeout):
                made = replace(self._make(reservation, spec), durable=durable)
            self._publish(reservation, made)
        finally:
            with self._lock:
                self._give_up(reservation)
        self._log_made(pool, made)
        return self._view(pool, made)

    def _give_up(self, reservation: _Reservation) -> None:
        """Free a name, unless somebody else holds it by now; the lock is held."""
        if self._holds(reservation):
            del self._starting[reservation.pool]

    def _holds(self, reservation: _Reservation) -> bool:
        return self._starting.get(reservation.pool) is reservation

    def _make(self, reservation: _Reservation, spec: PoolSpec) -> _Pool:
        """Start a host process and wait for its pool; nothing is left of it where this raises."""
        began = time.monotonic()
        process = self._start(reservation, spec)
        try:
            ready = process.greet()
        except BaseException as error:
            self._end([process], self._grace)
            if isinstance(error, CapExceeded) and error.details.get("cap") == "max_arena_bytes":
                with self._lock:  # what the host was told may be what the other pools leave
                    self._check_total(error.details["asked"])
            raise
        if is_measured(spec, self.caps):
            self._row_costs.note(spec, ready.row_us)
        return _Pool(process, spec, ready, time.time(), time.monotonic() - began)

    def _publish(self, reservation: _Reservation, made: _Pool, instead_of: _Pool | None = None) -> None:
        """List a pool that was made, if it is still wanted and there is memory for it; keep it where it is durable."""
        pool, process = reservation.pool, made.process
        assert isinstance(process, HostProcess)
        try:
            if made.durable and instead_of is None:
                self._keeper.keep(pool, made.spec)
            with self._lock:
                if self.closing:
                    raise PoolStopping("the server is shutting down")
                if not self._holds(reservation) or self._pools.get(pool) is not instead_of:
                    raise PoolStopping("the pool was given up while its environments were made")
                self._check_total(made.ready.arena_bytes)
                del self._starting[pool]
                self._pools[pool] = made
        except VecServerError as error:
            self._end([process], self._grace)
            if made.durable and instead_of is None and not isinstance(error, StateUnavailable):
                self._keeper.forget(pool)
            raise
        self._supervisor.watch(process)

    def _check_total(self, asked: int) -> None:
        """Refuse an arena that is one too many; the lock is held."""
        limit, taken = self.caps.max_total_arena_bytes, self._arena_bytes()
        if limit is not None and taken + asked > limit:
            raise CapExceeded(
                f"the pool's arena has {asked} bytes and the other pools' {taken}; max_total_arena_bytes of this "
                f"server is {limit}: make fewer rows, or delete a pool",
                cap="max_total_arena_bytes",
                limit=limit,
                asked=asked,
            )

    def _arena_bytes(self) -> int:
        """Shared memory of the pools that have a host; the lock is held."""
        return sum(
            made.ready.arena_bytes
            for made in self._pools.values()
            if isinstance(made.process, HostProcess) and made.process.exitcode is None
        )

    def _reserve(self, name: str | None) -> _Reservation:
        if name is not None:
            check_pool_name(name)
        self._bury()
        with self._lock:
            if self.closing:
                raise PoolStopping("the server is shutting down: it makes no new pools")
            taken = self._pools.keys() | self._starting.keys()
            if len(taken) >= self.caps.max_pools:
                raise CapExceeded(
                    f"the server has {len(taken)} pools; max_pools is {self.caps.max_pools}: delete one first",
                    cap="max_pools",
                    limit=self.caps.max_pools,
                )
            if name in taken:
                raise InvalidSpec(f"a pool named {name!r} exists already: delete it first, or choose another name")
            pool = name
            while pool is None or pool in taken:
                pool = f"p-{secrets.token_hex(3)}"
            reservation = self._starting[pool] = _Reservation(pool)
        return reservation

    def _start(self, reservation: _Reservation, spec: PoolSpec) -> HostProcess:
        caps = self.caps
        with self._lock:
            if caps.max_total_arena_bytes is not None:
                left = max(0, caps.max_total_arena_bytes - self._arena_bytes())
                caps = replace(caps, max_arena_bytes=min(caps.max_arena_bytes, left))
        number = next(self._sockets)  # a name may be used again before the last socket of that name is gone
        start = HostStart(
            pool=reservation.pool,
            spec=spec,
            caps=caps,
            ipc_path=str(self._runtime_dir / f"{number}.sock"),
            shm_path=str(self._runtime_dir / f"{number}.shm"),
            log_path=str(self._runtime_dir / f"{number}.log"),
            bind_host=self._bind_host,
            gate=gate_of(self._curve),
            port_range=self._port_range,
            start_timeout=self._start_timeout,
            grace=self._grace,
            row_us=self._row_costs.get(spec),
            log_level=logging.getLevelName(_log.getEffectiveLevel()),
        )
        process = HostProcess(self._host_command, start)
        with self._lock:
            reservation.process = process
            wanted = self._holds(reservation) and not self.closing
        if not wanted:
            process.ask_to_stop()
        return process

    def restore(self, declared: Sequence[DurablePool] = ()) -> None:
        """Begin to make the durable pools; returns at once. ``restoring`` has those that were not tried yet.

        Args:
            declared: Those of the server's settings.
        """
        for each in self._keeper.load(declared):
            nobody = NoHost(each.name, "the pool was not made yet since the server started")
            with self._lock:
                self._pools[each.name] = _Pool(nobody, each.spec, unmade(each), time.time(), 0.0, durable=True)
            self._keeper.lacks_host(each.name)

    @property
    def restoring(self) -> list[str]:
        """Durable pools that were not made yet since the server started, nor failed to."""
        return sorted(self._keeper.restoring)

    def _note_end(self, process: HostProcess) -> None:
        """A host process has ended: say so, clear away, and see to it that a durable pool is made again."""
        if process.exitcode == EXPIRED:
            self._bury()
            return
        with self._lock:
            found = next(((pool, made) for pool, made in self._pools.items() if made.process is process), None)
        if found is None:  # it was told to
            return
        pool, made = found
        process.clear_away()
        about = {"pool": pool, "host_pid": process.pid, "epoch": made.ready.epoch}
        ending = process.ending()
        _log.error("lost: the host process %s", ending, extra=about)
        with self._lock:
            if self._pools.get(pool) is made:
                self._pools[pool] = replace(made, last_loss=f"The host process {ending}")
        if made.durable:
            self._keeper.lacks_host(pool)

    def _make_again(self, pool: str) -> None:
        with self._admission.turn(None):
            with self._lock:
                old = self._pools.get(pool)
                if old is None:
                    raise PoolStopping("the pool was deleted")
                if isinstance(old.process, HostProcess) and old.process.exitcode is None:
                    raise PoolStopping("the pool was deleted, and there is another one of its name")
                reservation = self._starting[pool] = _Reservation(pool)
            try:
                old.spec.check(self.caps)
                made = replace(
                    self._make(reservation, old.spec),
                    durable=True,
                    created=old.created,
                    restarts=old.restarts + bool(old.ready.epoch),
                    last_loss=old.last_loss,
                )
                self._publish(reservation, made, instead_of=old)
            except VecServerError as error:
                self._note_unmade(pool, old, error)
                with self._lock:
                    wanted = self._holds(reservation)
                if not wanted:
                    raise PoolStopping("the pool was deleted") from error
                raise
            finally:
                with self._lock:
                    self._give_up(reservation)
        old.process.end(time.monotonic())
        self._log_made(pool, made)

    def _note_unmade(self, pool: str, old: _Pool, error: VecServerError) -> None:
        nobody = NoHost(pool, f"the pool could not be made: [{error.code}] {error.message}")
        with self._lock:
            if self._pools.get(pool) is old:
                self._pools[pool] = replace(old, process=nobody)
        old.process.end(time.monotonic())

    @staticmethod
    def _log_made(pool: str, made: _Pool) -> None:
        spec, workers = made.spec, made.ready.info.workers
        text = f"made in {made.creation_s:.2f} s: {spec.num_envs} rows in {workers} workers"
        about = {"pool": pool, "env_id": spec.env_id, "epoch": made.ready.epoch, "host_pid": made.process.pid}
        _log.info(text, extra=about)

    def get(self, pool: str) -> PoolView:
        """One pool.

        Raises:
            UnknownPool: No pool has this id.
        """
        return self._view(pool, self._find(pool))

    def access(self, pool: str, key: str | None = None) -> Access:
        """Let a client in at a pool's tcp port, for as long as it is not silent for long.

        Args:
            pool: Its id.
            key: The client's public key for CURVE; None where it has none.

        Raises:
            UnknownPool: No pool has this id.
            InvalidSpec: The key is none, or is wanted.
            PoolLost: The host is gone.
            DeadlineExceeded: The host does not listen.
        """
        made = self._find(pool)
        self._check_alive(made)
        assert isinstance(made.process, HostProcess)
        access, allowed = access_through(made.process.gate, key)
        if allowed is not None:
            made.process.allow(allowed)
        return access

    def address(self, pool: str) -> HostAddress:
        """Where a pool's host listens; asks it nothing.

        Raises:
            UnknownPool: No pool has this id.
            PoolLost: The host is gone.
            PoolStopping: The server is shutting down.
        """
        if self.closing:
            raise PoolStopping("the server is shutting down")
        made = self._listed(pool)  # the event loop calls this
        self._check_alive(made)
        return HostAddress(made.ready.endpoints["ipc"].removeprefix("ipc://"), made.ready.info)

    def list(self) -> list[PoolView]:
        """All pools, oldest first."""
        self._bury()
        with self._lock:
            pools = list(self._pools.items())
        return [self._view(pool, made) for pool, made in pools]

    def _bury(self) -> None:
        """Forget pools that have ended with their drivers' leases, as they were made to."""
        with self._lock:
            ended = [pool for pool, made in self._pools.items() if made.process.exitcode == EXPIRED]
            buried = [self._pools.pop(pool) for pool in ended]
        self._end([made.process for made in buried], 0.0)
        for pool, made in zip(ended, buried, strict=True):
            if made.durable:
                self._forget_ended(pool)

    def _forget_ended(self, pool: str) -> None:
        try:
            self._keeper.forget(pool)
        except StateUnavailable as error:
            about = {"pool": pool, "code": error.code}
            _log.error("it has ended and comes back with the next start: %s", error.message, extra=about)

    def _find(self, pool: str) -> _Pool:
        self._bury()
        return self._listed(pool)

    def _listed(self, pool: str) -> _Pool:
        """A pool, or an error; without waiting for anything but the lock."""
        with self._lock:
            made = self._pools.get(pool)
            if made is not None and made.process.exitcode == EXPIRED:  # it is not buried yet
                made = None
            names = sorted(self._pools)
        if made is None and self.closing:
            raise PoolStopping("the server is shutting down, and its pools with it", pool=pool)
        if made is None:
            known = f"there are {', '.join(names)}" if names else "there is none"
            raise UnknownPool(f"no pool has the id {pool!r}: {known}", pool=pool)
        return made

    def _view(self, pool: str, made: _Pool) -> PoolView:
        state, reason, stats = "ready", "", None
        try:
            stats = self._ping(made)
        except PoolLost as error:
            state, reason = "lost", error.message
        except DeadlineExceeded as error:
            state, reason = "silent", error.message
        else:
            state, reason = stats.state, stats.reason
        return PoolView(
            pool=pool,
            spec=made.spec,
            state=state,
            reason=reason,
            endpoints=made.ready.endpoints,
            epoch=made.ready.epoch,
            created=made.created,
            creation_s=made.creation_s,
            host_pid=made.process.pid,
            info=made.ready.info,
            arena_bytes=made.ready.arena_bytes,
            stats=stats,
            durable=made.durable,
            restarts=made.restarts,
            last_loss=made.last_loss,
            exitcode=made.process.exitcode,
        )

    def _ping(self, made: _Pool) -> Stats:
        with self._link(made) as link:
            return link.ping(_PING_TIMEOUT)

    def _link(self, made: _Pool) -> PoolLink:
        self._check_alive(made)
        slot_size = made.ready.info.layout["slot_size"]
        return PoolLink(self._context, made.ready.endpoints["ipc"], slot_size, partial(self._check_alive, made))

    def _check_alive(self, made: _Pool) -> None:
        made.process.check_alive(self._keeper.prospect(made.ready.info.pool))

    def run_once(self, pool: str, key: str, digest: bytes, run: Callable[[], Batch]) -> tuple[Batch, bool]:
        """Run a step or reset of a pool, or answer it as it was answered before: see ``Keys.run_once``.

        Args:
            pool: Its id.
            key: Of the sender's choice.
            digest: Of the request.
            run: Calls ``step`` or ``reset``.

        Raises:
            UnknownPool: No pool has this id.
        """
        made = self._find(pool)
        return made.keys.run_once(key, digest, run, made.spec.step_timeout + REPLACEMENT_S)

    def step(self, pool: str, actions: Any) -> Batch:
        """Step every row of a pool that no driver holds.

        Args:
            pool: Its id.
            actions: A batch of actions, as ``VectorEnv.step`` takes it; JSON values are enough.

        Raises:
            UnknownPool: No pool has this id.
            InvalidAction: The batch does not fit; nothing was stepped.
            LeaseHeld: A driver holds the pool.
            EnvFault: An environment raised.
            PoolBroken: The pool cannot step any more.
            PoolLost: Its host process is gone.
            DeadlineExceeded: The batch took too long.
        """
        made = self._find(pool)
        self._check_alive(made)
        encoder = ActionFormat(space_from_json(made.ready.info.action_space), made.spec.num_envs)
        ext, body = encoder.encode(encoder.coerce(batch_from_json(encoder.space, actions)))
        return self._drive(made, Kind.STEP, ext, body)

    def reset(
        self,
        pool: str,
        *,
        seed: int | _Seeds | None = None,
        mask: _Mask | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
    ) -> Batch:
        """Reset the rows of a pool that no driver holds.

        Args:
            pool: Its id.
            seed: A number: row i gets seed + i; or one a row.
            mask: Which rows; None for all.
            options: Handed to every environment; or a list with one dict or None a row.

        Raises:
            The errors of ``step``, and InvalidSpec for seeds, a mask or options of another length.
        """
        made = self._find(pool)
        rows = made.spec.num_envs
        seeds: _Seeds | None = [seed + row for row in range(rows)] if isinstance(seed, int) else seed
        request = Reset(seeds, mask, pack_options(options))
        return self._drive(made, Kind.RESET, request, b"")

    def take_lease(self, pool: str, driver: str, *, force: bool = False) -> Grant:
        """Give the right to drive a pool to somebody who is to use it within its time to live.

        Args:
            pool: Its id.
            driver: A name for people; the driver before is told it.
            force: Take it from the driver that has it.

        Raises:
            UnknownPool: No pool has this id.
            LeaseHeld: A driver has it, and ``force`` was not asked for.
            PoolLost: The pool's host process is gone.
        """
        made = self._find(pool)
        before = self._ping(made).driver
        with self._conversing(), self._link(made) as link:
            lease, epoch = link.attach(_PING_TIMEOUT, driver, force=force)
        return Grant(pool, driver, before, ResumePoint(lease, epoch, 0, pending=False))

    def render(self, pool: str, row: int) -> np.ndarray[Any, Any]:
        """What a row looks like now; its driver, if it has one, waits while it is rendered.

        Returns:
            uint8 [height, width, channels].

        Raises:
            UnknownPool: No pool has this id.
            InvalidSpec: The pool was made without a render mode, or has no such row, or renders no pictures.
            EnvFault: The environment raised, because it was never reset, say.
            PoolBroken, PoolLost, PoolSplit, StillRunning, DeadlineExceeded: It cannot render, or not now.
        """
        made = self._find(pool)
        if made.ready.info.render_mode != RENDER_MODE:
            raise InvalidSpec(
                f"pool {pool} has render mode {made.ready.info.render_mode!r}: make one with render_mode="
                f"{RENDER_MODE!r} to see its rows",
                field="render_mode",
            )
        with self._conversing(), self._link(made) as link:
            return as_picture(link.render([row], min(made.spec.step_timeout, _RENDER_TIMEOUT))[0], row)

    def _drive(self, made: _Pool, kind: Kind, ext: bytes | Reset, body: bytes | memoryview) -> Batch:
        timeout = made.spec.step_timeout + REPLACEMENT_S
        with self._conversing(), self._link(made) as link:
            link.attach(timeout)
            try:
                reply_ext, reply_body = link.sequenced(kind, ext, body, timeout)
            finally:
                with suppress(VecServerError):  # a host that drains listens no more; the lease ends with it
                    link.detach(_PING_TIMEOUT)
        return decode_batch(made.ready.info, kind, reply_ext, reply_body)

    @contextmanager
    def _conversing(self) -> Iterator[None]:
        with self._quiet:
            if self._conversations >= _MAX_CONVERSATIONS:
                raise StillRunning(
                    f"{self._conversations} requests step or reset pools over HTTP already: ask again later, or step "
                    "over ZeroMQ"
                )
            self._conversations += 1
        try:
            yield
        finally:
            with self._quiet:
                self._conversations -= 1
                self._quiet.notify_all()

    def delete(self, pool: str, *, force: bool = False) -> None:
        """End a pool; its processes are gone when this returns. A pool that is still being made is given up.

        Args:
            pool: Its id.
            force: Kill them at once: the batch in flight is not finished, and the environments are not closed.

        Raises:
            UnknownPool: No pool has this id.
            StateUnavailable: A durable pool could not be forgotten; it goes on.
        """
        with self._lock:
            reservation, made = self._starting.get(pool), self._pools.get(pool)
        if reservation is None or reservation.process is None:
            made = self._find(pool)
        if made is not None and made.durable:
            self._keeper.forget(pool)  # first: what is forgotten and runs ends with the server
        with self._lock:
            reservation, made = self._starting.pop(pool, None), self._pools.pop(pool, None)
            starting = None if reservation is None else reservation.process
        if starting is not None:
            starting.ask_to_stop()  # the thread that waits for it ends it
            if force:
                starting.kill()
        if made is not None:  # else another thread was faster, or it was never listed
            if force:
                made.process.kill()
            self._end([made.process], self._grace)
            _log.info("deleted", extra={"pool": pool})

    def close(self) -> None:
        """End all pools and refuse new ones; may be called again."""
        with self._lock:
            first, self._closed = not self._closed, True
            self.closing = True
            processes = [made.process for made in self._pools.values()]
            starting = [each.process for each in self._starting.values() if each.process is not None]
            self._pools.clear()
        self._admission.close()
        for process in starting:  # the thread that waits for it ends it
            process.ask_to_stop()
        self._end(processes, self._grace)
        if first:
            self._keeper.close()
            self._supervisor.close()
            with self._quiet:  # whoever waits for the last answer of a pool gets it
                self._quiet.wait_for(lambda: not self._conversations, _LAST_ANSWERS_S)
            self._context.term()  # conversations that were under way end by themselves: their hosts are gone

    def kill(self) -> None:
        """Kill every host process at once, and its workers with it; waits for nothing.

        Takes no lock: a signal handler calls it, perhaps in the very thread that holds the lock.
        """
        self.closing = True
        processes = [made.process for made in list(self._pools.values())] + list(self._ending)
        processes += [each.process for each in list(self._starting.values()) if each.process is not None]
        for process in processes:
            process.kill()

    def _end(self, processes: Iterable[HostProcess | NoHost], grace: float) -> None:
        processes = list(processes)
        self._ending.update(processes)
        for process in processes:
            process.ask_to_stop()
        # the batch in flight, the environments' closing, and then the host's own way out
        deadline = time.monotonic() + 2 * grace + _EXIT_SLACK
        for process in processes:
            try:
                process.end(deadline)
            except Exception:  # noqa: BLE001 - one pool's trouble must not leave the others running
                about = {"host_pid": process.pid}
                _log.exception("a defect of the server: a host process could not be ended", extra=about)
            finally:
                self._ending.discard(process)
