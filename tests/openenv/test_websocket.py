"""``/ws`` as OpenEnv's clients speak it, over a real server on loopback."""

from __future__ import annotations

import json
import os

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.openenv.served import HARMFUL, PATIENCE_S, Player, code_of
from vecserver.control.guards import MAX_BODY_BYTES
from vecserver.wire.errors import HostStartFailed


def harmful(name: str) -> dict:
    return {"env_id": f"{HARMFUL}{name}-v0"}


def closing_code(player) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        player.ws.recv(PATIENCE_S)
    return closed.value.rcvd.code


def test_a_session_is_the_environment_itself(player):
    """Observations, rewards and flags are those of Gymnasium for the same seed and actions, to the end of the episode."""
    env = gymnasium.make("CartPole-v1")
    first, _ = env.reset(seed=5)
    data = player.reset(seed=5, episode_id="mine")
    assert np.array_equal(np.array(data["observation"]["state"], np.float32), first)
    assert (data["reward"], data["done"]) == (None, False)
    done, steps, total = False, 0, 0.0
    while not done:
        state, reward, terminated, truncated, _ = env.step(steps % 2)
        answer = player.step(steps % 2)
        done, steps, total = terminated or truncated, steps + 1, total + float(reward)
        data, seen = answer["data"], answer["data"]["observation"]
        assert answer["type"] == "observation"
        assert np.array_equal(np.array(seen["state"], np.float32), state)
        assert (data["reward"], data["done"]) == (float(reward), done)
        assert (seen["episode_length"], seen["total_reward"], seen["legal_actions"]) == (steps, total, [0, 1])
        assert (seen["metadata"]["terminated"], seen["metadata"]["truncated"]) == (terminated, truncated)
        assert player.state() | {"step_count": steps, "episode_id": "mine", "seed": 5} == player.state()
    assert code_of(player.step(0)) == "EXECUTION_ERROR", "there is no autoreset"
    assert player.state()["step_count"] == steps
    assert player.reset()["observation"]["episode_length"] == 0
    assert player.state()["episode_id"] not in (None, "mine")
    env.close()


def test_before_the_first_reset(player):
    """There is a state and no episode."""
    state = player.state()
    assert (state["episode_id"], state["step_count"], state["env_id"]) == (None, 0, "CartPole-v1")
    assert code_of(player.step(0)) == "EXECUTION_ERROR"


MALFORMED = [
    ("{", "INVALID_JSON"),
    ("", "INVALID_JSON"),
    ('{"type": "step", "data": {"action": NaN}}', "INVALID_JSON"),
    ("[" * 5000, "INVALID_JSON"),
    (b"\xff\xfe", "INVALID_JSON"),
    ("[1]", "VALIDATION_ERROR"),
    ("null", "VALIDATION_ERROR"),
    ({}, "UNKNOWN_TYPE"),
    ({"type": "dance"}, "UNKNOWN_TYPE"),
    ({"type": None}, "UNKNOWN_TYPE"),
    ({"type": ["step"]}, "UNKNOWN_TYPE"),
    ({"type": "step"}, "VALIDATION_ERROR"),
    ({"type": "step", "data": 1}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": 1, "force": 2}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": 1}, "id": 7}, "VALIDATION_ERROR"),
    ({"type": "state", "data": {}}, "VALIDATION_ERROR"),
    ({"type": "close", "now": True}, "VALIDATION_ERROR"),
    ({"type": "mcp"}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": None}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"seed": -1}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"seed": "1"}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"episode_id": "x" * 256}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"env_id": "CartPole-v99"}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"env_id": "vecserver/Remote-v0"}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"kwargs": [1]}}, "VALIDATION_ERROR"),
    ({"type": "reset", "data": {"kwargs": {"no_such": 1}}}, "EXECUTION_ERROR"),
    ({"type": "reset", "data": {"env_id": "no.such.module:Env-v0"}}, "EXECUTION_ERROR"),
    ({"type": "step", "data": {"action": 2}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": "1"}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": None}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": [0, 1]}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": 10**30}}, "VALIDATION_ERROR"),
    ({"type": "step", "data": {"action": 0.5}}, "VALIDATION_ERROR"),
]


def test_malformed_messages_have_their_codes(player):
    """Each is refused with the documented code, nothing is stepped, and the session goes on."""
    player.reset(seed=1)
    player.step(0)
    before = player.state()
    for message, code in MALFORMED:
        assert code_of(player.ask(message)) == code, message
        assert player.state() == before, message
    assert player.step(1)["data"]["observation"]["episode_length"] == 2


def test_a_refused_action_describes_the_space(player):
    """The text and the errors have it."""
    player.reset()
    data = player.step(7)["data"]
    assert "Discrete(2)" in data["message"]
    assert data["errors"][0] | {"type": "invalid_action", "space": "Discrete(2)"} == data["errors"][0]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "data", "action", "seed", "x"]), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    st.sampled_from(["", "reset", "step", "mcp", "state"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_breaks_a_session(player, value, kind):
    """Whatever is sent is answered once, with an answer of the protocol."""
    answer = player.ask({"type": kind, "data": value} if kind else json.dumps(value))
    assert answer["type"] in ("error", "observation", "state", "mcp")
    if answer["type"] == "error":
        assert code_of(answer) in ("INVALID_JSON", "UNKNOWN_TYPE", "VALIDATION_ERROR", "EXECUTION_ERROR")
    assert "step_count" in player.state()


def test_environments_that_raise_are_execution_errors(player):
    """In their constructor, in reset, in step: the exception is named, the session and what came before stay."""
    answer = player.ask({"type": "reset", "data": harmful("RaisingInit")})
    assert (code_of(answer), answer["data"]["errors"][0]["type"]) == ("EXECUTION_ERROR", "env_creation_failed")
    assert "OSError: no display" in answer["data"]["message"]
    player.reset(**harmful("RaisingReset"))
    answer = player.ask({"type": "reset", "data": {"options": {"x": 1}}})
    assert code_of(answer) == "EXECUTION_ERROR"
    assert "ValueError: in reset" in answer["data"]["message"]
    assert code_of(player.step(0)) == "EXECUTION_ERROR", "no episode began"
    player.reset()
    assert player.step(0)["type"] == "observation"
    player.reset(**harmful("Raising"))
    answer = player.step(0)
    assert code_of(answer) == "EXECUTION_ERROR"
    assert "in step" in answer["data"]["errors"][0]["faults"][0]["traceback"]
    assert player.state()["step_count"] == 0


@pytest.mark.parametrize("reward", ["nan", "inf", "words", [1, 2], None])
def test_a_reward_that_is_no_finite_number_is_an_error(player, reward):
    """The step is counted, for it was taken, and the episode goes on."""
    player.reset(**harmful("Rewarding"), kwargs={"rewards": [reward, 2]})
    assert code_of(player.step(0)) == "EXECUTION_ERROR"
    assert player.state()["step_count"] == 1
    data = player.step(0)["data"]
    assert (data["reward"], data["observation"]["episode_length"], data["observation"]["total_reward"]) == (2.0, 2, 2.0)


def test_numbers_that_json_has_not_are_null(player):
    """In observations and infos."""
    player.reset(**harmful("Harmful"), options={"a": 1})
    data = player.step(0)["data"]
    assert data["observation"]["state"] == [None, None]
    assert data["metadata"]["info"] == {"nan": None, "who": 1}


def test_actions_and_observations_of_many_parts(player):
    """Dicts and tuples travel; a Dict that has an ``action`` of its own is not unwrapped."""
    data = player.reset(**harmful("Nested"))
    assert data["observation"]["legal_actions"] == {"action": [0, 1], "force": {"low": [-1, -1], "high": [1, 1]}}
    data = player.step({"action": 1, "force": [0.5, 0.25]})["data"]
    assert (data["reward"], data["done"]) == (0.5, True)
    assert data["observation"]["metadata"]["truncated"] is True


@pytest.mark.parametrize(("name", "how"), [("Leaving", "exit code 3"), ("Killed", "SIGKILL")])
def test_a_crash_costs_one_session(server, player, name, how):
    """Its client is told how the process ended, and disconnected; another one's episode goes on."""
    player.reset(seed=1)
    with Player(server.url) as other, Player(server.url) as third:
        third.reset(**harmful("Harmful"))
        other.reset(**harmful(name))
        answer = other.step(0)
        assert code_of(answer) == "SESSION_ERROR"
        assert how in answer["data"]["message"]
        assert closing_code(other) == 1011
        assert third.step(0)["type"] == "observation"
    assert player.step(0)["data"]["observation"]["episode_length"] == 1


def test_a_crash_in_a_constructor_costs_one_session(server, player):
    """The process that it moved to is gone, and the place that it left is free."""
    player.reset()
    with Player(server.url) as other:
        assert code_of(other.ask({"type": "reset", "data": harmful("LeavingAtOnce")})) == "SESSION_ERROR"
    server.wait_for(1)
    assert server.in_loop(lambda: [len(each.sessions) for each in server.sessions._shared if each.sessions]) == [1]


def test_no_process_for_a_session_that_needs_one(server, player, monkeypatch):
    """FACTORY_ERROR, and the connection is closed; the others play on."""

    async def none(*, shared):
        raise HostStartFailed("no process is left")

    player.reset()
    with Player(server.url) as other:
        other.state()
        monkeypatch.setattr(server.sessions._nursery, "fork", none)
        assert code_of(other.ask({"type": "reset", "data": harmful("Harmful")})) == "FACTORY_ERROR"
        assert closing_code(other) == 1011
    assert player.step(0)["type"] == "observation"


def test_a_message_that_is_too_large_closes_the_connection(server):
    """The limit is that of a body over HTTP."""
    with Player(server.url) as player, pytest.raises(ConnectionClosed):
        player.ask('"' + "x" * (MAX_BODY_BYTES + 1) + '"')


def test_a_stuck_environment_is_killed(server, player):
    """Past the deadline of a step its session ends and says why; the time of others is their own."""
    player.reset()
    with Player(server.url) as stuck:
        stuck.reset(**harmful("Stuck"))
        stuck.ws.send('{"type": "step", "data": {"action": 0}}')
        player.state()
        while not server.in_loop(lambda: any(each.asked for each in server.sessions._open.values())):
            player.state()
        server.pass_time(51.0)
        answer = stuck.hear()
        assert code_of(answer) == "SESSION_ERROR"
        assert "longer than 50 s" in answer["data"]["message"]
    assert player.step(0)["type"] == "observation"


def test_idle_sessions_are_ended(server):
    """Whoever says nothing for the whole time is told, and disconnected; a word in between is enough to stay."""
    with Player(server.url) as idle, Player(server.url) as alive:
        idle.reset()
        alive.reset()
        server.pass_time(60.0)
        alive.state()
        server.pass_time(60.0)
        answer = idle.hear()
        assert code_of(answer) == "SESSION_ERROR"
        assert "idle" in answer["data"]["message"]
        assert closing_code(idle) == 1011
        assert alive.state()["step_count"] == 0
        assert len(server.sessions) == 1


def test_too_many_sessions(server):
    """One more is accepted, told CAPACITY_REACHED and disconnected; a place that is left is free at once."""
    players = [Player(server.url) for _ in range(8)]
    try:
        for each in players:
            each.state()
        with Player(server.url) as late:
            answer = late.hear()
            assert code_of(answer) == "CAPACITY_REACHED"
            assert answer["data"]["errors"][0] | {"cap": "openenv_sessions", "limit": 8} == answer["data"]["errors"][0]
            assert closing_code(late) == 1013
        players[0].ws.send('{"type": "close"}')
        assert closing_code(players[0]) == 1000
        with Player(server.url) as next_one:
            assert next_one.state()["step_count"] == 0
    finally:
        for each in players:
            each.close()


def test_an_environment_of_its_own_lives_in_a_process_of_its_own(server, player):
    """Those in plain Python share; one with native code moves out, and takes the session's later ones along."""
    with Player(server.url) as other:
        player.reset()
        other.reset()

        def processes():
            return [each.process.pid for each in server.sessions._open.values()]

        shared = server.in_loop(processes)
        assert os.getpid() not in shared
        other.reset(env_id="LunarLander-v3")
        moved = server.in_loop(processes)
        assert moved[0] == shared[0]
        assert moved[1] not in shared
        other.reset(env_id="CartPole-v1")
        assert server.in_loop(processes) == moved
        assert (
            code_of(player.ask({"type": "reset", "data": {"env_id": "Acrobot-v1", "kwargs": {"x": 1}}}))
            == "EXECUTION_ERROR"
        )
        assert server.in_loop(processes)[0] == shared[0]
        assert player.step(0)["data"]["observation"]["episode_length"] == 1


def test_mcp_has_no_tools(player):
    """JSON-RPC is answered as such."""

    def rpc(data):
        answer = player.ask({"type": "mcp", "data": data})
        assert answer["type"] == "mcp"
        return answer["data"]

    assert rpc({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}) == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"tools": []},
    }
    assert rpc({"jsonrpc": "2.0", "id": "a", "method": "tools/call"})["error"]["code"] == -32601
    assert rpc({"id": 1})["error"]["code"] == -32600


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}])
def test_pages_of_others_do_not_connect(server, headers):
    """A browser says where a page is from; a name that is not this machine's is refused too."""
    with pytest.raises(InvalidStatus) as refused:
        Player(server.url, additional_headers=headers)
    assert refused.value.response.status_code == 400


def test_a_page_of_this_server_connects(server):
    """Its origin is the server's own address."""
    with Player(server.url, additional_headers={"Origin": server.url}) as page:
        assert page.state()["step_count"] == 0


def test_a_client_that_vanishes_leaves_nothing(server):
    """Neither a session nor a process, without any farewell."""
    with Player(server.url) as gone:
        gone.reset(env_id="LunarLander-v3")
        gone.ws.socket.close()
    server.wait_for(0)
