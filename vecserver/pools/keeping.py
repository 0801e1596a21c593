"""Which pools of a server are durable, and when one that has no host is made again."""

from __future__ import annotations

import logging
import threading
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.pools.store import DurablePool
from vecserver.wire.errors import InvalidSpec, PoolStopping, StateUnavailable, VecServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.pools.spec import PoolSpec
    from vecserver.pools.store import PoolStore
    from vecserver.pools.supervision import Supervisor

__all__ = ["Attempts", "Keeper"]

_FIRST_PAUSE_S: Final = 0.5
_LAST_PAUSE_S: Final = 30.0
"""Between one attempt to make a pool and the next: none before the first, then doubled up to this figure."""

_BUDGET: Final = 8
_WINDOW_S: Final = 600.0
"""So many attempts within so many seconds; then the trouble is not of the kind that passes."""

_log = logging.getLogger(__name__)


class Attempts:
    """When a durable pool may be made again. One thread at a time uses it."""

    def __init__(self) -> None:
        self._made: deque[float] = deque()

    def next_pause(self, now: float) -> float | None:
        """Seconds until the next attempt, which counts from here on; None where too many were made of late.

        Args:
            now: On the monotonic clock.
        """
        while self._made and now - self._made[0] > _WINDOW_S:
            self._made.popleft()
        count = len(self._made)
        if count >= _BUDGET:
            return None
        self._made.append(now)
        return min(_FIRST_PAUSE_S * 2 ** (count - 1), _LAST_PAUSE_S) if count else 0.0


class Keeper:
    """Sees to it that the durable pools of a registry exist. Any thread may call its methods.

    Args:
        store: Where they are kept; closed by ``close``. None for a server that keeps none.
        supervisor: Has the clock; closed after this.
        make_again: Makes a pool that has no host, in the place of the one that it was. Raises PoolStopping where it is
            not wanted any more, and another VecServerError where it could not be made: then it is called again later.

    Attributes:
        restoring: Pools that were not made yet since the server started, nor failed to.
    """

    def __init__(self, store: PoolStore | None, supervisor: Supervisor, make_again: Callable[[str], None]) -> None:
        self._store = store
        self._supervisor = supervisor
        self._make_again = make_again
        self._lock = threading.Lock()
        self._attempts: dict[str, Attempts] = {}
        self._prospects: dict[str, str] = {}
        self._declared: set[str] = set()
        self._makers: set[threading.Thread] = set()
        self._closing = False
        self.restoring: set[str] = set()

    def load(self, declared: Sequence[DurablePool]) -> list[DurablePool]:
        """The pools that are to be made at the start of a server; logs why where those of the store are not among them.

        Args:
            declared: Those of the server's settings; they go before those of the store that have the same names.
        """
        kept: list[DurablePool] = []
        try:
            kept = [] if self._store is None else self._store.load()
        except StateUnavailable as error:
            _log.error("durable pools are neither made nor taken: %s", error.message, extra={"code": error.code})
        pools = list(({each.name: each for each in kept} | {each.name: each for each in declared}).values())
        self._declared = {each.name for each in declared}
        self.restoring = {each.name for each in pools}
        return pools

    def leave_out(self, pool: str) -> None:
        """Make no attempt to make a pool that was loaded."""
        with self._lock:
            self.restoring.discard(pool)

    def check(self) -> None:
        """Make sure that pools can be kept.

        Raises:
            InvalidSpec: This server keeps none.
        """
        if self._store is None:
            raise InvalidSpec(
                "this server keeps no pools: it belongs to a program and ends with it. `vecserver serve` starts one "
                "that does",
                field="durable",
            )

    def keep(self, pool: str, spec: PoolSpec) -> None:
        """Make a pool durable.

        Raises:
            StateUnavailable: It could not be written.
        """
        if self._store is not None:
            self._store.add(DurablePool(pool, spec))

    def forget(self, pool: str) -> None:
        """Let a pool go for good; one of the settings comes back with the next start.

        Raises:
            StateUnavailable: It could not be written: the pool stays durable.
        """
        if self._store is not None and pool not in self._declared:
            self._store.remove(pool)
        with self._lock:
            self._attempts.pop(pool, None)
            self._prospects.pop(pool, None)
            self.restoring.discard(pool)

    def prospect(self, pool: str) -> str:
        """What will become of a pool that has no host; empty for one that is not durable."""
        with self._lock:
            return self._prospects.get(pool, "")

    def lacks_host(self, pool: str) -> None:
        """Have a durable pool made, now or in a while; called once each time that it has lost its host."""
        with self._lock:
            if self._closing:
                return
            pause = self._attempts.setdefault(pool, Attempts()).next_pause(monotonic())
            if pause is None:
                prospect = (
                    f"it was made {_BUDGET} times within {_WINDOW_S / 60:g} minutes and is not made again: delete it, "
                    "or start the server again"
                )
            else:
                prospect = f"it is made again in {pause:g} s" if pause else "it is being made again"
            self._prospects[pool] = prospect
        _log.log(logging.ERROR if pause is None else logging.INFO, "%s", prospect, extra={"pool": pool})
        if pause is not None:
            self._supervisor.call_in(pause, partial(self._start_maker, pool))

    def _start_maker(self, pool: str) -> None:
        maker = threading.Thread(target=self._make, args=(pool,), name=f"maker of {pool}")
        with self._lock:
            if self._closing:
                return
            try:
                maker.start()
            except RuntimeError as error:  # no thread is to be had
                _log.error("could not be made: %s", error, extra={"pool": pool})
            else:
                self._makers = {each for each in self._makers if each.is_alive()} | {maker}
                return
        self.lacks_host(pool)

    def _make(self, pool: str) -> None:
        with self._lock:
            if pool in self._prospects:
                self._prospects[pool] = "it is being made again"
        try:
            self._make_again(pool)
        except PoolStopping:
            return
        except VecServerError as error:
            _log.error("could not be made: %s", error.message, extra={"pool": pool, "code": error.code})
            self.lacks_host(pool)
        except Exception:  # noqa: BLE001 - the pool is wanted all the same
            _log.exception("a defect of the server: could not be made", extra={"pool": pool})
            self.lacks_host(pool)
        finally:
            with self._lock:
                self.restoring.discard(pool)

    def close(self) -> None:
        """Make no pools any more, wait for those that are being made, and close the store; may be called again."""
        with self._lock:
            self._closing = True
            makers = list(self._makers)
        for maker in makers:
            maker.join()
        if self._store is not None:
            self._store.close()
