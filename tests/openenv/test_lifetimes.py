"""A session ends when its client or its process does, at once, and takes nothing with it but what it started."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import httpx
import pytest

from tests.openenv.conftest import warm
from tests.openenv.served import HARMFUL, PATIENCE_S, Player, code_of, serving
from tests.pools.processes import Watched, wait_for
from vecserver.control.openenv import sessions as sessions_module
from vecserver.control.openenv.nursery import Nursery, SessionProcess
from vecserver.pools.sessions.answers import Ask, Kind
from vecserver.pools.sessions.nursery import Kill, read_note
from vecserver.pools.sessions.play import PlayOptions
from vecserver.pools.sessions.process import HEAD
from vecserver.wire.errors import SessionLost

STEP = '{"type": "step", "data": {"action": 0}}'


def harmful(name: str) -> dict:
    return {"env_id": f"{HARMFUL}{name}-v0"}


@pytest.fixture
def slow_nursery(server):
    """Its pid, stopped: whatever is asked of it waits until the test, or its end, has it go on."""
    pid = server.in_loop(lambda: server.sessions._nursery._process.pid)
    os.kill(pid, signal.SIGSTOP)
    yield pid
    os.kill(pid, signal.SIGCONT)


def is_moving(server) -> bool:
    return bool(server.in_loop(lambda: dict(server.sessions._nursery._starting)))


def processes(server) -> int:
    return server.in_loop(lambda: len(server.sessions._nursery._processes))


def asking(server) -> bool:
    return server.in_loop(lambda: any(each.asked for each in server.sessions._open.values()))


def test_a_slow_start_of_one_session_harms_no_other(server, player, request):
    """Whoever waits for a process of its own is not stuck in the shared one, however long that takes."""
    player.reset()
    with Player(server.url) as moving:
        moving.reset()
        nursery = request.getfixturevalue("slow_nursery")
        moving.ws.send(f'{{"type": "reset", "data": {{"env_id": "{HARMFUL}Harmful-v0"}}}}')
        wait_for(lambda: is_moving(server))
        server.pass_time(51.0)
        assert server.in_loop(lambda: [each.lost for each in server.sessions._shared if each.lost]) == []
        assert player.step(0)["type"] == "observation"
        os.kill(nursery, signal.SIGCONT)
        assert moving.hear()["type"] == "observation"


def test_a_session_that_ends_on_its_way_leaves_no_process(server, player, request):
    """The process that it waited for leaves as soon as it is there."""
    player.reset()
    before = processes(server)
    with Player(server.url) as moving:
        moving.reset()
        nursery = request.getfixturevalue("slow_nursery")
        moving.ws.send(f'{{"type": "reset", "data": {{"env_id": "{HARMFUL}Harmful-v0"}}}}')
        wait_for(lambda: is_moving(server))
        server.in_loop(lambda: server.sessions._end(server.sessions._open[server.sessions._last], "enough"))
        os.kill(nursery, signal.SIGCONT)
        answer = moving.hear()
        assert (code_of(answer), answer["data"]["message"]) == ("SESSION_ERROR", "enough")
        wait_for(lambda: not is_moving(server) and processes(server) == before)


def test_a_slow_process_is_not_a_stuck_one(server, player):
    """As long as it answers others, a message that waits there is waited for."""
    player.reset()

    def pretend():
        session = next(iter(server.sessions._open.values()))
        session.process.heard = server.clock.now + 51.0
        session.process.ask(session.number, Ask.MESSAGE, b'{"type": "state"}')
        session.asked = True
        server.clock.now += 51.0
        server.sessions.sweep()
        session.asked = False
        return session.process.lost

    assert server.in_loop(pretend) is None


def test_a_client_that_goes_in_mid_step_is_noticed_at_once(server, monkeypatch):
    """Its place is free, and the environment is ended if it does not end by itself."""
    monkeypatch.setattr(sessions_module, "_CLOSE_S", 0.05)
    with Player(server.url) as gone:
        gone.reset(**harmful("Stuck"))
        pid = server.in_loop(lambda: next(iter(server.sessions._open.values())).process.pid)
        gone.ws.send(STEP)
        wait_for(lambda: asking(server))
        gone.ws.socket.close()
        with Watched(pid) as watched:
            server.wait_for(0)
            assert not watched.running()


def test_a_message_behind_another_does_not_hide_that_its_client_went(server, monkeypatch):
    """Messages that wait for their turn are read ahead."""
    monkeypatch.setattr(sessions_module, "_CLOSE_S", 0.05)
    with Player(server.url) as gone:
        gone.reset(**harmful("Stuck"))
        for _ in range(3):
            gone.ws.send(STEP)
        wait_for(lambda: asking(server))
        gone.ws.socket.close()
        server.wait_for(0)


@pytest.mark.parametrize("begun", [b"\x81", b"\x81\xfe\x10", b"\x81\x85\x01\x02\x03\x04{", b"\x01\x80\x00\x00\x00\x00"])
def test_a_client_that_vanishes_in_mid_frame_is_gone(server, begun):
    """In its head, in its length, in its body, between two fragments; in mid-step too."""
    with Player(server.url) as gone:
        gone.reset()
        gone.ws.socket.sendall(b"\x81\x8e\x00\x00\x00\x00" + b'{"type":"mcp"}' + begun)
        gone.ws.socket.close()
        server.wait_for(0)


def test_messages_sent_ahead_are_answered_in_order(server, player):
    """More of them than are read ahead, too."""
    player.reset(**harmful("Harmful"))
    for number in range(30):
        player.ws.send(STEP if number % 2 else '{"type": "state"}')
    assert [player.hear()["type"] for _ in range(30)] == ["state", "observation"] * 15


def test_a_death_is_seen_though_a_copy_of_the_process_lives(server):
    """Its copy has the socket, and is ended."""
    with Player(server.url) as player:
        child = player.reset(**harmful("Forking"))["metadata"]["info"]["pid"]
        with Watched(child) as watched:
            answer = player.step(0)
            assert code_of(answer) == "SESSION_ERROR"
            assert "SIGKILL" in answer["data"]["message"]
            assert not watched.running()


@pytest.mark.parametrize("how", ["close", "crash"])
def test_what_an_environment_started_ends_with_its_session(server, player, how):
    """In whatever session or group it is; others' stays."""
    other = player.reset(**harmful("Starting"))["metadata"]["info"]["pid"]
    with Player(server.url) as ending:
        started = ending.reset(**harmful("Starting"))["metadata"]["info"]["pid"]
        with Watched(started) as watched, Watched(other) as spared:
            ending.ws.send(STEP if how == "crash" else '{"type": "close"}')
            assert not watched.running()
            assert player.state()["step_count"] == 0
            assert spared.running(0) == [other]


def test_what_an_environment_started_ends_with_the_server():
    """A server that stops waits for it."""
    with serving(limit=2) as served, Player(served.url) as player:
        started = player.reset(**harmful("Starting"))["metadata"]["info"]["pid"]
        held = os.pidfd_open(started)
    try:
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(held, 0)
    finally:
        os.close(held)


def test_a_process_that_sends_no_answers_is_lost(server):
    """An environment can write where its process does."""
    with Player(server.url) as player:
        player.reset(**harmful("Babbling"))
        answer = player.step(0)
        assert code_of(answer) == "SESSION_ERROR"
        assert "no answer" in answer["data"]["message"]


def test_whoever_asks_a_process_that_is_gone_is_told_how_it_ended():
    """Though its socket was closed before that was known."""
    loop = asyncio.new_event_loop()
    try:
        process = SessionProcess(1, loop)
        process.connection_made(FakeTransport())
        process.connection_lost(None)
        answer = process.ask(1, Ask.MESSAGE, b"{}")
        process.has_ended(-signal.SIGKILL)
        with pytest.raises(SessionLost, match="SIGKILL"):
            loop.run_until_complete(answer)
        loop.run_until_complete(asyncio.sleep(0))  # in which the wait for the exit code is ended
    finally:
        loop.close()


def test_a_large_answer_takes_time_in_proportion():
    """However small the pieces are in which it comes."""
    loop = asyncio.new_event_loop()
    try:
        process = SessionProcess(1, loop)
        process.connection_made(FakeTransport())
        answer = process.ask(1, Ask.MESSAGE, b"{}")
        whole = memoryview(HEAD.pack(16 << 20, 1, Kind.STATE) + bytes(16 << 20))
        began = time.process_time()
        for at in range(0, len(whole), 1024):
            process.data_received(bytes(whole[at : at + 1024]))
        assert time.process_time() - began < 2.0, "a copy of all that came before for each piece takes half a minute"
        assert len(answer.result().data) == 16 << 20
    finally:
        loop.close()


class FakeTransport:
    """Takes everything."""

    def write(self, data):
        pass

    def abort(self):
        pass


def test_a_process_is_killed_though_the_nursery_is_busy():
    """What does not fit its socket is said again."""

    async def run():
        nursery = Nursery(PlayOptions(), 1.0, 1, ())
        nursery._control, nursery._processes = FullSocket(), {7: None}
        nursery.kill(7)
        return await asyncio.wait_for(nursery._control.sent, PATIENCE_S)

    assert read_note(asyncio.run(run())) == Kill(7)


class FullSocket:
    """Has room from the second message on."""

    def __init__(self):
        self.sent, self._is_full = asyncio.get_running_loop().create_future(), True

    def send(self, data):
        if self._is_full:
            self._is_full = False
            raise BlockingIOError
        self.sent.set_result(data)


def test_processes_that_are_leaving_count(monkeypatch):
    """There are never more than sessions may be: a new one of its own waits until an old one is gone."""
    monkeypatch.setattr(sessions_module, "_CLOSE_S", 0.05)
    with serving(limit=1) as served, Player(served.url) as gone:
        gone.reset(**harmful("Stuck"))
        before = processes(served)
        gone.ws.send(STEP)
        wait_for(lambda: asking(served))
        gone.ws.socket.close()
        served.wait_for(0)
        with Player(served.url) as player:
            player.reset(**harmful("Harmful"))
            assert processes(served) == before


def test_whoever_waits_for_its_turn_in_a_session_that_ends_is_told(server):
    """Nothing is begun anew in its name."""

    async def both():
        session = await server.sessions.open()
        first, second = (asyncio.ensure_future(session.ask(Ask.MESSAGE, b'{"type": "state"}')) for _ in range(2))
        await asyncio.sleep(0)
        server.sessions.close_session(session, "over")
        return await asyncio.gather(first, second, return_exceptions=True)

    done = asyncio.run_coroutine_threadsafe(both(), server._loops[0])
    for error in done.result(PATIENCE_S):
        assert isinstance(error, SessionLost)
        assert str(error) == "over"


def test_a_session_over_http_can_be_ended(server):
    """DELETE /session, by cookie or header; where there is none nothing happens."""
    mine = {"X-Session-Id": "mine"}
    with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as client:
        client.post("/reset")
        httpx.post(f"{server.url}/reset", headers=mine, trust_env=False, timeout=PATIENCE_S)
        assert len(server.sessions) == 2
        assert httpx.delete(f"{server.url}/session", headers=mine, trust_env=False).status_code == 204
        assert len(server.sessions) == 1
        assert client.post("/step", json={"action": 0}).status_code == 200
        for _ in range(2):
            assert client.delete("/session").status_code == 204
        assert len(server.sessions) == 0
        assert client.post("/step", json={"action": 0}).status_code == 409


def test_silent_clients_over_http_keep_nobody_out():
    """Where there are as many as may be, the one that was silent for longest goes; connections and new ones stay."""
    with serving(limit=3) as served:
        warm(served, 3)

        def post(name, path="/reset", **data):
            return httpx.post(
                served.url + path, json=data, headers={"X-Session-Id": name}, trust_env=False, timeout=PATIENCE_S
            )

        with Player(served.url) as player:
            player.reset()
            served.pass_time(1.0)
            assert [post(name).status_code for name in ("first", "second")] == [200, 200]
            served.pass_time(30.0)
            assert post("first", "/step", action=0).status_code == 200
            served.pass_time(31.0)
            assert post("third").status_code == 200, "61 s"
            assert post("fourth").json()["cap"] == "openenv_sessions", "30 s, and nothing"
            assert post("second", "/step", action=0).status_code == 409
            assert post("first", "/step", action=0).status_code == 200
            assert player.step(0)["type"] == "observation"
