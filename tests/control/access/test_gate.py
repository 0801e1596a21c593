from __future__ import annotations

import base64

import pytest

from tests.control.access.conftest import guarding
from tests.control.access.test_routes import FAR, NEAR, ask
from tests.control.conftest import serving
from tests.control.fakes import FakeRegistry
from vecserver.control.access.attempts import MOST_ATTEMPTS, WINDOW_S, Attempts, Refusals
from vecserver.control.access.logins import CODE_S, SESSION_S
from vecserver.control.access.scopes import WEBSOCKET, Scope
from vecserver.control.app import create_app

BROWSER = {"Accept": "text/html,*/*"}
WRONG = {"Authorization": "Bearer " + "x" * 43}


def test_a_refusal_says_what_to_do(client, guarded):
    """Typed, with the scheme that is taken and the scope that is needed."""
    refused = client.get("/v1/pools")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer TOKEN" in refused.json()["detail"]
    refused = client.post("/v1/pools", json={}, headers=guarded.headers(Scope.USE))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (refused.json()["needed"], refused.json()["granted"]) == ("create", "use")


def test_a_refused_body_is_not_read(client):
    """Whoever has no token costs no memory."""
    answer = client.post("/v1/pools", content=b"x" * (9 << 20))
    assert answer.status_code == 401


def test_a_token_may_be_the_password_of_an_address(client, guarded):
    """As clients send it that take no headers; anything else is none."""

    def basic(text):
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    token = guarded.tokens[Scope.READ]
    for good in (f":{token}", f"anybody:{token}"):
        assert client.get("/v1", headers=basic(good)).json()["scope"] == "read"
    for bad in (basic(token), {"Authorization": "Basic ?"}, {"Authorization": token}, {"Authorization": "Bearer "}):
        assert client.get("/v1", headers=bad).status_code == 401
    two = [("Authorization", f"Bearer {token}")] * 2
    assert client.get("/v1", headers=two).status_code == 401


def test_wrong_tokens_are_limited_by_address(caplog):
    """Who tried ten has to wait, right or wrong; others do not, and the minute passes. It is logged once."""
    with guarding() as app:
        right = app.headers(Scope.ADMIN)
        for _ in range(MOST_ATTEMPTS):
            assert ask(app, "GET", "/v1", WRONG) == 401
        for _ in range(3):
            assert ask(app, "GET", "/v1", WRONG) == ask(app, "GET", "/v1", right) == 429
        assert ask(app, "GET", "/v1", right, client=("203.0.113.8", 1)) == 200
        assert ask(app, "GET", "/healthz") == 200
        app.clock.now += WINDOW_S
        assert ask(app, "GET", "/v1", right) == 200
    assert [record.args for record in caplog.records] == [(FAR[0], MOST_ATTEMPTS)]


def test_nobody_is_locked_out_of_their_own_machine():
    """Its users share one address: a wrong token is wrong there, however often, and a right one always good."""
    with guarding() as app:
        for _ in range(MOST_ATTEMPTS + 1):
            assert ask(app, "GET", "/v1", WRONG, client=NEAR) == 401
        assert ask(app, "GET", "/v1", app.headers(Scope.READ), client=NEAR) == 200
        link = app.access.logins.new_code(Scope.READ)
        with serving(app.app) as client:
            assert client.get("/web/login", params={"code": link}).status_code == 200


def test_a_limit_is_told_with_its_end(guarded):
    """In the answer and in the header."""
    with serving(guarded.app, peer=FAR) as client:
        answers = [client.get("/v1", headers=WRONG) for _ in range(MOST_ATTEMPTS + 1)]
    assert (answers[-1].json()["code"], answers[-1].json()["retry_after_s"]) == ("too_many_attempts", WINDOW_S)
    assert answers[-1].headers["retry-after"] == str(int(WINDOW_S))


def test_attempts_are_remembered_in_bounded_memory():
    """The oldest address makes room; those of one IPv6 network count as one."""
    attempts = Attempts(lambda: 0.0)
    for i in range(5000):
        attempts.failed(f"10.0.{i >> 8}.{i & 255}")
    assert len(attempts) == 4096
    for i in range(MOST_ATTEMPTS):
        attempts.failed(f"2001:db8::{i:x}")
    assert attempts.wait_for("2001:db8::ffff:1") == WINDOW_S
    assert attempts.wait_for("2001:db8:0:1::1") == 0
    for _ in range(MOST_ATTEMPTS):
        attempts.failed("::ffff:192.0.2.1")
    assert attempts.wait_for("192.0.2.1") == WINDOW_S
    assert attempts.wait_for("::ffff:192.0.2.2") == 0


def log_in(client, guarded, scope=Scope.ADMIN):
    made = client.post("/v1/logins", headers=guarded.headers(scope))
    assert made.status_code == 201
    answer = client.get(made.json()["path"], headers=BROWSER)
    assert answer.status_code == 200
    return made.json()["path"], answer


def test_a_browser_without_a_log_in_is_told_how_to_get_one(client):
    """One sentence, 401."""
    for path in ("/", "/web", "/web/", "/docs", "/v1/pools"):
        answer = client.get(path, headers=BROWSER)
        assert answer.status_code == 401
        assert "run <code>vecserver login</code>" in answer.text
        assert answer.headers["cache-control"] == "no-store"


def test_a_link_logs_one_browser_in_once(client, guarded):
    """By a cookie that scripts do not see and other sites do not send; with the scope of whoever made the link."""
    link, answer = log_in(client, guarded, Scope.USE)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    name, _, session = cookie.partition(";")[0].partition("=")
    assert client.get("/v1", headers={"Cookie": f"{name}={session}"}).json()["scope"] == "use"
    again = client.get(link, headers=BROWSER)
    assert (again.status_code, "set-cookie" in again.headers) == (401, False)
    assert "no longer good" in again.text
    guarded.clock.now += SESSION_S
    assert client.get("/v1", headers={"Cookie": f"{name}={session}"}).status_code == 401


def test_a_link_that_nobody_opened_ends_by_itself(client, guarded):
    """After ten minutes."""
    path = client.post("/v1/logins", headers=guarded.headers(Scope.ADMIN)).json()["path"]
    guarded.clock.now += CODE_S
    assert client.get(path).status_code == 401


def test_wrong_links_are_limited(client):
    """As wrong tokens are."""
    statuses = [client.get("/web/login", params={"code": f"{i}"}).status_code for i in range(MOST_ATTEMPTS + 1)]
    assert statuses == [401] * MOST_ATTEMPTS + [429]


def test_browsers_are_logged_out_by_whoever_has_admin(client, guarded):
    """All of them, and links that nobody opened are no longer good."""
    _, answer = log_in(client, guarded)
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    path = client.post("/v1/logins", headers=cookie | {"Origin": "http://127.0.0.1:8000"}).json()["path"]
    assert client.delete("/v1/logins", headers=guarded.headers(Scope.CREATE)).status_code == 403
    assert client.delete("/v1/logins", headers=guarded.headers(Scope.ADMIN)).status_code == 204
    assert client.get("/v1", headers=cookie).status_code == 401
    assert client.get(path).status_code == 401


@pytest.mark.parametrize("origin", [{}, {"Origin": "null"}])
def test_a_cookie_alone_does_nothing(client, guarded, origin):
    """What could change something has to come from a page of this server's."""
    _, answer = log_in(client, guarded)
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    body = {"env_id": "CartPole-v1", "num_envs": 1}
    assert client.get("/v1/pools", headers=cookie).status_code == 200
    assert client.post("/v1/pools", json=body, headers=cookie | origin).status_code in (400, 403)
    own = cookie | {"Origin": "http://127.0.0.1:8000"}
    assert client.post("/v1/pools", json=body, headers=own).status_code == 201
    assert ask(guarded, WEBSOCKET, "/web/x", cookie | origin) == 403
    assert ask(guarded, WEBSOCKET, "/web/x", cookie | {"Origin": "http://localhost"}) == 200


def test_over_tls_a_cookie_stays_there():
    """It is marked."""
    with guarding(secure=True) as app, serving(app.app) as client:
        assert "Secure" in log_in(client, app)[1].headers["set-cookie"]


def test_beyond_loopback_the_operator_names_the_names():
    """One Host header in any case; with names these and the loopback ones, without any name."""
    with guarding(loopback_only=False) as app, serving(app.app, "http://gpu1:8000") as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/healthz", headers=[("Host", "gpu1"), ("Host", "gpu2")]).status_code == 400
    with guarding(loopback_only=False, allowed_hosts=("GPU1",)) as app:
        for name, status in (("gpu1", 200), ("127.0.0.1", 200), ("evil.example", 400)):
            with serving(app.app, f"http://{name}:8000") as client:
                assert client.get("/healthz").status_code == status


def test_the_document_says_what_a_route_takes(guarded):
    """Its scope, how a token is sent, and the refusals."""
    document = guarded.app.openapi()
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    create = document["paths"]["/v1/pools"]["post"]
    assert (create["security"], create["x-scope"]) == ([{"token": []}], "create")
    assert {"401", "403", "429"} <= set(create["responses"])
    assert document["paths"]["/reset"]["post"]["security"] == [{"token": []}, {}]
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_an_app_without_access_asks_for_nothing():
    """For tests of routes alone."""
    registry = FakeRegistry()
    with serving(create_app(registry)) as client:
        assert client.get("/v1/pools").status_code == 200
    registry.close()


def test_many_who_are_refused_wait_for_it():
    """Thirty at once do not, and then thirty a second; nobody for longer than five seconds."""
    now = [10.0]
    refusals = Refusals(lambda: now[0])
    assert max(refusals.rest() for _ in range(30)) == pytest.approx(0.0)
    assert refusals.rest() == pytest.approx(1 / 30)
    now[0] += 0.5
    assert max(refusals.rest() for _ in range(14)) == pytest.approx(0.0)
    assert refusals.rest() == pytest.approx(1 / 30)
    assert max(refusals.rest() for _ in range(10_000)) == 5.0
    now[0] += 1000.0
    assert refusals.rest() == 0.0
