"""What a server counts of OpenEnv's sessions."""

from __future__ import annotations

import os
import signal
import time

from tests.openenv.served import HARMFUL, PATIENCE_S, Player, code_of, serving


def wait_until(served, true) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not served.in_loop(true):
        assert time.monotonic() < deadline


def test_each_session_is_counted_once_and_by_how_it_ended():
    """Closed by its client, lost with its process, idle, stuck, ended with the server; and those without a place."""
    with serving(limit=2, idle_timeout=10.0, step_timeout=5.0) as served:
        counts = served.sessions.counts
        with Player(served.url) as closed, Player(served.url) as idle:
            closed.reset()
            with Player(served.url) as refused:
                assert code_of(refused.hear()) == "CAPACITY_REACHED"
            closed.ws.close()
            served.wait_for(1)
            idle.reset()
            served.pass_time(11.0)
            served.wait_for(0)
        assert counts.ended == {"closed": 1, "lost": 0, "idle": 1, "stuck": 0, "shutdown": 0}
        with Player(served.url) as lost:
            lost.reset(env_id=f"{HARMFUL}Harmful-v0")
            (session,) = served.in_loop(lambda: list(served.sessions._open.values()))
            os.kill(session.process.pid, signal.SIGKILL)
            wait_until(served, lambda: session.process.lost is not None)
            served.in_loop(served.sessions.sweep)
            served.wait_for(0)
        with Player(served.url) as stuck:
            stuck.reset(env_id=f"{HARMFUL}Stuck-v0")
            stuck.ws.send('{"type": "step", "data": {"action": 0}}')
            wait_until(served, lambda: any(each.asked for each in served.sessions._open.values()))
            served.pass_time(6.0)
            served.wait_for(0)
        with Player(served.url) as last:
            last.reset()
            served.in_loop(served.sessions.stop)
            served.wait_for(0)
        assert counts.ended == {"closed": 1, "lost": 1, "idle": 1, "stuck": 1, "shutdown": 1}
        assert (counts.started, counts.refused) == (5, 1)
