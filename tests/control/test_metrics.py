from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from vecserver.metrics import POOL_FAMILIES


def scrape(http):
    """Family name → {labels: value} of one scrape."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        family.name: {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}
        for family in families
    }


def value(families, name, **labels):
    family = families[name.removesuffix("_total").removesuffix("_count")]
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
        assert len(found[family.name]) == 1, family.name


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


def test_the_process_is_measured(http):
    """The server's own memory and descriptors are among the metrics."""
    found = scrape(http)
    assert value(found, "process_resident_memory_bytes") > 1e6
    assert value(found, "process_open_fds") > 3
