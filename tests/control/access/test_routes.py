"""Every route × (no token, a wrong one, one whose scope is too small): made from the app's own routes."""

from __future__ import annotations

import asyncio
import re

import pytest
from starlette.routing import Mount

from tests.control.access.conftest import guarding
from vecserver.control.access.scopes import ROUTES, WEBSOCKET, Door, Scope, rule_for

FAR, NEAR = ("203.0.113.7", 4444), ("127.0.0.1", 4444)


def declared(app):
    """Method and path of everything that an app answers."""
    found = set()
    for included in app.routes:
        for route in getattr(getattr(included, "original_router", None), "routes", [included]):
            if isinstance(route, Mount):
                found |= {(method, f"{route.path}/{{rest:path}}") for method in ("GET", "HEAD", "POST", WEBSOCKET)}
            else:
                found |= {(method, route.path) for method in getattr(route, "methods", None) or {WEBSOCKET}}
    return found


with guarding() as _app:
    EVERY = sorted(declared(_app.app))


def ask(app, method, path, headers=(), client=FAR, host="localhost"):
    """The status with which a request is refused; 200 where it was let through, whatever the route then does."""
    path = re.sub(r"\{\w+(:path)?\}", "x", path)
    said = []
    lines = [
        (b"host", host.encode()),
        *((name.lower().encode(), value.encode()) for name, value in dict(headers).items()),
    ]
    scope = {
        "type": "websocket" if method == WEBSOCKET else "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": lines,
        "client": client,
        "scheme": "http",
        "extensions": {"websocket.http.response": {}},
    }

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        said.append(message)

    asyncio.run(gate_of(app)(scope, receive, send))
    return said[0]["status"]


def gate_of(app):
    """The gate, in front of a route that answers everything."""
    from vecserver.control.access.gate import Gate

    async def let_through(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    return Gate(let_through, app.access)


def test_every_route_has_an_entry_and_every_entry_a_route():
    """A route that is added is declared in the table, with its scope."""
    table = {(method, rule.path) for rule in ROUTES for method in rule.methods.split()}
    assert table == set(EVERY)


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_a_route_takes_its_scope(method, path):
    """From elsewhere: no token and a wrong one are 401, a smaller scope is 403, the scope itself passes."""
    rule = rule_for(method, re.sub(r"\{\w+(:path)?\}", "x", path))
    with guarding() as app:
        if rule.door is Door.OPEN:
            assert ask(app, method, path) == 200
            return
        assert ask(app, method, path) == 401
        assert ask(app, method, path, {"Authorization": "Bearer " + "x" * 43}) == 401
        for scope in Scope:
            assert ask(app, method, path, app.headers(scope)) == (200 if scope >= rule.scope else 403)


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_openenvs_routes_are_open_at_home(method, path):
    """To callers of this machine that name it, and to nobody else; no other route is."""
    rule = rule_for(method, re.sub(r"\{\w+(:path)?\}", "x", path))
    at_home = 200 if rule.door in (Door.OPENENV, Door.OPEN) else 401
    elsewhere = 200 if rule.door is Door.OPEN else 401
    with guarding() as app:
        assert ask(app, method, path, client=NEAR) == at_home
        assert ask(app, method, path, client=("::1", 1), host="[::1]:8000") == at_home
        assert ask(app, method, path, {"Authorization": "Bearer of-another-server"}, client=NEAR) == at_home
        assert ask(app, method, path, client=FAR) == elsewhere
        assert ask(app, method, path, client=NEAR, host="vec.example") == elsewhere
        for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"):
            assert ask(app, method, path, {name: "127.0.0.1"}, client=NEAR) == elsewhere


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_openenv_public_opens_openenvs_routes_and_the_page(method, path):
    """To everybody; the pools' own routes stay closed."""
    rule = rule_for(method, re.sub(r"\{\w+(:path)?\}", "x", path))
    with guarding(openenv_public=True) as app:
        assert ask(app, method, path) == (401 if rule.door is Door.CLOSED else 200)


def test_what_is_in_no_table_needs_admin():
    """So that nothing is open because it was forgotten."""
    assert rule_for("GET", "/forgotten") == rule_for(WEBSOCKET, "/forgotten")
    assert (rule_for("GET", "/forgotten").scope, rule_for("GET", "/forgotten").door) == (Scope.ADMIN, Door.CLOSED)
    assert rule_for("PATCH", "/v1/pools").door is Door.CLOSED
