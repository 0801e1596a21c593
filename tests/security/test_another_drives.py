"""Every route of a pool while somebody else drives it: nothing that steps is done, whatever the token may do."""

from __future__ import annotations

from contextlib import closing

import httpx
import pytest
from websockets.sync.client import connect

import vecserver_client as vs
from tests.bearer import headers
from vecserver.control.access.scopes import ROUTES, WEBSOCKET
from vecserver.wire.errors import LeaseHeld
from vecserver_client import ControlClient, LocalServer

HELD = (409, "lease_held")
LOOKS = (200, None)

OTHERS = {
    ("GET", "/v1/pools/{pool}"): ("", None, LOOKS),
    ("GET", "/v1/pools/{pool}/stats"): ("", None, LOOKS),
    ("GET", "/v1/pools/{pool}/frame"): ("?row=0", None, LOOKS),
    ("POST", "/v1/pools/{pool}/access"): ("", {}, LOOKS),
    ("POST", "/v1/pools/{pool}/lease"): ("", {"driver": "another"}, HELD),
    ("POST", "/v1/pools/{pool}/reset"): ("", {}, HELD),
    ("POST", "/v1/pools/{pool}/step"): ("", {"actions": [0, 0]}, HELD),
    # the WebSockets below; deleting takes the scope `create`, and is of any pool
    (WEBSOCKET, "/v1/pools/{pool}/ws"): None,
    (WEBSOCKET, "/vec/{pool}/ws"): None,
    ("DELETE", "/v1/pools/{pool}"): None,
}
"""Route → its query, its body, and the answer. A route that is added has none, and the test below fails."""


@pytest.fixture(scope="module")
def server():
    with closing(LocalServer()) as server:
        yield server


@pytest.fixture  # a client may connect anew at any time, which a test must not be blamed for
def driven(server):
    with vs.make_vec("CartPole-v1", 2, url=server.url, transport="ipc", render_mode="rgb_array") as envs:
        envs.reset(seed=1)
        yield envs


def test_every_route_of_a_pool_has_an_entry():
    """Those that are declared, and no others."""
    declared = {(method, rule.path) for rule in ROUTES for method in rule.methods.split() if "{pool}" in rule.path}
    assert declared == set(OTHERS)


@pytest.mark.parametrize("route", [route for route, asked in OTHERS.items() if asked], ids=" ".join)
def test_a_pool_that_is_driven_is_left_alone(server, driven, route):
    """Who looks may look; what would step, reset or take it is refused, and the driver's episode goes on."""
    query, body, (status, code) = OTHERS[route]
    method, path = route
    with httpx.Client(base_url=server.url, headers=headers(server.url), trust_env=False, timeout=60.0) as http:
        answer = http.request(method, path.format(pool=driven.pool) + query, json=body)
    assert (answer.status_code, answer.json()["code"] if code else None) == (status, code)
    _goes_on(server, driven)


def test_a_pool_that_is_driven_is_left_alone_over_websockets(server, driven):
    """Neither its own messages nor OpenEnv's get the lease."""
    with pytest.raises(LeaseHeld):
        vs.attach(server.url, driven.pool, transport="ws")
    address = server.url.replace("http", "ws", 1)
    with connect(f"{address}/vec/{driven.pool}/ws", additional_headers=headers(server.url)) as ws:
        assert "CAPACITY_REACHED" in ws.recv(60.0)
    _goes_on(server, driven)


def _goes_on(server, driven):
    with ControlClient(server.url) as control:
        before = control.get_pool(driven.pool)["stats"]["resets"]
        driven.step([0, 0])
        stats = control.get_pool(driven.pool)["stats"]
    assert (before, stats["resets"]) == (1, 1)
