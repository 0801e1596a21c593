"""The loop of a host process: one thread waits for messages, finished commands, dead workers and its server's word.

There is no second thread: a batch is written into the arena, the workers are rung, and the same loop waits for their
bell. A hand-over between an I/O thread and a step thread would cost a wake, and the interpreter's lock, twice a batch.
"""

from __future__ import annotations

import logging
import select
from time import monotonic
from typing import TYPE_CHECKING, Final

from vecserver.arena.doorbell import spin_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vecserver.dataplane.door import Door
    from vecserver.dataplane.requests import Reply
    from vecserver.dataplane.router import Router
    from vecserver.dataplane.splitting import PoolDispatcher
    from vecserver.pools.host import Host

__all__ = ["HostLoop"]

_log = logging.getLogger(__name__)

_BURST: Final = 32
"""Messages taken before the loop looks elsewhere: a flood must not starve the bell."""

_EAGER_WAIT_S: Final = 0.002
"""How long a fresh batch is waited for at the bell alone, before all descriptors are watched: most finish within it."""

_DRAIN_POLL_MS: Final = 50

_LOOK_UP_MS: Final = 1000
"""Longest wait: Python hears a signal that comes on the very way into a wait when the wait is over."""

_ROUND_S: Final = 0.02
"""How long one batch may follow another before the server's word and the workers' deaths are looked at."""

_SPIN_US: Final = 600
"""How long the next request is watched for once a batch was answered: a quick trainer sends it by then."""


class HostLoop:
    """Runs one pool until its server says stop or is gone.

    Args:
        host: The pool.
        dispatcher: Its rules.
        router: Its sockets.
        stop_fd: Readable when the pool is to end, or when ``is_over`` is worth a call.
        door: Where drivers on this machine ask for the arena; None where it is not lent.
        is_over: Whether the pool is to end, once ``stop_fd`` is readable.
    """

    def __init__(
        self,
        host: Host,
        dispatcher: PoolDispatcher,
        router: Router,
        stop_fd: int,
        door: Door | None = None,
        is_over: Callable[[], bool] = lambda: True,
    ) -> None:
        self._host = host
        self._dispatcher = dispatcher
        self._router = router
        self._stop_fd = stop_fd
        self._is_over = is_over
        self._door = door
        self._other_fds: set[int] = set()  # watched besides, as the door and the parts want it
        self._worker_fds: dict[int, int] = {}
        self._workers_as = -1  # the replacements' ``changes`` then
        self._answered = False  # a batch, just now: the next one is likely to be asked for at once
        self._next_look = self._next_watch = 0.0
        self._poller = select.poll()
        for fd in (*router.fds, host.done_fd, stop_fd):
            self._poller.register(fd, select.POLLIN)
        self._watch_workers()
        self._look_up_ms = min(_LOOK_UP_MS, host.replacements.look_s * 1000)

    def run(self) -> bool:
        """Serve until told to stop, or until a driver was silent for too long whose pool ends with its lease.

        Returns:
            Whether it was that.
        """
        while True:
            answered, self._answered = self._answered, False
            if answered and spin_until(self._is_wanted if self._host.parts else self._router.has_message, _SPIN_US):
                self._attend_parts()
                self._take_messages()
                self._dispatcher.settle()  # a message may have ended the parts
                if self._answered and monotonic() < self._next_look:
                    continue  # in the middle of a rollout everything else is looked at now and then
            self._watch_others()
            at_once = self._answered or self._router.has_message()
            lease_left_ms = self._dispatcher.lease_left_s * 1000
            ready = dict(self._poller.poll(0 if at_once else max(0, min(lease_left_ms, self._look_up_ms))))
            self._next_look = monotonic() + _ROUND_S
            if self._stop_fd in ready and self._is_over():
                return False
            if lease_left_ms <= 0 and not at_once and not ready and self._ends_by_silence():
                return True
            self._attend_workers(ready)
            self._finish_command()
            self._attend_parts()
            self._attend_door(ready)
            if self._dispatcher.waits and not self._host.lending.busy:
                self._send(self._dispatcher.resume())
            self._take_messages()
            self._dispatcher.settle()

    def _ends_by_silence(self) -> bool:
        """End the driver's lease, now that no message waits that would renew it; whether the pool ends with it."""
        self._send(self._dispatcher.expire())
        self._dispatcher.settle()
        return self._host.info.lease_expiry == "destroy"

    def _watch_others(self) -> None:
        fds = set() if self._door is None else self._door.fds
        if self._host.parts:
            fds |= {part.done_fd for part in self._host.parts}
        for fd in self._other_fds - fds:
            self._poller.unregister(fd)
        for fd in fds - self._other_fds:
            self._poller.register(fd, select.POLLIN)
        self._other_fds = fds

    def _attend_door(self, ready: Mapping[int, int]) -> None:
        if self._door is not None:
            self._door.attend(ready)

    def _is_wanted(self) -> bool:
        """Whether there is something to do for a pool that is split."""
        for part, desk in zip(self._host.parts, self._dispatcher.desks.values(), strict=False):
            if desk.dispatcher.running and part.seems_done():
                return True
        return self._router.has_message()

    def _attend_parts(self) -> None:
        """Answer what has finished in parts of the pool."""
        if not self._host.parts:
            return
        for part, desk in zip(self._host.parts, self._dispatcher.desks.values(), strict=False):
            dispatcher = desk.dispatcher
            finished = part.poll()  # in any case, as below
            if finished and dispatcher.running:
                self._send(dispatcher.finished(part.collect()))
                self._answered = True
            elif finished and part.lending.busy:
                part.lending.go_on()
            if dispatcher.waits and not part.lending.busy:
                self._send(dispatcher.resume())
        self._dispatcher.settle()

    def _send(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            self._router.send(reply)

    def drain(self, grace: float) -> None:
        """Finish the batch in flight and answer it, for at most ``grace`` seconds."""
        deadline = monotonic() + grace
        for deaf in (*self._router.fds, self._stop_fd, *self._other_fds):  # readable for good, and read no more
            self._poller.unregister(deaf)
        # a driver that has the arena ends its step too, and begins no other
        while (self._dispatcher.busy or not self._claims_all()) and monotonic() < deadline:
            self._attend_workers(dict(self._poller.poll(_DRAIN_POLL_MS)))
            self._finish_command()
            self._attend_parts()

    def _claims_all(self) -> bool:
        """Take every arena, each as soon as it is to be had."""
        return all(crew.lending.claim() for crew in (self._host, *self._host.parts))

    def _attend_workers(self, ready: Mapping[int, int]) -> None:
        """Have workers that have ended, or take too long, replaced."""
        for fd in [fd for fd in self._worker_fds if fd in ready]:
            self._host.attend(self._worker_fds[fd])
        now = monotonic()
        if now >= self._next_watch:
            self._next_watch = now + self._host.replacements.look_s
            self._host.replacements.look()
        if self._workers_as != self._host.replacements.changes:
            self._watch_workers()

    def _watch_workers(self) -> None:
        self._workers_as = self._host.replacements.changes
        fds = self._host.worker_fds
        for fd in self._worker_fds.keys() - fds.keys():
            self._poller.unregister(fd)
        for fd in fds.keys() - self._worker_fds.keys():
            self._poller.register(fd, select.POLLIN)
        self._worker_fds = fds

    def _finish_command(self) -> None:
        finished = self._host.poll()  # in any case: a ring that nobody takes would end every later wait at once
        if finished and self._dispatcher.running:
            self._answer()
        elif finished and self._host.lending.busy:
            self._host.lending.go_on()

    def _answer(self) -> None:
        self._send(self._dispatcher.finished(self._host.collect()))
        self._answered = True

    def _take_messages(self) -> None:
        router, dispatcher = self._router, self._dispatcher
        for _ in range(_BURST):
            message = router.receive()
            if message is None:
                return
            idle = not dispatcher.running
            reply = dispatcher.message(*message)
            if reply is not None:
                router.send(reply)
            elif idle and dispatcher.running:
                if self._host.wait(_EAGER_WAIT_S):
                    self._answer()
                return  # nothing more is likely to wait
