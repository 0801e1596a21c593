from __future__ import annotations

import threading

from tests.control.conftest import serving
from tests.control.fakes import FakeRegistry
from vecserver.control.app import create_app
from vecserver.wire.errors import ERRORS


def routes(document):
    return [
        (path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def test_openapi_declares_the_problems(http):
    """Every route that may refuse declares problem+json answers, and no other form of error."""
    document = http.get("/openapi.json").json()
    assert set(document["components"]["schemas"]["Problem"]["required"]) >= {"status", "detail", "code"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, method, operation in routes(document):
        for status, response in operation["responses"].items():
            if not status.startswith("2"):
                assert list(response["content"]) == ["application/problem+json"], (path, method)
        if path.startswith("/v1"):
            assert "default" in operation["responses"], (path, method)


def test_openapi_names_codes_that_exist(http):
    """The codes in the descriptions of problems are codes of the error tree."""
    for path, _, operation in routes(http.get("/openapi.json").json()):
        for status, response in operation["responses"].items():
            for code in response["description"].split("`")[1::2]:
                assert ERRORS[code].http_status == int(status), path


def test_openapi_lists_the_routes(http):
    """The document has every route of the control plane."""
    listed = {(method.upper(), path) for path, method, _ in routes(http.get("/openapi.json").json())}
    assert listed == {
        ("POST", "/v1/pools"),
        ("GET", "/v1/pools"),
        ("GET", "/v1/pools/{pool}"),
        ("DELETE", "/v1/pools/{pool}"),
        ("POST", "/v1/pools/{pool}/reset"),
        ("POST", "/v1/pools/{pool}/step"),
        ("POST", "/v1/pools/{pool}/lease"),
        ("POST", "/v1/pools/{pool}/access"),
        ("GET", "/v1/pools/{pool}/stats"),
        ("GET", "/v1/pools/{pool}/frame"),
        ("GET", "/v1/envs"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/"),
    }


def test_an_app_beyond_loopback_takes_any_host():
    """Without loopback_only the Host header is the network's business."""
    with serving(create_app(FakeRegistry(), loopback_only=False), "http://gpu1:8000") as client:
        assert client.get("/healthz").status_code == 200


def test_pages_are_framed_by_nobody_else():
    """On loopback; beyond it, it may be meant."""
    for loopback_only, said in ((True, "frame-ancestors 'self'"), (False, None)):
        with serving(create_app(FakeRegistry(), loopback_only=loopback_only)) as client:
            assert client.get("/docs").headers.get("content-security-policy") == said
            assert "content-security-policy" not in client.get("/healthz").headers


def test_a_server_that_encrypts_nothing_says_so(http, registry):
    """To whoever asks whether it is ready, and in its metrics."""
    assert "insecure" not in http.get("/readyz").json()
    assert "vecserver_insecure 0.0" in http.get("/metrics").text
    registry.insecure = True
    assert http.get("/readyz").json()["insecure"] is True
    assert "vecserver_insecure 1.0" in http.get("/metrics").text


def test_health_answers_while_every_thread_waits(http, registry):
    """/healthz and /readyz need none of the threads that wait for pools."""
    registry.gate.clear()
    calls = [threading.Thread(target=http.get, args=("/v1/pools/p",)) for _ in range(41)]  # one more than threads
    for call in calls:
        call.start()
    try:
        for _ in range(40):
            assert registry.entered.acquire(timeout=10)
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json() == {"status": "ready"}
    finally:
        registry.gate.set()
        for call in calls:
            call.join(10)


def test_a_server_that_makes_its_durable_pools_is_not_ready(http, registry):
    """/readyz names those that it waits for, and everything else is answered."""
    registry.restoring = ["eval", "train"]
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["code"], answer.json()["pools"]) == (503, "not_ready", ["eval", "train"])
    assert http.get("/healthz").status_code == http.get("/v1/pools").status_code == 200


def test_a_server_that_closes_is_alive_and_not_ready(http, registry):
    """While it closes, /healthz is well and /readyz answers 503."""
    registry.close()
    assert http.get("/healthz").status_code == 200
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "pool_stopping")


def test_no_page_elsewhere_may_read_answers(http):
    """No answer has a CORS header."""
    for answer in (
        http.get("/v1/pools", headers={"Origin": "http://evil.example"}),
        http.options("/v1/pools", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
