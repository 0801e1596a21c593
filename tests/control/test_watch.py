"""An event loop that watches for a moment, and then sleeps."""

from __future__ import annotations

import asyncio
import itertools

from vecserver.control import watch


def test_a_watch_is_short(monkeypatch):
    """The loop looks again and again soon after a message, once a turn, and no more a moment later."""
    readings = itertools.count(0.0, watch._WATCH_S / 10)  # a look takes a tenth of the moment
    monkeypatch.setattr(watch, "perf_counter", lambda: next(readings))

    async def watched() -> list[int]:
        watching, looks, turns = watch.Watch(), [], [0]
        look = watching._look
        watching._look = lambda: (looks.append(turns[0]), look())
        watching.go_on()
        watching.go_on()
        for _ in range(40):
            turns[0] += 1
            await asyncio.sleep(0)
        return looks

    looks = asyncio.run(watched())
    assert 8 <= len(looks) <= 12
    assert looks == [*range(looks[0], looks[0] + len(looks))]
