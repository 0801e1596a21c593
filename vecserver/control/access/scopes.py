"""The scope of every route, in one table; the middleware decides by it, and a route that is not in it needs admin."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import TYPE_CHECKING, Final

from starlette.routing import compile_path

from vecserver.control.web.mount import PATH

if TYPE_CHECKING:
    from re import Pattern

__all__ = ["LOGIN_PATH", "ROUTES", "WEBSOCKET", "Door", "Rule", "Scope", "rule_for"]

LOGIN_PATH: Final = f"{PATH}/login"
WEBSOCKET: Final = "WEBSOCKET"
"""Stands for the method of a WebSocket."""


class Scope(IntEnum):
    """What a token is good for; each has those before it."""

    READ = 1
    """Look: pools, counters, frames, metrics, environments, the page."""
    USE = 2
    """Drive pools, and play environments."""
    CREATE = 3
    """Make and delete pools."""
    ADMIN = 4
    """Everything: also what no other scope is declared for, and logging browsers out."""

    @classmethod
    def named(cls, name: str) -> Scope:
        """The scope of a name.

        Raises:
            ValueError: There is none; says which there are.
        """
        try:
            return cls[name.upper()] if name.islower() else cls[""]
        except KeyError:
            raise ValueError(f"{name!r} is no scope: {', '.join(map(str, cls))}") from None

    def __str__(self) -> str:
        return self.name.lower()


class Door(Enum):
    """Who passes without a token."""

    CLOSED = auto()
    """Nobody."""
    OPENENV = auto()
    """OpenEnv's clients, which send none: from this machine, and from anywhere with ``openenv_public``."""
    PAGE = auto()
    """Whoever looks at the page, with ``openenv_public``."""
    OPEN = auto()
    """Everybody: these say next to nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route takes.

    Attributes:
        methods: Of HTTP, or ``WEBSOCKET``, with blanks between.
        path: As the route is declared.
        scope: The least that a token needs.
        door: Who needs none.
    """

    methods: str
    path: str
    scope: Scope
    door: Door = Door.CLOSED


ROUTES: Final = (
    Rule("GET", "/healthz", Scope.READ, Door.OPEN),
    Rule("GET", "/readyz", Scope.READ, Door.OPEN),
    Rule("GET", "/", Scope.READ, Door.PAGE),
    Rule("GET", "/metrics", Scope.READ),
    Rule("GET HEAD", "/docs", Scope.READ),
    Rule("GET HEAD", "/docs/oauth2-redirect", Scope.READ),
    Rule("GET", "/v1", Scope.READ),
    Rule("GET", "/v1/envs", Scope.READ),
    Rule("GET", "/v1/pools", Scope.READ),
    Rule("POST", "/v1/pools", Scope.CREATE),
    Rule("GET", "/v1/pools/{pool}", Scope.READ),
    Rule("DELETE", "/v1/pools/{pool}", Scope.CREATE),
    Rule("GET", "/v1/pools/{pool}/stats", Scope.READ),
    Rule("GET", "/v1/pools/{pool}/frame", Scope.READ),
    Rule("POST", "/v1/pools/{pool}/access", Scope.USE),
    Rule("POST", "/v1/pools/{pool}/lease", Scope.USE),
    Rule("POST", "/v1/pools/{pool}/reset", Scope.USE),
    Rule("POST", "/v1/pools/{pool}/step", Scope.USE),
    Rule(WEBSOCKET, "/v1/pools/{pool}/ws", Scope.USE),
    Rule("POST", "/v1/logins", Scope.READ),
    Rule("DELETE", "/v1/logins", Scope.ADMIN),
    Rule("GET", LOGIN_PATH, Scope.READ, Door.OPEN),
    Rule("GET HEAD", PATH, Scope.READ, Door.PAGE),
    Rule(f"GET HEAD POST {WEBSOCKET}", f"{PATH}/{{rest:path}}", Scope.READ, Door.PAGE),
    # a pool's route, though it is OpenEnv's clients that ask for it: whoever has it drives the pool
    Rule(WEBSOCKET, "/vec/{pool}/ws", Scope.USE),
    Rule(WEBSOCKET, "/ws", Scope.USE, Door.OPENENV),
    Rule("GET", "/health", Scope.READ, Door.OPENENV),
    Rule("GET", "/metadata", Scope.READ, Door.OPENENV),
    Rule("GET", "/schema", Scope.READ, Door.OPENENV),
    Rule("GET HEAD", "/openapi.json", Scope.READ, Door.OPENENV),
    Rule("POST", "/reset", Scope.USE, Door.OPENENV),
    Rule("POST", "/step", Scope.USE, Door.OPENENV),
    Rule("GET", "/state", Scope.USE, Door.OPENENV),
    Rule("DELETE", "/session", Scope.USE, Door.OPENENV),
    Rule("POST", "/mcp", Scope.USE, Door.OPENENV),
)
"""Every route there is; the first whose path fits counts."""

_UNDECLARED: Final = Rule("", "", Scope.ADMIN)


def _compiled() -> list[tuple[Pattern[str], frozenset[str], Rule]]:
    return [(compile_path(rule.path)[0], frozenset(rule.methods.split()), rule) for rule in ROUTES]


_COMPILED: Final = _compiled()


def rule_for(method: str, path: str) -> Rule:
    """What a request has to show.

    Args:
        method: Of HTTP, or ``WEBSOCKET``.
        path: Its path.

    Returns:
        The route's own rule; where there is the path but not the method, that of another of its methods, for a refusal
        that names those; and where there is neither, one that needs admin.
    """
    fitting = [(methods, rule) for pattern, methods, rule in _COMPILED if pattern.match(path)]
    if not fitting:
        return _UNDECLARED
    return next((rule for methods, rule in fitting if method in methods), fitting[0][1])
