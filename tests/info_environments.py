"""Environments whose infos an encoding or a merge easily gets wrong."""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from tests.environments import CountEnv

NUMBERS = "?bhilqBHILQefd"
Info = dict[Any, Any]


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Tagged(np.ndarray):
    """An array of a class of its own."""


def python_values(row: int, step: int) -> Info:
    return {
        "int": row - step,
        "float": row / 7,
        "minus zero": -0.0,
        "infinite": float("-inf"),
        "bool": bool(step % 2),
        "none": None,
        "text": f"žluť {row}",
        "raw": bytes([row, 0]),
        "empty text": "",
        "largest": 2**63 - 1,
        "smallest": -(2**63),
        "list": [row, [step, None, 2.5], {"a": (1, "x")}, []],
        "tuple": (row, (np.int8(step), b"")),
        "beyond 64 bits, in a list": [2**70, -(2**200)],
    }


def numpy_scalars(row: int, step: int) -> Info:
    numbers = {f"scalar {code}": np.dtype(code).type(row + step) for code in NUMBERS + "FD"}
    others = [
        np.str_(f"row {row}"),
        np.str_(""),
        np.bytes_(b"\0x"),
        np.datetime64("2026-01-01"),
    ]
    return numbers | {f"other {i}": value for i, value in enumerate(others)}


def arrays(row: int, step: int) -> Info:
    found: Info = {}
    for code in NUMBERS + "FD":
        found[f"zero dimensions {code}"] = np.array(row + step, code)
        found[f"matrix {code}"] = np.full((2, 3), row + step, code)
    ordered = np.arange(6.0).reshape(2, 3) + row
    return found | {
        "nothing": np.zeros((0, 4), np.float16),
        "big endian": np.arange(3, dtype=">i4") + row,
        "fortran": np.asfortranarray(ordered),
        "strided": ordered[:, ::2],
        "read only": np.broadcast_to(np.float32(row), (3,)),
        "text": np.array(["row", f"{step:04}"]),
        "raw": np.array([b"a", b"\0b"]),
        "times": np.array(["2026-01-01", "NaT"], "M8[D]"),
        "objects": np.array([{"row": row}, None, [1, (2,)]], dtype=object),
        "one object": np.array({"row": row}, dtype=object),
        "broadcast over the rows before": np.zeros(2) if row == 0 else np.ones(1),
    }


def odd_keys(row: int, step: int) -> Info:
    return {
        "": row,
        "_": step,
        "_a": row,
        "a": step,
        "__a": 2.5,
        "a.b": "dot",
        "b": {"_c": 1, "c": 2},
        1: row,
        -1: "minus one",
        2.5: step,
        None: row,
        (1, "x"): row,
        b"raw": row,
        np.int16(9): row,
        "é": row,
        "episode": row,
        "final_obs": np.full(2, row),
        "deep": {0: {1: {(): row}}},
    }


def gaps(row: int, step: int) -> Info:
    info: Info = {"always": row}
    if (row + step) % 2:
        info["sometimes"] = np.full((row + 1,) if row == step else (2,), row, np.int8)[:1]
        info["inner"] = {"odd": row}
    elif row != 2:
        info["inner"] = {"even": float(row), "only": {} if row else {"first": True}}
        info["note"] = "even"
    return info if (row + step) % 5 else {}


def nested(row: int, step: int) -> Info:
    tower: Any = row
    for level in range(12):
        tower = {f"level {level}": tower, "row": np.int8(row)}
    return {
        "empty": {},
        "empty inside": {"a": {}, "b": {"c": {}}},
        "tower": tower,
        "list of dicts": [{"a": {"b": step}}],
    }


def types_that_differ(row: int, step: int) -> Info:
    return {
        "an integer first": row if row == 0 else row + 0.75,
        "a fraction first": row + 0.75 if row == 0 else row,
        "a small type first": np.int8(row) if row == 0 else row,
        "text first": "row" if row == 0 else row,
        "none first": None if row == 0 else np.arange(row),
        "a truth first": True if row == 0 else row,
        "a dict first": {"a": 1} if row == 0 else row,
        "shapes in a list": [np.zeros(row), np.zeros((row, step))],
    }


def subclasses(row: int, step: int) -> Info:
    return {
        "ordered": OrderedDict(b=row, a=OrderedDict(c=step)),
        "default": defaultdict(list, x=[row]),
        "masked": np.ma.MaskedArray([row, step], mask=[True, False]),
        "tagged": np.full((2, 2), row, np.float16).view(Tagged),
    }


def travelling_part(row: int, step: int) -> Info:
    return {"steps": step, "in": {"good": row, "deep": {}}, "array": np.full(2, row)}


def not_travelling(row: int, step: int) -> Info:
    return {
        "steps": step,
        "object": object(),
        "lock": threading.Lock(),
        "function": lambda: row,
        "in": {"good": row, "set": {row}, "deep": {"generator": (i for i in range(3))}},
        "enum": Colour.RED,
        "int enum": Level.LOW,
        "complex": 1j,
        "long double": np.longdouble(row),
        "structure": np.zeros(2, [("a", "i4")]),
        "list": [row, object()],
        "objects": np.array([None, threading.Lock()], dtype=object),
        "lone surrogate": "\ud800",
        Colour.RED: row,
        "array": np.full(2, row),
    }


CASES: dict[str, Callable[[int, int], Info]] = {
    each.__name__: each
    for each in (
        python_values,
        numpy_scalars,
        arrays,
        odd_keys,
        gaps,
        nested,
        types_that_differ,
        subclasses,
        travelling_part,
        not_travelling,
    )
}
UNMERGEABLE: dict[str, list[Any]] = {
    "shapes that differ": [np.zeros(2), np.zeros(3)],
    "a number, then nothing": [1, None],
    "a number, then text": [1, "text"],
    "an integer beyond 64 bits": [1, 2**70],
    "a number, then a dict": [1, {"b": 1}],
    "a number, then an array": [1.5, np.zeros(2)],
    "spans of time": [np.timedelta64(1, "s"), np.timedelta64(2, "s")],
}


class OddInfosEnv(CountEnv):
    """``Count`` whose infos are those of a case, for the row and the step; seed row i with ``BASE + i``.

    Args:
        case: A key of ``CASES`` or of ``UNMERGEABLE``.
        script: Infos instead: of each row a list of infos, in turn.
        **kwargs: As for ``CountEnv``.
    """

    BASE = 100

    def __init__(self, *, case: str = "", script: list[list[Info]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._case, self._script, self._turn = case, script, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        return super().reset(seed=seed, options=options)[0], self.describe(None)

    def describe(self, action: Any) -> Info:
        row = self.identity - self.BASE
        if self._script is not None:
            self._turn += 1
            return self._script[row][self._turn % len(self._script[row])]
        if self._case in UNMERGEABLE:
            values = UNMERGEABLE[self._case]
            return {"a": values[row % len(values)]} if self.steps == 2 else {}
        return CASES[self._case](row, self.steps)


if "vectest/OddInfos-v0" not in gym.registry:
    gym.register("vectest/OddInfos-v0", f"{__name__}:OddInfosEnv", disable_env_checker=True)

ODD_INFOS = f"{__name__}:vectest/OddInfos-v0"
