"""However a server, or the process that its sessions are copies of, comes to its end: nothing of the sessions stays."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.test_leftovers import await_end, family
from tests.openenv.served import HARMFUL, PATIENCE_S, Player, code_of, serving
from tests.sampling import of_which
from tests.test_serve import own_directories
from tests.test_serve import server as own_server


@of_which("number", [signal.SIGKILL, signal.SIGTERM], 0)
def test_sessions_end_with_their_server(number):
    """Shared processes and those of one session alike, a stuck one too; connections are closed."""
    with own_server("--log-level", "error") as running:
        pid = running.process.pid
        with Player(running.url) as shared, Player(running.url) as own, Player(running.url) as stuck:
            shared.reset()
            own.reset(env_id="LunarLander-v3")
            stuck.reset(env_id=f"{HARMFUL}Stuck-v0")
            stuck.ws.send('{"type": "step", "data": {"action": 0}}')
            assert own.step(0)["type"] == "observation"
            everyone = family(pid)
            assert len(everyone) >= 5, "server, nursery, one shared process, two of their own"
            os.kill(pid, number)
            with pytest.raises(ConnectionClosed):
                while True:
                    shared.ws.recv(PATIENCE_S)
        running.wait()
        await_end(everyone)
        for left in own_directories():  # a killed server without pools has nobody who removes it, but the next one
            shutil.rmtree(left)


def test_the_death_of_the_nursery_is_told():
    """Its sessions are over, by name; the next one is started by another nursery."""
    with serving(limit=4) as served:
        with Player(served.url) as player:
            player.reset()
            nursery = served.in_loop(lambda: served.sessions._nursery._process.pid)
            os.kill(nursery, signal.SIGKILL)
            answer = None
            while answer is None or answer["type"] != "error":
                answer = player.ask({"type": "state"})
            assert code_of(answer) == "SESSION_ERROR"
        with Player(served.url) as player:
            assert player.reset()["done"] is False


def test_the_death_of_a_shared_process_is_told():
    """All that live there are told how it ended, and others are not concerned; the next session finds a place."""
    with serving(limit=4) as served:
        with Player(served.url) as player, Player(served.url) as own:
            player.reset()
            own.reset(env_id=f"{HARMFUL}Harmful-v0")
            os.kill(served.in_loop(lambda: served.sessions._open[1].process.pid), signal.SIGKILL)
            answer = None
            while answer is None or answer["type"] != "error":
                answer = player.ask({"type": "state"})
            assert code_of(answer) == "SESSION_ERROR"
            assert "SIGKILL" in answer["data"]["message"]
            assert own.step(0)["type"] == "observation"
        with Player(served.url) as player:
            assert player.reset()["done"] is False


def test_a_server_that_cannot_start_sessions_says_so(monkeypatch):
    """FACTORY_ERROR behind the handshake, then the connection is closed; the server lives."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with serving(limit=4) as served:
        with Player(served.url) as player:
            assert code_of(player.hear()) == "FACTORY_ERROR"
        monkeypatch.undo()
        with Player(served.url) as player:
            assert player.state()["step_count"] == 0
