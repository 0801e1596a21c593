"""Which attributes of environments a driver may call, read and set at a server.

What Gymnasium's vector environments take for a ``call`` is any name at all. Here it is a plain one: names that begin
with an underscore are Python's or their class's own, and ``__init__`` would make the environment anew with arguments
that nobody has looked at. An operator opens one by its name.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from vecserver.wire.codec import unpack
from vecserver.wire.errors import ForbiddenEnv, InvalidSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vecserver.wire.messages import Call

__all__ = ["check_call"]

_OURS: Final = "__wrapper_classes__"
"""Answered by the engine, without a look at the environment's attributes."""

_BY_NAME: Final = frozenset(
    {
        *("get_wrapper_attr", "has_wrapper_attr", "set_wrapper_attr"),
        # of an environment that is vectorised itself
        *("call", "call_async", "get_attr", "set_attr"),
    }
)
"""Methods that Gymnasium's classes have and that take the name of an attribute: it counts as if it were called."""


def check_call(request: Call, env_id: str, allowed: Sequence[str]) -> None:
    """Refuse a name that a driver may not reach.

    Args:
        request: The call.
        env_id: The pool's.
        allowed: ``ENVGLOB:NAME`` each: what its operator has opened.

    Raises:
        InvalidSpec: It is no name, a path with dots say.
        ForbiddenEnv: It begins with an underscore; ``setting`` names what would allow it.
    """
    plain = env_id.rpartition(":")[2]
    for name in _names(request):
        if not name.isidentifier():
            raise InvalidSpec(f"{name!r:.100} is no name of an attribute, which has no dots or blanks", field="name")
        if name.startswith("_") and name != _OURS and not _is_opened(plain, name, allowed):
            raise ForbiddenEnv(
                f"{name!r:.100} begins with an underscore, and is not to be called, read or set from outside. The "
                f"operator of this server allows it with --allow-kwarg {f'{plain}:{name}'!r:.200}",
                env_id=env_id,
                setting="allow_kwarg",
                field="name",
                argument=name,
            )


def _names(request: Call) -> Iterator[str]:
    yield request.name
    if request.name in _BY_NAME and not request.assign:
        match unpack(request.arguments):
            case [[str(name), *_] | (str(name), *_), _]:
                yield name
            case [_, {"name": str(name)}]:
                yield name
            case [_, {"attr_name": str(name)}]:
                yield name


def _is_opened(env_id: str, name: str, allowed: Sequence[str]) -> bool:
    pairs: list[tuple[str, Any, str]] = [pair.rpartition(":") for pair in allowed]
    return any(fnmatchcase(env_id, glob) and fnmatchcase(name, names) for glob, _, names in pairs)
