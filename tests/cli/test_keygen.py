"""``vecserver keygen``: a pair of files, and nothing that was there before is lost."""

from __future__ import annotations

import os
import stat

import pytest
from typer.testing import CliRunner

from vecserver.cli import app
from vecserver.pools import curve
from vecserver.pools.curve import read_keys


def run(*arguments: str):
    return CliRunner().invoke(app, ["keygen", *arguments])


def said(ended) -> str:
    """What it printed, without the frame around an error."""
    return " ".join(ended.output.replace("│", " ").split())


@pytest.fixture
def usual_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_it_writes_a_pair_that_a_server_takes(tmp_path):
    """The secret one is its owner's alone whatever the umask; it is not shown."""
    ended = run(str(tmp_path / "keys"))
    assert ended.exit_code == 0
    secret, public = tmp_path / "keys" / "vecserver.key", tmp_path / "keys" / "vecserver.pub"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (secret, public)] == [0o600, 0o644]
    keys = read_keys(secret)
    assert public.read_text().strip() == keys.public
    assert "vecserver.key" in said(ended)
    assert keys.secret not in said(ended)


def test_it_replaces_nothing(tmp_path):
    """Clients may know the old key; the refusal names the file."""
    assert run(str(tmp_path)).exit_code == 0
    before = (tmp_path / "vecserver.key").read_text()
    ended = run(str(tmp_path))
    assert ended.exit_code == 2
    assert "is there already" in said(ended)
    assert (tmp_path / "vecserver.key").read_text() == before


def test_it_says_where_it_cannot_write(tmp_path):
    """By the operating system's reason."""
    (tmp_path / "file").touch()
    ended = run(str(tmp_path / "file" / "keys"))
    assert ended.exit_code == 2
    assert "cannot be written to" in said(ended)


def test_it_says_what_an_installation_lacks(tmp_path, monkeypatch):
    """Where libzmq has no CURVE there are no keys to make."""
    monkeypatch.setattr(curve, "has_curve", lambda: False)
    ended = run(str(tmp_path / "keys"))
    assert ended.exit_code == 2
    assert "no CURVE" in said(ended)
    assert not (tmp_path / "keys").exists()
