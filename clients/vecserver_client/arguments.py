"""What may be passed to ``reset`` and ``call`` of a vector environment, checked where Gymnasium checks it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

__all__ = ["Options", "callable_name", "mask_and_options", "seed_of_each"]

Options = dict[str, Any] | list[dict[str, Any] | None] | None

_REFUSED_CALLS: Final = frozenset({"reset", "step", "close"})


def callable_name(name: str) -> str:
    """A name that ``call`` takes.

    Raises:
        ValueError: It is one of the vector environment's own.
    """
    if name in _REFUSED_CALLS:
        raise ValueError(f"`{name}` cannot be called through `call`: use `{name}` of the vector environment itself")
    return name


def seed_of_each(seed: Any, num_envs: int) -> list[int | None] | None:
    """One seed or None a row; None where no row gets one.

    Args:
        seed: A number: row i gets seed + i; or one number or None a row.
        num_envs: Rows.

    Raises:
        ValueError: They are more, or fewer.
    """
    if seed is None:
        return None
    if isinstance(seed, int | np.integer):
        return [int(seed) + row for row in range(num_envs)]
    seeds = [None if one is None else int(one) for one in seed]
    if len(seeds) != num_envs:
        raise ValueError(f"a list of seeds must have one entry a row: got {len(seeds)} for num_envs={num_envs}")
    return seeds


def mask_and_options(options: Options, num_envs: int) -> tuple[list[bool] | None, Options]:
    """Which rows are to be reset, None for all, and the options without that.

    Args:
        options: As ``reset`` takes them.
        num_envs: Rows.

    Raises:
        TypeError: The mask is no array of booleans.
        ValueError: The mask, or a list of options, has another length, or the mask names no row.
    """
    if isinstance(options, list | tuple):
        if len(options) != num_envs:
            raise ValueError(f"a list of options must have one entry a row: got {len(options)} for {num_envs}")
    elif options is not None and "reset_mask" in options:
        mask = _checked_mask(options["reset_mask"], num_envs)
        return mask, {key: value for key, value in options.items() if key != "reset_mask"}
    return None, options


def _checked_mask(mask: Any, num_envs: int) -> list[bool]:
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
    if mask.shape != (num_envs,):
        raise ValueError(f"`options['reset_mask']` must have shape `({num_envs},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(f"`options['reset_mask']` must have at least one True, got reset_mask={mask}")
    selected: list[bool] = mask.tolist()
    return selected
