"""Environments as they are played on the page, and what is told of them before."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import orjson
import pytest

from vecserver.control.web.game import Game
from vecserver.pools.sessions.about import about_env
from vecserver.pools.sessions.answers import Answer, Ask, Kind, answer
from vecserver.pools.sessions.play import NeedsOwnProcess, Play, PlayOptions, ResetData
from vecserver.wire.errors import InvalidSpec, ResetNeeded, SessionLost, UnknownEnv


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


class OneProcess:
    """Sessions of this process, which are opened when the test says so."""

    def __init__(self) -> None:
        self.gate, self.asked = asyncio.Event(), asyncio.Event()
        self.open_ones: list = []

    async def open(self):
        play = Play(PlayOptions())

        async def ask(kind: Ask, data: bytes) -> Answer:
            return answer(play, kind, data)

        session = SimpleNamespace(process=SimpleNamespace(lost=None), ask=ask, play=play)
        self.open_ones.append(session)
        self.asked.set()
        await self.gate.wait()
        return session

    def close_session(self, session) -> None:
        self.open_ones.remove(session)
        session.play.close()


def test_two_resets_at_once_are_of_one_session():
    """A double click."""

    async def twice() -> None:
        sessions = OneProcess()
        game = Game(sessions)
        resets = [asyncio.ensure_future(game.reset("CartPole-v1", {}, seed)) for seed in (1, 2)]
        await asyncio.sleep(0)
        sessions.gate.set()
        await asyncio.gather(*resets)
        assert (len(sessions.open_ones), game.seed) == (1, 2)
        game.close()
        assert sessions.open_ones == []

    asyncio.run(twice())


def test_a_game_that_is_closed_while_it_begins_leaves_nothing():
    """A tab that is closed behind a click."""

    async def closed() -> None:
        sessions = OneProcess()
        game = Game(sessions)
        reset = asyncio.ensure_future(game.reset("CartPole-v1", {}, 1))
        await sessions.asked.wait()
        game.close()
        sessions.gate.set()
        with pytest.raises(SessionLost):
            await reset
        with pytest.raises(SessionLost):
            await game.reset("CartPole-v1", {}, 1)
        assert sessions.open_ones == []

    asyncio.run(closed())
