"""What is measured: something with environments, stepped for a while when its turn comes and asleep otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from gymnasium.vector.utils import batch_space

from vecserver.cli.measure.loops import closed_loop, paced_loop

if TYPE_CHECKING:
    from collections.abc import Sequence

    import gymnasium
    from gymnasium.vector import VectorEnv

__all__ = ["SEED", "Part", "PartsSubject", "Sample", "Subject", "VectorSubject", "action_batches"]

SEED: Final = 42
"""Seeds the environments (row i gets it plus i) and the actions, the same for every subject."""

_BATCHES: Final = 128
"""Batches of actions drawn beforehand and then repeated: several episodes of a short-lived environment."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one subject did in one round.

    Attributes:
        steps_per_s: Environment steps a second, steps that only reset a row left out.
        batch_ns: Nanoseconds of each batch, as its caller saw it; empty for a subject that steps no batches. At a fixed
            rate they count from when the batch was due, and one that was not begun has what it had waited by the end.
        due: How many batches were due, at a fixed rate; None where each begins when the one before it is there.
        begun: How many of them were begun.
    """

    steps_per_s: float
    batch_ns: list[int] = field(default_factory=list)
    due: int | None = None
    begun: int | None = None


class Subject(Protocol):
    """Something to measure. Between two rounds it must cost no processor time."""

    def measure(self, seconds: float) -> Sample:
        """Step for so long, and until the batch that was begun is finished."""


def action_batches(space: gymnasium.Space[Any], num_envs: int) -> list[Any]:
    """The actions of a comparison: every process that asks gets the same.

    Args:
        space: The action space of one row.
        num_envs: Rows.

    Returns:
        Batches, each an element of the batched space.
    """
    batched = batch_space(space, num_envs)
    batched.seed(SEED)
    return [batched.sample() for _ in range(_BATCHES)]


class VectorSubject:
    """A vector environment that resets its rows in the step after an end. Resets it once, at the start.

    Args:
        envs: The vector environment; stays the caller's.
        batches: The actions, taken in turn.
        interval: Seconds between two batches, where they are due at a fixed rate.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], batches: list[Any], interval: float | None = None) -> None:
        self._envs = envs
        self._batches = cycle(batches)
        self._interval = interval
        self._over = np.zeros(envs.num_envs, np.bool_)
        envs.reset(seed=SEED)

    def measure(self, seconds: float) -> Sample:
        """Step for so long; counts as ``gymnasium.utils.performance.benchmark_vector_step`` does."""
        step, batches, rows, over = self._envs.step, self._batches, self._envs.num_envs, self._over

        def step_batch() -> int:
            nonlocal over
            _, _, terminated, truncated, _ = step(next(batches))
            counted = rows - int(np.count_nonzero(over))
            over = np.logical_or(terminated, truncated)
            return counted

        if self._interval is None:
            steps, batch_ns, took_ns = closed_loop(step_batch, seconds)
            due = begun = None
        else:
            steps, batch_ns, took_ns, due, begun = paced_loop(step_batch, self._interval, seconds)
        self._over = over
        return Sample(steps * 1e9 / took_ns, batch_ns, due, begun)


class Part(Protocol):
    """Some rows of a vector environment that step for themselves."""

    num_envs: int
    rows: range

    def step_async(self, actions: Any) -> None:
        """Begin to step them."""

    def step_wait(self) -> tuple[Any, ...]:
        """Their results."""


class PartsSubject:
    """The parts of a vector environment in turns, as a trainer with a buffer for each steps them.

    While one part's results are looked at the others step. A batch is all parts once, from one to the next: its time is
    that of a turn, not how long a part takes. They were reset before.

    Args:
        parts: All rows together; they stay the caller's.
        batches: The actions of all rows, taken in turn.
    """

    def __init__(self, parts: Sequence[Part], batches: list[Any]) -> None:
        self._parts = parts
        self._actions = [cycle([_rows_of(batch, part.rows) for batch in batches]) for part in parts]
        self._over = [np.zeros(part.num_envs, np.bool_) for part in parts]

    def measure(self, seconds: float) -> Sample:
        """Step for so long; between two rounds nothing is under way."""
        for part, actions in zip(self._parts, self._actions, strict=True):
            part.step_async(next(actions))
        steps, batch_ns, took_ns = closed_loop(self._step_all, seconds)
        for i in range(len(self._parts)):
            self._collect(i)
        return Sample(steps * 1e9 / took_ns, batch_ns)

    def _step_all(self) -> int:
        counted = 0
        for i, (part, actions) in enumerate(zip(self._parts, self._actions, strict=True)):
            counted += self._collect(i)
            part.step_async(next(actions))
        return counted

    def _collect(self, i: int) -> int:
        _, _, terminated, truncated, _ = self._parts[i].step_wait()
        counted = self._parts[i].num_envs - int(np.count_nonzero(self._over[i]))
        self._over[i] = np.logical_or(terminated, truncated)
        return counted


def _rows_of(batch: Any, rows: range) -> Any:
    """Some rows of an element of a batched space."""
    if isinstance(batch, dict):
        return {key: _rows_of(value, rows) for key, value in batch.items()}
    if isinstance(batch, tuple) and all(isinstance(value, np.ndarray | dict | tuple) for value in batch):
        return tuple(_rows_of(value, rows) for value in batch)
    return batch[rows.start : rows.stop]
