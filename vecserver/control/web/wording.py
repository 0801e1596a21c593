"""Numbers and values as people read them. Pure."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.pools.results import PoolView

__all__ = [
    "NOTHING",
    "ago_text",
    "number_text",
    "restarts_text",
    "reward_text",
    "seconds_text",
    "sparkline",
    "value_text",
]

NOTHING: Final = "–"
"""In the place of a number that is not known."""

_DURATIONS: Final = ((1e-3, "µs", 1e-6), (1.0, "ms", 1e-3), (100.0, "s", 1.0))
_WIDTH, _HEIGHT = 96, 24


def number_text(number: float | None) -> str:
    """A number with three digits that count, and k or M behind it."""
    if number is None:
        return NOTHING
    size = abs(number)
    if size >= 999_500:
        return f"{number / 1e6:.3g} M"
    if size >= 999.5:
        return f"{number / 1e3:.3g} k"
    return f"{number:.0f}" if size >= 100 else f"{number:.3g}"


def reward_text(reward: float | None) -> str:
    """A reward with four digits that count."""
    return NOTHING if reward is None else f"{reward:.4g}"


def seconds_text(seconds: float | None) -> str:
    """A duration in the unit that people would use."""
    if seconds is None:
        return NOTHING
    for limit, unit, size in _DURATIONS:
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return ago_text(seconds)


def ago_text(seconds: float) -> str:
    """How long ago something was, in whole seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def value_text(value: Any, longest: int = 4000) -> str:
    """A JSON value on few lines; the middle of a long one is left out."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if isinstance(value, dict) else 0).decode()
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}\n… {len(text) - longest} characters more …\n{text[-longest // 2 :]}"


def restarts_text(view: PoolView) -> str:
    """How often workers of a pool were replaced, and its host."""
    if view.stats is None:
        return NOTHING
    workers = sum(view.stats.restarts.values())
    return f"{workers} and its host {view.restarts}" if view.restarts else str(workers)


def sparkline(values: Sequence[float | None], label: str) -> str:
    """A small line without axes, from nothing to the largest value, as SVG.

    Args:
        values: Oldest first; None leaves a gap.
        label: What is drawn, for whoever does not see it.

    Returns:
        Nothing where there is nothing to see.
    """
    known = [value for value in values if value is not None]
    top = max(known, default=0.0)
    if top <= 0:
        return ""
    step = _WIDTH / max(1, len(values) - 1)
    path, drawing = [], False
    for i, value in enumerate(values):
        if value is not None:
            path.append(f"{'L' if drawing else 'M'}{i * step:.1f} {_HEIGHT - 1 - value / top * (_HEIGHT - 2):.1f}")
        drawing = value is not None
    return (
        f'<svg class="vs-spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(label)}" '
        f'preserveAspectRatio="none"><path d="{" ".join(path)}"/></svg>'
    )
