"""One server for a module's tests, and pools of oracles on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from tests.chaos.oracle_environment import ORACLE
from vecserver.wire.errors import UnknownPool
from vecserver_client import ControlClient, LocalServer


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    """A private server of the test run."""
    with closing(LocalServer()) as running:
        yield running


@pytest.fixture
def control(server) -> Iterator[ControlClient]:
    """Its HTTP API."""
    with ControlClient(server.url) as client:
        yield client


@pytest.fixture
def make_pool(control) -> Iterator[Callable[..., dict]]:
    """Makes pools of oracles, deleted after the test."""
    with ExitStack() as stack:

        def make(num_envs: int, padding: int = 0, **options) -> dict:
            pool = control.create_pool(
                env_id=ORACLE, num_envs=num_envs, engine="native", env_kwargs={"padding": padding}, **options
            )
            stack.callback(delete, pool["pool"])
            return pool

        def delete(pool: str) -> None:
            with suppress(UnknownPool):
                control.delete_pool(pool, force=True)

        yield make
