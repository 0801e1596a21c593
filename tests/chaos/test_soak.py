"""The soak in short: what it would say of a server that leaks, and that this one has nothing left after its pools."""

from __future__ import annotations

import numpy as np
import pytest

from tests.chaos.soak import WAYS, Sample, soak, tell
from tests.chaos.trend import trend

MB = 1_000_000


def samples(leak_mb_per_h: float, descriptors: int = 15, noise: int = 100_000) -> list[Sample]:
    """Twenty minutes of a server that grows at first, and then leaks so much."""
    dice = np.random.default_rng(1)
    made = []
    for number in range(240):
        seconds = 5.0 * number
        grown = 80 * MB + 2 * MB * (1 - np.exp(-seconds / 60)) + leak_mb_per_h * MB * seconds / 3600
        rss = int(grown + dice.integers(noise))
        made.append(Sample(seconds, 3 * number, rss, rss, descriptors + number // 230, 7, 0, 1))
    return made


def test_a_leak_is_seen_and_a_beginning_is_none():
    """What is filled once and stays is not judged; a leak of 3 MB an hour is, and so is a descriptor."""
    said: list[str] = []
    tell(said.append, [each for each in samples(0.0) if each.seconds < 1100])
    assert "| resident memory, MB |" in "\n".join(said)
    with pytest.raises(AssertionError, match="memory grows"):
        tell(said.append, samples(3.0))
    with pytest.raises(AssertionError, match="descriptors come and go"):
        tell(said.append, samples(0.0))


def test_a_trend_knows_how_sure_it_is():
    """The interval has the true slope in it, and is the wider the more a series wanders."""
    dice = np.random.default_rng(3)
    seconds = np.arange(0.0, 600.0, 5.0)
    noise = dice.normal(0, 0.1, len(seconds))
    found = trend(seconds, 50 + 2.0 * seconds / 3600 + noise)
    assert found.low < 2.0 < found.high
    wandering = trend(seconds, 50 + np.cumsum(noise))
    assert wandering.high - wandering.low > 3 * (found.high - found.low)


@pytest.mark.slow
def test_a_server_has_nothing_left_after_its_pools(server, control):
    """Each way twice: as many descriptors, threads, processes and files after the second time as after the first."""
    first, *_, last = soak(server, control, 0.0, 0.0, rounds=2)
    assert last.pools == 2 * len(WAYS)
    for figure in ("descriptors", "threads", "children", "files"):
        assert getattr(last, figure) == getattr(first, figure), figure
