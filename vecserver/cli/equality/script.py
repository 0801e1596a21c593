"""What both sides are told to do, in the same order: resets of every kind, and steps with seeded actions."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gymnasium.vector import VectorEnv

__all__ = ["FIELDS", "Asynchronous", "Fields", "Operation", "Reset", "Script", "Step", "perform"]

FIELDS: Final = ("observations", "rewards", "terminated", "truncated", "infos")
_RESET_FIELDS: Final = ("observations", "infos")

_OTHER_SEED: Final = 1000
"""Added to the seed for the second full reset: with fewer rows than this, none gets a seed that any row had before."""

Fields = dict[str, Any]
"""What an operation returned, by the names in ``FIELDS``."""


class Asynchronous(Protocol):
    """The part of a vector environment that lets several work at the same time."""

    def step_async(self, actions: Any) -> None:
        """Begin to step."""

    def step_wait(self) -> tuple[Any, ...]:
        """The result of the step."""

    def reset_async(self, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin to reset."""

    def reset_wait(self) -> tuple[Any, ...]:
        """The result of the reset."""


@dataclass(frozen=True, slots=True)
class Step:
    """Step every row. The environments get copies of the actions: some write into them."""

    number: int
    actions: Any

    @property
    def label(self) -> str:
        """How a message names it."""
        return f"step {self.number}"

    def begin(self, envs: Asynchronous) -> None:
        """Tell a vector environment."""
        envs.step_async(deepcopy(self.actions))

    def finish(self, envs: Asynchronous) -> Fields:
        """Wait for what it returns."""
        return dict(zip(FIELDS, envs.step_wait(), strict=True))


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset all rows, or those of a mask."""

    number: int
    seed: int | list[int | None] | None = None
    mask: list[bool] | None = None

    @property
    def label(self) -> str:
        """How a message names it."""
        arguments = [] if self.seed is None else [f"seed={self.seed}"]
        if self.mask is not None:
            arguments.append(f"rows {[row for row, chosen in enumerate(self.mask) if chosen]}")
        return f"reset({', '.join(arguments)}) {f'after step {self.number}' if self.number else 'at the start'}"

    def arguments(self) -> dict[str, Any]:
        """The arguments of ``reset``, new ones each time: Gymnasium takes the mask out of the options."""
        options = None if self.mask is None else {"reset_mask": np.array(self.mask, np.bool_)}
        return {"seed": deepcopy(self.seed), "options": options}

    def begin(self, envs: Asynchronous) -> None:
        """Tell a vector environment."""
        envs.reset_async(**self.arguments())

    def finish(self, envs: Asynchronous) -> Fields:
        """Wait for what it returns."""
        return dict(zip(_RESET_FIELDS, envs.reset_wait(), strict=True))


Operation = Step | Reset


def perform(operation: Operation, envs: VectorEnv[Any, Any, Any]) -> Fields:
    """Have a vector environment that does one thing at a time do it."""
    if isinstance(operation, Reset):
        return dict(zip(_RESET_FIELDS, envs.reset(**operation.arguments()), strict=True))
    return dict(zip(FIELDS, envs.step(deepcopy(operation.actions)), strict=True))


class Script:
    """The operations of a run, to be iterated once. After each operation tell it what came with ``note``.

    A step for each batch of actions. Evenly spread among them are a masked reset, a reset with another seed, a reset
    with a list of seeds of which some are None, and a masked reset with seeds. A row that gets None goes on with the
    generator that an earlier seed has made, so it is as comparable as a row that resets by itself.

    Args:
        actions: A batch a step.
        num_envs: Rows.
        seed: Of the first reset.
        by_mask: Whether rows that ended are reset by mask, as the autoreset mode ``Disabled`` wants it.
        as_one: Whether nothing else is asked of single rows: all are reset at once, with one seed.
    """

    def __init__(
        self, actions: Sequence[Any], num_envs: int, seed: int, *, by_mask: bool, as_one: bool = False
    ) -> None:
        self._actions, self._num_envs, self._seed, self._by_mask = actions, num_envs, seed, by_mask
        self._as_one = as_one
        self._over = np.zeros(num_envs, np.bool_)

    def note(self, fields: Fields) -> None:
        """Learn from a result which rows have ended."""
        self._over = np.logical_or(fields.get("terminated", False), fields.get("truncated", False))

    def __iter__(self) -> Iterator[Operation]:
        yield Reset(0, self._seed)
        for number, actions in enumerate(self._actions, 1):
            yield Step(number, actions)
            if self._by_mask and self._over.any():
                yield Reset(number, mask=self._over.tolist())
            yield from self._interludes(number)

    def _interludes(self, number: int) -> Iterator[Operation]:
        rows = range(self._num_envs)
        every_other = [row % 2 == 0 for row in rows]
        other = self._seed + _OTHER_SEED
        interludes: tuple[Reset, ...] = (
            Reset(number, mask=every_other),
            Reset(number, seed=other),
            Reset(number, seed=[None if row % 2 else self._seed + 7 * row for row in rows]),
            Reset(number, seed=[other + row if row % 3 else None for row in rows], mask=every_other),
        )
        if self._as_one:
            interludes = (Reset(number, seed=other), Reset(number))
        for place, interlude in enumerate(interludes, 1):
            if number == max(1, len(self._actions) * place // (len(interludes) + 1)):
                yield interlude
