"""A browser's log-in: the link, the sentence without one, and what a smaller scope may not do."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.web.browsers import PATIENCE_S, Running

BODY = {"env_id": "CartPole-v1", "num_envs": 2, "workers": 1, "name": "watched"}


@pytest.fixture
def context(browser):
    made = browser.new_context()
    made.set_default_timeout(10_000)
    yield made
    made.close()


def test_without_a_log_in_a_browser_is_told_how(server, context):
    """A sentence, and nothing of the page; the link that the server prints leads to it."""
    page = context.new_page()
    assert page.goto(f"{server.url}/web/").status == 401
    expect(page.get_by_text("vecserver login")).to_be_visible()
    page.goto(f"{server.url}/web/login?code=stale")
    expect(page.get_by_text("no longer good")).to_be_visible()
    server.log_in(context)
    page.goto(f"{server.url}/web/")
    page.wait_for_function("window.socket && window.socket.connected")
    (cookie,) = (each for each in context.cookies() if each["name"].startswith("vecserver_session"))
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_the_public_page_is_to_look_at_and_to_play(context):
    """Forms and buttons answer with the scope that they take."""
    server = Running(VECSERVER_OPENENV_PUBLIC="true")
    try:
        server.http.post("/v1/pools", json=BODY).raise_for_status()
        page = context.new_page()
        page.goto(f"{server.url}/web/pools/watched")
        for button, scope in (("Reset", "use"), ("Delete", "create")):
            page.get_by_role("button", name=button, exact=True).click()
            if button == "Delete":
                page.get_by_role("button", name="Delete it").click()
            expect(page.get_by_role("alert")).to_contain_text(f"this needs a log-in of scope {scope}")
        page.goto(f"{server.url}/web/new")
        page.get_by_role("button", name="Create pool").click()
        expect(page.get_by_role("alert")).to_contain_text("this needs a log-in of scope create")
        page.goto(f"{server.url}/web/play")
        page.get_by_role("button", name="Reset").click()
        expect(page.get_by_text("Observation", exact=True)).to_be_visible(timeout=1000 * PATIENCE_S)
        stats = server.http.get("/v1/pools/watched/stats").json()
        assert (stats["resets"], len(server.http.get("/v1/pools").json()["pools"])) == (0, 1)
    finally:
        server.end()
