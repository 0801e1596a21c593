"""OpenEnv over HTTP, over a real server on loopback."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.openenv.served import HARMFUL, PATIENCE_S, Player


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as each:
        yield each
    server.in_loop(
        lambda: [server.sessions._end(each, "the test is over") for each in [*server.sessions._open.values()]]
    )


@pytest.fixture
def bare(server, client):
    """A client that keeps no cookies."""
    return lambda method, path, **options: httpx.request(
        method, server.url + path, trust_env=False, timeout=PATIENCE_S, **options
    )


def problem(answer, code, status):
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert answer.headers["content-type"] == "application/problem+json"
    return body


def test_an_episode_of_a_client_with_cookies(client):
    """Reset, step, state: the first client's own messages."""
    first = client.post("/reset", json={}).json()
    assert (first["reward"], first["done"], first["observation"]["legal_actions"]) == (None, False, [0, 1])
    second = client.post("/step", json={"action": {"action": [1]}, "timeout_s": 15}).json()
    assert (second["reward"], second["done"], second["observation"]["episode_length"]) == (1.0, False, 1)
    state = client.get("/state").json()
    assert (state["step_count"], state["env_id"], state["max_steps"], state["total_reward"]) == (
        1,
        "CartPole-v1",
        500,
        1.0,
    )


def test_clients_are_apart(server, client):
    """By their cookies, and by the header where one has none; what the header names is what the cookie holds."""
    client.post("/reset", json={"episode_id": "one"})
    with httpx.Client(base_url=server.url, trust_env=False) as other:
        opened = other.post("/reset", json={"episode_id": "two"})
        other.post("/step", json={"action": 0})
        name = opened.headers["X-Session-Id"]
        assert other.cookies["vecserver_session"] == name
    named = {"X-Session-Id": name}
    state = httpx.get(f"{server.url}/state", headers=named, trust_env=False).json()
    assert (state["episode_id"], state["step_count"]) == ("two", 1)
    assert client.get("/state").json() | {"episode_id": "one", "step_count": 0} == client.get("/state").json()
    assert not client.cookies.jar._cookies["127.0.0.1"]["/"]["vecserver_session"].secure


def test_a_client_may_name_its_session(bare):
    """By a header of its own choice, from the first request on."""
    mine = {"X-Session-Id": "worker-7"}
    assert bare("POST", "/reset", json={"seed": 3}, headers=mine).headers["X-Session-Id"] == "worker-7"
    bare("POST", "/step", json={"action": 1}, headers=mine)
    assert bare("GET", "/state", headers=mine).json()["step_count"] == 1


def test_a_cookie_of_nobody_gets_a_new_name(bare):
    """Who plants a cookie in somebody else's browser does not know the session that it gets."""
    answer = bare("POST", "/reset", headers={"Cookie": "vecserver_session=planted"})
    assert answer.headers["X-Session-Id"] != "planted"


@pytest.mark.parametrize(
    "body",
    ['{"action": 1}', '{"action": [1]}', '{"action": {"action": 1}}', '{"action": {"action": [1]}}', '{"action": 1.0}'],
)
def test_actions_in_any_wrapping(client, body):
    """With no content type either."""
    client.post("/reset", content=b"")
    assert client.post("/step", content=body).json()["observation"]["episode_length"] == 1


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        ('{"action": 5}', "invalid_action", 422),
        ('{"action": "left"}', "invalid_action", 422),
        ('{"action": {"force": 1}}', "invalid_action", 422),
        ("{}", "invalid_spec", 422),
        ("[1]", "malformed_message", 400),
        ("{", "malformed_message", 400),
    ],
)
def test_bad_steps_are_4xx(client, body, code, status):
    """Nothing is stepped; a bad action is told of the space."""
    client.post("/reset")
    found = problem(client.post("/step", content=body), code, status)
    assert code != "invalid_action" or found["space"] == "Discrete(2)"
    assert client.get("/state").json()["step_count"] == 0


def test_without_a_session(bare):
    """A state is that of a session that was never reset; a step says what to do."""
    assert bare("GET", "/state").json()["step_count"] == 0
    assert "POST /reset" in problem(bare("POST", "/step", json={"action": 1}), "reset_needed", 409)["detail"]


def test_bad_resets(client):
    """The errors of the tree, with their statuses."""
    nearest = problem(client.post("/reset", json={"env_id": "CartPole-v"}), "unknown_env", 422)["nearest"]
    assert "CartPole-v1" in nearest
    problem(client.post("/reset", json={"seed": -1}), "invalid_spec", 422)
    problem(client.post("/reset", json={"env_id": f"{HARMFUL}RaisingInit-v0"}), "env_creation_failed", 422)
    problem(client.post("/reset", json={"env_id": f"{HARMFUL}RaisingReset-v0", "options": {"x": 1}}), "env_fault", 500)


def test_a_crash_is_told_and_the_next_reset_begins_anew(client):
    """410 names how the process ended; the client's name stays its own."""
    name = client.post("/reset", json={"env_id": f"{HARMFUL}Killed-v0"}).headers["X-Session-Id"]
    assert "SIGKILL" in problem(client.post("/step", json={"action": 0}), "session_lost", 410)["detail"]
    problem(client.post("/step", json={"action": 0}), "reset_needed", 409)
    assert client.post("/reset", json={}).json()["observation"]["episode_length"] == 0
    assert name


def test_an_idle_session_is_ended(server, client):
    """Its client has to reset."""
    client.post("/reset")
    server.pass_time(101.0)
    problem(client.post("/step", json={"action": 0}), "reset_needed", 409)
    assert server.in_loop(lambda: len(server.sessions)) == 0


def test_too_many_sessions(server, client):
    """422 names the cap."""
    players = [Player(server.url) for _ in range(8)]
    try:
        for each in players:
            each.state()
        assert problem(client.post("/reset"), "cap_exceeded", 422)["cap"] == "openenv_sessions"
    finally:
        for each in players:
            each.close()
    server.wait_for(0)


def test_what_a_validator_asks(client):
    """Health, metadata, MCP and the document of the interface."""
    assert client.get("/health").json() == {"status": "healthy"}
    assert {"name", "description", "version"} <= client.get("/metadata").json().keys()
    for body in (b"", b"{}", b"[", b'{"jsonrpc": "2.0"}'):
        answer = client.post("/mcp", content=body)
        assert (answer.status_code, answer.json()["jsonrpc"]) == (200, "2.0")
        assert (answer.json()["id"], answer.json()["error"]["code"]) == (None, -32600)
    document = client.get("/openapi.json").json()
    assert document["info"]["version"].startswith("1.")
    assert {"/reset", "/step", "/state", "/health", "/metadata", "/schema", "/mcp"} <= document["paths"].keys()


def test_pages_of_others_may_not_post(client):
    """Browsers send such a request without asking first."""
    problem(client.post("/reset", content="{}", headers={"Origin": "http://evil.example"}), "malformed_message", 400)
    own = str(client.base_url).rstrip("/")
    assert client.post("/reset", content="{}", headers={"Origin": own}).status_code == 200


def test_the_schema_of_an_unknown_environment(client):
    """Is a refusal, and leaves no session behind."""
    problem(client.get("/schema?env_id=No-v0"), "unknown_env", 422)


def test_the_address_of_their_examples(server):
    """0.0.0.0 is this machine, and a name that a page cannot take."""
    port = server.url.rpartition(":")[2]
    assert json.loads(httpx.get(f"http://0.0.0.0:{port}/health", trust_env=False).content) == {"status": "healthy"}


def test_a_reset_that_is_refused_leaves_no_session(server, bare):
    """Nobody was told its name: it would count until it was idle for too long."""
    for body in ({"env_id": "Nope-v0"}, {"kwargs": {"nope": 1}}, {"seed": 2**64}):
        assert 400 <= bare("POST", "/reset", json=body).status_code < 500
    assert not server.sessions._open


def test_a_page_of_another_server_gets_nothing_by_an_image(bare):
    """A browser asks for whatever a page embeds; a link that a person follows is something else."""
    address = "/schema?env_id=CartPole-v1"
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    problem(bare("GET", address, headers=embedded), "malformed_message", 400)
    assert bare("GET", address, headers={**embedded, "Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert bare("GET", address, headers={**embedded, "Sec-Fetch-Site": "same-origin"}).status_code == 200
