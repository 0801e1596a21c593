"""A pool's host that notes what it does when: ``python -m vecserver.cli.measure.stamped_host STAMPS ROWS BATCHES FD``.

It is the host of ``vecserver.dataplane`` with a few methods wrapped, in this process and in the workers that are copied
from it; hosts of servers know nothing of it. A wrapper costs a microsecond a batch or two.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from vecserver.arena.doorbell import FinishLine
from vecserver.cli.measure.stamps import HOST, Stamps, worker_line
from vecserver.dataplane.__main__ import main
from vecserver.dataplane.dispatch import Dispatcher
from vecserver.engine import making
from vecserver.pools.host import Host
from vecserver.wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["note_host", "note_workers"]

_KIND_AT: Final = 6
"""Where a header has its kind."""


def note_host(stamps: Stamps) -> None:
    """Have the host of this process note each step that it is asked for."""
    message, collect, finished = Dispatcher.message, Host.collect, Dispatcher.finished
    batches, stepping = 0, False
    took = rung = ended = 0

    def noted_message(self: Dispatcher, peer: bytes, frames: Any, key: bytes) -> Any:
        nonlocal took, rung, stepping
        began = perf_counter_ns()
        reply = message(self, peer, frames, key)
        if reply is None and frames[0][_KIND_AT] == Kind.STEP:
            took, rung, stepping = began, perf_counter_ns(), True
        return reply

    def noted_collect(self: Host) -> Any:
        nonlocal ended
        ended = perf_counter_ns()
        return collect(self)

    def noted_finished(self: Dispatcher, outcome: Any) -> Any:
        nonlocal batches, stepping
        replies = finished(self, outcome)
        if stepping:
            stamps.note(HOST, batches, took, rung, ended, perf_counter_ns())
            batches, stepping = batches + 1, False
        return replies

    _replace(Dispatcher, "message", noted_message)
    _replace(Host, "collect", noted_collect)
    _replace(Dispatcher, "finished", noted_finished)


def note_workers(stamps: Stamps) -> None:
    """Have the workers that are copied from this process note each step of their shards."""
    make, cross = vars(making)["make_engine"], FinishLine.cross

    def noted_make(engine: str, maker: Any, rows: tuple[int, int], *arguments: Any) -> Any:
        made = make(engine, maker, rows, *arguments)
        step, line = made.step, worker_line(rows[0])
        batches = called = 0

        def noted_step(slot: int) -> bytes:
            nonlocal called
            called = perf_counter_ns()
            payload: bytes = step(slot)
            return payload

        def noted_cross(self: FinishLine) -> None:
            nonlocal batches, called
            if called:
                stamps.note(line, batches, called, perf_counter_ns())
                batches, called = batches + 1, 0
            cross(self)

        _replace(made, "step", noted_step)
        _replace(FinishLine, "cross", noted_cross)
        return made

    _replace(making, "make_engine", noted_make)


def _replace(owner: object, name: str, function: Callable[..., Any]) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} to note any more"
    setattr(owner, name, function)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s host %(process)d: %(message)s")
    _stamps = Stamps(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    note_host(_stamps)
    note_workers(_stamps)
    os.set_blocking(int(sys.argv[4]), True)
    sys.exit(main(int(sys.argv[4])))
