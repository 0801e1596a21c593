"""Spaces that a pool takes although their values have no fixed size, or differ between rows, as a client sees them."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import vecserver_client as vs
from tests.contract.compare import assert_same, run_both
from tests.environments import BoundsEnv, Words, env_id
from tests.sampling import of_which
from vecserver.wire.errors import EnvFault, InvalidAction, InvalidSpec, UnsupportedSpace
from vecserver.wire.frames import Kind
from vecserver.wire.opaque import OpaqueSpace

BOUNDS = env_id("Bounds-v0")


def test_a_custom_space_has_a_stand_in(server):
    """Its values come and go; it says what it stands for, and that it cannot be sampled."""
    with closing(vs.make_vec(env_id("Custom-v0"), 2, url=server.url)) as envs:
        assert isinstance(envs.single_action_space, OpaqueSpace)
        assert envs.single_action_space.name == "tests.environments.Words"
        assert "Words(9)" in repr(envs.single_observation_space)
        observations, _ = envs.reset(seed=3)
        assert envs.observation_space.contains(observations)
        assert observations[1] in Words(9)
        with pytest.raises(UnsupportedSpace, match="cannot be sampled from here"):
            envs.action_space.sample()
        with pytest.raises(InvalidAction, match="row 1: the action is a builtins.object"):
            envs.step([{"words": []}, object()])
        words = {"words": ["a"], ("weight", 1): np.float32(0.5)}
        assert envs.step([words, words])[1].shape == (2,)


def test_a_text_that_cannot_travel_names_its_row(server):
    """The environment is told, the pool goes on."""
    with closing(vs.make_vec(env_id("Text-v0"), 3, url=server.url, broken_at=2, seed=11)) as envs:
        envs.reset(seed=10)
        envs.step(["a", "b", "c"])
        with pytest.raises(EnvFault, match="row 1 raised Unportable: the observation has a lone surrogate"):
            envs.step(["a", "b", "c"])
        assert envs.reset(seed=20)[0][0].startswith("20:0:0:0")


@of_which("engine", ["envs", "sync", "async"], 0, 2)
def test_rows_may_differ_in_their_bounds(server, engine):
    """Spaces and results are those of Gymnasium's own mode."""
    BoundsEnv.made = 0
    with (
        closing(vs.make_vec(BOUNDS, 3, url=server.url, engine=engine, workers=1, observation_mode="different")) as envs,
        closing(SyncVectorEnv([partial(gym.make, BOUNDS)] * 3, observation_mode="different")) as oracle,
    ):
        assert envs.observation_space == oracle.observation_space
        assert envs.single_observation_space == oracle.single_observation_space
        assert len(set(envs.observation_space.high[:, 0])) == 3
        assert run_both(envs, oracle, 20, seed=3) >= 3


def test_rows_are_the_same_unless_they_may_differ(server):
    """Without the mode, rows of other bounds are refused."""
    with pytest.raises(EnvFault, match="observation_space of row 1"):
        vs.make_vec(BOUNDS, 3, url=server.url, workers=1)


@of_which("engine", ["envs", "sync", "async"], 0, 1)
def test_rows_that_differ_in_shape_are_refused(server, engine):
    """By the first row that does."""
    with pytest.raises(
        InvalidSpec, match=r"the observation space of row 1 is Box.*\(7,\).*that of row 0 is Box.*\(6,\)"
    ) as caught:
        vs.make_vec(BOUNDS, 3, url=server.url, engine=engine, workers=1, observation_mode="different", grows=True)
    assert caught.value.details["row"] == 1


def test_values_of_no_fixed_size_may_be_stepped_over_http(server):
    """What the answers show can be sent back."""
    client = vs.ControlClient(server.url)
    with closing(client):
        shown = {}
        for name, actions in (
            ("Text-v0", ["a", ""]),
            ("Graph-v0", [{"nodes": [0, 1], "edges": [[0.5, 0, 1]], "edge_links": [[0, 1]]}, {"nodes": [4]}]),
            ("Sequence-v0", [[], [[2, 3], [0, 0]]]),
            ("OneOf-v0", [[0, 3], [2, "a"]]),
            ("Custom-v0", [{"words": ["a"]}, {"words": []}]),
        ):
            pool = client.create_pool(env_id=env_id(name), num_envs=2)["pool"]
            client.reset_pool(pool, seed=1)
            shown[name] = client.step_pool(pool, actions)["observations"]
            if name != "Custom-v0":  # which only the environment can judge
                with pytest.raises(InvalidAction, match="row 1"):
                    client.step_pool(pool, [actions[0], 5.5])
            client.delete_pool(pool)
    assert shown["Text-v0"][1].startswith("2:0:1:")
    assert set(shown["Graph-v0"][0]) == {"nodes", "edges", "edge_links"}
    assert shown["Sequence-v0"] == [[[1, 0, 1], [1, 0, 2]], [[2, 0, 1], [2, 0, 2], [2, 0, 3]]]
    assert [kind for kind, _ in shown["OneOf-v0"]] == [2, 0]
    assert shown["Custom-v0"][0]["words"] == ["1-1", "1-1"]


def test_a_slot_is_as_it_was(server):
    """A pool whose spaces have a fixed size sends nothing aside."""
    with closing(vs.make_vec(env_id("Count-v0"), 2, url=server.url, transport="ipc", with_infos=False)) as envs:
        envs.reset(seed=0)
        envs._link._connection.begin(Kind.STEP, b"", bytes(16), 5.0)
        assert envs._link._connection.finish(5.0)[1] == b""
        assert_same(envs.step(np.zeros(2, np.int64))[0][:, 2].tolist(), [2.0, 2.0])
        assert isinstance(envs.single_observation_space, spaces.Box)
