"""Where the page is, who is sent there, and what it costs those who do not look."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.bearer import headers
from tests.control.conftest import serving as serving_app
from tests.control.fakes import FakeRegistry
from tests.test_serve import server as private_server
from vecserver.control.app import create_app
from vecserver.control.openenv.sessions import SessionOptions, Sessions
from vecserver.control.web import mount
from vecserver.control.web.mount import WebPage

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def app():
    registry = FakeRegistry()
    with serving_app(create_app(registry, page=WebPage(registry, Sessions(SessionOptions())))) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/web"])
@pytest.mark.parametrize(
    ("forwarded", "target"),
    [
        ({}, "/web/"),
        ({"X-Forwarded-Prefix": "/lab/vs/"}, "/lab/vs/web/"),
        ({"X-Forwarded-Prefix": "//evil.example"}, "/web/"),
        ({"X-Forwarded-Prefix": "http://evil.example"}, "/web/"),
    ],
)
def test_browsers_are_sent_to_the_page(app, path, forwarded, target):
    """Below the prefix that a proxy says, if it is one."""
    answer = app.get(path, headers=BROWSER | forwarded)
    assert (answer.status_code, answer.headers["location"]) == (307, target)


def test_programs_are_told_where_things_are(app):
    """As JSON, as before."""
    assert app.get("/").json()["pools"] == "/v1/pools"


def test_without_its_library_the_page_says_how_to_get_it(app, monkeypatch):
    """In one sentence."""
    monkeypatch.setattr(mount, "find_spec", lambda name: None)
    answer = app.get("/web/", headers=BROWSER)
    assert answer.status_code == 501
    assert (
        answer.text == "This page needs the extra `web`: pip install 'vecserver[web]', then start the server again.\n"
    )


def test_a_server_without_a_page_sends_nobody_there():
    """That of one program, say: it answers browsers as it answers programs."""
    with (
        private_server() as running,
        httpx.Client(base_url=running.url, headers=BROWSER | headers(running.url), trust_env=False) as client,
    ):
        assert client.get("/").json()["name"] == "vecserver"
        assert client.get("/web/").json()["code"] == "unknown_route"


def test_a_server_loads_nothing_of_the_page_before_it_is_asked_for():
    """Neither its library nor what that brings along."""
    code = "import sys, vecserver.serve; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "vecserver.control.web.mount" in loaded
    assert not {"nicegui", "socketio", "uvloop", "httptools", "vecserver.control.web.site"} & set(loaded)


def test_the_guards_stand_before_the_page(server):
    """Another host's name and another page's socket are refused."""
    assert server.http.get("/web/", headers={"Host": "evil.example"}).status_code == 400
    address = f"{server.url.replace('http', 'ws')}/web/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    with pytest.raises(InvalidStatus) as refused:
        connect(address, origin="http://evil.example", proxy=None)
    assert refused.value.response.status_code in (400, 403)
    polled = server.http.get(
        "/web/_nicegui_ws/socket.io/",
        params={"EIO": 4, "transport": "polling"},
        headers={"Origin": "http://localhost:1"},
    )
    assert "access-control-allow-origin" not in polled.headers
