"""A Chromium, and a server for it to look at."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import httpx

from tests.openenv.served import Player

PATIENCE_S = 30.0
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WHY_NOT = "there is no Chromium here, so the page is not tested: apt-get install chromium"
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium():
    """A browser that has everything started which it starts but once."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        yield browser
        browser.close()


class Running:
    """A server in a process of its own, as a person starts it."""

    def __init__(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vecserver", "serve", "--port", "0", "--log-level", "warning"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "VECSERVER_GRACE": "1", **environment},
        )
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0]
        # no connection is kept: which test began it would be chance
        self.http = httpx.Client(
            base_url=self.url, trust_env=False, timeout=PATIENCE_S, headers={"Connection": "close"}
        )

    def end(self) -> str:
        """End it as Ctrl-C does; returns what it printed."""
        self.http.close()
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return out


@contextmanager
def serving(**environment: str):
    """A server whose page, and whose shared processes for sessions, have been started."""
    server = Running(**environment)
    try:
        assert server.http.get("/web/").status_code == 200
        with ExitStack() as players:
            for _ in range(4):
                players.enter_context(Player(server.url)).state()
        yield server
    finally:
        printed = server.end()
    assert "Traceback" not in printed, printed
    assert server.process.returncode == 0
