"""Which pools a server has, which names are held by those that make one, and what memory is left for the next."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from vecserver.pools.handshake import EXPIRED
from vecserver.pools.hosts import HostProcess
from vecserver.pools.keys import Keys
from vecserver.wire.errors import CapExceeded, InvalidSpec, PoolLost, PoolStopping, UnknownPool

if TYPE_CHECKING:
    from vecserver.pools.handshake import HostReady
    from vecserver.pools.hosts import NoHost
    from vecserver.pools.spec import Caps, PoolSpec

__all__ = ["Listing", "Made", "Reservation"]

_MOST_ENDED: Final = 64
"""Durable pools whose end is remembered."""


@dataclass(frozen=True, slots=True)
class Made:
    """A pool that was made, or is to be made because it is durable.

    Attributes:
        process: Its host.
        spec: What it was made from.
        ready: What its host said when it was ready.
        created: Seconds since the epoch, for people.
        creation_s: Seconds it took to make.
        durable: Whether it is made again when its host has ended.
        restarts: How often it was.
        last_loss: How the host before this one ended.
        restored: Whether it is of a server's start: a server before may have run requests with keys in it.
        keys: Of requests over HTTP.
    """

    process: HostProcess | NoHost
    spec: PoolSpec
    ready: HostReady
    created: float
    creation_s: float
    durable: bool = False
    restarts: int = 0
    last_loss: str = ""
    restored: bool = False
    keys: Keys = field(default_factory=Keys)

    @property
    def has_host(self) -> bool:
        """Whether its host process runs."""
        return isinstance(self.process, HostProcess) and self.process.exitcode is None


@dataclass(eq=False, slots=True)
class Reservation:
    """A name that one maker holds until its pool is listed; whoever deletes the pool takes it away.

    Attributes:
        pool: The name.
        rows: Of the pool.
        process: What makes the pool, once it was started.
    """

    pool: str
    rows: int
    process: HostProcess | None = None


class Listing:
    """The pools of a server, and the names that are held. Thread-safe; waits for nothing but its lock.

    Args:
        caps: Limits.

    Attributes:
        closing: Whether the server is shutting down.
    """

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._lock = threading.Lock()
        self._pools: dict[str, Made] = {}
        self._starting: dict[str, Reservation] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._closed = False
        self.closing = False

    def reserve(self, name: str | None, rows: int) -> Reservation:
        """Hold a name for a new pool.

        Args:
            name: One that was checked; one is made up when it is None.
            rows: Of the pool.

        Raises:
            InvalidSpec: The name is taken.
            CapExceeded: The server has as many pools, or rows, as it may have.
            PoolStopping: The server is shutting down.
        """
        with self._lock:
            if self.closing:
                raise PoolStopping("the server is shutting down: it makes no new pools")
            taken = self._pools.keys() | self._starting.keys()
            if len(taken) >= self._caps.max_pools:
                raise CapExceeded(
                    f"the server has {len(taken)} pools; max_pools is {self._caps.max_pools}: delete one first",
                    cap="max_pools",
                    limit=self._caps.max_pools,
                )
            self._check_rows(rows)
            if name in taken:
                raise InvalidSpec(f"a pool named {name!r} exists already: delete it first, or choose another name")
            pool = name
            while pool is None or pool in taken:
                pool = f"p-{secrets.token_hex(3)}"
            reservation = self._starting[pool] = Reservation(pool, rows)
        return reservation

    def _check_rows(self, asked: int) -> None:
        limit = self._caps.max_total_envs
        had = sum(made.spec.num_envs for made in self._pools.values())
        had += sum(each.rows for pool, each in self._starting.items() if pool not in self._pools)
        if had + asked > limit:
            raise CapExceeded(
                f"the pools have {had} rows, and {asked} more would be {had + asked}; max_total_envs of this server is "
                f"{limit}: make fewer rows, or delete a pool",
                cap="max_total_envs",
                limit=limit,
                asked=had + asked,
            )

    def reserve_again(self, pool: str) -> tuple[Reservation, Made]:
        """Hold the name of a pool that has no host, to make it again.

        Raises:
            PoolStopping: There is none.
        """
        with self._lock:
            old = self._pools.get(pool)
            if old is None:
                raise PoolStopping("the pool was deleted")
            if old.has_host:
                raise PoolStopping("the pool was deleted, and there is another one of its name")
            reservation = self._starting[pool] = Reservation(pool, old.spec.num_envs)
        return reservation, old

    def give_up(self, reservation: Reservation) -> None:
        """Free a name, unless somebody else holds it by now."""
        with self._lock:
            if self._holds(reservation):
                del self._starting[reservation.pool]

    def holds(self, reservation: Reservation) -> bool:
        """Whether a maker still holds its name."""
        with self._lock:
            return self._holds(reservation)

    def _holds(self, reservation: Reservation) -> bool:
        return self._starting.get(reservation.pool) is reservation

    def note_start(self, reservation: Reservation, process: HostProcess) -> bool:
        """Note which process makes a pool; says whether the pool is still wanted."""
        with self._lock:
            reservation.process = process
            return self._holds(reservation) and not self.closing

    def caps_for_next(self) -> Caps:
        """The limits of one pool more: its arena may be what the other pools leave."""
        caps = self._caps
        with self._lock:
            if caps.max_total_arena_bytes is not None:
                left = max(0, caps.max_total_arena_bytes - self._arena_bytes())
                caps = replace(caps, max_arena_bytes=min(caps.max_arena_bytes, left))
        return caps

    def check_total(self, asked: int) -> None:
        """Make sure that there is memory for one arena more.

        Args:
            asked: Its bytes.

        Raises:
            CapExceeded: There is not.
        """
        with self._lock:
            self._check_total(asked)

    def _check_total(self, asked: int) -> None:
        limit, taken = self._caps.max_total_arena_bytes, self._arena_bytes()
        if limit is not None and taken + asked > limit:
            raise CapExceeded(
                f"the pool's arena has {asked} bytes and the other pools' {taken}; max_total_arena_bytes of this "
                f"server is {limit}: make fewer rows, or delete a pool",
                cap="max_total_arena_bytes",
                limit=limit,
                asked=asked,
            )

    def _arena_bytes(self) -> int:
        """Shared memory of the pools that have a host."""
        return sum(made.ready.arena_bytes for made in self._pools.values() if made.has_host)

    def publish(self, reservation: Reservation, made: Made, instead_of: Made | None) -> None:
        """List a pool that was made, and free its name for no other.

        Args:
            reservation: Of its maker.
            made: The pool.
            instead_of: What was listed under its name; None for nothing.

        Raises:
            PoolStopping: It is not wanted any more.
            CapExceeded: There is no memory for it.
        """
        pool = reservation.pool
        with self._lock:
            if self.closing:
                raise PoolStopping("the server is shutting down")
            if not self._holds(reservation) or self._pools.get(pool) is not instead_of:
                raise PoolStopping("the pool was given up while its environments were made")
            self._check_total(made.ready.arena_bytes)
            del self._starting[pool]
            self._ended.pop(pool, None)
            self._pools[pool] = made

    def put(self, pool: str, made: Made) -> None:
        """List a pool that is yet to be made."""
        with self._lock:
            self._pools[pool] = made

    def swap(self, pool: str, old: Made, new: Made) -> None:
        """List a pool with other properties, unless it is another one by now."""
        with self._lock:
            if self._pools.get(pool) is old:
                self._pools[pool] = new

    def find(self, pool: str) -> Made:
        """A pool that has not ended.

        Raises:
            UnknownPool: There is none of this id.
            PoolLost: It was durable, and has ended with its driver's lease.
            PoolStopping: The server is shutting down.
        """
        with self._lock:
            made = self._pools.get(pool)
            if made is not None and made.process.exitcode == EXPIRED:
                self._note_expired(pool, made)  # it is not buried yet
                made = None
            names = sorted(self._pools)
            cause = self._ended.get(pool, "")
        if made is None and self.closing:
            raise PoolStopping("the server is shutting down, and its pools with it", pool=pool)
        if made is None and cause:
            raise PoolLost(cause, pool=pool)
        if made is None:
            known = f"there are {', '.join(names)}" if names else "there is none"
            raise UnknownPool(f"no pool has the id {pool!r}: {known}", pool=pool)
        return made

    def pool_of(self, process: HostProcess) -> tuple[str, Made] | None:
        """The pool that a process is the host of; None where it was taken off the list."""
        with self._lock:
            return next(((pool, made) for pool, made in self._pools.items() if made.process is process), None)

    def held(self, pool: str) -> tuple[Reservation | None, Made | None]:
        """Who makes a pool, and the pool itself, as far as there are such."""
        with self._lock:
            return self._starting.get(pool), self._pools.get(pool)

    def items(self) -> list[tuple[str, Made]]:
        """All pools, oldest first."""
        with self._lock:
            return list(self._pools.items())

    def take_expired(self) -> list[tuple[str, Made]]:
        """Take those off the list that have ended with their drivers' leases."""
        with self._lock:
            ended = [pool for pool, made in self._pools.items() if made.process.exitcode == EXPIRED]
            taken = [(pool, self._pools.pop(pool)) for pool in ended]
            for pool, made in taken:
                self._note_expired(pool, made)
        return taken

    def _note_expired(self, pool: str, made: Made) -> None:
        """Remember that a pool which was to stay has ended; the lock is held."""
        if made.durable:
            self._ended[pool] = (
                f"the durable pool {pool} has ended: its driver was silent for {made.spec.lease_ttl:g} s, and its "
                "lease_expiry is destroy; make it again"
            )
            self._ended.move_to_end(pool)
            while len(self._ended) > _MOST_ENDED:
                self._ended.popitem(last=False)

    def take(self, pool: str) -> tuple[HostProcess | None, Made | None]:
        """Take a pool off the list, and its name from whoever makes it; returns the process that makes it, too."""
        with self._lock:
            reservation, made = self._starting.pop(pool, None), self._pools.pop(pool, None)
            return None if reservation is None else reservation.process, made

    def close(self) -> tuple[bool, list[HostProcess | NoHost], list[HostProcess]]:
        """Take all pools off the list, and list no more.

        Returns:
            Whether this is the first time, the pools' processes, and those that make a pool.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            self.closing = True
            processes = [made.process for made in self._pools.values()]
            starting = [each.process for each in self._starting.values() if each.process is not None]
            self._pools.clear()
        return first, processes, starting

    def all_processes(self) -> list[HostProcess | NoHost]:
        """Every process, of pools and of makers. Takes no lock: see ``Registry.kill``."""
        processes = [made.process for made in list(self._pools.values())]
        return processes + [each.process for each in list(self._starting.values()) if each.process is not None]
