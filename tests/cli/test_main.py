from __future__ import annotations

import subprocess
import sys

import pytest

from vecserver import __version__
from vecserver.cli import main
from vecserver.wire.errors import UnknownPool


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_importing_the_command_line_is_light():
    """The help needs neither a web framework nor Gymnasium, nor numpy."""
    code = (
        "import sys, vecserver.cli; heavy = {'fastapi', 'uvicorn', 'gymnasium', 'numpy', 'httpx', 'pydantic', 'zmq'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    assert run("-c", code).stdout.strip() == "[]"


def test_python_m_vecserver_is_the_command_line():
    """``python -m vecserver`` prints its version and lists its commands."""
    assert run("-m", "vecserver", "--version").stdout == f"vecserver {__version__}\n"
    shown = run("-m", "vecserver", "--help").stdout
    assert all(command in shown for command in ("serve", "envs", "pools"))


def test_an_error_is_one_line_and_exit_code_1(monkeypatch, capsys):
    """An error of the tree is one line on stderr with its code, without a traceback."""

    def fail():
        raise UnknownPool("no pool 'x'", pool="x")

    monkeypatch.setattr("vecserver.cli.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error [unknown_pool]: no pool 'x'\n")
