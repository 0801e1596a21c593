"""How an episode begins, so that it can begin once more: its reset's seed, or what its generator was before."""

from __future__ import annotations

from struct import Struct
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from vecserver.arena.record import Beginning, How

if TYPE_CHECKING:
    import gymnasium

__all__ = ["begin_again", "beginning_of"]

_LARGEST: Final = (1 << 64) - 1
_STATE: Final = Struct("=16s16sII")
_GENERATOR: Final = "PCG64"
"""Gymnasium's: the only one whose state has a place in a record."""


def beginning_of(
    unwrapped: gymnasium.Env[Any, Any], seed: int | None = None, options: dict[str, Any] | None = None
) -> Beginning:
    """What there is to know of an environment before it is reset.

    Args:
        unwrapped: The environment, without wrappers.
        seed: Of the reset.
        options: Of the reset.
    """
    now = perf_counter()
    if options:
        return Beginning(How.OPTIONS)
    empty = options is not None
    if seed is not None:
        # what is no seed is the environment's to refuse
        return Beginning(How.SEED, seed, empty, now) if 0 <= seed <= _LARGEST else Beginning(How.NOT)
    try:
        state = unwrapped.np_random.bit_generator.state
    except AttributeError:  # an environment with a generator of its own kind, or none
        return Beginning(How.OTHER_GENERATOR)
    if state["bit_generator"] != _GENERATOR:
        return Beginning(How.OTHER_GENERATOR)
    numbers = state["state"]
    value, step = numbers["state"].to_bytes(16), numbers["inc"].to_bytes(16)
    return Beginning(How.STATE, 0, empty, now, _STATE.pack(value, step, state["has_uint32"], state["uinteger"]))


def begin_again(env: gymnasium.Env[Any, Any], beginning: Beginning) -> tuple[Any, dict[str, Any]]:
    """Begin an episode in another environment as it began.

    Args:
        env: New, and never reset.
        beginning: With a seed or a state.

    Returns:
        The observation and info of the reset; whatever the environment raises comes out.
    """
    options: dict[str, Any] | None = {} if beginning.empty_options else None
    if beginning.how == How.SEED:
        return env.reset(seed=beginning.seed, options=options)
    env.reset(seed=0)  # its generator is there from then on
    value, step, has_half, half = _STATE.unpack(beginning.state)
    env.unwrapped.np_random.bit_generator.state = {
        "bit_generator": _GENERATOR,
        "state": {"state": int.from_bytes(value), "inc": int.from_bytes(step)},
        "has_uint32": has_half,
        "uinteger": half,
    }
    return env.reset(options=options)
