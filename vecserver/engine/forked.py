"""Processes that are copies of their parent: a pool's workers of its host, sessions of their nursery.

They begin with the modules loaded that they need; a new interpreter takes a quarter of a second of a core to load them.
A host may be copied before it has threads and a ZeroMQ context, and nothing of it may be left in the copy but memory:
no descriptor, no signal handler, no function that runs at its exit, and no state of a random generator, which all
copies would have in common.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing import util
from typing import TYPE_CHECKING

import numpy as np

from vecserver.engine.limits import restrict
from vecserver.engine.worker import main

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.engine.limits import WorkerLimits

__all__ = ["fork_process", "fork_worker"]


def fork_worker(fds: Sequence[int], limits: WorkerLimits) -> int:
    """Start a worker as a copy of this process.

    Args:
        fds: Its descriptors, as ``worker.main`` takes them; all others are closed there.
        limits: What it may use.

    Returns:
        The process id; the worker's exit code is the caller's to wait for.
    """
    host_pid = os.getpid()
    return fork_process(lambda: main(host_pid, *fds), fds, limits)


def fork_process(run: Callable[[], None], fds: Sequence[int], limits: WorkerLimits) -> int:
    """Start a copy of this process that runs a function and ends.

    Args:
        run: What it does.
        fds: The descriptors that it keeps; all others but stderr are closed there.
        limits: What it may use.

    Returns:
        The process id; the exit code is the caller's to wait for.
    """
    assert threading.active_count() == 1, "locks that other threads hold would stay locked in the copy"
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid == 0:
        _become(run, fds, limits)
    return pid


def _become(run: Callable[[], None], fds: Sequence[int], limits: WorkerLimits) -> None:
    """Run and end; never returns into what the host was about."""
    status = 1
    try:
        _forget_host(fds)
        restrict(limits)
        run()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter ends: said, and told by the status
        traceback.print_exc()
    finally:
        with suppress(BaseException):  # the order of the interpreter: executors end their processes with their threads
            threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001
        with suppress(BaseException):
            atexit._run_exitfuncs()  # noqa: SLF001
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _forget_host(fds: Sequence[int]) -> None:
    _forget_exit_functions()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(2, 1)  # what environments print must not mix with what the host says
    kept = [2, *sorted(fds)]
    for before, after in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(before + 1, after)
    np.random.seed()  # noqa: NPY002 - the generator of the module, which environments may use; Python's own heeds forks


def _forget_exit_functions() -> None:
    """Leave nothing to be done at the exit but the part of multiprocessing, which registers it once, when it is loaded.

    multiprocessing does the same in the processes that it forks itself. Without its part the children and managers of
    environments would outlive the worker.
    """
    atexit._clear()  # noqa: SLF001 - there are no public names
    util._finalizer_registry.clear()  # type: ignore[attr-defined] # noqa: SLF001
    util._run_after_forkers()  # type: ignore[attr-defined] # noqa: SLF001
    atexit.register(util._exit_function)  # type: ignore[attr-defined] # noqa: SLF001
