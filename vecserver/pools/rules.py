"""Which environments, and with which arguments, a server makes for its callers: what its operator allows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import gymnasium

from vecserver.engine.providers import spec_of
from vecserver.pools.kwarg_rules import denied_arguments
from vecserver.pools.spec import offered_env_ids
from vecserver.wire.errors import CapExceeded, ForbiddenEnv, InvalidSpec

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from vecserver.pools.spec import PoolSpec

__all__ = ["GYMNASIUM", "TRUSTING", "EnvRules"]

GYMNASIUM: Final = "gymnasium"
"""In the list of ids: all that Gymnasium itself registers."""

MAX_KWARGS_DEPTH: Final = 12
"""Nesting of an environment's arguments: more says nothing that an environment understands."""

_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class EnvRules:
    """What callers may have made here; a refusal names the setting that would allow it.

    Attributes:
        allow_env: Globs of registered ids; ``gymnasium`` stands for those that Gymnasium itself registers.
        allow_module: Globs of the modules that may be named in ``module:Id-v0``, with all that they register.
        allow_kwarg: ``ENVGLOB:NAME`` each: arguments that are taken although they name files or code.
        max_kwargs_bytes: Length of an environment's and its wrappers' arguments, as JSON.
    """

    allow_env: tuple[str, ...] = (GYMNASIUM,)
    allow_module: tuple[str, ...] = ()
    allow_kwarg: tuple[str, ...] = ()
    max_kwargs_bytes: int = 64 << 10

    def check(self, spec: PoolSpec) -> None:
        """Refuse what is not allowed here; imports nothing that the id names.

        Raises:
            ForbiddenEnv: The id, its module or an argument is not allowed; ``setting`` names what would allow it.
            CapExceeded: The arguments are too large.
            InvalidSpec: They are nested too deep.
        """
        self.check_id(spec.env_id)
        arguments = {"env_kwargs": spec.env_kwargs, "wrappers": _arguments_of(spec.wrappers)}
        self._check_size(arguments)
        for field, value in (("render_mode", {"render_mode": spec.render_mode}), *arguments.items()):
            self._check_arguments(spec.env_id, field, value)

    def check_id(self, env_id: str) -> None:
        """Refuse an id that is not allowed here; one that nobody has registered passes, for others to say so.

        Raises:
            ForbiddenEnv: It is not allowed.
        """
        module, colon, plain = env_id.rpartition(":")
        if colon:
            if not _MODULE.fullmatch(module) or not _any_matches(module, self.allow_module):
                raise ForbiddenEnv(
                    f"{env_id!r:.200} would import the module {module!r:.100}, which is not allowed at this server: "
                    f"its operator allows it with --allow-module {module:.100}",
                    env_id=env_id,
                    setting="allow_module",
                    field="env_id",
                )
            return
        if _any_matches(plain, self.allow_env):  # before anything is looked up
            return
        known = spec_of(plain)
        if known is not None and not self._allows(known):
            raise ForbiddenEnv(
                f"{env_id} is registered and not allowed at this server (GET /v1/envs lists what is): its operator "
                f"allows it with --allow-env {env_id!r}, beside --allow-env {GYMNASIUM} for Gymnasium's own",
                env_id=env_id,
                setting="allow_env",
                field="env_id",
            )

    def offered(self) -> list[str]:
        """The registered ids that are allowed, in order."""
        return [known for known in offered_env_ids() if self._allows(gymnasium.registry[known])]

    def _allows(self, known: EnvSpec) -> bool:
        return _any_matches(known.id, self.allow_env) or (GYMNASIUM in self.allow_env and _is_gymnasiums(known))

    def _check_size(self, arguments: dict[str, Any]) -> None:
        try:
            size = sum(len(json.dumps(value)) for value in arguments.values() if value)
            deep = any(_is_deeper(value, MAX_KWARGS_DEPTH) for value in arguments.values())
        except (TypeError, ValueError):
            return  # no JSON, as `PoolSpec.check` says
        except RecursionError:
            size, deep = 0, True
        if size > self.max_kwargs_bytes:
            raise CapExceeded(
                f"the arguments of the environment have {size} bytes; max_kwargs_bytes of this server is "
                f"{self.max_kwargs_bytes}",
                cap="max_kwargs_bytes",
                limit=self.max_kwargs_bytes,
                asked=size,
            )
        if deep:
            raise InvalidSpec(f"env_kwargs are nested deeper than {MAX_KWARGS_DEPTH} levels", field="env_kwargs")

    def _check_arguments(self, env_id: str, field: str, value: Any) -> None:
        plain = env_id.rpartition(":")[2]
        for name, why in denied_arguments(plain, value):
            if not self._allows_argument(plain, name):
                raise ForbiddenEnv(
                    f"{field}: the argument {name!r:.80} is not taken: {why}. The operator of this server allows it "
                    f"with --allow-kwarg {f'{plain}:{name}'!r:.200}",
                    env_id=env_id,
                    setting="allow_kwarg",
                    field=field,
                    argument=name,
                )

    def _allows_argument(self, env_id: str, name: str) -> bool:
        for pair in self.allow_kwarg:
            glob, _, names = pair.rpartition(":")
            if fnmatchcase(env_id, glob) and fnmatchcase(name, names):
                return True
        return False


TRUSTING: Final = EnvRules(allow_env=("*",), allow_module=("*",), allow_kwarg=("*:*",))
"""Of a server that only the user it belongs to can ask: everything that this user could make without it."""


def _any_matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _is_gymnasiums(known: EnvSpec) -> bool:
    """Whether all the code that an id stands for is Gymnasium's: plugins register theirs in the same table."""
    points = [point for point in (known.entry_point, known.vector_entry_point) if point is not None]
    modules = [point if isinstance(point, str) else getattr(point, "__module__", "") for point in points]
    wrappers = [wrapper.entry_point for wrapper in known.additional_wrappers]
    return bool(points) and all(name.startswith(("gymnasium.", "gymnasium:")) for name in (*modules, *wrappers))


def _arguments_of(wrappers: list[str | dict[str, Any]]) -> list[Any]:
    return [wrapper.get("kwargs") for wrapper in wrappers if isinstance(wrapper, dict)]


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if levels == 0:
        return bool(inner)
    return any(_is_deeper(each, levels - 1) for each in inner)
