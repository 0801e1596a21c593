"""An event loop that watches for a moment, and then sleeps."""

from __future__ import annotations

import asyncio
import time

from vecserver.control.watch import Watch


def test_a_watch_is_short():
    """The loop turns many times soon after a message, and uses no processor time a moment later."""

    async def watched() -> float:
        watch, turns = Watch(), []
        loop = asyncio.get_running_loop()
        look = watch._look
        watch._look = lambda: (turns.append(loop.time()), look())
        watch.go_on()
        watch.go_on()
        await asyncio.sleep(0.1)
        assert len(turns) > 2
        assert turns[-1] - turns[0] < 0.1
        before = time.process_time()
        await asyncio.sleep(0.2)
        return time.process_time() - before

    assert asyncio.run(watched()) < 0.1
