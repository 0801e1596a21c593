"""What pools did lately: rates from one look at their counters and the next, kept for a while. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vecserver.pools.results import PoolView
    from vecserver.wire.figures import EpisodeFigures
    from vecserver.wire.messages import Stats

__all__ = ["Episode", "Event", "Histories", "History", "Sample", "WorkerLoad"]

_KEPT: Final = 300
"""Samples of a pool: five minutes, as long as somebody looks."""

_EVENTS: Final = 50
_EPISODES: Final = 300
_EPISODES_A_LOOK: Final = 3
"""Episodes of a fast pool that are shown one by one: all of them would be one second's."""

_GAP_S: Final = 5.0
"""Between two looks so far apart nobody looked, and their mean says little of either."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a pool did between one look and the next. None where it did nothing of the kind.

    Attributes:
        at: When, on the clock of whoever looked.
        env_steps: Environment steps a second.
        batches: Batches a second.
        latency_s: Of a batch, half of them took longer; ``slow_s`` one in a hundred.
        mean_return: Of the episodes that ended; ``mean_length`` in steps.
    """

    at: float
    env_steps: float
    batches: float
    latency_s: float | None
    slow_s: float | None
    mean_return: float | None
    mean_length: float | None


@dataclass(frozen=True, slots=True)
class Episode:
    """One that ended."""

    at: float
    gain: float | None
    length: int


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What a worker did between the last two looks.

    Attributes:
        rows: First and last.
        batch_s: Seconds that it needed for a batch; None where there was none.
        last: Share of the batches that it was the last to finish.
    """

    pid: int
    rows: tuple[int, int]
    batch_s: float | None
    last: float | None
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a pool.

    Attributes:
        at: When, on the clock of whoever looked.
    """

    at: float
    text: str


class History:
    """One pool's.

    Attributes:
        view: The pool at the last look.
        seen: When that was.
        samples: Oldest first.
        episodes: Some of the last ones, oldest first.
        events: Newest first.
        workers: Their loads, in the order of their rows.
    """

    def __init__(self, view: PoolView, now: float, age_s: float) -> None:
        self.view = view
        self.samples: deque[Sample] = deque(maxlen=_KEPT)
        self.episodes: deque[Episode] = deque(maxlen=_EPISODES)
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self.workers: list[WorkerLoad] = []
        self.seen = now
        self._tell(now - age_s, f"created in {view.creation_s:.2f} s, workers: {view.info.workers}")
        if view.state != "ready":
            self._tell(now, f"{view.state}: {view.reason}")
        if view.stats is not None:
            self._note_episodes(view.stats.episode_figures, now, now)
            self.workers = _loads(view.stats, view.stats)
            if view.stats.driver:
                self._tell(now, f"driven by {view.stats.driver}")

    def look(self, view: PoolView, now: float) -> None:
        """Take note of another look."""
        before, self.view = self.view, view
        passed, self.seen = now - self.seen, now
        for text in _changes(before, view):
            self._tell(now, text)
        if before.stats is None or view.stats is None:
            return
        self._note_episodes(view.stats.episode_figures, now, passed)
        self.workers = _loads(before.stats, view.stats)
        if 0 < passed < _GAP_S:
            self.samples.append(_sample(before.stats, view.stats, now, passed))

    def _tell(self, at: float, text: str) -> None:
        self.events.appendleft(Event(at, text))

    def _note_episodes(self, figures: EpisodeFigures, now: float, passed: float) -> None:
        fresh = [Episode(now - ago, gain, length) for ago, gain, length in figures.recent if ago < passed]
        self.episodes.extend(fresh[-_EPISODES_A_LOOK:] if self.samples else fresh)

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        return self.samples[-1] if self.samples else None

    @property
    def mean_return(self) -> float | None:
        """Of the episodes that ended last."""
        return _mean([gain for _, gain, _ in self._recent if gain is not None])

    @property
    def mean_length(self) -> float | None:
        """Likewise, in steps."""
        return _mean([length for _, _, length in self._recent])

    @property
    def _recent(self) -> list[tuple[float, float | None, int]]:
        return self.view.stats.episode_figures.recent if self.view.stats is not None else []


def _mean(values: list[float] | list[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _sample(before: Stats, now: Stats, at: float, passed: float) -> Sample:
    took = now.batch_seconds.minus(before.batch_seconds)
    ended, ended_before = now.episode_figures, before.episode_figures
    count = ended.count - ended_before.count
    gained = (ended.gained - ended.lost) - (ended_before.gained - ended_before.lost)
    return Sample(
        at,
        env_steps=max(0, now.env_steps - before.env_steps) / passed,
        batches=max(0, now.batches - before.batches) / passed,
        latency_s=took.quantile(0.5),
        slow_s=took.quantile(0.99),
        mean_return=gained / count if count > 0 else None,
        mean_length=(ended.steps - ended_before.steps) / count if count > 0 else None,
    )


def _loads(before: Stats, now: Stats) -> list[WorkerLoad]:
    found = []
    finished = sum(now.worker_last) - sum(before.worker_last)
    for i, (first, end) in enumerate(now.worker_rows):
        known = i < len(before.worker_rows)
        batches = now.worker_batches[i] - before.worker_batches[i] if known else 0
        busy = now.worker_busy_s[i] - before.worker_busy_s[i] if known else 0.0
        last = now.worker_last[i] - before.worker_last[i] if known else 0
        found.append(
            WorkerLoad(
                pid=now.worker_pids[i],
                rows=(first, end - 1),
                batch_s=busy / batches if batches > 0 else None,
                last=last / finished if finished > 0 else None,
                rss_bytes=now.rss_bytes[i],
            )
        )
    return found


def _changes(before: PoolView, now: PoolView) -> list[str]:
    found = []
    if before.state != now.state:
        found.append(f"{now.state}: {now.reason}" if now.reason else f"{now.state} again")
    if before.stats is None or now.stats is None:
        return found
    found += _of_driver(before.stats, now.stats)
    found += [f"{n} refused: {code}" for code, n in _more(before.stats.refusals, now.stats.refusals)]
    replaced = _more(before.stats.restarts, now.stats.restarts)
    found += [f"{n} worker{'s' if n > 1 else ''} replaced: {cause}" for cause, n in replaced]
    if resets := now.stats.resets - before.stats.resets:
        found.append(f"reset {resets} times" if resets > 1 else "reset")
    return found


def _of_driver(before: Stats, now: Stats) -> list[str]:
    if before.driver != now.driver:
        left = [f"its driver left: {before.driver}"] if before.driver else []
        return [*left, f"driven by {now.driver}"] if now.driver else left
    return [f"attached anew by {now.driver}"] if now.driver and before.lease != now.lease else []


def _more(before: dict[str, int], now: dict[str, int]) -> list[tuple[str, int]]:
    return [(name, n - before.get(name, 0)) for name, n in now.items() if n > before.get(name, 0)]


class Histories:
    """Those of all pools, by their incarnation, so that a name that is used again begins anew."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, int], History] = {}

    def look(self, views: list[PoolView], now: float, date: float) -> None:
        """Take note of all pools; those that are gone are forgotten.

        Args:
            views: All pools there are.
            now: On a clock that never jumps.
            date: Seconds since the epoch, to tell how long ago a pool was made.
        """
        known, self._all = self._all, {}
        for view in views:
            key = (view.pool, view.epoch)
            history = known.get(key)
            if history is None:
                history = History(view, now, max(0.0, date - view.created))
            else:
                history.look(view, now)
            self._all[key] = history

    def all(self) -> list[History]:
        """In the order of the last look."""
        return list(self._all.values())

    def find(self, pool: str) -> History | None:
        """A pool's, by its id."""
        return next((each for each in self._all.values() if each.view.pool == pool), None)
