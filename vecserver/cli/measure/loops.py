"""The two loops that drive what is measured. They need the standard library alone: other interpreters run them too."""

from __future__ import annotations

from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["closed_loop", "paced_loop"]

_WATCH_NS: Final = 200_000
"""Before a batch is due the clock is watched for so long: a sleep ends up to a tenth of a millisecond late."""

_LISTED: Final = 100_000
"""Batches of a round, at most, that were not begun and are listed: a rate that no machine keeps has any number."""


def closed_loop(step: Callable[[], int], seconds: float) -> tuple[int, list[int], int]:
    """Begin a batch as soon as the one before it is there.

    Args:
        step: Steps a batch; returns how many environment steps count.
        seconds: How long batches are begun.

    Returns:
        Environment steps, the nanoseconds of each batch, and the nanoseconds all of it took.
    """
    steps, batch_ns = 0, []
    first = now = perf_counter_ns()
    end = now + int(seconds * 1e9)
    while now < end:
        steps += step()
        began, now = now, perf_counter_ns()
        batch_ns.append(now - began)
    return steps, batch_ns, now - first


def paced_loop(step: Callable[[], int], interval: float, seconds: float) -> tuple[int, list[int], int, int, int]:
    """Begin a batch whenever one is due, or late where the one before it is.

    A batch counts from when it was due, not from when it was begun: one that is slow makes those behind it slow, as it
    does whoever asks at this rate.

    Args:
        step: As for ``closed_loop``.
        interval: Seconds between two batches.
        seconds: How long batches are due; of those that are late by then none is begun.

    Returns:
        As ``closed_loop``, with the nanoseconds counted from when a batch was due, for every batch that was due: one
        that was not begun counts with how long it had waited in the end, which is less than it would have taken. And
        how many were due, and how many of them were begun: those come first.
    """
    interval_ns = max(1, round(interval * 1e9))
    due = max(1, int(seconds * 1e9) // interval_ns)
    steps, batch_ns = 0, []
    first = now = perf_counter_ns()
    for number in range(due):
        intended = first + number * interval_ns
        if now > first + due * interval_ns:
            break
        _wait_until(intended)
        steps += step()
        now = perf_counter_ns()
        batch_ns.append(now - intended)
    begun = len(batch_ns)
    batch_ns += [now - (first + number * interval_ns) for number in range(begun, min(due, begun + _LISTED))]
    return steps, batch_ns, max(now - first, due * interval_ns), due, begun


def _wait_until(instant: int) -> None:
    left = instant - perf_counter_ns()
    if left > _WATCH_NS:
        sleep((left - _WATCH_NS) / 1e9)
    while perf_counter_ns() < instant:
        pass
