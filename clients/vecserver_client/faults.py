"""An environment's exception, raised here so that code written for a local environment catches it."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

import gymnasium.error

if TYPE_CHECKING:
    from vecserver.wire.errors import EnvFault

__all__ = ["as_original"]


def as_original(fault: EnvFault) -> EnvFault:
    """The same fault, also an instance of the exception type that the environment raised.

    Only Python's own exceptions and those of ``gymnasium.error`` are looked up, by name; for any other type the fault
    is returned as it is. ``except ValueError`` and ``except EnvFault`` then both catch a ValueError of an environment.
    """
    kind = type(fault)
    original = getattr(builtins, fault.type, None) or getattr(gymnasium.error, fault.type, None)
    # An Exception only: SystemExit or KeyboardInterrupt of an environment must not end the trainer
    if not (isinstance(original, type) and issubclass(original, Exception)):
        return fault
    members = {"__module__": kind.__module__, "__reduce__": lambda _: (as_original, (fault,))}
    try:
        same: EnvFault = type(kind.__name__, (kind, original), members)(fault.message, **fault.details)
    except TypeError:  # an exception with a layout or a constructor of its own
        return fault
    return same
