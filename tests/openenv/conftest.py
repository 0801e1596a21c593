from __future__ import annotations

import httpx
import pytest

from tests.openenv.served import Player, serving


def warm(served, count=8):
    """Have every shared process started, so that no test is blamed for one."""
    players = [Player(served.url) for _ in range(count)]
    for each in players:
        each.state()
    for each in players:
        each.close()
    served.wait_for(0)
    httpx.post(
        f"{served.url}/step", trust_env=False, headers={"Connection": "close"}
    )  # refusals are answered in a thread


@pytest.fixture(scope="module")
def server():
    """A server with room for eight."""
    with serving(limit=8, idle_timeout=100.0, step_timeout=50.0) as served:
        warm(served)
        yield served


@pytest.fixture
def player(server):
    with Player(server.url) as each:
        yield each
