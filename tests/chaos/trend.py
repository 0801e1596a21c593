"""Whether a series of samples rises: its slope, and how sure that is although neighbouring samples resemble each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
BLOCKS = 12
"""Pieces of the series that are drawn anew as wholes: samples within one may hang together."""


class Trend(NamedTuple):
    """A slope in units an hour, with the ends of its 95 % confidence interval."""

    slope: float
    low: float
    high: float


def trend(seconds: np.ndarray, values: np.ndarray) -> Trend:
    """The line of least squares through a series; its interval by a bootstrap of the residuals in moving blocks."""
    hours = (seconds - seconds[0]) / 3600.0
    offsets = hours - hours.mean()
    weights = offsets / (offsets @ offsets)
    slope = float(weights @ values)
    residuals = values - values.mean() - slope * offsets
    size = len(values)
    length = max(1, size // BLOCKS)
    dice = np.random.default_rng(0)
    slopes = []
    for _ in range(RESAMPLES):
        begins = dice.integers(0, size - length + 1, -(-size // length))
        drawn = np.concatenate([residuals[begin : begin + length] for begin in begins])[:size]
        slopes.append(slope + weights @ drawn)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Trend(slope, float(low), float(high))
