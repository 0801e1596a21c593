"""What is asked of pools' hosts on behalf of requests over HTTP, and how many of them at a time."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import zmq

from vecserver.pools.batches import decode_batch
from vecserver.pools.link import PoolLink
from vecserver.pools.pictures import RENDER_MODE, as_picture
from vecserver.wire.errors import InvalidSpec, StillRunning, VecServerError
from vecserver.wire.session import REPLACEMENT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from vecserver.pools.listing import Made
    from vecserver.pools.results import Batch
    from vecserver.wire.frames import Kind
    from vecserver.wire.messages import Reset, Stats

__all__ = ["Conversations", "longest_batch_s"]

_LAST_ANSWERS_S: Final = 1.0
"""Seconds that answers of pools that have ended may take on their way through this process."""

_PING_TIMEOUT: Final = 2.0
"""Seconds a host may take to say how it is: it answers between batches and while they run."""

_RENDER_TIMEOUT: Final = 10.0
"""Seconds a frame may take, the batch that it waits for included: whoever looks can look again."""

_MAX_CONVERSATIONS: Final = 12
"""Resets and steps over HTTP at a time: each holds a thread of the control plane, as do creations and those that wait
for one (8 and 16). It has 40, so that some are left for what only looks."""


def longest_batch_s(made: Made) -> float:
    """Seconds a batch of a pool may take, the replacement of a worker included."""
    return made.spec.step_timeout + REPLACEMENT_S


class Conversations:
    """Asks hosts, each time over a connection of its own. Thread-safe.

    Args:
        prospect: Says what will become of a pool that has no host.
    """

    def __init__(self, prospect: Callable[[str], str]) -> None:
        self._prospect = prospect
        self._context = zmq.Context()
        self._under_way = 0
        self._quiet = threading.Condition()

    def check_alive(self, made: Made) -> None:
        """Make sure that a pool has a host.

        Raises:
            PoolLost: It has none; says why, and what will become of it.
        """
        made.process.check_alive(self._prospect(made.ready.info.pool))

    def ping(self, made: Made) -> Stats:
        """How a pool is.

        Raises:
            PoolLost: The host is gone.
            DeadlineExceeded: It does not answer.
        """
        with self._link(made) as link:
            return link.ping(_PING_TIMEOUT)

    def take_lease(self, made: Made, driver: str, *, force: bool) -> tuple[int, int]:
        """Give the right to drive a pool to somebody; returns the lease and the epoch.

        Raises:
            LeaseHeld: A driver has it, and ``force`` was not asked for.
            PoolLost: The host is gone.
        """
        with self.limited(), self._link(made) as link:
            return link.attach(_PING_TIMEOUT, driver, force=force)

    def render(self, made: Made, row: int) -> np.ndarray[Any, Any]:
        """What a row looks like now: uint8 [height, width, channels].

        Raises:
            The errors of ``Registry.render``.
        """
        info = made.ready.info
        if info.render_mode != RENDER_MODE:
            raise InvalidSpec(
                f"pool {info.pool} has render mode {info.render_mode!r}: make one with render_mode="
                f"{RENDER_MODE!r} to see its rows",
                field="render_mode",
            )
        with self.limited(), self._link(made) as link:
            return as_picture(link.render([row], min(made.spec.step_timeout, _RENDER_TIMEOUT))[0], row)

    def drive(self, made: Made, kind: Kind, ext: bytes | Reset, body: bytes | memoryview) -> Batch:
        """Be a pool's driver for one step or reset.

        Raises:
            The errors of ``Registry.step``.
        """
        timeout = longest_batch_s(made)
        with self.limited(), self._link(made) as link:
            link.attach(timeout)
            try:
                reply_ext, reply_body = link.sequenced(kind, ext, body, timeout)
            finally:
                with suppress(VecServerError):  # a host that drains listens no more; the lease ends with it
                    link.detach(_PING_TIMEOUT)
        return decode_batch(made.ready.info, kind, reply_ext, reply_body)

    def _link(self, made: Made) -> PoolLink:
        self.check_alive(made)
        slot_size = made.ready.info.layout["slot_size"]
        return PoolLink(self._context, made.ready.endpoints["ipc"], slot_size, partial(self.check_alive, made))

    @contextmanager
    def limited(self) -> Iterator[None]:
        """A place of one that asks a host, or waits for another that does.

        Raises:
            StillRunning: There is none left.
        """
        with self._quiet:
            if self._under_way >= _MAX_CONVERSATIONS:
                raise StillRunning(
                    f"{self._under_way} requests step or reset pools over HTTP already: ask again later, or step "
                    "over ZeroMQ"
                )
            self._under_way += 1
        try:
            yield
        finally:
            with self._quiet:
                self._under_way -= 1
                self._quiet.notify_all()

    def close(self) -> None:
        """Wait for what is under way, whose hosts have ended or are about to; called once."""
        with self._quiet:  # whoever waits for the last answer of a pool gets it
            self._quiet.wait_for(lambda: not self._under_way, _LAST_ANSWERS_S)
        self._context.term()  # conversations that were under way end by themselves: their hosts are gone
