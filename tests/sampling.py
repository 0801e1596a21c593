"""Which combinations of parameters the default suite runs; all the others are ``slow``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import pytest


def in_turn(names: str, *axes: Sequence[Any]) -> pytest.MarkDecorator:
    """All combinations of several axes; by default as few of them as show every value of every axis.

    Args:
        names: The parameters, as ``pytest.mark.parametrize`` takes them.
        axes: Their values; a tuple stands for several parameters.
    """
    shown = {tuple(turn % len(axis) for axis in axes) for turn in range(max(map(len, axes)))}
    combinations = []
    for places in itertools.product(*(range(len(axis)) for axis in axes)):
        values = [axis[place] for axis, place in zip(axes, places, strict=True)]
        flat = itertools.chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in values)
        combinations.append(pytest.param(*flat, marks=() if places in shown else pytest.mark.slow))
    return pytest.mark.parametrize(names, combinations, ids=_short)


def of_which(names: str, cases: Sequence[Any], *default: int) -> pytest.MarkDecorator:
    """All cases; by default those at these places."""
    chosen = {place % len(cases) for place in default}
    params = []
    for place, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        params.append(pytest.param(*values, marks=() if place in chosen else pytest.mark.slow))
    return pytest.mark.parametrize(names, params, ids=_short)


def by_turns(names: str, cases: Sequence[Any]) -> Callable[[Callable[..., Any]], pytest.MarkDecorator]:
    """All cases; by default one, the next at each use: the tests of a file show them all together."""
    uses = itertools.count()
    return lambda test: of_which(names, cases, next(uses))(test)


def _short(value: Any) -> str | None:
    return value.name.lower() if isinstance(value, Enum) else None
