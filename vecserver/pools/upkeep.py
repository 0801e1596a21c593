"""From the making of a pool to its end: it is listed, made again where it is durable, and forgotten."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from vecserver.pools.handshake import EXPIRED
from vecserver.pools.hosts import HostProcess, NoHost
from vecserver.pools.keeping import Keeper
from vecserver.pools.listing import Made
from vecserver.pools.results import unmade
from vecserver.pools.supervision import Supervisor
from vecserver.wire.errors import CapExceeded, PoolStopping, StateUnavailable, VecServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.pools.admission import Admission
    from vecserver.pools.listing import Listing, Reservation
    from vecserver.pools.making import Maker
    from vecserver.pools.rules import EnvRules
    from vecserver.pools.spec import Caps, PoolSpec
    from vecserver.pools.store import DurablePool, PoolStore

__all__ = ["Upkeep"]

_log = logging.getLogger(__name__)


class Upkeep:
    """Sees to it that what is listed is so. Thread-safe.

    Args:
        listing: Which pools there are.
        maker: Starts and ends their hosts.
        admission: Says whose turn it is to make one.
        store: Where durable pools are kept; closed by ``close``. None for a server that keeps none.
        rules: Which environments may be made.
        caps: Limits.

    Attributes:
        keeper: Of the durable pools.
    """

    def __init__(
        self,
        listing: Listing,
        maker: Maker,
        admission: Admission,
        *,
        store: PoolStore | None,
        rules: EnvRules,
        caps: Caps,
    ) -> None:
        self._listing = listing
        self._maker = maker
        self._admission = admission
        self._rules = rules
        self._caps = caps
        self._keeping = threading.Lock()
        self._supervisor = Supervisor(self._note_end)
        self.keeper = Keeper(store, self._supervisor, self._make_again)

    def create(self, reservation: Reservation, spec: PoolSpec, wait_s: float, *, durable: bool) -> Made:
        """Make a pool, and list it under the name that is held for it.

        Args:
            reservation: Who holds the name; still does where this raises.
            spec: What to make.
            wait_s: Seconds to wait for its turn.
            durable: Keep it.

        Raises:
            VecServerError: Whatever kept it from being made; nothing is left of it.
        """
        with self._admission.turn(wait_s):
            made = replace(self._make(reservation, spec), durable=durable)
        self._publish(reservation, made)
        _log_made(reservation.pool, made)
        return made

    def _make(self, reservation: Reservation, spec: PoolSpec) -> Made:
        began = time.monotonic()
        process, ready = self._maker.make(reservation, spec)
        return Made(process, spec, ready, time.time(), time.monotonic() - began)

    def _publish(self, reservation: Reservation, made: Made, instead_of: Made | None = None) -> None:
        """List a pool that was made, if it is still wanted and there is memory for it; keep it where it is durable."""
        process = made.process
        assert isinstance(process, HostProcess)
        try:
            if made.durable and instead_of is None:
                self._publish_kept(reservation, made)
            else:
                self._listing.publish(reservation, made, instead_of)
        except VecServerError:
            self._maker.end([process])
            raise
        self._supervisor.watch(process)

    def _publish_kept(self, reservation: Reservation, made: Made) -> None:
        # one at a time, and with the name in hand: else what is forgotten could be what another has kept under it since
        with self._keeping:
            if not self._listing.holds(reservation):
                raise PoolStopping("the pool was given up while its environments were made")
            self.keeper.keep(reservation.pool, made.spec)
            try:
                self._listing.publish(reservation, made, None)
            except VecServerError:
                self.keeper.forget(reservation.pool)
                raise

    def restore(self, declared: Sequence[DurablePool]) -> None:
        """Begin to make the durable pools: those of the store, and those that the server's settings declare."""
        for number, each in enumerate(self.keeper.load(declared)):
            is_allowed = number < self._caps.max_pools
            why = "the pool was not made yet since the server started"
            if not is_allowed:
                most = self._caps.max_pools
                why = f"the pool is one too many: max_pools is {most}; delete others, and start the server again"
                _log.error("not made: %s", why, extra={"pool": each.name, "code": CapExceeded.code})
            nobody = NoHost(each.name, why)
            made = Made(nobody, each.spec, unmade(each), time.time(), 0.0, durable=True, restored=True)
            self._listing.put(each.name, made)
            if is_allowed:
                self.keeper.lacks_host(each.name)
            else:
                self.keeper.leave_out(each.name)

    def _note_end(self, process: HostProcess) -> None:
        """A host process has ended: say so, clear away, and see to it that a durable pool is made again."""
        if process.exitcode == EXPIRED:
            self.bury()
            return
        found = self._listing.pool_of(process)
        if found is None:  # it was told to
            return
        pool, made = found
        process.clear_away()
        about = {"pool": pool, "host_pid": process.pid, "epoch": made.ready.epoch}
        ending = process.ending()
        _log.error("lost: the host process %s", ending, extra=about)
        self._listing.swap(pool, made, replace(made, last_loss=f"The host process {ending}"))
        if made.durable:
            self.keeper.lacks_host(pool)

    def _make_again(self, pool: str) -> None:
        with self._admission.turn(None):
            reservation, old = self._listing.reserve_again(pool)
            try:
                self._rules.check(old.spec)
                old.spec.check(self._caps)
                made = replace(
                    self._make(reservation, old.spec),
                    durable=True,
                    created=old.created,
                    restarts=old.restarts + bool(old.ready.epoch),
                    last_loss=old.last_loss,
                    restored=old.restored,
                    keys=old.keys,
                )
                self._publish(reservation, made, instead_of=old)
            except VecServerError as error:
                self._note_unmade(pool, old, error)
                if not self._listing.holds(reservation):
                    raise PoolStopping("the pool was deleted") from error
                raise
            finally:
                self._listing.give_up(reservation)
        old.process.end(time.monotonic())
        _log_made(pool, made)

    def _note_unmade(self, pool: str, old: Made, error: VecServerError) -> None:
        nobody = NoHost(pool, f"the pool could not be made: [{error.code}] {error.message}")
        self._listing.swap(pool, old, replace(old, process=nobody))
        old.process.end(time.monotonic())

    def bury(self) -> None:
        """Forget pools that have ended with their drivers' leases, as they were made to."""
        buried = self._listing.take_expired()
        self._maker.end([made.process for _, made in buried], 0.0)
        for pool, made in buried:
            about = {"pool": pool, "epoch": made.ready.epoch}
            _log.warning("it has ended with its driver's lease, as lease_expiry says", extra=about)
            if made.durable:
                self._forget_ended(pool)

    def _forget_ended(self, pool: str) -> None:
        try:
            self.keeper.forget(pool)
        except StateUnavailable as error:
            about = {"pool": pool, "code": error.code}
            _log.error("it has ended and comes back with the next start: %s", error.message, extra=about)

    def close(self) -> None:
        """Make no pool again, and watch none any more."""
        self.keeper.close()
        self._supervisor.close()


def _log_made(pool: str, made: Made) -> None:
    spec, workers = made.spec, made.ready.info.workers
    text = f"made in {made.creation_s:.2f} s: {spec.num_envs} rows in {workers} workers"
    about = {"pool": pool, "env_id": spec.env_id, "epoch": made.ready.epoch, "host_pid": made.process.pid}
    _log.info(text, extra=about)
