"""The options of a pool are checked before anything is started; each refusal names what it refuses."""

from __future__ import annotations

import gymnasium
import pytest

from vecserver.pools.spec import ENGINES, Caps, PoolSpec, check_pool_name, nearest_env_ids, offered_env_ids
from vecserver.wire.errors import CapExceeded, InvalidSpec, UnknownEnv

CAPS = Caps(max_pools=2, max_num_envs=8, max_workers=4)


def spec(**options) -> PoolSpec:
    return PoolSpec(**{"env_id": "CartPole-v1", "num_envs": 4} | options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_envs": 1, "workers": 1},
        {"num_envs": 8, "workers": 4},
        *({"engine": engine} for engine in ENGINES),
        {"engine": "sync", "workers": 1},
        *({"autoreset_mode": mode} for mode in ("NextStep", "SameStep", "Disabled")),
        {"step_timeout": 0.001, "lease_ttl": 1e6},
        {"env_kwargs": {"a": [1, 2.5, None, True, "text", {"b": (1, 2)}], "largest": 2**64 - 1}},
        {"env_id": "some.module:NeverImported-v3"},
        *({"info": info} for info in ("all", "episode", "none", [], ["lives", "all", ""])),
        {"episode_statistics": True, "info": "none"},
        {"on_failure": "raise", "restart_budget": None},
        {"on_failure": "truncate", "restart_budget": 0},
        {"on_failure": "replay", "engine": "envs"},
        {"wrappers": ["TimeAwareObservation", {"id": "ClipReward", "kwargs": {"max_reward": 1}}]},
    ],
)
def test_what_fits_is_taken(options):
    """Every option at the ends of its range; an id with a module is left to the worker that imports it."""
    spec(**options).check(CAPS)


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        ({"num_envs": 0}, "num_envs", "at least 1"),
        ({"num_envs": -3}, "num_envs", "at least 1"),
        ({"workers": 0}, "workers", "at least 1"),
        ({"num_envs": 2, "workers": 3}, "workers", r"more than num_envs \(2\)"),
        ({"engine": "fast"}, "engine", "auto, envs, async, sync"),
        ({"engine": "sync", "workers": 2}, "workers", "one worker"),
        ({"engine": "async", "workers": 4}, "workers", "one worker"),
        ({"info": "some"}, "info", "all, episode, none, or a list of keys"),
        ({"info": [1]}, "info", "a list of keys"),
        ({"wrappers": ["ClipActions"]}, "wrappers", "did you mean ClipAction"),
        ({"wrappers": ["RecordVideo"]}, "wrappers", "writes files on the server"),
        ({"on_failure": "ignore"}, "on_failure", "truncate, raise, replay"),
        *(
            ({"on_failure": "replay", "engine": engine}, "on_failure", "cannot be rebuilt one by one")
            for engine in ("sync", "async", "native")
        ),
        *(({"restart_budget": value}, "restart_budget", "at least 0, or None") for value in (-1, 2.5, "many", True)),
        ({"autoreset_mode": "NEXT_STEP"}, "autoreset_mode", "NextStep, SameStep, Disabled"),
        *(
            ({name: value}, name, "above 0")
            for name in ("step_timeout", "lease_ttl")
            for value in (0, -1.0, float("inf"), float("nan"))
        ),
        *(
            ({"env_kwargs": {"x": value}}, "env_kwargs", "JSON")
            for value in (object(), b"bytes", {1, 2}, float("nan"), [float("inf")], 2**64, "\ud800", 1j)
        ),
    ],
)
def test_an_option_out_of_range_is_named(options, field, text):
    """The refusal has the option's name and says what it may be."""
    with pytest.raises(InvalidSpec, match=text) as caught:
        spec(**options).check(CAPS)
    assert caught.value.details["field"] == field
    assert field in caught.value.message


@pytest.mark.parametrize(
    ("options", "cap", "limit", "asked"),
    [({"num_envs": 9}, "max_num_envs", 8, 9), ({"num_envs": 8, "workers": 5}, "max_workers", 4, 5)],
)
def test_a_cap_is_named_with_its_value(options, cap, limit, asked):
    """The refusal names the cap, its value and what was asked for."""
    with pytest.raises(CapExceeded, match=f"{cap} of this server is {limit}") as caught:
        spec(**options).check(CAPS)
    assert caught.value.details == {"cap": cap, "limit": limit, "asked": asked}


def test_an_unknown_id_comes_with_its_nearest():
    """A typing error is answered with what was meant."""
    with pytest.raises(UnknownEnv, match=r"'CartPole-v9'.*did you mean .*CartPole-v1") as caught:
        spec(env_id="CartPole-v9").check(CAPS)
    assert {"CartPole-v0", "CartPole-v1"} <= set(caught.value.details["nearest"])


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("cartpole-v1", "CartPole-v1"), ("PENDULUM-V1", "Pendulum-v1"), ("FrozenLake", "FrozenLake-v1")],
)
def test_the_nearest_ids_do_not_look_at_case(wrong, meant):
    """Capital letters are the commonest mistake."""
    assert nearest_env_ids(wrong)[0] == meant


@pytest.mark.parametrize("name", ["vecserver/Remote-v0", "vecserver_client:vecserver/Remote-v0", "vecserver/Other-v3"])
def test_a_pool_of_pools_is_refused(name):
    """An id that stands for a pool is no environment of one."""
    with pytest.raises(InvalidSpec, match="pool of pools") as caught:
        spec(env_id=name).check(CAPS)
    assert caught.value.details["field"] == "env_id"


def test_ids_that_stand_for_a_pool_are_not_offered():
    """Neither in the list nor as what may have been meant."""
    import vecserver_client  # noqa: F401 - registers it

    assert "vecserver/Remote-v0" in gymnasium.registry
    assert offered_env_ids() == sorted(set(gymnasium.registry) - {"vecserver/Remote-v0"})
    assert "vecserver/Remote-v0" not in nearest_env_ids("vecserve/Remote-v0")


def test_an_id_that_resembles_none_is_sent_to_the_list():
    """Without a near id the refusal says where the ids are listed."""
    with pytest.raises(UnknownEnv, match="/v1/envs") as caught:
        spec(env_id="qqqqqqqqqqqqqqqq").check(CAPS)
    assert caught.value.details["nearest"] == []


@pytest.mark.parametrize("name", ["a", "A1", "0", "p-7f3a", "my.pool_2", "x" * 63])
def test_a_pool_name_may_stand_in_a_path(name):
    """Letters, digits and three signs."""
    check_pool_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", ".hidden", "a/b", "a b", "a\n", "ä", "\u212a", "\u017f", "x" * 64, "%2e"]
)
def test_a_pool_name_that_could_not_stand_in_a_path_is_refused(name):
    """The refusal says what a name may hold."""
    with pytest.raises(InvalidSpec, match="letters, digits") as caught:
        check_pool_name(name)
    assert caught.value.details["field"] == "name"


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"env_id": "Pendulum-v1"}, "engine", "no vector environment"),
        ({"wrappers": ["ClipAction"]}, "wrappers", "single environments"),
        ({"observation_mode": "different"}, "observation_mode", "one space"),
    ],
)
def test_what_engine_native_cannot_be_is_refused(options, field, said):
    """By the name of the option; several workers it may have."""
    spec(engine="native", workers=2).check(CAPS)
    with pytest.raises(InvalidSpec, match=said) as caught:
        spec(engine="native", **options).check(CAPS)
    assert caught.value.details["field"] == field


def test_only_engine_native_runs_what_only_exists_as_a_vector_environment(monkeypatch):
    """Nothing chooses it silently."""
    entry = gymnasium.envs.registration.EnvSpec("vectest/Only-v0", vector_entry_point="nowhere:Only")
    monkeypatch.setitem(gymnasium.registry, "vectest/Only-v0", entry)
    spec(env_id="vectest/Only-v0", engine="native").check(CAPS)
    for engine in ("auto", "envs", "async", "sync"):
        with pytest.raises(InvalidSpec, match="ask for engine 'native'"):
            spec(env_id="vectest/Only-v0", engine=engine).check(CAPS)
