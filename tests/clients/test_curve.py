"""A driver over tcp that is encrypted: what a network and a process do to it, and that it is let in again."""

from __future__ import annotations

import os
import signal
from contextlib import closing

import numpy as np
import pytest
import zmq

import vecserver_client as vs
from tests.clients.looped import LoopedVectorEnv
from tests.contract.vector_contract import COUNT
from vecserver.wire.errors import LeaseLost, PoolLost, TransportUnavailable, Unauthorized
from vecserver_client import factory
from vecserver_client.aio.control import AsyncControlClient
from vecserver_client.control import ControlClient
from vecserver_client.passes import Credentials, fresh_keys

ROWS = 4
ACTIONS = np.arange(1, ROWS + 1)


@pytest.fixture
def make(curve_server):
    """Makes a pool and drives it over CURVE."""

    def make(**options):
        return vs.make_vec(COUNT, ROWS, url=curve_server.url, transport="tcp", length=10**9, **options)

    return make


def steps_of(observations) -> list[float]:
    """How often each row was stepped since its reset."""
    return observations[:, 2].tolist()


def test_a_driver_that_was_started_anew_goes_on(make, curve_server):
    """Its new process has other keys, and gets a lease that is bound to them; the former life is fenced off."""
    with closing(make(pool="resumed")) as former:
        former.reset(seed=1)
        former.step(ACTIONS)
        token = former.resume_token
        with closing(vs.attach(curve_server.url, "resumed", transport="tcp", resume=token)) as envs:
            assert steps_of(envs.step(ACTIONS)[0]) == [2.0] * ROWS
            with pytest.raises(LeaseLost):
                former.step(ACTIONS)
            assert steps_of(envs.step(ACTIONS)[0]) == [3.0] * ROWS


def test_a_pool_is_taken_by_force(make, curve_server):
    """By another client with other keys; who had it is told."""
    with closing(make(pool="taken")) as first:
        first.reset(seed=1)
        with closing(vs.attach(curve_server.url, "taken", transport="tcp", force=True)) as second:
            second.reset(seed=1)
            with pytest.raises(LeaseLost, match="by force"):
                first.step(ACTIONS)
            assert steps_of(second.step(ACTIONS)[0]) == [1.0] * ROWS


def test_a_pool_is_split_and_joined(make):
    """Its parts have connections of their own with the same key."""
    with closing(make(workers=2)) as envs:
        envs.reset(seed=1)
        parts = envs.split(2)
        for part in parts:
            part.step_async(ACTIONS[: part.num_envs])
        for part in parts:
            assert steps_of(part.step_wait()[0]) == [1.0] * part.num_envs
        envs.join()
        assert steps_of(envs.step(ACTIONS)[0]) == [2.0] * ROWS


def test_the_end_of_the_host_is_told(make, curve_server):
    """As over any transport, within seconds."""
    with closing(make(pool="lost")) as envs, closing(ControlClient(curve_server.url)) as control:
        envs.reset(seed=1)
        os.kill(control.get_pool("lost")["host_pid"], signal.SIGKILL)
        with pytest.raises(PoolLost):
            envs.step(ACTIONS)


@pytest.mark.parametrize("client", [ControlClient, AsyncControlClient])
def test_a_client_whose_key_is_not_known_asks_once_more(make, curve_server, monkeypatch, client):
    """As where the host has forgotten it: the next handshake comes after the server was asked again."""
    ask, asked = client.ask_access, []

    def ask_for_another_first(self, pool, key, **options):
        asked.append(key)
        return ask(self, pool, key if len(asked) > 1 else fresh_keys().public.decode(), **options)

    monkeypatch.setattr(client, "ask_access", ask_for_another_first)
    if client is ControlClient:
        with closing(make()) as envs:
            assert steps_of(envs.reset(seed=1)[0]) == [0.0] * ROWS
    else:
        with closing(LoopedVectorEnv(COUNT, ROWS, url=curve_server.url, transport="tcp", length=9)) as envs:
            assert steps_of(envs.reset(seed=1)[0]) == [0.0] * ROWS
    assert len(asked) >= 2
    assert len({*asked}) == 1


def test_a_client_that_is_never_known_is_told_so(make, monkeypatch):
    """After it has asked again."""
    ask = ControlClient.ask_access
    monkeypatch.setattr(
        ControlClient, "ask_access", lambda self, pool, _key, **_: ask(self, pool, fresh_keys().public.decode())
    )
    with pytest.raises(Unauthorized, match="does not let this client in"):
        make()


def test_an_installation_without_curve_says_so(make, monkeypatch):
    """An installation whose libzmq has none does not try, and says what to install; ``auto`` takes another way."""
    monkeypatch.setattr(zmq, "has", lambda _what: False)
    with pytest.raises(TransportUnavailable, match="libzmq has no CURVE"):
        make()


def test_no_repr_shows_a_secret():
    """Of what a connection is opened with, and of what opens it."""
    keys = fresh_keys()
    credentials = Credentials(server_key=b"server", keys=keys)
    opener = factory._opener(None, "tcp://gpu1:5", 1, credentials=credentials)
    by_ticket = factory._opener(None, "tcp://127.0.0.1:5", 1, credentials=Credentials(ticket="secret ticket"))
    shown = repr([keys, credentials, opener, by_ticket])
    assert keys.secret.decode() not in shown
    assert "secret ticket" not in shown
