"""Through a network that loses, doubles, delays, cuts and stalls, every batch is the oracle's and was stepped once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.chaos.driving import attached, behind, drive, network
from tests.chaos.faults import Faults
from tests.chaos.oracle_environment import OracleVectorEnv
from tests.chaos.proxy import FaultProxy
from tests.sampling import by_turns, of_which
from vecserver.wire.errors import DeadlineExceeded, ServerUnreachable
from vecserver_client import ControlClient

ROWS = 1024
over_either = by_turns("transport", ["tcp", "ws"])
BAD_NETWORK = Faults(
    lose=0.01, double=0.005, delay=0.01, repeat_old=0.005, cut=0.001, cut_inside=0.001, half_close=0.0005, stall=0.0002
)
WORSE_NETWORK = Faults(
    lose=0.02, double=0.02, delay=0.02, repeat_old=0.02, cut=0.02, cut_inside=0.02, half_close=0.01, stall=0.005
)


def test_a_million_oracle_steps_through_a_bad_network(control, make_pool):
    """1 % of the messages are lost, and connections are cut, halved and stalled: 0 lost, 0 doubled, 0 swapped."""
    pool, batches = make_pool(ROWS), 1000
    bad_network = FaultProxy(pool["endpoints"]["tcp"], BAD_NETWORK, seed=1)
    with bad_network as proxy, attached(control, pool, "tcp", proxy.endpoint) as envs:
        record = drive(envs, batches, seed=1)
        stats = envs.stats()
    assert record.batches * ROWS >= 1_000_000
    assert stats.batches == batches
    assert stats.resets == 1
    assert min(proxy.counts[name] for name in ("lose", "double", "delay", "repeat_old", "connections")) >= 3
    assert max(record.times) < 30.0


@of_which("client", ["tcp", "ipc", "ws", "asyncio tcp", "asyncio ipc", "asyncio ws"], 0, 5)
def test_every_client_survives_a_worse_network(server, control, make_pool, client):
    """Over tcp, ipc and WebSockets, by blocking calls and from an event loop."""
    pool, seed = make_pool(8), 2
    batches = 60 if client.endswith("ws") else 150
    bad_network = network(server, pool, client.split()[-1], WORSE_NETWORK, seed)
    with bad_network as proxy, behind(proxy, server, control, pool, client) as envs:
        record = drive(envs, batches, seed=seed)
    assert control.get_pool(pool["pool"])["stats"]["batches"] == batches
    assert proxy.counts["cut"] + proxy.counts["cut_inside"] >= 3
    assert record.late == 0


@over_either
def test_a_partition_leaves_the_step_pending_and_is_survived_when_it_heals(server, control, make_pool, transport):
    """While it lasts each wait ends at its deadline with a name; afterwards the same step's result comes."""
    pool = make_pool(8)
    oracle = OracleVectorEnv(8)
    actions = np.arange(8) % 5
    with network(server, pool, transport) as proxy, behind(proxy, server, control, pool, transport) as envs:
        np.testing.assert_array_equal(envs.reset(seed=5)[0], oracle.reset(seed=5)[0])
        proxy.partition()
        envs.step_async(actions)
        for _ in range(2):
            with pytest.raises((DeadlineExceeded, ServerUnreachable)):
                envs.step_wait(timeout=0.4)
            assert envs.pending_call == "step"
        proxy.heal()
        np.testing.assert_array_equal(envs.step_wait(timeout=20.0)[0], oracle.step(actions)[0])
        np.testing.assert_array_equal(envs.step(actions)[0], oracle.step(actions)[0])
        assert envs.stats().batches == 2


@over_either
def test_an_answer_on_a_slow_link_is_waited_for_and_not_asked_for_again(server, control, make_pool, transport):
    """As long as bytes of it come nothing is lost, and to begin again would never come to an end."""
    pool = make_pool(64, padding=636)  # 330 kB
    with network(server, pool, transport) as proxy, behind(proxy, server, control, pool, transport) as envs:
        drive(envs, 20)  # quick ones, so that it grows impatient
        before, connections = proxy.counts["up"], proxy.counts["connections"]
        proxy.faults = Faults(bytes_per_s=300e3)
        envs.step(np.zeros(64, np.int64))
        assert proxy.counts["up"] <= before + 2  # once more, where its first byte was late
        assert proxy.counts["connections"] == connections


def test_steps_over_http_with_a_key_are_taken_once(server, control, make_pool):
    """Their requests are repeated until they are answered, through a network that cuts and stalls connections."""
    pool, seed = make_pool(4), 7
    oracle, actions = OracleVectorEnv(4), np.random.default_rng(seed)
    faults = Faults(cut=0.1, cut_inside=0.1, half_close=0.03, stall=0.03, delay=0.1)
    repeats = 0

    def ask(call):
        nonlocal repeats
        for _ in range(100):
            try:
                return call()["observations"]
            except (ServerUnreachable, DeadlineExceeded):
                repeats += 1
        raise AssertionError("no answer comes")

    with FaultProxy(server.url, faults, seed, splitter=None) as proxy:
        url = proxy.endpoint.replace("tcp://", "http://")
        with ControlClient(url, server.token, timeout=0.3) as client:
            reset = ask(lambda: client.reset_pool(pool["pool"], seed, key="reset"))
            np.testing.assert_array_equal(reset, oracle.reset(seed=seed)[0])
            for number in range(40):
                batch = actions.integers(0, 5, 4)
                heard = ask(
                    lambda batch=batch, number=number: client.step_pool(pool["pool"], batch, key=f"step {number}")
                )
                np.testing.assert_array_equal(heard, oracle.step(batch)[0], err_msg=f"batch {number}")
    assert repeats >= 5
    assert control.get_pool(pool["pool"])["stats"]["batches"] == 40
