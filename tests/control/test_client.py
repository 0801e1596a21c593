from __future__ import annotations

import socket
import threading

import gymnasium
import numpy as np
import pytest

from tests.control.fakes import FakeRegistry, served
from vecserver.pools.spec import offered_env_ids
from vecserver.wire.errors import (
    ERRORS,
    DeadlineExceeded,
    MalformedMessage,
    ServerUnreachable,
    TransportUnavailable,
    UnknownEnv,
    UnknownPool,
    Unportable,
)
from vecserver_client.control import ControlClient


@pytest.fixture(scope="module")
def server():
    """A fake registry and its address."""
    registry = FakeRegistry()
    with served(registry) as url:
        yield registry, url


@pytest.fixture
def registry(server):
    fake, _ = server
    yield fake
    fake.fault = None
    for view in fake.list():
        fake.delete(view.pool)


@pytest.fixture
def client(server, registry):
    with ControlClient(server[1]) as client:
        yield client


@pytest.fixture
def peer():
    """A listening socket of a server that is none of ours, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_pool_lives_through_the_client(client):
    """Create, list, get, reset, step and delete do what the HTTP routes do."""
    made = client.create_pool(env_id="CartPole-v1", num_envs=2, name="a")
    assert client.list_pools() == [made] == [client.get_pool("a")]
    local = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    observations, _ = local.reset(seed=5)
    assert np.array_equal(np.array(client.reset_pool("a", 5)["observations"], np.float32), observations)
    observations, rewards, *_ = local.step(np.array([0, 1]))
    answer = client.step_pool("a", np.array([0, 1]))
    assert np.array_equal(np.array(answer["observations"], np.float32), observations)
    assert answer["rewards"] == rewards.tolist()
    assert client.delete_pool("a") is None
    assert client.list_pools() == []


def test_envs_are_searched_at_the_server(client):
    """``envs`` filters by the text."""
    assert "CartPole-v1" in [env["id"] for env in client.envs("CartPole")]
    assert len(client.envs()) == len(offered_env_ids())


def test_refusals_are_the_errors_of_the_tree(client, registry):
    """A problem becomes the exception that the server raised, with its details."""
    with pytest.raises(UnknownEnv) as refused:
        client.create_pool(env_id="cartpole-v1", num_envs=1)
    assert "CartPole-v1" in refused.value.details["nearest"]
    for code, kind in ERRORS.items():
        registry.fault = kind("text", rows=[1])
        with pytest.raises(kind) as refused:
            client.get_pool("a")
        assert (type(refused.value), refused.value.message, refused.value.details) == (kind, "text", {"rows": [1]}), (
            code
        )
    registry.fault = None


@pytest.mark.parametrize("pool", ["a/../..", "../envs", "a?b=c", "a#b", "a b", "%2e%2e", "ž", "..", "."])
def test_a_pool_id_stays_one_segment(client, pool):
    """No id reaches another route, whatever is in it."""
    with pytest.raises(UnknownPool):
        client.get_pool(pool)
    with pytest.raises(UnknownPool):
        client.delete_pool(pool)


def test_values_that_json_cannot_carry_are_refused(client):
    """An option of another class is refused before anything is sent."""
    with pytest.raises(Unportable, match="object"):
        client.create_pool(env_id="CartPole-v1", num_envs=1, env_kwargs={"it": object()})


def test_nobody_there_is_said(peer):
    """Where nobody listens the error names the address and how to start a server."""
    listener, url = peer
    listener.close()
    with ControlClient(url) as client, pytest.raises(ServerUnreachable, match="vecserver serve") as refused:
        client.list_pools()
    assert url in refused.value.message


def test_an_answer_that_does_not_come_is_a_deadline(peer):
    """A server that takes longer than the client waits is no unreachable one."""
    _, url = peer
    with ControlClient(url, timeout=0.05) as client, pytest.raises(DeadlineExceeded, match=r"0\.05 s") as refused:
        client.list_pools()
    assert type(refused.value) is DeadlineExceeded


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", MalformedMessage),
        (b'HTTP/1.1 500 No\r\nContent-Length: 14\r\n\r\n{"detail": "x"}', MalformedMessage),
        (b"", ServerUnreachable),
    ],
)
def test_another_server_is_told_apart(peer, answer, error):
    """What is no vecserver's answer is said to be none; an answer cut off is a server that went away."""
    listener, url = peer

    def serve():
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    with ControlClient(url) as client, pytest.raises(error, match=url):
        client.list_pools()
    thread.join()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", "", "http://[::1"])
def test_an_address_is_checked(url):
    """What is no HTTP address is refused with one that is."""
    with pytest.raises(TransportUnavailable):
        ControlClient(url)


def test_a_token_is_sent_and_never_shown(peer):
    """The token travels as a bearer token and stands in no repr."""
    listener, url = peer
    heads = []

    def serve():
        with listener.accept()[0] as connection:
            heads.append(connection.recv(4096))
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"pools": []}')

    thread = threading.Thread(target=serve)
    thread.start()
    with ControlClient(url, token="s3cret") as client:
        assert client.list_pools() == []
        assert "s3cret" not in repr(client) + repr(vars(client))
    thread.join()
    assert b"Authorization: Bearer s3cret\r\n" in heads[0]
