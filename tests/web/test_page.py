"""The page in a real browser: what a person does, and what is left when the tab is gone."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import expect

from tests.bearer import headers
from tests.web.browsers import PATIENCE_S, Running

PAGES = ("/web/", "/web/new", "/web/play", "/web/help")


@contextmanager
def driven(server, pool: str, actions):
    """Somebody who steps a pool, over HTTP, in a thread."""
    stop, mine = threading.Event(), headers(server.url)
    server.http.post(f"/v1/pools/{pool}/reset", json={"seed": 1}).raise_for_status()

    def step():
        with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S, headers=mine) as client:
            while not stop.wait(0.02):
                client.post(f"/v1/pools/{pool}/step", json={"actions": actions}).raise_for_status()

    thread = threading.Thread(target=step)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def figure(page, name: str):
    return page.locator(".vs-tile", has_text=name).locator("dd").first


@pytest.fixture
def make(server):
    """Makes pools, as a program does; those that are left at the end are deleted."""

    def make(**options) -> str:
        body = {"env_id": "CartPole-v1", "num_envs": 3, "workers": 1, **options}
        return server.http.post("/v1/pools", json=body).raise_for_status().json()["pool"]

    yield make
    for pool in server.http.get("/v1/pools").json()["pools"]:
        server.http.delete(f"/v1/pools/{pool['pool']}")


def test_a_pool_is_made_watched_reset_and_deleted(tabs, server, make):
    """Form, frames, figures that grow while somebody steps, events, and a deletion that is confirmed."""
    page = tabs.open("/web/new")
    expect(page.get_by_label("Render mode")).to_have_value("rgb_array")
    page.get_by_label("Rows").fill("3")
    page.get_by_label("Workers").fill("1")
    page.get_by_label("Name").fill("watched")
    page.get_by_text("More options").click()
    page.get_by_label("Wrappers, as a JSON list").fill('["TimeAwareObservation"]')
    page.get_by_label("Lease, s").fill("7.5")
    page.get_by_text("Durable: made again").click()
    page.get_by_role("button", name="Create pool").click()
    page.wait_for_url("**/web/pools/watched")
    made = server.http.get("/v1/pools/watched").json()
    assert (made["render_mode"], made["durable"]) == ("rgb_array", True)
    assert (made["wrappers"], made["lease_ttl"]) == (["TimeAwareObservation"], 7.5)
    expect(page.locator(".vs-wall-note")).to_contain_text("reset")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_text("Every row was reset.")).to_be_visible()
    expect(page.locator("img.vs-shown")).to_have_count(3)
    assert page.locator("img.vs-shown").first.evaluate("image => image.naturalWidth") > 100
    with driven(server, "watched", [1, 1, 1]):
        expect(figure(page, "Env steps/s")).not_to_have_text("0")
        expect(figure(page, "Episodes")).not_to_have_text("0")
        expect(page.locator(".vs-events")).to_contain_text("reset")
        expect(page.locator("table tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    page.wait_for_url("**/web/")
    expect(page.get_by_text("This server has no pools.")).to_be_visible()
    assert server.http.get("/v1/pools").json()["pools"] == []


def test_pools_come_and_go_in_the_list(tabs, server, make):
    """A pool that a program makes appears, with its figures, and leaves when it is deleted."""
    page = tabs.open("/web/")
    expect(page.get_by_text("This server has no pools.")).to_be_visible()
    pool = make()
    line = page.get_by_role("listitem").filter(has_text=pool)
    expect(line).to_contain_text("ready")
    with driven(server, pool, [0, 0, 0]):
        expect(line.locator("svg.vs-spark")).to_be_visible()
    page.get_by_role("link", name=pool).click()
    expect(page.get_by_text("so its rows cannot be seen")).to_be_visible()


def test_a_pool_that_is_gone_is_asked_for_nothing(tabs, server, make):
    """Its page says so and stands still; who comes later is told by the status too."""
    pool = make(render_mode="rgb_array")
    server.http.post(f"/v1/pools/{pool}/reset", json={}).raise_for_status()
    page = tabs.open(f"/web/pools/{pool}")
    expect(page.locator("img.vs-shown").first).to_be_visible()
    server.http.delete(f"/v1/pools/{pool}").raise_for_status()
    expect(page.get_by_text("This pool is gone")).to_be_visible()
    expect(page.locator(".vs-state")).to_have_text("gone")
    expect(page.locator(".vs-wall")).to_have_attribute("data-ready", "no")
    missing = server.http.get(f"/web/pools/{pool}")
    assert (missing.status_code, "No such pool" in missing.text) == (404, True)
    assert len(tabs.complaints) <= 1, "the frame that was asked for when it went"
    tabs.complaints.clear()


def test_what_the_server_refuses_is_said_as_its_sentence(tabs):
    """A wrong number of rows, and a parameter that is no JSON."""
    page = tabs.open("/web/new")
    expect(page.get_by_label("Render mode")).to_have_value("rgb_array")
    page.get_by_label("Rows").fill("")
    page.get_by_role("button", name="Create pool").click()
    expect(page.get_by_role("alert")).to_have_text("num_envs is 0; it is at least 1")
    page.get_by_label("Rows").fill("1")
    page.get_by_label("Environment", exact=True).fill("FrozenLake-v1")
    page.get_by_role("option", name="FrozenLake-v1").click()
    page.get_by_text("Parameters of the environment (").click()
    page.get_by_label("desc: JSON").fill("SFFG")
    page.get_by_role("button", name="Create pool").click()
    expect(page.get_by_role("alert")).to_contain_text("desc is no JSON")


def test_an_environment_is_played_by_buttons_and_keys(tabs):
    """Steps are counted, the frame changes, the course is kept, and the code says what was done."""
    page = tabs.open("/web/play")
    expect(page.get_by_label("Render mode")).to_have_value("rgb_array")
    page.get_by_label("Seed").fill("3")
    page.get_by_role("button", name="Reset").click()
    expect(figure(page, "Episode")).to_have_text("under way")
    before = page.locator("img.vs-frame").get_attribute("src")
    page.get_by_role("button", name="Action 1").click()
    expect(figure(page, "Step")).to_have_text("1")
    expect(figure(page, "Reward")).to_have_text("1")
    page.keyboard.press("ArrowLeft")
    expect(figure(page, "Step")).to_have_text("2")
    expect(page.locator("table tbody tr")).to_have_count(3)
    expect(page.locator("code")).to_contain_text("env.reset(seed=3)")
    expect(page.locator("code")).to_contain_text("GymAction(action=0)")
    for step in range(3, 30):
        page.keyboard.press("1")
        expect(figure(page, "Step")).to_have_text(str(step))
        if figure(page, "Episode").text_content() == "terminated":
            break
    assert page.locator("img.vs-frame").get_attribute("src") != before
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_have_text("this episode is over: reset first")
    page.keyboard.press("r")
    expect(figure(page, "Step")).to_have_text("0")


def test_numbers_are_slid_or_typed(tabs):
    """A Box of one number: what is typed is the action, and what is outside is refused by the server."""
    page = tabs.open("/web/play")
    expect(page.get_by_label("Render mode")).to_have_value("rgb_array")
    page.get_by_label("Environment", exact=True).fill("Pendulum")
    page.get_by_role("option", name="Pendulum-v1").click()
    expect(page.get_by_text("Parameters of the environment (1)")).to_be_visible()
    page.get_by_text("Parameters of the environment (1)").click()
    page.get_by_label("g", exact=True).fill("5")
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("action[0] (-2 … 2)").fill("1.5")
    page.get_by_role("button", name="Step").click()
    expect(figure(page, "Step")).to_have_text("1")
    expect(page.locator("code")).to_contain_text("'g': 5.0")
    expect(page.locator("code")).to_contain_text("GymAction(action=[1.5])")


def test_a_tab_that_vanishes_leaves_nothing(tabs, server, make):
    """In mid-frame and in mid-game: the session ends, and nobody looks at the pools any more."""
    pool = make(render_mode="rgb_array", name="left")
    server.http.post(f"/v1/pools/{pool}/reset", json={})
    watching, playing = tabs.open(f"/web/pools/{pool}"), tabs.open("/web/play")
    expect(watching.locator("img.vs-shown").first).to_be_visible()
    playing.get_by_role("button", name="Reset").click()
    expect(figure(playing, "Episode")).to_have_text("under way")
    tabs.close()

    def looks() -> dict:
        asked = server.http.get(f"/v1/pools/{pool}/stats").json()["requests"]
        return {kind: n for kind, n in asked.items() if kind in ("PING", "RENDER")}

    deadline, before = time.monotonic() + PATIENCE_S, looks()
    while True:
        threading.Event().wait(1.5)
        now = looks()
        if now == {**before, "PING": before["PING"] + 1}:  # this one's own
            break
        assert time.monotonic() < deadline, (before, now)
        before = now


@pytest.mark.parametrize("width", [320, pytest.param(400, marks=pytest.mark.slow)])
def test_small_screens_need_no_sideways_scrolling(tabs, server, make, width):
    """On every page."""
    pool = make(render_mode="rgb_array", name="a-pool-with-quite-a-long-name-for-so-small-a-screen")
    page = tabs.open("/web/", viewport={"width": width, "height": 700}, is_mobile=True, has_touch=True)
    for path in (*PAGES, f"/web/pools/{pool}"):
        page.goto(f"{server.url}{path}")
        expect(page.get_by_role("main")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path


@pytest.mark.slow
def test_light_and_dark_follow_the_system_until_a_person_chooses(tabs):
    """And the choice outlives the page."""

    def ground(page) -> int:
        return page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")

    assert ground(tabs.open("/web/help", color_scheme="light")) > 200
    page = tabs.open("/web/help", color_scheme="dark")
    assert ground(page) < 60
    page.get_by_role("button", name="Switch between light and dark").click()
    page.wait_for_function("!document.body.classList.contains('body--dark')")
    page.reload()
    page.wait_for_function("!document.body.classList.contains('body--dark')")
    assert ground(page) > 200


def test_a_server_ends_at_once_while_somebody_looks(browser):
    """Ctrl-C, with a page open on it."""
    server = Running()
    context = browser.new_context()
    server.log_in(context)
    page = context.new_page()
    page.goto(f"{server.url}/web/")
    page.wait_for_function("window.socket && window.socket.connected")
    began = time.monotonic()
    printed = server.end()
    assert time.monotonic() - began < PATIENCE_S / 2
    assert (server.process.returncode, "Traceback" in printed) == (0, False), printed
    context.close()
