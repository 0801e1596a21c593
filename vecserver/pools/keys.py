"""Requests over HTTP that their senders have given a key: run once, however often they come. Thread-safe."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import Future, wait
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvFault,
    InternalError,
    InvalidSpec,
    PoolLost,
    SequenceConflict,
    SequenceStale,
    StillRunning,
    VecServerError,
    WorkerDied,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from vecserver.pools.results import Batch

__all__ = ["Keys", "digest_of_request"]

_REMEMBERED: Final = 1024
"""Keys of one pool; the answer is kept for the last of them alone."""
_LONGEST: Final = 255
"""Characters of a key."""
_MOST_WAITING: Final = 2
"""Repeats of a request that wait for its answer: each holds a thread, and of all but the last the senders have gone."""

_PERHAPS_RUN: Final = (EnvFault, WorkerDied, PoolLost, DeadlineExceeded, InternalError)
"""After these the batch may have been stepped: the same key does not step it again."""


def digest_of_request(route: str, body: bytes) -> bytes:
    """What tells a repeated request from another one under the same key."""
    return hashlib.blake2b(body, person=route.encode()[:16]).digest()


class Keys:
    """The keys of one pool's requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: OrderedDict[str, bytes] = OrderedDict()
        self._last: tuple[str, Future[Batch]] | None = None
        self._waiting = 0

    def run_once(
        self,
        key: str,
        digest: bytes,
        run: Callable[[], Batch],
        timeout: float,
        check: Callable[[], None] = lambda: None,
        place: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> tuple[Batch, bool]:
        """Run a request, or answer it as it was answered before.

        Args:
            key: Of its sender's choice.
            digest: Of the request.
            run: What to do the first time. What it raises is the answer too, unless nothing can have been stepped.
            timeout: Seconds to wait for the answer where the same request runs at this moment.
            check: Raises where it cannot be run now the first time; the key stays free.
            place: Where to wait for the answer; raises where there is no room.

        Returns:
            The answer, and whether it was there already.

        Raises:
            InvalidSpec: The key is empty or too long.
            SequenceConflict: The key was used for another request.
            SequenceStale: A later request was run since: the answer is not kept any more.
            StillRunning: It runs and did not finish in this time, or too many wait for it, or another with a key runs.
        """
        if not 0 < len(key) <= _LONGEST:
            raise InvalidSpec(f"an Idempotency-Key has 1 to {_LONGEST} characters", field="Idempotency-Key")
        with self._lock:
            answer, is_new = self._find(key, digest)
        if not is_new:
            if not answer.done():
                self._wait(key, answer, timeout, place)
            return answer.result(), True
        begun = False
        try:
            check()
            begun = True
            batch = run()
        except BaseException as error:
            if isinstance(error, VecServerError) and not (begun and isinstance(error, _PERHAPS_RUN)):
                with self._lock:
                    self._forget(key)
            answer.set_exception(error)
            raise
        answer.set_result(batch)
        return batch, False

    def _wait(
        self, key: str, answer: Future[Batch], timeout: float, place: Callable[[], AbstractContextManager[None]]
    ) -> None:
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                raise StillRunning(
                    f"the request with the key {key!r} still runs, and {self._waiting} repeats of it wait for its "
                    "answer already: send it again later"
                )
            self._waiting += 1
        try:
            with place():
                wait([answer], timeout)
        finally:
            with self._lock:
                self._waiting -= 1
        if not answer.done():
            raise StillRunning(f"the request with the key {key!r} still runs: send it again later")

    def _find(self, key: str, digest: bytes) -> tuple[Future[Batch], bool]:
        known = self._requests.get(key)
        if known is not None and known != digest:
            raise SequenceConflict(f"the Idempotency-Key {key!r} was used for another request", key=key)
        if known is not None:
            if self._last is None or self._last[0] != key:
                raise SequenceStale(f"the request with the key {key!r} was run, and another one since", key=key)
            return self._last[1], False
        if self._last is not None and not self._last[1].done():
            raise StillRunning(f"the request with the key {self._last[0]!r} still runs: send this one again later")
        answer: Future[Batch] = Future()
        self._requests[key] = digest
        self._last = key, answer
        while len(self._requests) > _REMEMBERED:
            self._requests.popitem(last=False)
        return answer, True

    def _forget(self, key: str) -> None:
        """Nothing was done under this key: it may be used again."""
        self._requests.pop(key, None)
        self._last = None
