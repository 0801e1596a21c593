from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.environments import env_id
from vecserver.serve import _listen, _url
from vecserver.wire.errors import PortUnavailable, ServerUnreachable, VecServerError
from vecserver_client.control import ControlClient

PATIENCE_S = 30.0


class Server:
    """A server in a process of its own, with this process for a parent."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.line, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "vecserver",
                    "serve",
                    "--port",
                    "0",
                    "--parent-fd",
                    str(theirs.fileno()),
                    *arguments,
                ],
                pass_fds=(theirs.fileno(),),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "VECSERVER_GRACE": "1", **environment},
            )
        self.line.settimeout(PATIENCE_S)
        with self.line.makefile("r") as lines:
            self.ready = json.loads(lines.readline())
        self.url = self.ready["url"]

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def end(self) -> str:
        """Close the line, wait for the end, and give what it printed."""
        self.line.close()
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return out.decode()


@contextmanager
def server(*arguments: str, **environment: str):
    running = Server(*arguments, **environment)
    try:
        yield running
    finally:
        running.end()


def own_directories() -> list[Path]:
    return sorted(Path(os.environ["VECSERVER_RUNTIME_DIR"]).iterdir())


def test_the_parent_is_told_where_the_server_is():
    """The ready line has the address and the process id, requests are answered from then on, and nothing is printed."""
    running = Server()
    try:
        assert running.ready["pid"] == running.process.pid
        assert running.url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{running.url}/readyz").json() == {"status": "ready"}
    finally:
        printed = running.end()
    assert (printed, running.process.returncode) == ("", 0)


def test_a_server_ends_with_its_parent():
    """When the parent's end of the line is closed, the server ends its pools and its directory and leaves."""
    with server() as running, ControlClient(running.url) as client:
        pool = client.create_pool(env_id="CartPole-v1", num_envs=2, workers=1)
        (directory,) = own_directories()
        assert directory.stat().st_mode & 0o777 == 0o700
        running.line.close()
        assert running.wait() == 0
        assert not Path(f"/proc/{pool['host_pid']}").exists()
        assert own_directories() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_in_order(number):
    """SIGTERM and SIGINT end the pools, remove the directory, and the server leaves with 0."""
    with server() as running, ControlClient(running.url) as client:
        pool = client.create_pool(env_id="CartPole-v1", num_envs=1, workers=1)
        running.process.send_signal(number)
        assert running.wait() == 0
        assert not Path(f"/proc/{pool['host_pid']}").exists()
        assert own_directories() == []


def test_requests_are_answered_while_the_server_drains(tmp_path):
    """After the first signal /readyz says no and new pools are refused, until the batch in flight is done."""
    gate = tmp_path / "gate"
    with server(VECSERVER_GRACE="20") as running, ControlClient(running.url) as client:
        slow = client.create_pool(env_id=env_id("Slow-v0"), num_envs=1, env_kwargs={"gate": str(gate)})["pool"]
        client.reset_pool(slow, 0)
        answers = []

        def step_once():
            with contextlib.suppress(VecServerError):
                answers.append(client.step_pool(slow, [1]))

        step = threading.Thread(target=step_once)
        step.start()
        wait_until(lambda: client.get_pool(slow)["stats"]["batches"])
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{running.url}/readyz").status_code == 503)
        refused = httpx.post(f"{running.url}/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 1})
        assert (refused.status_code, refused.json()["code"]) == (503, "pool_stopping")
        gate.touch()
        assert running.wait() == 0
        step.join(PATIENCE_S)
    assert len(answers) == 1


def test_a_second_signal_ends_a_server_at_once():
    """A second signal does not wait for a pool that hangs, and leaves no directory."""
    with server() as running, ControlClient(running.url) as client:
        pool = client.create_pool(env_id=env_id("Hang-v0"), num_envs=1, workers=1)
        client.reset_pool(pool["pool"], 0)
        step = threading.Thread(target=lambda: pytest.raises(ServerUnreachable, client.step_pool, pool["pool"], [1]))
        step.start()
        wait_until(lambda: client.get_pool(pool["pool"])["stats"]["driver"])
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{running.url}/readyz").status_code == 503)
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 128 + signal.SIGTERM
        assert own_directories() == []
        step.join(PATIENCE_S)
        wait_until(lambda: not Path(f"/proc/{pool['host_pid']}").exists())


def wait_until(condition) -> None:
    """Ask again and again until it is so."""
    turn = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if condition():
            return
        turn.wait(0.01)
    raise AssertionError(f"did not come true within {PATIENCE_S:g} s")


def test_a_server_says_how_to_begin():
    """Without a parent the server prints its address and a command that makes a first pool."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vecserver", "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        first, second = process.stdout.readline().decode(), process.stdout.readline().decode()
        url = first.split()[2]
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert f"curl {url}/v1/pools --json " in second
        assert json.loads(second[second.index("{") : second.rindex("}") + 1])["env_id"] == "CartPole-v1"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def test_two_servers_cannot_have_one_port():
    """Of two servers that want one port at the same time the later one is refused, although neither accepts yet."""
    with _listen("127.0.0.1", 0) as first, pytest.raises(PortUnavailable) as refused:
        _listen("127.0.0.1", first.getsockname()[1])
    assert "in use" in refused.value.message


@pytest.mark.parametrize(("host", "words"), [("no.such.host.invalid", "no address"), ("192.0.2.1", "192.0.2.1")])
def test_an_address_of_another_machine_is_refused(host, words):
    """A host that is none of this machine's is refused by name."""
    with pytest.raises(PortUnavailable, match=words):
        _listen(host, 0)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7"),
        ("0.0.0.0", "http://127.0.0.1:7"),
        ("::", "http://[::1]:7"),
        ("10.1.2.3", "http://10.1.2.3:7"),
    ],
)
def test_the_address_told_can_be_reached(address, url):
    """A wildcard is no address to connect to: loopback is told instead."""
    assert _url(address, 7) == url
