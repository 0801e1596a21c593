"""A server as an operator starts it: who gets in, and where its token is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import vecserver_client as vs
from tests.bearer import headers
from tests.e2e.test_leftovers import family
from tests.sampling import of_which
from vecserver.control.access.tokens import digest_of, new_token
from vecserver.wire.errors import Forbidden, ServerUnreachable, Unauthorized
from vecserver_client.openenv import GymAction, GymEnvironment

PATIENCE_S = 60.0
TLS = Path(__file__).resolve().parents[1] / "tls"


class Started:
    """A server and what it printed.

    Attributes:
        url: Its address.
        login: Its link for a browser.
    """

    def __init__(self, process) -> None:
        self.process = process
        self._printed = [""]
        while not self._printed[-1].startswith("vecserver at "):  # its log is before and behind
            self.read_line()
        self.url = self._printed[-1].split()[2]
        self.read_line()
        self.login = self.read_line().split()[-1]

    def read_line(self) -> str:
        """What it prints next."""
        self._printed.append(self.process.stdout.readline())
        assert self._printed[-1], f"it ended: {self._printed}"
        return self._printed[-1]

    def end(self) -> str:
        """End it; returns all that it printed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self._printed.append(self.process.communicate(timeout=PATIENCE_S)[0])
        return "".join(self._printed)


@contextmanager
def started(*arguments: str, **environment: str):
    """Runs ``vecserver serve`` with its log."""
    command = [sys.executable, "-m", "vecserver", "serve", "--port", "0", "--log-level", "info", *arguments]
    environment = {**os.environ, "VECSERVER_GRACE": "1", **environment}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            running = Started(process)
            yield running
            running.end()
        finally:
            process.kill()


def everywhere(pids: list[int]) -> dict[str, bytes]:
    """What others could read of processes: command lines, and what children were given."""
    found = {}
    for pid in pids:
        found[f"command line of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
        if pid != pids[0]:
            found[f"environment of {pid}"] = Path(f"/proc/{pid}/environ").read_bytes()
    return found


@of_which("source", ["variable", "file"], 1)
def test_a_token_is_nowhere_but_where_it_belongs(tmp_path, source):
    """Not in logs, metrics, errors, command lines, nor in what hosts, workers and sessions are given."""
    token = new_token()
    (tmp_path / "token").write_text(token)
    given = {"VECSERVER_TOKEN": token} if source == "variable" else {}
    arguments = () if given else ("--token-file", str(tmp_path / "token"))
    with started("--log-level", "debug", "--log-format", "json", *arguments, **given) as server:
        with (
            vs.ControlClient(server.url) as control,  # found by itself
            GymEnvironment(server.url) as env,
            httpx.Client(base_url=server.url, headers=headers(server.url), trust_env=False) as http,
        ):
            assert control.headers == {"Authorization": f"Bearer {token}"}
            pool = control.create_pool(env_id="CartPole-v1", num_envs=2, workers=2)["pool"]
            control.reset_pool(pool, 1)
            env.reset(seed=1)
            env.step(GymAction(action=1))
            code = httpx.URL(control.make_login()).params["code"]
            assert http.get("/web/login", params={"code": code}).status_code == 200
            texts = [
                http.get(path, params={"token": token}).text for path in ("/metrics", "/v1", "/openapi.json", "/v1/x")
            ]
            wrong = http.get("/v1", headers={"Authorization": f"Bearer {token}x"})
            assert wrong.status_code == 401
            members = family(server.process.pid)
            assert len(members) >= 5, "server, host, two workers, a nursery"
            places = everywhere(members) | {"answers": "".join([*texts, wrong.text]).encode()}
        places["log"] = server.end().encode()
    assert b'"GET /web/login' in places["log"], "the requests are in the log"
    for place, found in places.items():
        assert token.encode() not in found, place
        assert code.encode() not in found, place


def test_each_token_of_a_file_has_its_scope(tmp_path, monkeypatch):
    """The server's own one stays, and is found."""
    scopes = ("read", "use", "create")
    tokens = {scope: new_token() for scope in scopes}
    text = "".join(f'[tokens.{scope}]\nsha256 = "{digest_of(tokens[scope])}"\nscope = "{scope}"\n' for scope in scopes)
    (tmp_path / "tokens.toml").write_text(text)
    with started("--tokens", str(tmp_path / "tokens.toml")) as server:
        with vs.make_vec("CartPole-v1", 2, url=server.url, token=tokens["create"], transport="ws") as envs:
            envs.reset(seed=1)
            with vs.ControlClient(server.url, tokens["read"]) as reader:
                assert len(reader.list_pools()) == 1
                with pytest.raises(Forbidden, match="scope use") as refused:
                    reader.step_pool(envs.pool, [0, 0])
            assert (refused.value.details["needed"], refused.value.details["granted"]) == ("use", "read")
            with pytest.raises(Forbidden, match="scope use"):
                vs.attach(server.url, envs.pool, token=tokens["read"], transport="ws")
        with pytest.raises(Unauthorized):
            vs.make_vec("CartPole-v1", 2, url=server.url, token=new_token())
        monkeypatch.setenv("VECSERVER_TOKEN", tokens["use"])
        with pytest.raises(Forbidden, match="scope create"):
            vs.make_vec("CartPole-v1", 2, url=server.url)
        with vs.make_vec("CartPole-v1", 2) as envs:  # a private server, whose token is another
            envs.reset(seed=1)


def test_over_tls_everything_works(monkeypatch):
    """With a certificate of one's own: HTTP, batches over the WebSocket, OpenEnv; and nobody else's is believed."""
    certificate = str(TLS / "localhost.pem")
    with started("--tls-cert", certificate, "--tls-key", str(TLS / "localhost.key")) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert server.login.startswith("https://127.0.0.1:")
        with pytest.raises(ServerUnreachable, match="certificate"):
            vs.make_vec("CartPole-v1", 2, url=server.url)
        monkeypatch.setenv("VECSERVER_CA_FILE", certificate)
        with vs.make_vec("CartPole-v1", 2, url=server.url, transport="ws") as envs:
            assert envs.reset(seed=1)[0].shape == (2, 4)
        with GymEnvironment(server.url) as env:
            assert len(env.reset(seed=1).observation.state) == 4


def test_a_token_that_was_made_is_printed_when_asked_for():
    """As a container's log shows it; one that was given is not."""
    with started("--print-token") as server:
        line = server.read_line()
        assert headers(server.url)["Authorization"] == f"Bearer {re.fullmatch('token: (.+)', line.strip())[1]}"
    token = new_token()
    with started("--print-token", VECSERVER_TOKEN=token) as server:
        assert token not in server.end()


def test_insecure_is_loud():
    """A warning at the start, and for whoever asks."""
    with started("--host", "0.0.0.0", "--insecure", "--log-format", "text") as server:
        about = httpx.get(f"{server.url}/v1", headers=headers(server.url), trust_env=False).json()
        assert (about["insecure"], about["scope"]) == (True, "admin")
        assert httpx.get(f"{server.url}/v1/pools", trust_env=False).status_code == 401
        assert "INSECURE: whoever is on the network" in server.end()
