from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.bearer import headers
from tests.environments import env_id
from tests.pools.odd_environments import odd
from tests.sampling import of_which
from vecserver import connection_file
from vecserver.serve import _listen, _own_directory, _url
from vecserver.wire.errors import PoolLost, PortUnavailable, ServerUnreachable, VecServerError
from vecserver_client import aio, attach, make_vec
from vecserver_client.control import ControlClient

PATIENCE_S = 30.0
NEW = {"env_id": "CartPole-v1", "num_envs": 1}


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


def test_the_parent_is_told_where_the_server_is(tmp_path):
    """The ready line has the address and the process id, requests are answered from then on, and nothing is printed.

    A server that ends with a program keeps no pools for another one's.
    """
    running = Server(VECSERVER_STATE_DIR=str(tmp_path))
    try:
        assert running.ready["pid"] == running.process.pid
        assert running.url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{running.url}/readyz").json() == {"status": "ready"}
        body = {"env_id": "CartPole-v1", "num_envs": 1, "durable": True}
        answer = httpx.post(f"{running.url}/v1/pools", json=body, headers=headers(running.url, running.ready["token"]))
        assert answer.json()["field"] == "durable"
    finally:
        printed = running.end()
    assert (printed, running.process.returncode) == ("", 0)


def test_a_server_ends_with_its_parent():
    """When the parent's end of the line is closed, the server ends its pools and its directory and leaves."""
    with server() as running, ControlClient(running.url) as client:
        pool = client.create_pool(env_id="CartPole-v1", num_envs=2, workers=1)
        (directory,) = {*own_directories()} - {connection_file.folder()}
        assert directory.stat().st_mode & 0o777 == 0o700
        running.line.close()
        assert running.wait() == 0
        assert not Path(f"/proc/{pool['host_pid']}").exists()
        assert own_directories() == []


@of_which("number", [signal.SIGTERM, signal.SIGINT], 0)
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
        refused = httpx.post(f"{running.url}/v1/pools", json=NEW, headers=headers(running.url))
        assert (refused.status_code, refused.json()["code"]) == (503, "pool_stopping")
        gate.touch()
        assert running.wait() == 0
        step.join(PATIENCE_S)
    assert len(answers) == 1


def test_requests_that_wait_are_answered_when_the_server_ends():
    """Refused ones that rest, and one whose body does not come: each has an answer, and the log has no traceback."""
    with server() as running, contextlib.ExitStack() as stack:
        address = running.url.removeprefix("http://").split(":")
        waiting = [stack.enter_context(socket.create_connection((address[0], int(address[1])))) for _ in range(200)]
        body = f"POST /v1/pools HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {running.ready['token']}\r\n"
        waiting[0].sendall(f"{body}Content-Length: 9\r\n\r\n".encode())
        for each in waiting[1:]:
            each.sendall(b"GET /v1/pools HTTP/1.1\r\nHost: localhost\r\n\r\n")
        waiting[1].recv(1, socket.MSG_PEEK)  # the first refusals do not wait
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        statuses = {each.makefile("rb").read()[:13].split()[-1] for each in waiting}
        printed = running.end()
    assert statuses <= {b"401", b"503"}
    assert "Traceback" not in printed


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


def test_a_server_under_load_ends_in_time():
    """SIGTERM while trainers step without a pause: gone long before the grace is over, and the trainers are told."""
    with server(VECSERVER_GRACE="25") as running:
        trainers = [Trainer(running.url, transport) for transport in ("shm", "tcp")]
        with ControlClient(running.url) as client:
            pools = client.list_pools()
        assert all(trainer.stepped.wait(PATIENCE_S) for trainer in trainers)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        assert time.monotonic() - began < 20.0
        assert [type(trainer.end()) for trainer in trainers] == [PoolLost, PoolLost]
        pids = [pid for pool in pools for pid in (pool["host_pid"], *pool["stats"]["worker_pids"])]
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        assert own_directories() == []


class Trainer:
    """Steps a pool of its own without a pause, in a thread, until it is told why not."""

    def __init__(self, url: str, transport: str) -> None:
        self.stepped = threading.Event()
        self._envs = make_vec("CartPole-v1", 8, url=url, transport=transport, workers=2)
        self._told: list[VecServerError] = []
        self._thread = threading.Thread(target=self._train)
        self._thread.start()

    def _train(self) -> None:
        try:
            self._envs.reset(seed=1)
            while True:
                self._envs.step(np.zeros(8, np.int64))
                self.stepped.set()
        except VecServerError as error:
            self._told.append(error)

    def end(self) -> VecServerError:
        """What it was told."""
        self._thread.join(PATIENCE_S)
        self._envs.close()
        return self._told[0]


def test_durable_pools_are_there_after_a_restart(tmp_path):
    """Those of the command line, of a file and of POST /v1/pools; the driver of before is told, and attaches again."""
    pools = tmp_path / "pools.toml"
    pools.write_text(f'[pools.eval]\nenv = "{odd("Noisy-v0")}"\nnum_envs = 1\nworkers = 1\n')
    declared = (
        "--allow-module",
        "tests.*",
        "--pool",
        "name=train,env=CartPole-v1,num_envs=2,workers=1",
        "--pools",
        str(pools),
    )
    state = {"VECSERVER_STATE_DIR": str(tmp_path / "state")}
    with public_server(*declared, **state) as (first, url), ControlClient(url) as client:
        make_vec("CartPole-v1", 1, workers=1, url=url, pool="kept", durable=True).close()
        asyncio.run(keep_another(url))
        before = ready_pools(client)
        envs = attach(url, "kept")
        envs.reset(seed=1)
        first.kill()
        first.wait()
        give_up = time.monotonic() + PATIENCE_S
        with pytest.raises(PoolLost):
            while time.monotonic() < give_up:  # over shm a few may be done before the workers are gone
                envs.step(np.zeros(1, np.int64))
        envs.close()
    with public_server(*declared, **state) as (second, url), ControlClient(url) as client:
        after = ready_pools(client)
        assert before.keys() == after.keys() == {"train", "eval", "kept", "other"}
        assert not {*before.values()} & {*after.values()}
        client.delete_pool("kept")
        second.terminate()
        _, said = second.communicate(timeout=PATIENCE_S)
    events = [json.loads(line) for line in said.splitlines()]
    assert {event["level"] for event in events} == {"info"}
    printed = [event for event in events if event["logger"] == "vecserver.pools.output"]
    assert [(event["pool"], event["message"]) for event in printed] == [("eval", "made with a noise")]


async def keep_another(url: str) -> None:
    """The same from an event loop."""
    async with await aio.make_vec("CartPole-v1", 1, workers=1, url=url, pool="other", durable=True):
        pass


def ready_pools(client: ControlClient) -> dict[str, str]:
    """The durable pools and their epochs, once the server is ready."""
    wait_until(lambda: httpx.get(f"{client.url}/readyz").status_code == 200)
    pools = client.list_pools()
    assert {(pool["state"], pool["durable"]) for pool in pools} == {("ready", True)}
    return {pool["pool"]: pool["epoch"] for pool in pools}


@contextmanager
def public_server(*arguments: str, **environment: str):
    """A server without a parent, which keeps pools."""
    command = [sys.executable, "-m", "vecserver", "serve", "--port", "0", *arguments]
    environment = {**os.environ, "VECSERVER_GRACE": "1", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        try:
            yield process, process.stdout.readline().decode().split()[2]
        finally:
            process.kill()


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
        assert f"vecserver token header --url {url} | curl -H @- {url}/v1/pools --json " in second
        assert json.loads(second[second.index("{") : second.rindex("}") + 1])["env_id"] == "CartPole-v1"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


@pytest.mark.parametrize("insecure", [False, True])
def test_a_server_for_other_machines_encrypts_or_says_that_it_does_not(insecure):
    """Its pools' tcp ports; a client needs nothing but the address."""
    running = Server("--host", "0.0.0.0", *["--insecure"] * insecure)
    try:
        with (
            ControlClient(running.url) as control,
            closing(make_vec("CartPole-v1", 2, url=running.url, transport="tcp")) as envs,
        ):
            envs.reset(seed=1)
            (pool,) = control.list_pools()
            access = control.ask_access(pool["pool"], None)
    finally:
        said = running.end()
    assert [access["ticket"] is None, access["server_key"] is None] == [not insecure, insecure]
    assert ("INSECURE" in said) is insecure
    assert access["ticket"] is None or access["ticket"] not in said


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


def test_the_folder_of_a_killed_server_is_removed_by_the_next(tmp_path):
    """One whose owner lives stays, and so does what has no owner, or is no folder of a server's."""
    for name in ("vecserver-killed", "vecserver-new", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "vecserver-killed" / "owner").touch()
    (tmp_path / "vecserver-killed" / "0.log").write_text("the end")
    (tmp_path / "other" / "owner").touch()
    (tmp_path / "vecserver-link").symlink_to(tmp_path / "other")
    with _own_directory(tmp_path) as living:
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {living.name, "vecserver-new", "other", "vecserver-link"}
        with _own_directory(tmp_path) as another:
            assert living.exists()
            assert another != living
    assert {path.name for path in tmp_path.iterdir()} == {"vecserver-new", "other", "vecserver-link"}
