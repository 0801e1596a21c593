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
from vecserver.pools.registry import Registry

HOST_COMMAND = (sys.executable, "-m", "vecserver.dataplane")


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
        registry._context.socket(zmq.PAIR).close()  # starts ZeroMQ's threads now, not in the first test that asks a pool
        try:
            yield registry
        finally:
            registry.close()
