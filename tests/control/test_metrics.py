from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.control.conftest import serving
from vecserver.control.app import create_app
from vecserver.control.observe import HttpMetrics, RequestObserver
from vecserver.control.openenv.sessions import SessionOptions, Sessions
from vecserver.metrics import POOL_FAMILIES
from vecserver.wire.figures import EpisodeFigures

METRICS = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
DOCUMENTED = {
    row[0].strip("`"): (row[1], re.findall(r"`(\w+)`", row[3]), row[2], row[4])
    for row in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in METRICS.split("\n| family |")[1].split("\n\n")[0].splitlines()[2:]
    )
}


def scrape(http):
    """Family name → {labels: value} of one scrape."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        family.name: {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}
        for family in families
    }


def value(families, name, **labels):
    family = families[re.sub("_(total|count|bucket|sum)$", "", name)]
    return family.get((name, tuple(sorted(labels.items()))))


def test_requests_batches_and_steps_are_told_apart(http, cartpole):
    """One batch of three rows is one HTTP request, one batch and three environment steps."""
    http.post("/v1/pools/cart/reset", json={})
    http.post("/v1/pools/cart/step", json={"actions": [0, 1, 0]})
    found = scrape(http)
    labels = {"pool": "cart", "env_id": "CartPole-v1"}
    route = {"method": "POST", "route": "/v1/pools/{pool}/step"}
    assert value(found, "vecserver_http_requests_total", **route, status="200") == 1
    assert value(found, "vecserver_http_request_seconds_count", **route) == 1
    assert value(found, "vecserver_pool_batches_total", **labels) == 1
    assert value(found, "vecserver_pool_env_steps_total", **labels) == 3
    assert value(found, "vecserver_pool_resets_total", **labels) == 1
    assert value(found, "vecserver_pool_num_envs", **labels) == 3
    assert value(found, "vecserver_pool_workers_resident_bytes", **labels) == 1000
    assert value(found, "vecserver_pools", state="ready") == 1


def test_every_family_of_a_pool_is_scraped(http, cartpole):
    """Each family that is defined has a sample for a pool whose host answers."""
    found = scrape(http)
    for family in POOL_FAMILIES:
        samples = 5 if family.kind == "histogram" else 1
        assert len(found[family.name]) == samples, family.name


def test_a_batchs_latency_is_a_histogram(http, cartpole):
    """Buckets hold what is below them too, and the last one all."""
    found, labels = scrape(http), {"pool": "cart", "env_id": "CartPole-v1"}
    buckets = [value(found, "vecserver_pool_batch_seconds_bucket", **labels, le=le) for le in ("0.01", "0.1", "+Inf")]
    assert buckets == [2, 3, 4]
    assert value(found, "vecserver_pool_batch_seconds_count", **labels) == 4
    assert value(found, "vecserver_pool_batch_seconds_sum", **labels) == 0.75


def test_what_has_a_label_is_told_apart_by_it(http, cartpole):
    """Refusals by code, requests by kind, restarts by cause, work by worker."""
    http.post("/v1/pools/cart/step", json={"actions": [0, 1, 0]})
    found, labels = scrape(http), {"pool": "cart", "env_id": "CartPole-v1"}
    assert value(found, "vecserver_pool_refused_requests_total", **labels, code="lease_held") == 2
    assert value(found, "vecserver_pool_requests_total", **labels, kind="STEP") == 1
    assert value(found, "vecserver_pool_restarts_total", **labels, cause="killed") == 1
    assert value(found, "vecserver_pool_worker_busy_seconds_total", **labels, worker="0") == 0.25
    assert value(found, "vecserver_pool_returns_gained_total", **labels) == 10.0
    assert value(found, "vecserver_pool_returns_lost_total", **labels) == 2.5


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_not_shown(http, registry, cartpole, odd):
    """Whatever a host says, the page can be read, and nothing else is missing from it."""
    registry._pools["cart"].figures = EpisodeFigures(3, 0, odd, 1.0, 5)
    found = scrape(http)
    assert found["vecserver_pool_returns_gained"] == {}
    assert value(found, "vecserver_pool_scored_episodes_total", pool="cart", env_id="CartPole-v1") == 3


def test_the_json_has_the_same_figures(http, registry, cartpole):
    """Under the names of the wire's message."""
    stats = http.get("/v1/pools/cart/stats").json()
    assert stats["batch_seconds"] == {"bounds": [0.01, 0.1], "counts": [2, 1, 1], "sum": 0.75}
    assert stats["episode_figures"]["recent"] == [[1.5, 2.0, 7], [0.5, None, 8]]
    assert (stats["worker_rows"], stats["refusals"]) == ([[0, 3]], {"lease_held": 2})
    assert (stats["restarts"], stats["waiting"], stats["lent"]) == ({"killed": 1}, 0, False)


@pytest.fixture
def whole(registry):
    """A scrape of a server of which every part has done something: family name → family."""
    sessions = Sessions(SessionOptions())
    with serving(create_app(registry, sessions)) as http:
        http.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 2, "name": "cart"}).raise_for_status()
        http.post("/v1/pools/cart/reset", json={}).raise_for_status()
        http.post("/v1/pools/cart/step", json={"actions": [0, 1]}).raise_for_status()
        http.get("/nothing")
        yield {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    sessions.close()


def test_every_family_is_documented_and_none_that_is_not_there(whole):
    """With its type, its labels, its unit and what it means."""
    assert set(DOCUMENTED) == set(whole)
    for name, (kind, labels, unit, meaning) in DOCUMENTED.items():
        family = whole[name]
        assert kind == family.type, name
        assert unit, name
        assert meaning, name
        assert family.documentation.endswith("."), name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(labels), sample
        assert family.samples or name.startswith("vecserver_websockets"), name


def test_names_end_in_their_units(whole):
    """As Prometheus' naming has it: a base unit, and `_total` where something only grows."""
    for name, (kind, _, unit, _) in DOCUMENTED.items():
        if unit in ("seconds", "bytes"):
            assert name.endswith(f"_{unit}"), name
        assert not name.endswith(("_total", "_count", "_sum", "_bucket")), name
        assert {sample.name for sample in whole[name].samples} <= {
            "counter": {f"{name}_total"},
            "gauge": {name},
            "histogram": {f"{name}_{end}" for end in ("bucket", "sum", "count")},
        }[kind], name


def test_expressions_in_the_document_name_what_is_there(whole):
    """Those that answer questions can be pasted."""
    assert_known(METRICS.split("\n| question |")[1], whole)


def assert_known(text: str, families) -> None:
    """Every metric that a text names is exposed."""
    known = set()
    for name, (kind, *_) in DOCUMENTED.items():
        ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[kind]
        known |= {f"{name}{end}" for end in ends}
    named = set(re.findall(r"\b(?:vecserver|process)_\w+", text))
    assert named
    assert named <= known, named - known
    assert set(families) == set(DOCUMENTED)


def test_samples_end_with_their_pool(http, registry, cartpole):
    """A lost pool is counted by state and has no counters; a deleted one has no samples at all."""
    registry.hidden["cart"] = "lost"
    found = scrape(http)
    assert value(found, "vecserver_pools", state="lost") == 1
    assert found["vecserver_pool_batches"] == {}
    http.delete("/v1/pools/cart")
    assert scrape(http)["vecserver_pool_num_envs"] == {}


def test_refusals_are_counted_by_code(http, registry):
    """Problems are counted by code: of routes, guards and defects alike."""
    http.get("/v1/pools/none")
    http.get("/nothing")
    http.get("/healthz", headers={"Host": "evil.example"})
    registry.fault = ZeroDivisionError()
    http.get("/v1/pools")
    registry.fault = None
    found = scrape(http)
    for code in ("unknown_pool", "unknown_route", "malformed_message", "internal_error"):
        assert value(found, "vecserver_http_refusals_total", code=code) == 1, code
    assert value(found, "vecserver_http_requests_total", method="GET", route="/v1/pools", status="500") == 1


def test_labels_are_not_chosen_by_whoever_asks(http):
    """Unknown paths and methods are counted together, so that nobody can fill the memory with series."""
    for i in range(3):
        http.request(f"M{i}", f"/path{i}")
    found = scrape(http)
    assert value(found, "vecserver_http_requests_total", method="other", route="unmatched", status="404") == 3


def test_websockets_are_counted_while_they_are_open():
    """By route; one that was not accepted is none, and one whose route raised is closed."""
    registry = CollectorRegistry()
    seen = []

    async def app(scope, receive, send):
        scope["route"] = SimpleNamespace(path="/ws")
        if scope["accepts"]:
            await send({"type": "websocket.accept"})
        seen.append(registry.get_sample_value("vecserver_websockets", {"route": "/ws"}))
        raise ConnectionError

    async def send(message):
        del message

    observer = RequestObserver(app, HttpMetrics(registry))
    for accepts in (True, False):
        with pytest.raises(ConnectionError):
            asyncio.run(observer({"type": "websocket", "accepts": accepts}, None, send))
    assert seen == [1, 0]
    assert registry.get_sample_value("vecserver_websockets", {"route": "/ws"}) == 0
    assert registry.get_sample_value("vecserver_websockets_opened_total", {"route": "/ws"}) == 1


def test_the_process_is_measured(http):
    """The server's own memory and descriptors are among the metrics."""
    found = scrape(http)
    assert value(found, "process_resident_memory_bytes") > 1e6
    assert value(found, "process_open_fds") > 3
