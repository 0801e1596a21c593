"""Durable pools as people write them down."""

from __future__ import annotations

import pytest

from vecserver.pools.declarations import pool_of_text, pools_of_file
from vecserver.pools.spec import PoolSpec
from vecserver.pools.store import DurablePool
from vecserver.wire.errors import InvalidSpec


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("name=train,env=CartPole-v1,num_envs=64", {"num_envs": 64}),
        (" name = train , env_id=CartPole-v1, num_envs=2", {"num_envs": 2}),
        (
            'name=train,env=CartPole-v1,num_envs=2,kwargs={"a": [1, 2], "b": "x,\\"y"},info=["lives","r"],workers=1',
            {"num_envs": 2, "env_kwargs": {"a": [1, 2], "b": 'x,"y'}, "info": ["lives", "r"], "workers": 1},
        ),
        (
            "name=train,env=CartPole-v1,num_envs=2,autoreset_mode=SameStep,episode_statistics=true,step_timeout=2.5",
            {"num_envs": 2, "autoreset_mode": "SameStep", "episode_statistics": True, "step_timeout": 2.5},
        ),
        ('{"name": "train", "env_id": "CartPole-v1", "num_envs": 3}', {"num_envs": 3}),
    ],
)
def test_a_pool_is_read_from_text(text, options):
    """Options with commas between them, or the JSON object that POST /v1/pools takes."""
    assert pool_of_text(text) == DurablePool("train", PoolSpec(**{"env_id": "CartPole-v1"} | options))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("env=CartPole-v1,num_envs=1", "has no name"),
        ("name=a b,env=CartPole-v1,num_envs=1", "no pool name"),
        ("train", "no option=value"),
        ("name=train,env=CartPole-v1", "num_envs"),
        ("name=train,env=CartPole-v1,num_envs=many", "num_envs"),
        ("name=train,env=CartPole-v1,num_env=1", "did you mean num_envs"),
        ("{no json", "no JSON"),
    ],
)
def test_a_wrong_pool_is_named(text, words):
    """What is missing, unknown or of the wrong type."""
    with pytest.raises(InvalidSpec, match=words):
        pool_of_text(text)


def test_a_file_has_a_table_a_pool(tmp_path):
    """In their order, with the names as the tables' own."""
    path = tmp_path / "pools.toml"
    path.write_text(
        '[pools.train]\nenv_id = "CartPole-v1"\nnum_envs = 8\nenv_kwargs = {sutton_barto_reward = true}\n'
        '[pools."eval-1"]\nenv = "Acrobot-v1"\nnum_envs = 1\n'
    )
    assert pools_of_file(path) == [
        DurablePool("train", PoolSpec(env_id="CartPole-v1", num_envs=8, env_kwargs={"sutton_barto_reward": True})),
        DurablePool("eval-1", PoolSpec(env_id="Acrobot-v1", num_envs=1)),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pools.train", "cannot be read"),
        ("[pool.train]\nnum_envs = 1", "nothing else"),
        ("pools = 3", "nothing else"),
        ("[pools]\ntrain = 3", "no table"),
        ('[pools.train]\nenv = "CartPole-v1"\nnum_envs = "3"', "pool train: "),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, words):
    """With its path, and the pool that is wrong."""
    path = tmp_path / "pools.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidSpec, match=words):
        pools_of_file(path)
