"""Comparison down to the bit of what two vector environments return."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

PARTS = ("observations", "rewards", "terminations", "truncations", "infos")


def assert_same(a: Any, b: Any, path: str = "value") -> None:
    """Asserts that ``a`` equals the expected ``b`` in structure, type, dtype, shape and every bit.

    NaNs are equal when their bits are, ``0.0`` and ``-0.0`` differ, and so do a tuple and a list, ``1`` and ``True``, a
    numpy scalar and a Python number. The order of a dict's keys does not matter.

    Raises:
        AssertionError: Names the path of the first difference and both values there.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        _assert_same_keys(a, b, path)
        for key in b:
            assert_same(a[key], b[key], f"{path}[{key!r}]")
    elif type(a) is not type(b):
        raise AssertionError(f"{path}: type {type(a).__name__} ({a!r}), expected {type(b).__name__} ({b!r})")
    elif isinstance(a, np.ndarray):
        _assert_same_arrays(a, b, path)
    elif isinstance(a, (tuple, list)):
        if len(a) != len(b):
            raise AssertionError(f"{path}: length {len(a)}, expected {len(b)}")
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{path}[{index}]")
    elif _bits(a) != _bits(b):
        raise AssertionError(f"{path}: {_shown(a, b)}")


def _assert_same_keys(a: Mapping[Any, Any], b: Mapping[Any, Any], path: str) -> None:
    if a.keys() != b.keys():
        missing, extra = sorted(map(repr, b.keys() - a.keys())), sorted(map(repr, a.keys() - b.keys()))
        raise AssertionError(
            f"{path}: keys missing: {', '.join(missing) or 'none'}; not expected: {', '.join(extra) or 'none'}"
        )


def _assert_same_arrays(a: np.ndarray, b: np.ndarray, path: str) -> None:
    if a.dtype != b.dtype:
        raise AssertionError(f"{path}: dtype {a.dtype}, expected {b.dtype}")
    if a.shape != b.shape:
        raise AssertionError(f"{path}: shape {a.shape}, expected {b.shape}")
    if a.dtype.hasobject:
        for index in np.ndindex(a.shape):
            assert_same(a[index], b[index], f"{path}{list(index)}")
    elif a.tobytes() != b.tobytes():
        index = next(index for index in np.ndindex(a.shape) if a[index].tobytes() != b[index].tobytes())
        place = f"{path}{list(index)}"
        raise AssertionError(f"{place}: {_shown(a[index], b[index])}\n got {a!r}\n expected {b!r}")


def _shown(a: Any, b: Any) -> str:
    if repr(a) == repr(b):
        return f"{a!r} of bits {_bits(a)}, expected {b!r} of bits {_bits(b)}"
    return f"{a!r}, expected {b!r}"


def _bits(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.dtype, value.tobytes()
    return struct.pack("<d", value) if isinstance(value, float) else value


def assert_same_batch(got: tuple[Any, ...], expected: tuple[Any, ...], path: str) -> None:
    """Asserts that two results of ``step`` are the same."""
    assert len(got) == len(expected) == len(PARTS), f"{path}: {len(got)} parts"
    for part, left, right in zip(PARTS, got, expected, strict=True):
        assert_same(left, right, f"{path}: {part}")


def run_both(
    subject: VectorEnv,
    oracle: VectorEnv,
    steps: int,
    *,
    seed: int | list[int | None] | None = 0,
    action_seed: int = 0,
    change: Callable[[Any], Any] | None = None,
) -> int:
    """Resets both, steps both with the same actions, and asserts after every step that all results are the same.

    In the ``DISABLED`` mode the rows whose episode ended are reset by mask, in both.

    Args:
        subject: The vector environment under test.
        oracle: The one that is right; it also samples the actions.
        steps: Batches to step.
        seed: Seed of the reset.
        action_seed: Seed of the actions.
        change: Applied to every batch of actions before it is sent, for example a cast.

    Returns:
        How many episodes ended, in all rows together.
    """
    by_mask = oracle.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    oracle.action_space.seed(action_seed)
    assert_same(subject.reset(seed=seed), oracle.reset(seed=seed), f"reset(seed={seed})")
    ended = 0
    for number in range(steps):
        actions = oracle.action_space.sample()
        actions = change(actions) if change else actions
        got = subject.step(deepcopy(actions))
        expected = oracle.step(actions)
        assert_same_batch(got, expected, f"step {number}")
        over = np.logical_or(expected[2], expected[3])
        ended += int(over.sum())
        if by_mask and over.any():
            pair = [envs.reset(options={"reset_mask": over.copy()}) for envs in (subject, oracle)]
            assert_same(*pair, f"reset by mask {over.tolist()} after step {number}")
    return ended
