"""The short form of the floods of ``make security``, which measures what a driver keeps of its rate."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.security.floods import FLOODS, flooded_rate
from vecserver_client import ControlClient, LocalServer

GROWTH = 32 << 20  # a thousand connections, of 16 KiB each


@pytest.fixture(scope="module")
def server():
    with closing(LocalServer()) as server:
        yield server


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_neither_stops_a_driver_nor_fills_a_server(server, name):
    """A driver of another pool goes on meanwhile, the flooded pool is there afterwards, and memory stays."""
    with ControlClient(server.url) as control:
        got = flooded_rate(name, server, control, pairs=2, seconds=0.3)
    assert got.batches > 0
    assert got.count > 0
    assert got.growth < GROWTH
