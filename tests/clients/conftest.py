"""One server for a module's tests: pools are what differs between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vecserver.pools.curve import new_keys, write_keys
from vecserver_client import LocalServer


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    """A private server of the test run."""
    with closing(LocalServer()) as running:
        yield running


@pytest.fixture(scope="module")
def curve_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """Another one, whose pools speak CURVE on tcp."""
    secret: Path = write_keys(tmp_path_factory.mktemp("keys"), new_keys())[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VECSERVER_CURVE_KEY", str(secret))
        running = LocalServer()
    with closing(running):
        yield running
