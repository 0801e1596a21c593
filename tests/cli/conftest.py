from __future__ import annotations

import json

import pytest

from tests.control.fakes import FakeRegistry, served
from vecserver.cli import main


@pytest.fixture(scope="module")
def server():
    with served(FakeRegistry()) as url:
        yield url


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
