"""For every interpreter that has this directory on its path: the time of day jumps by up to ten years with each look."""

from __future__ import annotations

import random
import time

_YEARS_S = 10 * 365 * 86400.0
_true_time = time.time
_dice = random.Random(1)


def _time() -> float:
    return _true_time() + _dice.uniform(-_YEARS_S, _YEARS_S)


time.time = _time
time.time_ns = lambda: int(_time() * 1e9)
