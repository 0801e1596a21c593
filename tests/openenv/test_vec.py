"""``/vec/{pool}/ws``: a pool, played by whoever speaks OpenEnv's messages."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from websockets.exceptions import ConnectionClosed

import vecserver_client as vs
from tests.contract.vector_contract import COUNT, make_oracle
from tests.environments import FAULT_MESSAGE, env_id
from tests.openenv.served import HARMFUL, PATIENCE_S, Player, code_of
from vecserver.wire.errors import LeaseHeld, UnknownPool

BAD_MESSAGES = [
    ("{", "INVALID_JSON"),
    (b"\xff\xfe", "INVALID_JSON"),
    ("[1]", "VALIDATION_ERROR"),
    ({"type": "dance"}, "UNKNOWN_TYPE"),
    ({"type": "step"}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": [1, 2]}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": [1, 2, 99]}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": [1, 2, 0.5]}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": [1, 2, None]}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": "abc"}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": 1}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"seed": -1}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"seed": [1, 2]}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"mask": [True]}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"env_id": "CartPole-v0"}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"kwargs": {}}}, "VALIDATION_ERROR"),
]


@pytest.fixture(scope="module")
def server():
    """A private server of the test run."""
    with closing(vs.LocalServer()) as running:
        yield running


@pytest.fixture
def control(server):
    with vs.ControlClient(server.url) as client:
        yield client


@pytest.fixture
def pool(control):
    """Makes pools, which end with the test; gives their ids."""
    made = []

    def make(env: str, num_envs: int, **options) -> str:
        made.append(control.create_pool(env_id=env, num_envs=num_envs, **options)["pool"])
        return made[-1]

    yield make
    for each in made:
        try:
            control.delete_pool(each)
        except UnknownPool:
            continue


def playing(server, pool: str) -> Player:
    return Player(f"{server.url}/vec/{pool}")


def ending(player) -> tuple[str, int]:
    """What is said last: OpenEnv's code, and the WebSocket's."""
    last = player.hear()
    with pytest.raises(ConnectionClosed) as closed:
        player.ws.recv(PATIENCE_S)
    return code_of(last), closed.value.rcvd.code


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_row_is_the_environment_itself(server, pool, mode):
    """Observations, rewards and flags are those of Gymnasium's vector environment, across the ends of episodes."""
    lengths, totals, done = np.zeros(3, int), np.zeros(3), np.zeros(3, bool)
    with (
        playing(server, pool("CartPole-v1", 3, autoreset_mode=mode.value)) as player,
        closing(make_oracle("CartPole-v1", 3, autoreset_mode=mode)) as oracle,
    ):
        data, (expected, _) = player.reset(seed=5, episode_id="mine"), oracle.reset(seed=5)
        assert np.array_equal(np.array(data["observation"]["state"], np.float32), expected)
        assert (data["reward"], data["done"]) == (None, [False] * 3)
        for step in range(60):
            actions = [(step + row) % 2 if row else 1 for row in range(3)]
            if mode is AutoresetMode.DISABLED and done.any():
                assert code_of(player.step(actions)) == "EXECUTION_ERROR"
                mask = done.tolist()
                data = player.reset(seed=step, mask=mask, episode_id="mine")
                expected, _ = oracle.reset(seed=step, options={"reset_mask": done})
                assert np.array_equal(np.array(data["observation"]["state"], np.float32), expected)
                lengths[done], totals[done] = 0, 0
            data = player.step(actions)["data"]
            expected, rewards, terminated, truncated, _ = oracle.step(np.array(actions))
            began, seen = done if mode is not AutoresetMode.DISABLED else np.zeros(3, bool), data["observation"]
            done = terminated | truncated
            stepped = ~began if mode is AutoresetMode.NEXT_STEP else np.ones(3, bool)
            lengths, totals = np.where(began, 0, lengths) + stepped, np.where(began, 0, totals) + rewards
            assert np.array_equal(np.array(seen["state"], np.float32), expected)
            assert (data["reward"], data["done"]) == (rewards.tolist(), done.tolist())
            assert (seen["episode_length"], seen["total_reward"]) == (lengths.tolist(), totals.tolist())
            assert seen["metadata"]["terminated"] == terminated.tolist()
            assert seen["legal_actions"] == [0, 1]
        assert player.state()["episode_id"] == "mine"


def test_the_state_counts_and_names(server, pool):
    """Steps since the last reset, the episode's name, and what the pool is."""
    name = pool(COUNT, 2)
    with playing(server, name) as player:
        assert player.state() | {"episode_id": None, "step_count": 0, "pool": name, "num_envs": 2} == player.state()
        assert code_of(player.step([0, 0])) == "EXECUTION_ERROR", "no episode yet"
        player.reset(seed=[3, None])
        for count in range(1, 4):
            assert player.step({"action": [1, 2]})["type"] == "observation"
            assert player.state()["step_count"] == count
        assert player.state()["seed"] == [3, None]
        assert player.ask({"type": "mcp", "data": {}})["type"] == "mcp"
        player.reset(episode_id="next")
        assert (player.state()["step_count"], player.state()["episode_id"]) == (0, "next")
        player.ws.send('{"type": "close"}')
        with pytest.raises(ConnectionClosed) as closed:
            player.ws.recv(PATIENCE_S)
        assert closed.value.rcvd.code == 1000


def test_malformed_messages_have_their_codes_and_step_nothing(server, pool, control):
    """And the session goes on."""
    name = pool(COUNT, 3)
    with playing(server, name) as player:
        player.reset(seed=1)
        player.step([1, 2, 3])
        before = player.state()
        for message, code in BAD_MESSAGES:
            assert code_of(player.ask(message)) == code, message
            assert player.state() == before, message
        data = player.ask({"type": "step", "data": {"action": 1}})["data"]
        assert (data["errors"][0]["space"], data["errors"][0]["rows"]) == ("Discrete(5)", 3)
        assert [row[2] for row in player.step([1, 2, 3])["data"]["observation"]["state"]] == [2, 2, 2]
        assert control.get_pool(name)["stats"]["batches"] == 2


def test_numbers_that_json_has_not_are_null(server, pool):
    """NaN and infinities, in observations and infos."""
    with playing(server, pool(f"{HARMFUL}Harmful-v0", 2)) as player:
        player.reset(seed=1)
        data = player.step([0, 0])["data"]
        assert data["observation"]["state"] == [[None, None]] * 2
        assert data["metadata"]["info"]["nan"] == [None, None]


def test_the_connection_holds_the_pool_and_the_pool_outlives_it(server, pool):
    """A second client is refused, a trainer too, until the first one leaves."""
    name = pool(COUNT, 2)
    with playing(server, name) as first:
        first.reset(seed=1)
        with playing(server, name) as second:
            assert ending(second) == ("CAPACITY_REACHED", 1013)
        with pytest.raises(LeaseHeld):
            vs.attach(server.url, name)
        first.step([1, 2])
    with playing(server, name) as third:
        third.reset(seed=1)
        third.step([1, 2])


def test_the_lease_is_kept_while_the_client_thinks(server, pool, control):
    """Its time to live passes, and nobody else gets the pool."""
    name = pool(COUNT, 1, lease_ttl=0.3)
    with playing(server, name) as player:
        player.reset(seed=1)
        lease = control.get_pool(name)["stats"]["lease"]
        with pytest.raises(TimeoutError):
            player.ws.recv(1.0)
        assert control.get_pool(name)["stats"]["lease"] == lease
        with pytest.raises(LeaseHeld):
            vs.attach(server.url, name)


def test_a_trainer_that_takes_the_pool_ends_the_session(server, pool):
    """The next message says so."""
    name = pool(COUNT, 1)
    with playing(server, name) as player:
        player.reset(seed=1)
        with vs.attach(server.url, name, force=True):
            player.ws.send('{"type": "step", "data": {"action": [1]}}')
            assert ending(player) == ("SESSION_ERROR", 1011)


def test_an_environment_that_raises_is_an_error_and_no_end(server, pool):
    """With its own message; the session goes on."""
    with playing(server, pool(env_id("Raise-v0"), 2, env_kwargs={"where": "step", "at": 3})) as player:
        player.reset(seed=1)
        assert [player.step([0, 0])["type"] for _ in range(3)] == ["observation"] * 2 + ["error"]
        player.reset(seed=1)
        answer = [player.step([0, 0]) for _ in range(3)][-1]
        assert (code_of(answer), answer["data"]["errors"][0]["type"]) == ("EXECUTION_ERROR", "env_fault")
        assert FAULT_MESSAGE in answer["data"]["message"]
        player.reset(seed=1)
        assert player.step([0, 0])["type"] == "observation"


def test_a_worker_that_hangs_is_replaced_and_no_end(server, pool):
    """Its row is truncated by the step it hangs in, and begins anew with the next."""
    with playing(server, pool(env_id("Hang-v0"), 1, env_kwargs={"at": 2}, step_timeout=1.0)) as player:
        player.reset(seed=1)
        assert player.step([0])["data"]["observation"]["metadata"]["truncated"] == [False]
        assert player.step([0])["data"]["observation"]["metadata"]["truncated"] == [True]
        assert player.step([0])["type"] == "observation"


def test_no_such_pool(server):
    """Is said, and the connection closed."""
    with playing(server, "nobody") as player:
        assert ending(player) == ("SESSION_ERROR", 1011)


@pytest.mark.parametrize("how", ["deleted", "killed"])
def test_the_end_of_a_pool_is_said(server, pool, control, how):
    """By what the next message gets."""
    name = pool(COUNT, 1)
    with playing(server, name) as player:
        player.reset(seed=1)
        if how == "deleted":
            control.delete_pool(name)
        else:
            os.kill(control.get_pool(name)["host_pid"], signal.SIGKILL)
        player.ws.send('{"type": "step", "data": {"action": [1]}}')
        assert ending(player) == ("SESSION_ERROR", 1011)


def test_a_client_that_vanishes_leaves_the_pool(server, pool):
    """Without a word; the pool is free for another."""
    name = pool(COUNT, 1)
    player = playing(server, name)
    player.reset(seed=1)
    player.ws.socket.close()
    player.close()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with playing(server, name) as other:
            answer = other.ask({"type": "state"})
            if answer["type"] == "state":
                return
    raise AssertionError("the lease is held by nobody")
