"""Frames of rows over HTTP, and how seldom they are rendered."""

from __future__ import annotations

import asyncio
import struct
import threading
import zlib

import numpy as np
import pytest

from vecserver.control.frames import Frames, Pace
from vecserver.pools.pictures import as_picture, reduced, to_png
from vecserver.wire.errors import InvalidSpec, StillRunning, UnknownPool


def from_png(data: bytes) -> np.ndarray:
    """Reads what ``to_png`` writes, and nothing else."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, parts = 8, {}
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(name + body)
        parts[name] = body
        at += 12 + length
    width, height, depth, colour = struct.unpack_from(">IIBB", parts[b"IHDR"])
    channels = {0: 1, 2: 3, 6: 4}[colour]
    assert depth == 8
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, channels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_survives_as_png(channels):
    """Grey, coloured, and with transparency."""
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    assert np.array_equal(from_png(to_png(picture)), picture)


def test_pictures_are_reduced_to_a_width():
    """By whole squares, to their means; narrow ones stay as they are."""
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, ::2] = 200
    small = reduced(picture, 3)
    assert small.shape == (2, 3, 3)
    assert (small == 100).all()
    assert reduced(picture, 6) is picture
    assert reduced(np.full((401, 601, 3), 9, np.uint8), 100).shape[1] <= 100


@pytest.mark.parametrize("frame", [None, "text", np.zeros((2, 2, 3)), np.zeros((2, 2, 2), np.uint8), [np.zeros(3)]])
def test_what_is_no_picture_is_named(frame):
    """With its row."""
    with pytest.raises(InvalidSpec, match="row 3 renders no picture"):
        as_picture(frame, 3)


@pytest.mark.parametrize("cost", [0.0005, 0.004, 0.02])
def test_rendering_keeps_to_its_share(cost):
    """Half a hundredth of the time, after a dozen frames that were saved up; a few a second where they are cheap.

    Whatever a frame takes counts, in the pool and here.
    """
    pace, now, rendered = Pace(), 0.0, 0
    while now < 100.0:
        now += pace.wait(now)
        pace.rendered(now, now + 0.75 * cost, 0.25 * cost)
        now, rendered = now + cost, rendered + 1
    assert rendered * cost <= 0.005 * 100.0 + 0.1 + 2 * cost
    assert rendered >= 25
    assert rendered <= 4 * 100 + 2


def test_dear_rows_are_seen_now_and_then():
    """Every few seconds, however long they take; and never two at once."""
    pace = Pace()
    pace.rendered(0.0, 2.0)
    assert pace.wait(2.0) == pytest.approx(5.0)


class OneRow:
    """A registry whose row takes as long to render as a test likes."""

    def __init__(self) -> None:
        self.rendered, self.gate, self.entered = 0, threading.Event(), threading.Semaphore(0)

    def address(self, pool):
        if pool.startswith("made-up"):
            raise UnknownPool("no such pool")

    def render(self, pool, row):
        self.rendered += 1
        self.entered.release()
        assert self.gate.wait(30)
        return np.full((4, 4, 3), self.rendered, np.uint8)


def test_viewers_share_a_frame():
    """Those who ask while a row is rendered get that frame; too many are told to come again."""
    row = OneRow()

    async def look() -> None:
        frames = Frames(row)
        asked = [asyncio.ensure_future(frames.get("p", 0)) for _ in range(16)]
        await asyncio.sleep(0)
        with pytest.raises(StillRunning):
            await frames.get("p", 0)
        row.gate.set()
        assert len(set(await asyncio.gather(*asked))) == 1

    asyncio.run(look())
    assert row.rendered == 1


def test_names_that_are_made_up_are_not_remembered():
    """However many of them somebody asks for, a pool keeps to the pace that it had."""
    row = OneRow()
    row.gate.set()

    async def look() -> list[float]:
        waits = []
        frames = Frames(row, clock=lambda: 0.0)
        await frames.get("p", 0)
        for number in range(100):
            with pytest.raises(UnknownPool):
                await frames.get(f"made-up-{number}", 0)
        gallery = frames._gallery("p")
        waits.append(gallery.pace.wait(0.0))
        for number in range(100):  # those of pools that nobody looks at any more make room
            await frames.get(f"q{number}", 0)
            frames._gallery("p")
        return [*waits, frames._gallery("p") is gallery, len(frames._galleries)]

    assert asyncio.run(look()) == [0.25, True, 64]


def test_frames_wait_in_threads_of_their_own():
    """What a page's buttons wait in stays free, however many pools do not answer."""
    row = OneRow()

    async def look() -> None:
        frames = Frames(row)
        asked = [asyncio.ensure_future(frames.get(f"p{number}", 0)) for number in range(40)]
        # in the threads that buttons wait in
        assert await asyncio.to_thread(lambda: all(row.entered.acquire(timeout=30) for _ in asked))
        row.gate.set()
        await asyncio.gather(*asked)

    asyncio.run(look())


def test_a_row_is_shown_over_http(http, registry):
    """As PNG, at most as wide as was asked for."""
    http.post("/v1/pools", json={"env_id": "CartPole-v1", "num_envs": 2, "render_mode": "rgb_array", "name": "seen"})
    http.post("/v1/pools/seen/reset", json={})
    answer = http.get("/v1/pools/seen/frame", params={"row": 1})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert from_png(answer.content).shape == (400, 600, 3)
    small = http.get("/v1/pools/seen/frame", params={"row": 1, "width": 300})
    assert from_png(small.content).shape == (200, 300, 3)


@pytest.mark.parametrize(
    ("pool", "params", "status", "code"),
    [
        ("nobody", {}, 404, "unknown_pool"),
        ("cart", {}, 422, "invalid_spec"),
        ("cart", {"row": -1}, 422, "invalid_spec"),
        ("cart", {"row": "x"}, 422, "invalid_spec"),
    ],
)
def test_what_cannot_be_shown_is_refused(http, cartpole, pool, params, status, code):
    """With the code that says why."""
    answer = http.get(f"/v1/pools/{pool}/frame", params=params)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_lost_pool_says_so_before_anything_else(http, cartpole, registry):
    """That it was made without a render mode, say, helps nobody then."""
    registry.hidden["cart"] = "lost"
    answer = http.get("/v1/pools/cart/frame")
    assert (answer.status_code, answer.json()["code"]) == (410, "pool_lost")
