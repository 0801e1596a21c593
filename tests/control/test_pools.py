from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
from pydantic_core import PydanticUndefined

from vecserver.control.models import PoolRequest
from vecserver.pools.spec import PoolSpec
from vecserver.wire.messages import Stats
from vecserver.wire.spaces import space_from_json

SPEC_FIELDS = {field.name: field for field in dataclasses.fields(PoolSpec)}


def test_create_answers_the_pool_and_where_it_is(http):
    """POST /v1/pools answers 201, the Location, and the pool's view."""
    answer = http.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 3})
    pool = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/pools/{pool['pool']}"
    assert http.get(answer.headers["Location"]).json() == pool
    assert (pool["env_id"], pool["num_envs"], pool["state"], pool["engine"]) == ("CartPole-v1", 3, "ready", "sync")
    assert pool["endpoints"]["tcp"] == "tcp://127.0.0.1:5555"
    assert (pool["arena_bytes"], pool["epoch"]) == (4096, str(2**64 - 1))
    assert pool["created"] == "1970-01-01T00:00:00Z"


def test_a_view_describes_spaces_and_layout(cartpole):
    """The spaces in a view decode to those of one row, and the layout names every array of a slot."""
    env = gymnasium.make("CartPole-v1")
    assert space_from_json(cartpole["spaces"]["observation"]) == env.observation_space
    assert space_from_json(cartpole["spaces"]["action"]) == env.action_space
    names = [field["name"] for field in cartpole["layout"]["fields"]]
    assert names == ["observation", "reward", "terminated", "truncated", "autoreset"]


def test_a_pool_request_has_the_options_of_a_pool():
    """The fields of POST /v1/pools are those of PoolSpec, a name and whether it is durable, with the same defaults."""
    assert set(PoolRequest.model_fields) == {*SPEC_FIELDS, "name", "durable"}
    for name, field in SPEC_FIELDS.items():
        default = PoolRequest.model_fields[name].default
        if field.default_factory is not dataclasses.MISSING:
            assert default == field.default_factory()
        elif field.default is dataclasses.MISSING:
            assert default is PydanticUndefined
        else:
            assert default == field.default


def test_options_reach_the_registry(http, registry):
    """Every option in the body arrives in the PoolSpec."""
    body = {
        "env_id": "CartPole-v1",
        "num_envs": 2,
        "engine": "sync",
        "workers": 1,
        "autoreset_mode": "SameStep",
        "env_kwargs": {"sutton_barto_reward": True},
        "wrappers": ["FlattenObservation", {"id": "ClipReward", "kwargs": {"max_reward": 1}}],
        "info": ["lives"],
        "episode_statistics": True,
        "step_timeout": 3,
        "lease_ttl": 4.5,
        "on_failure": "raise",
        "restart_budget": None,
        "lease_expiry": "reset",
        "name": "mine",
    }
    answer = http.post("/v1/pools", json=body)
    spec = registry.get("mine").spec
    assert spec == PoolSpec(**{name: value for name, value in body.items() if name != "name"})
    shown = (
        "autoreset_mode",
        "env_kwargs",
        "wrappers",
        "info",
        "episode_statistics",
        "lease_ttl",
        "lease_expiry",
        "on_failure",
        "restart_budget",
    )
    assert {name: answer.json()[name] for name in shown} == {name: body[name] for name in shown}


def test_step_and_reset_give_the_numbers_of_gymnasium(http, cartpole):
    """The batches over JSON are those of a local vector environment, as exact as float32 text is."""
    local = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync")
    observations, _ = local.reset(seed=7)
    answer = http.post("/v1/pools/cart/reset", json={"seed": 7}).json()
    assert np.array_equal(np.array(answer["observations"], np.float32), observations)
    assert answer["rewards"] is answer["terminated"] is answer["truncated"] is None
    for actions in ([0, 1, 0], [1, 1, 1]):
        observations, rewards, terminated, truncated, _ = local.step(np.array(actions))
        answer = http.post("/v1/pools/cart/step", json={"actions": actions}).json()
        assert np.array_equal(np.array(answer["observations"], np.float32), observations)
        assert answer["rewards"] == rewards.tolist()
        assert answer["terminated"] == terminated.tolist()
        assert answer["truncated"] == truncated.tolist()


def test_a_mask_resets_some_rows(http):
    """Rows whose mask is false keep their episode."""
    http.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 3, "autoreset_mode": "Disabled", "name": "m"})
    before = http.post("/v1/pools/m/reset", json={"seed": [1, 2, 3]}).json()["observations"]
    body = {"seed": [9, None, None], "mask": [True, False, False]}
    after = http.post("/v1/pools/m/reset", json=body).json()["observations"]
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_stats_are_the_counters(http, cartpole):
    """GET /v1/pools/{id}/stats has every counter, as it is now."""
    http.post("/v1/pools/cart/reset", json={})
    http.post("/v1/pools/cart/step", json={"actions": [0, 0, 0]})
    stats = http.get("/v1/pools/cart/stats").json()
    assert set(stats) == set(Stats.__struct_fields__)
    assert (stats["batches"], stats["env_steps"], stats["resets"]) == (1, 3, 1)


def test_durability_reaches_the_registry_and_the_view(http, registry):
    """A pool says whether it is made again, how often it was, and how its host ended."""
    body = {"env_id": "CartPole-v1", "num_envs": 1, "name": "kept", "durable": True}
    pool = http.post("/v1/pools", json=body).json()
    assert (pool["durable"], pool["restarts"], pool["last_loss"], pool["exitcode"]) == (True, 0, "", None)
    assert http.post("/v1/pools", json=body | {"name": "brief", "durable": False}).json()["durable"] is False


@pytest.mark.parametrize(("state", "code"), [("lost", "pool_lost"), ("silent", "deadline_exceeded")])
def test_stats_say_why_there_are_none(http, registry, cartpole, state, code):
    """A host that is gone and one that does not answer are told apart; the pool can still be shown."""
    registry.hidden["cart"] = state
    assert http.get("/v1/pools/cart/stats").json()["code"] == code
    shown = http.get("/v1/pools/cart").json()
    assert (shown["stats"], shown["state"], shown["reason"]) == (None, state, "it went wrong")


def test_a_deleted_pool_is_gone(http, cartpole):
    """DELETE answers 204 without a body, and the pool is unknown from then on."""
    answer = http.delete("/v1/pools/cart")
    assert (answer.status_code, answer.content) == (204, b"")
    assert http.get("/v1/pools").json() == {"pools": []}
    assert http.delete("/v1/pools/cart").json()["code"] == "unknown_pool"


def test_a_pool_may_be_deleted_by_force(http, cartpole):
    """For pools that hang; what is neither true nor false is refused."""
    assert http.delete("/v1/pools/cart?force=perhaps").status_code == 422
    assert http.delete("/v1/pools/cart?force=true").status_code == 204


def test_envs_can_be_searched(http):
    """GET /v1/envs finds ids whatever their case, with what is known of them."""
    found = http.get("/v1/envs?q=cartpole-V1").json()["envs"]
    assert found[0] == (
        {
            "id": "CartPole-v1",
            "namespace": None,
            "entry_point": "gymnasium.envs.classic_control.cartpole:CartPoleEnv",
            "max_episode_steps": 500,
        }
    )
    assert all("CartPole-v1" in env["id"] for env in found)
    ids = [env["id"] for env in http.get("/v1/envs").json()["envs"]]
    assert ids == sorted(set(gymnasium.registry) - {"vecserver/Remote-v0"})


def test_envs_with_a_class_for_entry_point_are_listed(http):
    """An entry point that is a class is shown as module and name."""
    gymnasium.register("control-test/Class-v0", gymnasium.Env)
    try:
        (found,) = http.get("/v1/envs?q=control-test/").json()["envs"]
        assert (found["namespace"], found["entry_point"]) == ("control-test", "gymnasium.core:Env")
    finally:
        del gymnasium.registry["control-test/Class-v0"]


def test_the_index_links_exist(http):
    """Every path that GET / names answers."""
    links = http.get("/").json()
    paths = [path for path in links.values() if path.startswith("/")]
    assert len(paths) == 7
    assert [http.get(path).status_code for path in paths] == [200] * 7


def test_a_step_with_a_key_is_taken_once(http, registry, cartpole):
    """The same request again gets the same answer, and says that it was there; another one with the key is refused."""
    http.post("/v1/pools/cart/reset", json={"seed": 7})
    key = {"Idempotency-Key": "step 1"}
    first, again = (http.post("/v1/pools/cart/step", json={"actions": [0, 1, 0]}, headers=key) for _ in range(2))
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert registry.get("cart").stats.batches == 1
    for route, body in (("step", {"actions": [1, 1, 1]}), ("reset", {})):
        other = http.post(f"/v1/pools/cart/{route}", json=body, headers=key)
        assert (other.status_code, other.json()["code"]) == (409, "sequence_conflict")
    assert http.post("/v1/pools/cart/step", json={"actions": [0, 1, 0]}).json() != first.json()


def test_a_request_may_name_the_incarnation_that_it_is_meant_for(http, registry, cartpole):
    """Another one runs nothing; its key is free."""
    key = {"Idempotency-Key": "k", "Pool-Epoch": "5"}
    for route, body in (("step", {"actions": [0, 1, 0]}), ("reset", {})):
        refused = http.post(f"/v1/pools/cart/{route}", json=body, headers=key)
        assert (refused.status_code, refused.json()["code"]) == (409, "epoch_mismatch")
    assert registry.get("cart").stats.batches == registry.get("cart").stats.resets == 0
    epoch = str(http.get("/v1/pools/cart").json()["epoch"])
    assert http.post("/v1/pools/cart/reset", json={}, headers=key | {"Pool-Epoch": epoch}).status_code == 200


def test_access_is_a_ticket_or_a_key(http, cartpole):
    """Whichever the pool's tcp port asks for; what is no key at all is refused before anybody is asked."""
    assert http.post("/v1/pools/cart/access", json={}).json() == {"ticket": "a ticket", "server_key": None}
    given = http.post("/v1/pools/cart/access", json={"key": "c" * 40})
    assert (given.status_code, given.json()) == (200, {"ticket": None, "server_key": "k" * 40})
    assert http.post("/v1/pools/cart/access", json={"key": "c" * 41}).status_code == 422
    assert http.post("/v1/pools/nobody/access", json={}).json()["code"] == "unknown_pool"


def test_a_lease_is_given_and_taken(http, cartpole):
    """Whoever has it is named; force takes it."""
    first = http.post("/v1/pools/cart/lease", json={"driver": "ann"})
    assert first.status_code == 200
    assert (first.json()["driver"], first.json()["before"], first.json()["lease"]) == ("ann", None, 7)
    held = http.post("/v1/pools/cart/lease", json={"driver": "bob"})
    assert (held.status_code, held.json()["code"]) == (409, "lease_held")
    assert http.post("/v1/pools/cart/lease", json={"driver": "bob", "force": True}).json()["before"] == "ann"
