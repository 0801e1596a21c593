"""Takes the pictures of docs/web.md: ``python -m tests.web.screenshots FOLDER``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import vecserver_client as vs
from tests.web.browsers import CHROMIUM, WHY_NOT, chromium, serving

DESK = {"viewport": {"width": 1180, "height": 760}}
PHONE = {"viewport": {"width": 360, "height": 720}, "is_mobile": True, "has_touch": True}
POOLS = (
    {"env_id": "LunarLander-v3", "num_envs": 8, "render_mode": "rgb_array", "name": "lander"},
    {"env_id": "CartPole-v1", "num_envs": 64, "name": "cartpole"},
    {"env_id": "Pendulum-v1", "num_envs": 16, "name": "pendulum"},
)


def drive(url: str, pool: str, pause: float, stop: threading.Event) -> None:
    """Step a pool at a leisurely pace."""
    envs = vs.attach(url, pool=pool)
    envs.reset(seed=7)
    envs.action_space.seed(7)
    while not stop.wait(pause):
        envs.step(envs.action_space.sample())
    envs.close()


def shoot(browser, server, folder: Path) -> None:
    """All of them."""

    def tab(path: str, scheme: str, size: dict):
        context = browser.new_context(color_scheme=scheme, **size)
        server.log_in(context)
        page = context.new_page()
        page.goto(f"{server.url}{path}")
        return page

    def keep(page, name: str, seconds: float) -> None:
        page.wait_for_timeout(1000 * seconds)
        page.screenshot(path=folder / f"{name}.png")
        page.context.close()

    watching = tab("/web/pools/lander", "light", {"viewport": {"width": 1180, "height": 1240}})
    watching.wait_for_timeout(45_000)
    keep(watching, "pool-light", 0)
    keep(tab("/web/", "light", DESK | {"viewport": {"width": 1180, "height": 420}}), "pools-light", 12)
    keep(tab("/web/", "dark", DESK | {"viewport": {"width": 1180, "height": 420}}), "pools-dark", 12)
    keep(tab("/web/pools/lander", "light", PHONE), "pool-phone", 12)
    page = tab("/web/play", "dark", {"viewport": {"width": 1180, "height": 1180}})
    page.wait_for_function("document.querySelector('[aria-label=\"Render mode\"]').value === 'rgb_array'")
    page.get_by_label("Environment", exact=True).fill("LunarLander-v3")
    page.get_by_role("option", name="LunarLander-v3", exact=True).click()
    page.get_by_text("Parameters of the environment (5)").wait_for()
    page.get_by_label("Seed").fill("42")
    page.get_by_role("button", name="Reset").click()
    page.locator("img.vs-frame").wait_for()
    for action in (0,) * 45 + (3, 2, 1):
        page.get_by_role("button", name=f"Action {action}").click()
        page.wait_for_timeout(100)
    keep(page, "play-dark", 1)


def main(folder: Path) -> int:
    """Start a server with some pools, look at it, and end it."""
    if CHROMIUM is None:
        sys.stderr.write(f"{WHY_NOT}\n")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    with serving() as server, chromium() as browser:
        threads = []
        for options, pause in zip(POOLS, (0.03, 0.01, 0.05), strict=True):
            server.http.post("/v1/pools", json=options).raise_for_status()
            threads.append(threading.Thread(target=drive, args=(server.url, options["name"], pause, stop)))
        for thread in threads:
            thread.start()
        try:
            shoot(browser, server, folder)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
