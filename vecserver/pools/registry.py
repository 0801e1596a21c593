"""The pools of one server: create, get, list, step, reset, delete. Thread-safe."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gymnasium
import zmq

from vecserver.pools.handshake import HostReady, HostStart
from vecserver.pools.hosts import HostProcess
from vecserver.pools.json_actions import batch_from_json
from vecserver.pools.link import PoolLink
from vecserver.pools.pictures import RENDER_MODE, as_picture
from vecserver.pools.results import Batch, PoolView
from vecserver.pools.sizing import RowCosts
from vecserver.pools.spec import Caps, check_pool_name
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import (
    CapExceeded,
    DeadlineExceeded,
    InvalidSpec,
    PoolLost,
    PoolStopping,
    UnknownPool,
    VecServerError,
)
from vecserver.wire.frames import Kind
from vecserver.wire.infos import merge
from vecserver.wire.layout import Layout, assemble
from vecserver.wire.messages import Reset, pack_options
from vecserver.wire.side import SideLeaves
from vecserver.wire.spaces import space_from_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from vecserver.pools.spec import PoolSpec
    from vecserver.wire.messages import Stats

__all__ = ["Registry"]

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


class _Merger(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Lends Gymnasium's own merging of infos."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def add(self, infos: dict[str, Any], info: dict[str, Any], row: int) -> dict[str, Any]:
        return self._add_info(infos, info, row)


@dataclass(frozen=True, slots=True)
class _Pool:
    """A pool that was made."""

    process: HostProcess
    spec: PoolSpec
    ready: HostReady
    created: float
    creation_s: float


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
    ) -> None:
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
        self._starting: dict[str, HostProcess | None] = {}
        self._ending: set[HostProcess] = set()
        self._sockets = itertools.count()
        self.closing = False
        self._closed = False

    def create(self, spec: PoolSpec, name: str | None = None) -> PoolView:
        """Make a pool; returns when it can be stepped.

        Args:
            spec: What to make.
            name: Its id; one is made up when it is None.

        Raises:
            InvalidSpec: An option or the name is not allowed, or the name is taken.
            CapExceeded: A limit of the server; names it.
            UnknownEnv: The environment id is not registered; names the nearest.
            EnvCreationFailed: An environment could not be made; has its own message.
            HostStartFailed: The host process failed.
            PortUnavailable: No port is free.
            PoolStopping: The server is shutting down.
        """
        spec.check(self.caps)
        began = time.monotonic()
        pool = self._reserve(name)
        try:
            process = self._start(pool, spec)
        except BaseException:
            with self._lock:
                self._starting.pop(pool, None)
            raise
        try:
            ready = process.greet()
        except BaseException:
            self._end([process], self._grace)
            raise
        finally:
            with self._lock:
                self._starting.pop(pool, None)
        if ready.row_us is not None:
            self._row_costs.note(spec, ready.row_us)
        made = _Pool(process, spec, ready, time.time(), time.monotonic() - began)
        with self._lock:
            wanted = not self.closing
            if wanted:
                self._pools[pool] = made
        if not wanted:
            self._end([process], self._grace)
            raise PoolStopping("the server is shutting down")
        return self._view(pool, made)

    def _reserve(self, name: str | None) -> str:
        if name is not None:
            check_pool_name(name)
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
            self._starting[pool] = None
        return pool

    def _start(self, pool: str, spec: PoolSpec) -> HostProcess:
        number = next(self._sockets)  # a name may be used again before the last socket of that name is gone
        start = HostStart(
            pool=pool,
            spec=spec,
            caps=self.caps,
            ipc_path=str(self._runtime_dir / f"{number}.sock"),
            shm_path=str(self._runtime_dir / f"{number}.shm"),
            log_path=str(self._runtime_dir / f"{number}.log"),
            bind_host=self._bind_host,
            port_range=self._port_range,
            start_timeout=self._start_timeout,
            grace=self._grace,
            row_us=self._row_costs.get(spec),
        )
        process = HostProcess(self._host_command, start)
        with self._lock:
            self._starting[pool] = process
            closing = self.closing
        if closing:
            process.ask_to_stop()
        return process

    def get(self, pool: str) -> PoolView:
        """One pool.

        Raises:
            UnknownPool: No pool has this id.
        """
        return self._view(pool, self._find(pool))

    def list(self) -> list[PoolView]:
        """All pools, oldest first."""
        with self._lock:
            pools = list(self._pools.items())
        return [self._view(pool, made) for pool, made in pools]

    def _find(self, pool: str) -> _Pool:
        with self._lock:
            made = self._pools.get(pool)
            names = sorted(self._pools)
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
        )

    def _ping(self, made: _Pool) -> Stats:
        with self._link(made) as link:
            return link.ping(_PING_TIMEOUT)

    def _link(self, made: _Pool) -> PoolLink:
        made.process.check_alive()
        info = made.ready.info
        return PoolLink(self._context, made.ready.endpoints["ipc"], info.layout["slot_size"], made.process.check_alive)

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
        timeout = made.spec.step_timeout
        with self._conversing(), self._link(made) as link:
            link.attach(timeout)
            try:
                reply_ext, reply_body = link.sequenced(kind, ext, body, timeout)
            finally:
                with suppress(VecServerError):  # a host that drains listens no more; the lease ends with it
                    link.detach(_PING_TIMEOUT)
        return _decode_batch(made, kind, reply_ext, reply_body)

    @contextmanager
    def _conversing(self) -> Iterator[None]:
        with self._quiet:
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
        """
        with self._lock:
            starting = self._starting.get(pool)
        if starting is not None:
            starting.ask_to_stop()  # the thread that waits for it ends it
            if force:
                starting.kill()
            return
        self._find(pool)
        with self._lock:
            made = self._pools.pop(pool, None)
        if made is not None:  # else another thread was faster
            if force:
                made.process.kill()
            self._end([made.process], self._grace)

    def close(self) -> None:
        """End all pools and refuse new ones; may be called again."""
        with self._lock:
            first, self._closed = not self._closed, True
            self.closing = True
            processes = [made.process for made in self._pools.values()]
            starting = [process for process in self._starting.values() if process is not None]
            self._pools.clear()
        for process in starting:  # the thread that waits for it ends it
            process.ask_to_stop()
        self._end(processes, self._grace)
        if first:
            with self._quiet:  # whoever waits for the last answer of a pool gets it
                self._quiet.wait_for(lambda: not self._conversations, _LAST_ANSWERS_S)
            self._context.term()  # conversations that were under way end by themselves: their hosts are gone

    def kill(self) -> None:
        """Kill every host process at once, and its workers with it; waits for nothing.

        Takes no lock: a signal handler calls it, perhaps in the very thread that holds the lock.
        """
        self.closing = True
        processes = [made.process for made in list(self._pools.values())] + list(self._ending)
        processes += [process for process in list(self._starting.values()) if process is not None]
        for process in processes:
            process.kill()

    def _end(self, processes: Iterable[HostProcess], grace: float) -> None:
        processes = list(processes)
        self._ending.update(processes)
        for process in processes:
            process.ask_to_stop()
        # the batch in flight, the environments' closing, and then the host's own way out
        deadline = time.monotonic() + 2 * grace + _EXIT_SLACK
        for process in processes:
            process.end(deadline)
            self._ending.discard(process)


def _decode_batch(made: _Pool, kind: Kind, ext: Any, body: Any) -> Batch:
    rows = made.spec.num_envs
    space = space_from_json(made.ready.info.observation_space)
    views = Layout.of(space, rows).views(bytearray(body))
    infos, _, aside = merge(ext, rows, _Merger(rows).add)
    side = SideLeaves(space)
    leaves = side.weave(views.observations, side.unpack_rows(aside, rows)) if side else iter(views.observations)
    observations = assemble(space, leaves)
    if kind == Kind.RESET:
        return Batch(observations, None, None, None, infos)
    return Batch(observations, views.rewards, views.terminated, views.truncated, infos)
