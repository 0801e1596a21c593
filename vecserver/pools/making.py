"""Host processes from their start to their end: what each is told, and what it may take."""

from __future__ import annotations

import itertools
import logging
import time
from typing import TYPE_CHECKING, Final

from vecserver.pools.handshake import HostStart
from vecserver.pools.hosts import HostProcess
from vecserver.pools.sizing import RowCosts, is_measured
from vecserver.wire.errors import CapExceeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from vecserver.pools.handshake import HostReady
    from vecserver.pools.hosts import NoHost
    from vecserver.pools.listing import Listing, Reservation
    from vecserver.pools.spec import Caps, PoolSpec

__all__ = ["Maker"]

_EXIT_SLACK: Final = 2.0
"""Seconds for an interpreter to leave, on top of what its pool may take."""

_log = logging.getLogger(__name__)


class Maker:
    """Starts host processes and ends them. Thread-safe.

    Args:
        listing: Says what memory is left, and whether a pool is still wanted.
        caps: Limits.
        host_command: The argv prefix of a host process.
        runtime_dir: A private folder for sockets and logs.
        bind_host: Address of the interface that pools listen on.
        port_range: First and last tcp port for pools; None for any free one.
        start_timeout: Seconds a pool's environments may take to be made.
        grace: Seconds a pool may take to finish its batch and close its environments.
    """

    def __init__(
        self,
        listing: Listing,
        caps: Caps,
        *,
        host_command: Sequence[str],
        runtime_dir: Path,
        bind_host: str,
        port_range: tuple[int, int] | None,
        start_timeout: float,
        grace: float,
    ) -> None:
        self._listing = listing
        self._caps = caps
        self._host_command = tuple(host_command)
        self._runtime_dir = runtime_dir
        self._bind_host = bind_host
        self._port_range = port_range
        self._start_timeout = start_timeout
        self._grace = grace
        self._row_costs = RowCosts()
        self._sockets = itertools.count()
        self._ending: set[HostProcess | NoHost] = set()

    def make(self, reservation: Reservation, spec: PoolSpec) -> tuple[HostProcess, HostReady]:
        """Start a host process and wait for its pool; nothing is left of it where this raises.

        Raises:
            VecServerError: Whatever kept the pool from being made.
        """
        process = self._start(reservation, spec)
        try:
            ready = process.greet()
        except BaseException as error:
            self.end([process])
            if isinstance(error, CapExceeded) and error.details.get("cap") == "max_arena_bytes":
                self._listing.check_total(error.details["asked"])  # it was told what the other pools leave
            raise
        if is_measured(spec, self._caps):
            self._row_costs.note(spec, ready.row_us)
        return process, ready

    def _start(self, reservation: Reservation, spec: PoolSpec) -> HostProcess:
        number = next(self._sockets)  # a name may be used again before the last socket of that name is gone
        start = HostStart(
            pool=reservation.pool,
            spec=spec,
            caps=self._listing.caps_for_next(),
            ipc_path=str(self._runtime_dir / f"{number}.sock"),
            shm_path=str(self._runtime_dir / f"{number}.shm"),
            log_path=str(self._runtime_dir / f"{number}.log"),
            bind_host=self._bind_host,
            port_range=self._port_range,
            start_timeout=self._start_timeout,
            grace=self._grace,
            row_us=self._row_costs.get(spec),
            log_level=logging.getLevelName(_log.getEffectiveLevel()),
        )
        process = HostProcess(self._host_command, start)
        if not self._listing.note_start(reservation, process):
            process.ask_to_stop()
        return process

    def end(self, processes: Iterable[HostProcess | NoHost], grace: float | None = None) -> None:
        """End processes; they are gone when this returns.

        Args:
            processes: Which.
            grace: Seconds they may take, twice; None for what every pool may.
        """
        processes = list(processes)
        self._ending.update(processes)
        for process in processes:
            process.ask_to_stop()
        # the batch in flight, the environments' closing, and then the host's own way out
        deadline = time.monotonic() + 2 * (self._grace if grace is None else grace) + _EXIT_SLACK
        for process in processes:
            try:
                process.end(deadline)
            except Exception:  # noqa: BLE001 - one pool's trouble must not leave the others running
                about = {"host_pid": process.pid}
                _log.exception("a defect of the server: a host process could not be ended", extra=about)
            finally:
                self._ending.discard(process)

    def kill(self) -> None:
        """Kill at once what is being ended. Takes no lock: see ``Registry.kill``."""
        for process in list(self._ending):
            process.kill()
