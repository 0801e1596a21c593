"""A worker that is a copy of its host: it begins with the modules loaded that every worker needs.

A new interpreter takes a quarter of a second of a core to load them. A host may be copied before it has threads and a
ZeroMQ context, and nothing of it may be left in the copy but memory: no descriptor, no signal handler, no function that
runs at its exit, and no state of a random generator, which all copies would have in common.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing import util
from typing import TYPE_CHECKING

import numpy as np

from vecserver.engine.worker import main

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fork_worker"]


def fork_worker(fds: Sequence[int]) -> int:
    """Start a worker as a copy of this process.

    Args:
        fds: Its descriptors, as ``worker.main`` takes them; all others are closed there.

    Returns:
        The process id; the worker's exit code is the caller's to wait for.
    """
    assert threading.active_count() == 1, "locks that other threads hold would stay locked in the copy"
    host_pid = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid == 0:
        _become_worker(host_pid, fds)
    return pid


def _become_worker(host_pid: int, fds: Sequence[int]) -> None:
    """Run the worker and end; never returns into what the host was about."""
    status = 1
    try:
        _forget_host(fds)
        main(host_pid, *fds)
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
    logging.basicConfig(format="%(levelname)s worker %(process)d: %(message)s", force=True)


def _forget_exit_functions() -> None:
    """Leave nothing to be done at the exit but the part of multiprocessing, which registers it once, when it is loaded.

    multiprocessing does the same in the processes that it forks itself. Without its part the children and managers of
    environments would outlive the worker.
    """
    atexit._clear()  # noqa: SLF001 - there are no public names
    util._finalizer_registry.clear()  # type: ignore[attr-defined] # noqa: SLF001
    util._run_after_forkers()  # type: ignore[attr-defined] # noqa: SLF001
    atexit.register(util._exit_function)  # type: ignore[attr-defined] # noqa: SLF001
