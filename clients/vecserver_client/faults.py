"""An environment's exception, raised here so that code written for a local environment catches it."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

import gymnasium.error

if TYPE_CHECKING:
    from vecserver.wire.errors import EnvFault

__all__ = ["as_original"]


def as_original(
    fault: EnvFault, original: type[BaseException] | None = None, state: dict[str, Any] | None = None
) -> EnvFault:
    """The same fault, also an instance of the exception type that the environment raised.

    ``except ValueError`` and ``except EnvFault`` then both catch a ValueError of an environment.

    Args:
        fault: What the pool said.
        original: The type, where it is known for certain. Without it Python's own exceptions and those of
            ``gymnasium.error`` are looked up by name; for any other the fault is returned as it is.
        state: Attributes of the exception.
    """
    kind = type(fault)
    original = original or getattr(builtins, fault.type, None) or getattr(gymnasium.error, fault.type, None)
    # An Exception only: SystemExit or KeyboardInterrupt of an environment must not end the trainer
    if not (isinstance(original, type) and issubclass(original, Exception)):
        return fault
    members = {
        "__module__": kind.__module__,
        "__reduce__": lambda _: (as_original, (fault, original, state)),
        "__str__": lambda _: fault.message,  # a KeyError would show its repr
        "message": fault.message,
        "details": fault.details,
    }
    try:
        both: type[EnvFault] = type(kind.__name__, (kind, original), members)
        same = both.__new__(both, fault.message)  # not its constructor, which may want anything
    except TypeError:  # an exception with a layout of its own
        return fault
    same.args = (fault.message,)
    vars(same).update({name: value for name, value in (state or {}).items() if name not in members})
    return same
