from __future__ import annotations

import pytest


@pytest.fixture
def cart(vecserver):
    return vecserver("pools", "create", "CartPole-v1", "--num-envs", "2", "--name", "cart", "--json").json


def test_create_passes_every_option(vecserver):
    """The options of a pool travel from the command line to the server."""
    options = {
        "--engine": "sync",
        "--workers": "1",
        "--autoreset-mode": "SameStep",
        "--observation-mode": "different",
        "--kwargs": '{"sutton_barto_reward": true}',
        "--wrapper": "FlattenObservation",
        "--info": '["lives"]',
        "--step-timeout": "5",
        "--lease-ttl": "7.5",
        "--on-failure": "raise",
        "--restart-budget": "none",
        "--name": "mine",
    }
    words = [word for pair in options.items() for word in pair]
    words += ["--wrapper", 'ClipReward={"max_reward": 1}', "--episode-statistics"]
    pool = vecserver("pools", "create", "CartPole-v1", "-n", "3", *words, "--json").json
    expected = {
        "pool": "mine",
        "env_id": "CartPole-v1",
        "num_envs": 3,
        "autoreset_mode": "SameStep",
        "observation_mode": "different",
        "env_kwargs": {"sutton_barto_reward": True},
        "wrappers": ["FlattenObservation", {"id": "ClipReward", "kwargs": {"max_reward": 1}}],
        "info": ["lives"],
        "episode_statistics": True,
        "step_timeout": 5,
        "lease_ttl": 7.5,
        "on_failure": "raise",
        "restart_budget": None,
    }
    assert {name: pool[name] for name in expected} == expected


def test_list_is_a_table_or_json(vecserver, cart):
    """``pools list`` shows a line a pool, or with --json what the server says."""
    heading, line = vecserver("pools", "list").out.splitlines()
    assert heading.split()[:3] == ["pool", "env", "rows"]
    assert line.split()[:3] == ["cart", "CartPole-v1", "2"]
    assert heading.split()[-8:] == ["steps", "p50", "ms", "p99", "ms", "skew", "return", "length"]
    assert line.split()[-5:] == ["10.00", "100.00", "1.00", "1.9", "7.5"]
    assert vecserver("pools", "list", "--json").json == [cart]


def test_an_empty_list_says_so(vecserver, server):
    """Without pools the list is a sentence with the server's address."""
    assert vecserver("pools", "list").out == f"no pools at {server}\n"
    assert vecserver("pools", "list", "--json").json == []


def test_show_has_addresses_and_counters(vecserver, cart):
    """``pools show`` prints what a pool is, where it is, and how far it is."""
    shown = dict(line.split("  ", 1) for line in vecserver("pools", "show", "cart").out.splitlines())
    found = {name.strip(): text.strip() for name, text in shown.items()}
    assert found["env_id"] == "CartPole-v1"
    assert found["endpoint tcp"] == "tcp://127.0.0.1:5555"
    assert found["batches"] == "0"
    assert (found["p99 ms"], found["return"], found["refusals"]) == ("100.00", "1.9", "{'lease_held': 2}")
    assert vecserver("pools", "show", "cart", "--json").json == cart


def test_reset_takes_a_seed(vecserver, cart):
    """The same seed gives the same observations."""
    first = vecserver("pools", "reset", "cart", "--seed", "3", "--json").json["observations"]
    other = vecserver("pools", "reset", "cart", "--seed", "4", "--json").json["observations"]
    assert vecserver("pools", "reset", "cart", "--seed", "3", "--json").json["observations"] == first != other
    assert vecserver("pools", "reset", "cart").out == "cart is reset\n"


def test_delete_takes_names_or_all(vecserver):
    """Pools are deleted by name, several at once, or all."""
    for name in "abc":
        vecserver("pools", "create", "CartPole-v1", "-n", "1", "--name", name)
    assert vecserver("pools", "delete", "a", "b").out == "a is deleted\nb is deleted\n"
    assert vecserver("pools", "delete", "--all", "--force", "--json").json == {"deleted": ["c"]}


@pytest.mark.parametrize("arguments", [(), ("a", "--all")])
def test_delete_wants_names_or_all(vecserver, arguments):
    """Neither and both are wrong usage."""
    refused = vecserver("pools", "delete", *arguments)
    assert refused.code == 2
    assert "name the pools, or say --all" in refused.err


def test_infos_may_be_chosen_by_name(vecserver):
    """--info takes the names that the option has."""
    assert vecserver("pools", "create", "CartPole-v1", "-n", "1", "--info", "none", "--json").json["info"] == "none"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--kwargs", "{"),
        ("--kwargs", "[1]"),
        ("--wrapper", "ClipReward={"),
        ("--wrapper", "ClipReward=[1]"),
        ("--wrapper", "ClipReward="),
        ("--info", "[lives"),
    ],
)
def test_what_is_no_json_is_wrong_usage(vecserver, option, text):
    """Where an option takes JSON, an object for arguments, the option is named and nothing is asked of the server."""
    refused = vecserver("pools", "create", "CartPole-v1", "-n", "1", option, text)
    assert refused.code == 2
    assert option in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("pools", "create", "Cartpole-v1", "-n", "1"), "unknown_env", "CartPole-v1"),
        (("pools", "create", "CartPole-v1", "-n", "0"), "invalid_spec", "at least 1"),
        (("pools", "create", "CartPole-v1", "-n", "1", "--info", "few"), "invalid_spec", "all, episode, none"),
        (("pools", "create", "CartPole-v1", "-n", "1", "--wrapper", "Clip"), "invalid_spec", "did you mean"),
        (("pools", "show", "none"), "unknown_pool", "none"),
        (("pools", "reset", "a/b"), "unknown_pool", "a/b"),
        (("pools", "delete", "../envs"), "unknown_pool", "../envs"),
        (("pools", "list", "--url", "http://127.0.0.1:1"), "server_unreachable", "`vecserver serve` starts"),
        (("envs", "--url", "127.0.0.1:8000"), "transport_unavailable", "http://127.0.0.1:8000"),
    ],
)
def test_refusals_are_one_line(vecserver, arguments, code, words):
    """What the server refuses is one line with the error's code on stderr, and exit code 1."""
    refused = vecserver(*arguments)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"error [{code}]: ")
    assert refused.err.count("\n") == 1
    assert words in refused.err


def test_envs_can_be_searched(vecserver):
    """``envs`` lists the ids that contain a text."""
    assert "CartPole-v1" in vecserver("envs", "cartpole").out
    ids = [env["id"] for env in vecserver("envs", "cartpole", "--json").json]
    assert "CartPole-v1" in ids
    assert all("cartpole" in id_.lower() for id_ in ids)
    assert "no registered environment" in vecserver("envs", "no such thing").out
