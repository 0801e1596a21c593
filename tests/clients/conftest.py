"""One server for a module's tests: pools are what differs between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from vecserver_client import LocalServer


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    """A private server of the test run."""
    with closing(LocalServer()) as running:
        yield running
