"""What ``docs/asyncio.md`` shows is run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from vecserver_client import LocalServer

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "asyncio.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
PRINTED = ["", r"\[\d{3}\.0, -\d{3}\.0\]\n", r"5\n"]


@pytest.fixture(scope="module")
def server():
    with closing(LocalServer()) as running:
        yield running


@pytest.mark.parametrize(
    ("program", "printed"), [*zip(PROGRAMS, PRINTED, strict=True)], ids=["loop", "gather", "timeout"]
)
def test_the_program_runs(server, program, printed):
    """In a process of its own, with nothing left unclosed."""
    environment = {**os.environ, "VECSERVER_URL": server.url}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(printed, done.stdout), done.stdout
