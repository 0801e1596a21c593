from __future__ import annotations

from contextlib import ExitStack

import pytest
import zmq

from tests.dataplane.peers import Driver, Peer
from tests.pools.registries import open_registry, start_threads


@pytest.fixture(scope="module")
def registry():
    """One registry for a module; its pools are the tests' to delete."""
    with open_registry() as registry:
        yield registry


@pytest.fixture(scope="module")
def context():
    """A client's ZeroMQ context."""
    with zmq.Context() as context:
        start_threads(context)
        yield context


@pytest.fixture
def peer(context):
    """Opens sockets to a pool, closed after the test."""
    with ExitStack() as stack:
        yield lambda endpoint, ticket="", **options: stack.enter_context(Peer(context, endpoint, ticket, **options))


@pytest.fixture
def driver(context, registry):
    """Opens sockets that drive a pool, closed after the test."""
    with ExitStack() as stack:

        def open_driver(view, transport="tcp", **options):
            ticket = registry.access(view.pool).ticket if transport == "tcp" else ""
            return stack.enter_context(Driver(context, view, transport, ticket, **options))

        yield open_driver
