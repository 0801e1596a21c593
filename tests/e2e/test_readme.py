"""What the README shows is run as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from vecserver_client import LocalServer
from vecserver_client.credentials import authorization

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_runs():
    """The lines of use work in a program of their own."""
    (program,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    transport, steps = done.stdout.split()
    assert transport == "shm"
    assert int(steps) > 60_000


def test_the_curl_lines_of_the_readme_work():
    """Each answers with success, in their order, against one server."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl")]
    assert len(lines) >= 4
    with closing(LocalServer()) as server, httpx.Client(trust_env=False, timeout=60) as http:
        for line in lines:
            method, url, headers, body = parse_curl(line, server.token)
            answer = http.request(
                method, url.replace("localhost:8000", server.url.removeprefix("http://")), headers=headers, content=body
            )
            assert answer.is_success, (line, answer.text)
            if "/step" in url:
                assert answer.json()["rewards"] == [1.0, 1.0]


def parse_curl(line: str, token: str) -> tuple[str, str, dict[str, str], str | None]:
    """Method, address, headers and body of a curl command line, as far as the README uses them."""
    words = iter(shlex.split(line)[1:])
    method, url, headers, body = None, "", {}, None
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(":")
            if name == "@$auth":  # what `vecserver token header` wrote
                headers |= authorization(token)
                continue
            headers[name] = value.strip()
        elif word == "-d":
            body = next(words)
        elif not word.startswith("-"):
            url = f"http://{word}"
    return method or ("POST" if body else "GET"), url, headers, body


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_the_make_targets_of_the_readme_exist(target):
    """Every `make …` of the README is in the Makefile."""
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_links_of_the_readme_lead_somewhere():
    """No relative link is dead."""
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / path).exists(), path
