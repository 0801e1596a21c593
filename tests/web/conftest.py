from __future__ import annotations

import pytest

from tests.web.browsers import CHROMIUM, PATIENCE_S, WHY_NOT, chromium, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of this module's own, that keeps durable pools in a directory of its own."""
    with serving(VECSERVER_STATE_DIR=str(tmp_path_factory.mktemp("state"))) as running:
        yield running


@pytest.fixture(scope="module")
def browser(server):
    """A browser of this module's own, that has seen the page once."""
    if CHROMIUM is None:
        pytest.skip(WHY_NOT)
    pytest.importorskip("playwright", reason="Playwright drives the browser: pip install playwright")
    with chromium() as found:
        context = found.new_context()
        server.log_in(context)
        context.new_page().goto(f"{server.url}/web/help")
        context.close()
        yield found


class Watched:
    """Tabs whose requests and complaints are kept."""

    def __init__(self, browser, server) -> None:
        self._browser, self._server, self._url = browser, server, server.url
        self._contexts: list = []
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []

    def open(self, path: str, **options):
        """A new tab of a browser of its own."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE_S * 1000)
        self._contexts.append(context)
        self._server.log_in(context)
        page = context.new_page()
        page.on("request", self._note)
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{self._url}{path}")
        page.wait_for_function("window.socket && window.socket.connected")
        return page

    def _note(self, request) -> None:
        if not request.url.startswith((self._url, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def tabs(browser, server):
    """Opens tabs; at the end none has asked another host for anything, nor complained."""
    watched = Watched(browser, server)
    yield watched
    watched.close()
    assert watched.elsewhere == []
    assert watched.complaints == []
