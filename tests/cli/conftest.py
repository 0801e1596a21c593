from __future__ import annotations

import json
import socket
import threading

import pytest
import uvicorn

from tests.control.fakes import FakeRegistry
from vecserver.cli import main
from vecserver.control.app import create_app


@pytest.fixture(scope="module")
def server():
    """The address of the app around a fake registry, behind real sockets."""
    listener = socket.create_server(("127.0.0.1", 0))
    registry = FakeRegistry()
    running = uvicorn.Server(uvicorn.Config(create_app(registry), log_config=None, lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join()
    registry.close()


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def vecserver(server, monkeypatch, capsys):
    """Runs the command line in this process, against the server."""
    monkeypatch.setenv("VECSERVER_URL", server)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["vecserver", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code or 0, *capsys.readouterr())

    yield run
    run("pools", "delete", "--all")
