"""What a page on a pool costs its driver: ``python -m benchmarks.watching``.

A driver steps a pool as fast as it can. In turns nobody looks, and somebody does: a process that asks for what a
browser on the pool's page asks for, the page, its socket with every update, and one frame after the other. It draws
nothing and has what the others leave of the cores (``SCHED_IDLE``): a browser runs on its person's machine. The figure
is the median of the ratios of neighbouring turns.

    --env, --rows   the pool; it has render mode rgb_array
    --turns         pairs of turns
    --seconds       of a turn
    --transport     shm or tcp
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import statistics
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

import vecserver_client as vs
from tests.web.browsers import serving
from vecserver_client.credentials import authorization, choose

SETTLE_S = 1.0
ROWS_SEEN = 12


async def watch(url: str, pool: str) -> None:
    """Do what the page's scripts do, until the end of the process."""
    mine = authorization(choose(url, None)[1])
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30, headers=mine) as client:
        page = (await client.get(f"/web/pools/{pool}", headers={"Accept": "text/html"})).text
        client_id = re.search(r"[\"']client_id[\"']:\s*[\"']([0-9a-f-]+)", page)[1]
        query = f"EIO=4&transport=websocket&client_id={client_id}&next_message_id=0&implicit_handshake=true"
        query += f"&document_id={client_id}&tab_id={client_id}&old_tab_id=null"
        address = f"{url.replace('http', 'ws')}/web/_nicegui_ws/socket.io/?{query}"
        looking = connect(address, proxy=None, max_size=None, additional_headers=mine)
        async with looking as socket, asyncio.TaskGroup() as group:
            group.create_task(listen(socket))
            group.create_task(look(client, pool))


async def listen(socket) -> None:
    """Take every update, and answer the questions whether somebody is there."""
    async for message in socket:
        if message.startswith("0"):
            await socket.send("40")
        elif message == "2":
            await socket.send("3")


async def look(client, pool: str) -> None:
    """Ask for one frame after the other."""
    row = 0
    while True:
        (await client.get(f"/v1/pools/{pool}/frame", params={"row": row, "width": 280})).raise_for_status()
        row = (row + 1) % ROWS_SEEN


def run_watcher(url: str, pool: str) -> None:
    """The process of somebody who looks."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    asyncio.run(watch(url, pool))


@contextmanager
def watched_by_somebody(url: str, pool: str):
    """While this lasts."""
    process = multiprocessing.get_context("spawn").Process(target=run_watcher, args=(url, pool))
    process.start()
    yield
    assert process.is_alive(), "nobody looks any more"
    process.kill()
    process.join()


def rate(envs, actions, seconds: float) -> float:
    """Batches a second."""
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            envs.step(actions)
        batches += 10
    return batches / (time.perf_counter() - began)


def busy_s(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--transport", default="shm")
    chosen = parser.parse_args()
    with serving() as server:
        measure(chosen, server)


def measure(chosen, server) -> None:
    """Turns with and without somebody."""
    envs = vs.make_vec(
        chosen.env, chosen.rows, url=server.url, transport=chosen.transport, render_mode="rgb_array", copy=False
    )
    envs.reset(seed=1)
    envs.action_space.seed(1)
    actions = envs.action_space.sample()
    (pool,) = (each["pool"] for each in server.http.get("/v1/pools").json()["pools"])
    rate(envs, actions, chosen.seconds)
    ratios, unwatched, frames, busy = [], [], [], []
    for _ in range(chosen.turns):
        alone = rate(envs, actions, chosen.seconds)
        with watched_by_somebody(server.url, pool):
            rate(envs, actions, 2 * SETTLE_S)  # it starts meanwhile
            asked, used = looks(server, pool), busy_s(server.process.pid)
            watched = rate(envs, actions, chosen.seconds)
            busy.append((busy_s(server.process.pid) - used) / chosen.seconds)
            frames.append((looks(server, pool) - asked) / chosen.seconds)
        rate(envs, actions, SETTLE_S)
        again = rate(envs, actions, chosen.seconds)
        unwatched += [alone, again]
        ratios.append(watched / ((alone + again) / 2))
    noise = statistics.median(abs(a / b - 1) for a, b in zip(unwatched[::2], unwatched[1::2], strict=True))
    print(
        f"{chosen.env} x {chosen.rows} over {chosen.transport}, {os.cpu_count()} cores: "
        f"{statistics.median(unwatched):,.0f} batches/s unwatched; watched {statistics.median(ratios):.3f} of it "
        f"({min(ratios):.3f} to {max(ratios):.3f}), {statistics.median(frames):.1f} frames/s, "
        f"{statistics.median(busy):.1%} of a core for the server; two unwatched turns differ by {noise:.1%}"
    )
    envs.close()


def looks(server, pool: str) -> int:
    """Frames rendered so far."""
    return server.http.get(f"/v1/pools/{pool}/stats").json()["requests"].get("RENDER", 0)


if __name__ == "__main__":
    main()
