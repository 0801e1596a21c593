from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.control.fakes import FakeRegistry
from vecserver.control.app import create_app

BASE_URL = "http://127.0.0.1:8000"


class AppClient:
    """An HTTP client whose requests run an app in this process, each where it is called from."""

    def __init__(self, portal, client):
        self._portal, self._client = portal, client
        for method in ("get", "post", "delete", "options"):
            setattr(self, method, partial(self.request, method.upper()))

    def request(self, method, path, **options):
        return self._portal.call(partial(self._client.request, method, path, **options))


@contextmanager
def serving(app, base_url=BASE_URL, peer=("127.0.0.1", 123)):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=peer)
    with start_blocking_portal() as portal:
        client = httpx.AsyncClient(transport=transport, base_url=base_url)
        yield AppClient(portal, client)
        portal.call(client.aclose)


@pytest.fixture
def registry():
    fake = FakeRegistry()
    yield fake
    fake.fault = None
    fake.close()


@pytest.fixture
def http(registry):
    with serving(create_app(registry)) as client:
        yield client


@pytest.fixture
def cartpole(http):
    answer = http.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 3, "name": "cart"})
    assert answer.status_code == 201, answer.text
    return answer.json()
