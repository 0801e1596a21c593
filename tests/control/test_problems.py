from __future__ import annotations

import logging
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from vecserver.control.guards import MAX_BODY_BYTES
from vecserver.wire.errors import ERRORS, EnvFault, InvalidSpec, VecServerError

ROOT = Path(__file__).parents[2]
JSON = {"Content-Type": "application/json"}
STANDARD = {"type", "title", "status", "detail", "instance", "code"}


def problem(answer, code):
    """The problem in an answer, which must be one with this code."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["code"] == code, body
    assert body["status"] == answer.status_code == ERRORS[code].http_status
    assert body["title"] == HTTPStatus(answer.status_code).phrase
    assert set(body) >= STANDARD
    return body


def tree(cls=VecServerError):
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in tree(child))]


def test_the_table_of_errors_is_total():
    """Each error has a code and a wire number of its own and an HTTP status, and the docs explain it."""
    classes = tree()
    assert len(ERRORS) == len(classes) == len({cls.number for cls in classes})
    for cls in classes:
        assert ERRORS[cls.code] is cls
        assert HTTPStatus(cls.http_status) >= 400
        for own in ("code", "number", "http_status"):
            assert own in vars(cls), f"{cls.__name__} inherits its {own}"
    headings = re.findall(r"^#{2,3} ([a-z_]+)$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(ERRORS)


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_of_the_registry_is_a_problem(http, registry, code):
    """Whatever error the registry raises, the answer is a problem with its code, status, text and details."""
    registry.fault = ERRORS[code]("it went wrong\nin two lines", pool="p", rows=[1, 2])
    body = problem(http.get("/v1/pools/p"), code)
    assert body["detail"] == "it went wrong\nin two lines"
    assert (body["pool"], body["rows"], body["instance"]) == ("p", [1, 2], "/v1/pools/p")


def test_the_faults_of_an_environment_travel(http, registry):
    """An environment's own type, message and traceback are members of the problem."""
    faults = [{"row": 1, "type": "ValueError", "message": "broken", "traceback": "Traceback …"}]
    registry.fault = EnvFault("row 1 raised", faults=faults)
    assert problem(http.post("/v1/pools/p/step", json={"actions": []}), "env_fault")["faults"] == faults


def test_details_never_replace_a_standard_member(http, registry):
    """A detail that has the name of a standard member of problems is left out, whatever it is."""
    registry.fault = InvalidSpec("no", status=7, code="other", odd={1: float("nan"), "o": object})
    body = problem(http.get("/v1/pools/p"), "invalid_spec")
    assert body["odd"] == {"1": None, "o": "<class 'object'>"}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"num_envs": "4"}, "num_envs", "integer"),
        ({"num_envs": True}, "num_envs", "integer"),
        ({"num_envs": None}, "num_envs", "integer"),
        ({"num_envs": 0}, "num_envs", "at least 1"),
        ({"workers": 1.5}, "workers", "integer"),
        ({"engine": "warp"}, "engine", "one of auto"),
        ({"step_timeout": 0}, "step_timeout", "above 0"),
        ({"env_kwargs": []}, "env_kwargs", "dictionary"),
        ({"name": "../up"}, "name", "no pool name"),
    ],
)
def test_a_wrong_option_is_named(http, change, field, words):
    """An option of the wrong type or out of range is refused with 422 and its name."""
    answer = http.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 1, **change})
    body = problem(answer, "invalid_spec")
    assert body["field"] == field
    assert words in body["detail"]


def test_a_missing_option_is_named(http):
    """A body without a required field is refused with the field's name; two faults are both told."""
    body = problem(http.post("/v1/pools", json={"engine": 3}), "invalid_spec")
    assert [fault["field"] for fault in body["faults"]] == ["env_id", "num_envs", "engine"]
    assert "env_id: Field required" in body["detail"]


def test_an_unknown_field_names_the_known_ones(http):
    """A misspelt field is refused with the one that is probably meant and all there are."""
    body = problem(http.post("/v1/pools", json={"env_id": "CartPole-v1", "num_env": 1}), "invalid_spec")
    assert body["field"] == "num_env"
    assert "did you mean num_envs?" in body["detail"]
    assert "autoreset_mode" in body["known"]
    body = problem(http.post("/v1/pools/p/step", json={"xyz": 1}), "invalid_spec")
    assert body["known"] == ["actions"]


def test_an_unknown_environment_names_the_nearest(http):
    """A misspelt id is refused with ids that look like it."""
    body = problem(http.post("/v1/pools", json={"env_id": "cartpole-v1", "num_envs": 1}), "unknown_env")
    assert "CartPole-v1" in body["nearest"]


def test_a_cap_is_named(http):
    """A pool above a limit is refused with the limit's name, its value and what was asked."""
    body = problem(http.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 10**30}), "cap_exceeded")
    assert (body["cap"], body["limit"], body["asked"]) == ("max_num_envs", 4096, str(10**30))


@pytest.mark.parametrize("actions", [[0, 1], [0, 1, 2], [[0], [1], [0]], "left", None, {"a": 1}, [0, [1], 2]])
def test_a_wrong_action_batch_is_refused(http, cartpole, actions):
    """A batch of the wrong length, shape, type or value is refused with 422 and nothing is stepped."""
    problem(http.post("/v1/pools/cart/step", json={"actions": actions}), "invalid_action")
    assert http.get("/v1/pools/cart/stats").json()["batches"] == 0


@pytest.mark.parametrize("seed", [-1, 1.5, "7", [1, "2", 3], 2**63, {"a": 1}])
def test_a_wrong_seed_is_refused(http, cartpole, seed):
    """A seed that is no integer from 0, or too large to travel, is refused before any row is reset."""
    body = problem(http.post("/v1/pools/cart/reset", json={"seed": seed}), "invalid_spec")
    assert body["field"].startswith("seed")
    assert http.get("/v1/pools/cart/stats").json()["resets"] == 0


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b"7", b'{"env_id": "a"} x', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_malformed(http, body):
    """Bytes that are no JSON object are refused with 400."""
    problem(http.post("/v1/pools", content=body, headers=JSON), "malformed_message")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_of_another_type_is_refused(http, kind):
    """Only application/json is read: a web page elsewhere cannot send that without asking first."""
    headers = {} if kind is None else {"Content-Type": kind}
    answer = http.post("/v1/pools", content=b'{"env_id": "CartPole-v1", "num_envs": 1}', headers=headers)
    assert "Content-Type: application/json" in problem(answer, "malformed_message")["detail"]


def test_a_body_above_the_limit_is_refused(http):
    """A body that declares or turns out to be too large is refused with 413 and the limit."""
    declared = http.post("/v1/pools", content=b"{}", headers={**JSON, "Content-Length": str(MAX_BODY_BYTES + 1)})
    assert problem(declared, "message_too_large")["limit"] == MAX_BODY_BYTES

    async def chunks():
        for _ in range(9):
            yield b" " * (1 << 20)

    streamed = http.post("/v1/pools", content=chunks(), headers=JSON)
    assert problem(streamed, "message_too_large")["limit"] == MAX_BODY_BYTES


def test_an_unknown_path_is_a_problem(http):
    """A path that no route has answers 404, also with a slash too many."""
    for path in ("/nothing", "/v1", "/v1/pools/", "/v1/pools/a/b", "/v1//pools"):
        assert problem(http.get(path), "unknown_route")["instance"] == path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/pools", "GET, POST"),
        ("PATCH", "/v1/pools/a", "DELETE, GET"),
        ("GET", "/v1/pools/a/step", "POST"),
        ("BREW", "/healthz", "GET"),
        ("POST", "/docs", "GET, HEAD"),
    ],
)
def test_a_refused_method_names_those_allowed(http, method, path, allowed):
    """405 keeps the Allow header, with every method that the path takes."""
    answer = http.request(method, path)
    assert problem(answer, "method_refused")["allowed"] == answer.headers["Allow"] == allowed


def test_a_defect_is_logged_and_not_shown(http, registry, caplog):
    """An unexpected exception answers internal_error without its text; whoever serves sees the exception."""
    registry.fault = ZeroDivisionError("secret words")
    with caplog.at_level(logging.ERROR):
        answer = http.get("/v1/pools/p")
    assert "ZeroDivisionError" in problem(answer, "internal_error")["detail"]
    assert "secret words" not in answer.text
    assert "Traceback" not in answer.text


def test_hosts_elsewhere_are_refused(http):
    """A server on loopback answers to loopback names only, with any port, in any case."""
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]", "0.0.0.0:8000"):
        assert http.get("/healthz", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "0.0.0.1", "", "::1", ":80"):
        body = problem(http.get("/healthz", headers={"Host": host}), "malformed_message")
        assert "Host" in body["detail"], host


@pytest.mark.parametrize("field", ["seed", "mask", "options"])
def test_a_body_of_many_faults_is_answered_with_few(http, cartpole, field):
    """An answer is not larger than the request for it."""
    answer = http.post("/v1/pools/cart/reset", json={field: [0.5] * 20_000})
    assert answer.status_code == 422
    assert len(answer.content) < 4096
