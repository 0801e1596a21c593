"""Environments as they are played on the page, and what is told of them before."""

from __future__ import annotations

import orjson
import pytest

from vecserver.pools.sessions.about import about_env
from vecserver.pools.sessions.answers import Ask, Kind, answer
from vecserver.pools.sessions.play import NeedsOwnProcess, Play, PlayOptions, ResetData
from vecserver.wire.errors import InvalidSpec, ResetNeeded, UnknownEnv


def test_an_environments_parameters_are_told():
    """With their defaults, render modes and the beginning of the documentation, from the signature and the registration."""
    about = about_env("FrozenLake8x8-v1")
    parameters = {each["name"]: each for each in about["parameters"]}
    assert parameters["map_name"]["default"] == "8x8"
    assert parameters["is_slippery"] == {"name": "is_slippery", "default": True, "required": False, "is_json": True}
    assert "render_mode" not in parameters
    assert "rgb_array" in about["render_modes"]
    assert about["summary"].startswith("Frozen lake involves")


def test_a_description_is_not_made_where_others_play():
    """The environment's module might harm them."""
    shared = Play(PlayOptions(), shared=True)
    with pytest.raises(NeedsOwnProcess):
        shared.about("LunarLander-v3")
    assert orjson.loads(shared.about("CartPole-v1"))["parameters"]
    with pytest.raises(UnknownEnv):
        shared.about("CartPole-v99")


def test_a_frame_is_what_the_episode_looks_like():
    """There is none before the first reset, and none without a render mode."""
    play = Play(PlayOptions())
    with pytest.raises(ResetNeeded):
        play.frame()
    play.reset(ResetData(env_id="FrozenLake-v1"))
    with pytest.raises(InvalidSpec, match="render mode None"):
        play.frame()
    refused = answer(play, Ask.FRAME, b"")
    assert (refused.kind, orjson.loads(refused.data)["errors"][0]["type"]) == (Kind.ERROR, "invalid_spec")
    play.close()
