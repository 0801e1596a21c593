"""Registries with real host processes, in a folder of the test's own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from tests import leaks
from tests.pools.processes import wait_for
from vecserver.pools.registry import Registry

ZMQ_THREADS = 2
HOST_COMMAND = (sys.executable, "-m", "vecserver.dataplane")


def start_threads(context: zmq.Context) -> None:
    """Has ZeroMQ start its threads now and not in the first test that asks a pool; they get their names a moment later."""
    before = leaks._threads()
    context.socket(zmq.PAIR).close()
    wait_for(lambda: len(leaks._threads().keys() - before.keys()) == ZMQ_THREADS)


@contextmanager
def runtime_dir() -> Iterator[Path]:
    """A folder for sockets and logs; what is left in it fails the test."""
    directory = Path(tempfile.mkdtemp(dir=os.environ[leaks.RUNTIME_DIR]))
    try:
        yield directory
        assert not [*directory.iterdir()]
    finally:
        shutil.rmtree(directory)


@contextmanager
def open_registry(**options: Any) -> Iterator[Registry]:
    """A registry that is closed at the end, with all that it started."""
    with runtime_dir() as directory:
        registry = Registry(**{"host_command": HOST_COMMAND, "runtime_dir": directory, "grace": 2.0} | options)
        start_threads(registry._conversations._context)
        try:
            yield registry
        finally:
            registry.close()
