"""The pools of one server: create, get, list, step, reset, delete. Thread-safe."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from vecserver.engine.limits import WorkerLimits
from vecserver.pools.access import access_through
from vecserver.pools.admission import Admission
from vecserver.pools.conversations import Conversations, longest_batch_s
from vecserver.pools.heap import give_back
from vecserver.pools.hosts import HostProcess
from vecserver.pools.json_actions import batch_from_json
from vecserver.pools.listing import Listing, Made
from vecserver.pools.making import Maker
from vecserver.pools.results import Grant, PoolView
from vecserver.pools.rules import TRUSTING, EnvRules
from vecserver.pools.spec import Caps, check_pool_name
from vecserver.pools.starting import for_environments
from vecserver.pools.upkeep import Upkeep
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import DeadlineExceeded, EpochMismatch, PoolLost, PoolStopping
from vecserver.wire.frames import Kind
from vecserver.wire.messages import Reset, pack_options
from vecserver.wire.session import ResumePoint
from vecserver.wire.spaces import space_from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    import numpy as np

    from vecserver.pools.access import Access
    from vecserver.pools.curve import KeyPair
    from vecserver.pools.results import Batch
    from vecserver.pools.spec import PoolSpec
    from vecserver.pools.store import DurablePool, PoolStore
    from vecserver.wire.messages import PoolInfo

__all__ = ["HostAddress", "Registry"]

# named here because inside the registry ``list`` is a method
_Seeds = list[int | None]
_Mask = list[bool]

_log = logging.getLogger(__name__)


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
        rules: Which environments may be made.
        limits: What each worker may use; None for what this process may.
        passed: Variables that hosts and workers have besides, as ``starting.for_environments`` takes them.
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
        rules: EnvRules = TRUSTING,
        limits: WorkerLimits | None = None,
        passed: Collection[str] = ("*",),
        keys: KeyPair | None = None,
        insecure: bool = False,
    ) -> None:
        self.insecure = insecure
        self.caps = caps or Caps()
        self.rules = rules
        self._listing = Listing(self.caps)
        self._maker = Maker(
            self._listing,
            self.caps,
            host_command=host_command,
            runtime_dir=runtime_dir,
            bind_host=bind_host,
            port_range=port_range,
            start_timeout=start_timeout,
            grace=grace,
            limits=limits or WorkerLimits(core=None),
            variables=for_environments(passed),
            keys=keys,
        )
        self._start_timeout = start_timeout
        self._admission = Admission(self.caps.max_creations)
        self._upkeep = Upkeep(self._listing, self._maker, self._admission, store=store, rules=rules, caps=self.caps)
        self._keeper = self._upkeep.keeper
        self._conversations = Conversations(self._keeper.prospect)

    @property
    def closing(self) -> bool:
        """Whether the server is shutting down."""
        return self._listing.closing

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
            ForbiddenEnv: It, or an argument of it, is not allowed here.
            EnvCreationFailed: An environment could not be made; has its own message.
            HostStartFailed: The host process failed.
            PortUnavailable: No port is free.
            StateUnavailable: It could not be kept, and was not made.
            PoolStopping: The server is shutting down.
        """
        self.rules.check(spec)
        spec.check(self.caps)
        if durable:
            self._keeper.check()
        if name is not None:
            check_pool_name(name)
        self._upkeep.bury()
        reservation = self._listing.reserve(name, spec.num_envs)
        try:
            made = self._upkeep.create(reservation, spec, self._start_timeout, durable=durable)
        finally:
            self._listing.give_up(reservation)
        return self._view(reservation.pool, made)

    def restore(self, declared: Sequence[DurablePool] = ()) -> None:
        """Begin to make the durable pools; returns at once. ``restoring`` has those that were not tried yet.

        Args:
            declared: Those of the server's settings.
        """
        self._upkeep.restore(declared)

    @property
    def restoring(self) -> list[str]:
        """Durable pools that were not made yet since the server started, nor failed to."""
        return sorted(self._keeper.restoring)

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
            InvalidSpec: The key is none.
            PoolLost: The host is gone.
            DeadlineExceeded: The host does not listen.
        """
        made = self._find(pool)
        self._conversations.check_alive(made)
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
        made = self._listing.find(pool)  # the event loop calls this: it waits for nothing
        self._conversations.check_alive(made)
        return HostAddress(made.ready.endpoints["ipc"].removeprefix("ipc://"), made.ready.info)

    def list(self) -> list[PoolView]:
        """All pools, oldest first."""
        self._upkeep.bury()
        return [self._view(pool, made) for pool, made in self._listing.items()]

    def _find(self, pool: str, epoch: int | None = None) -> Made:
        """A pool; with an epoch, the incarnation that is meant and no other."""
        self._upkeep.bury()
        made = self._listing.find(pool)
        if epoch is not None and epoch != made.ready.epoch:
            raise EpochMismatch(
                f"the request is meant for the incarnation {epoch} of pool {pool}, which was made again and is "
                f"{made.ready.epoch}: nothing was run; reset it, and begin anew",
                pool=pool,
                epoch=str(made.ready.epoch),
            )
        return made

    def _view(self, pool: str, made: Made) -> PoolView:
        state, reason, stats = "ready", "", None
        try:
            stats = self._conversations.ping(made)
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

    def run_once(
        self, pool: str, key: str, digest: bytes, run: Callable[[], Batch], epoch: int | None = None
    ) -> tuple[Batch, bool]:
        """Run a step or reset of a pool, or answer it as it was answered before: see ``Keys.run_once``.

        A pool that is made again keeps its keys, as long as this server runs.

        Args:
            pool: Its id.
            key: Of the sender's choice.
            digest: Of the request.
            run: Calls ``step`` or ``reset``, with the epoch.
            epoch: The incarnation that it is meant for; None where its sender does not say.

        Raises:
            UnknownPool: No pool has this id.
            EpochMismatch: The sender has to say it: the key may be one of an incarnation before this server's start.
            PoolLost: The pool has no host now, and nothing was run under this key.
        """
        made = self._find(pool)

        def check() -> None:
            if made.restored and epoch is None:
                raise EpochMismatch(
                    f"pool {pool} was made at the start of this server, which does not know the keys of a server "
                    f"before: say with Pool-Epoch which incarnation a request with a key is meant for; the present "
                    f"one is {made.ready.epoch}",
                    pool=pool,
                    epoch=str(made.ready.epoch),
                )
            self._conversations.check_alive(made)

        return made.keys.run_once(key, digest, run, longest_batch_s(made), check, self._conversations.limited)

    def step(self, pool: str, actions: Any, *, epoch: int | None = None) -> Batch:
        """Step every row of a pool that no driver holds.

        Args:
            pool: Its id.
            actions: A batch of actions, as ``VectorEnv.step`` takes it; JSON values are enough.
            epoch: The incarnation that it is meant for; None for whichever there is.

        Raises:
            UnknownPool: No pool has this id.
            EpochMismatch: The pool was made again; nothing was stepped.
            InvalidAction: The batch does not fit; nothing was stepped.
            LeaseHeld: A driver holds the pool.
            EnvFault: An environment raised.
            PoolBroken: The pool cannot step any more.
            PoolLost: Its host process is gone.
            DeadlineExceeded: The batch took too long.
        """
        made = self._find(pool, epoch)
        self._conversations.check_alive(made)
        encoder = ActionFormat(space_from_json(made.ready.info.action_space), made.spec.num_envs)
        ext, body = encoder.encode(encoder.coerce(batch_from_json(encoder.space, actions)))
        return self._conversations.drive(made, Kind.STEP, ext, body)

    def reset(
        self,
        pool: str,
        *,
        seed: int | _Seeds | None = None,
        mask: _Mask | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
        epoch: int | None = None,
    ) -> Batch:
        """Reset the rows of a pool that no driver holds.

        Args:
            pool: Its id.
            seed: A number: row i gets seed + i; or one a row.
            mask: Which rows; None for all.
            options: Handed to every environment; or a list with one dict or None a row.
            epoch: As in ``step``.

        Raises:
            The errors of ``step``, and InvalidSpec for seeds, a mask or options of another length.
        """
        made = self._find(pool, epoch)
        rows = made.spec.num_envs
        seeds: _Seeds | None = [seed + row for row in range(rows)] if isinstance(seed, int) else seed
        request = Reset(seeds, mask, pack_options(options))
        return self._conversations.drive(made, Kind.RESET, request, b"")

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
        before = self._conversations.ping(made).driver
        lease, epoch = self._conversations.take_lease(made, driver, force=force)
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
        return self._conversations.render(self._find(pool), row)

    def delete(self, pool: str, *, force: bool = False) -> None:
        """End a pool; its processes are gone when this returns. A pool that is still being made is given up.

        Args:
            pool: Its id.
            force: Kill them at once: the batch in flight is not finished, and the environments are not closed.

        Raises:
            UnknownPool: No pool has this id.
            StateUnavailable: A durable pool could not be forgotten; it goes on.
        """
        reservation, made = self._listing.held(pool)
        if reservation is None or reservation.process is None:
            made = self._find(pool)
        if made is not None and made.durable:
            self._keeper.forget(pool)  # first: what is forgotten and runs ends with the server
        starting, made = self._listing.take(pool)
        if starting is not None:
            starting.ask_to_stop()  # the thread that waits for it ends it
            if force:
                starting.kill()
        if made is not None:  # else another thread was faster, or it was never listed
            if force:
                made.process.kill()
            self._maker.end([made.process])
            give_back()
            _log.info("deleted", extra={"pool": pool})

    def close(self) -> None:
        """End all pools and refuse new ones; may be called again."""
        first, processes, starting = self._listing.close()
        self._admission.close()
        for process in starting:  # the thread that waits for it ends it
            process.ask_to_stop()
        self._maker.end(processes)
        if first:
            self._upkeep.close()
            self._conversations.close()

    def kill(self) -> None:
        """Kill every host process at once, and its workers with it; waits for nothing.

        Takes no lock: a signal handler calls it, perhaps in the very thread that holds the lock.
        """
        self._listing.closing = True
        for process in self._listing.all_processes():
            process.kill()
        self._maker.kill()
