from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vecserver import connection_file
from vecserver.connection_file import ConnectionFile, Server, UnsafeFolder, find, folder, is_loopback, sweep

URL = "http://127.0.0.1:8000"
KILLED = """
import os, sys
from vecserver.connection_file import ConnectionFile
file = ConnectionFile("127.0.0.1", sys.argv[1], "old")
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("VECSERVER_RUNTIME_DIR", str(tmp_path))


def test_a_file_is_found_while_its_server_lives():
    """And removed with it, the folder too; both are this user's alone, whatever the mask."""
    before = os.umask(0)
    try:
        with ConnectionFile("127.0.0.1", URL, "secret"):
            assert find(URL) == Server(URL, "secret")
            (file,) = folder().iterdir()
            assert (file.name, file.stat().st_mode & 0o777, folder().stat().st_mode & 0o777) == (
                "8000.json",
                0o600,
                0o700,
            )
            assert "secret" not in repr(find(URL))
    finally:
        os.umask(before)
    assert (find(URL), folder().exists()) == (None, False)


@pytest.mark.parametrize(
    ("bound", "url", "asked", "address"),
    [
        ("127.0.0.1", URL, "http://localhost:8000", URL),
        ("127.0.0.1", URL, "http://localhost:8000/", URL),
        ("127.0.0.1", URL, "http://0.0.0.0:8000", "http://0.0.0.0:8000"),
        ("127.0.0.1", URL, "http://127.0.0.1:8000/prefix", "http://127.0.0.1:8000/prefix"),
        ("0.0.0.0", URL, "http://127.0.0.1:8000", URL),
        ("0.0.0.0", URL, "http://localhost:8000", URL),
        ("::1", "http://[::1]:8000", "http://localhost:8000", "http://[::1]:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000", "http://10.1.2.3:8000", "http://10.1.2.3:8000"),
        ("127.0.0.1", "https://127.0.0.1:8000", "https://localhost:8000", "https://127.0.0.1:8000"),
    ],
)
def test_an_address_finds_its_server(bound, url, asked, address):
    """``localhost`` is replaced: on another of its addresses another user may listen."""
    with ConnectionFile(bound, url, "secret"):
        assert find(asked) == Server(address, "secret")


@pytest.mark.parametrize(
    ("bound", "url", "asked"),
    [
        ("127.0.0.1", URL, "http://127.0.0.1:8001"),
        ("127.0.0.1", URL, "http://[::1]:8000"),
        ("127.0.0.1", URL, "http://127.0.0.2:8000"),
        ("127.0.0.1", URL, "https://127.0.0.1:8000"),
        ("127.0.0.1", URL, "http://gpu1:8000"),
        ("0.0.0.0", URL, "http://gpu1:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000", "http://localhost:8000"),
        ("127.0.0.1", URL, "http://127.0.0.1:8000@evil.example"),
    ],
)
def test_another_address_finds_nothing(bound, url, asked):
    """A token is sent nowhere but to its server."""
    with ConnectionFile(bound, url, "secret"):
        assert find(asked) is None


def test_a_killed_servers_file_is_not_believed_and_is_swept():
    """Its lock ended with it; those of servers that live stay."""
    assert subprocess.run([sys.executable, "-c", KILLED, URL], check=False).returncode == -9
    assert (folder() / "8000.json").exists()
    assert find(URL) is None
    with ConnectionFile("127.0.0.1", "http://127.0.0.1:8001", "new"):
        sweep()
        assert [file.name for file in folder().iterdir()] == ["8001.json"]
        assert find("http://127.0.0.1:8001").token == "new"
    sweep()
    assert not folder().exists()


def test_the_later_server_of_a_port_is_found():
    """And the end of the other takes nothing away from it."""
    first = ConnectionFile("127.0.0.1", URL, "first")
    with ConnectionFile("127.0.0.1", URL, "second"):
        assert find(URL).token == "second"
        first.close()
        assert find(URL).token == "second"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o701])
def test_a_folder_that_others_may_enter_is_refused(mode):
    """When a file is written and when one is read."""
    folder().mkdir()
    folder().chmod(mode)
    with pytest.raises(UnsafeFolder, match="remove it"):
        ConnectionFile("127.0.0.1", URL, "secret")
    assert find(URL) is None


def test_what_others_may_read_or_replace_is_not_believed(tmp_path, monkeypatch):
    """A file with another mode or owner, a link in the place of file or folder, and what is no file of a server's."""
    with ConnectionFile("127.0.0.1", URL, "secret"):
        own, file = folder(), folder() / "8000.json"
        file.chmod(0o644)
        assert find(URL) is None
        file.chmod(0o600)
        assert find(URL) is not None
        with monkeypatch.context() as patch:
            patch.setattr(connection_file.os, "geteuid", lambda: os.getuid() + 1)
            patch.setattr(connection_file, "folder", lambda: own)
            assert find(URL) is None
        kept = tmp_path / "kept"
        file.rename(kept)
        file.symlink_to(kept)
        assert find(URL) is None
        file.unlink()
        kept.rename(file)
        moved = tmp_path / "moved"
        folder().rename(moved)
        folder().symlink_to(moved)
        assert find(URL) is None
        with pytest.raises(OSError, match="8001|vecserver-"):
            ConnectionFile("127.0.0.1", "http://127.0.0.1:8001", "secret")
        folder().unlink()
        moved.rename(folder())
        assert find(URL) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "x"}', json.dumps({"a": "b" * 9000})])
def test_a_file_that_says_something_else_is_none(text):
    """A damaged one is as none at all."""
    with ConnectionFile("127.0.0.1", URL, "secret"):
        (folder() / "8000.json").write_text(text)
        assert find(URL) is None


def test_the_place_is_the_users_own(monkeypatch, tmp_path):
    """What is chosen, then the user's runtime directory, then that for temporary files."""
    assert folder() == tmp_path / f"vecserver-{os.geteuid()}"
    monkeypatch.delenv("VECSERVER_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp/t")
    assert folder().parent == Path("/tmp/t")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert folder().parent == tmp_path


@pytest.mark.parametrize(("host", "near"), [("localhost", True), ("127.9.9.9", True), ("::1", True), ("gpu1", False)])
def test_what_is_loopback(host, near):
    """Addresses, and one name."""
    assert is_loopback(host) is near
