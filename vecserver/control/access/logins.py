"""Browsers' log-in: a code that is good once and for minutes, and the session that it opens, which a cookie names."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from vecserver.control.access.tokens import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.control.access.scopes import Scope

__all__ = ["CODE_S", "SESSION_S", "Logins"]

CODE_S: Final = 600.0
"""Seconds that a link is good for."""
SESSION_S: Final = 12 * 3600.0
"""Seconds after which a browser logs in again: a working day."""
_MOST_CODES: Final = 64
_MOST_SESSIONS: Final = 1024
_BYTES: Final = 32


class _Kept:
    """Secrets, as hashes, with a scope and an end each; the oldest makes room for one too many."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float]) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._known: OrderedDict[str, tuple[float, Scope]] = OrderedDict()

    def new(self, scope: Scope) -> str:
        secret = secrets.token_urlsafe(_BYTES)
        self._known[digest_of(secret)] = (self._clock() + self._seconds, scope)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return secret

    def scope_of(self, secret: str) -> Scope | None:
        end, scope = self._known.get(digest_of(secret), (0.0, None))
        return scope if self._clock() < end else None

    def take(self, secret: str) -> Scope | None:
        scope = self.scope_of(secret)
        self._known.pop(digest_of(secret), None)
        return scope

    def clear(self) -> int:
        count = len(self._known)
        self._known.clear()
        return count


class Logins:
    """The codes and sessions of one server. Any thread may use it.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._codes = _Kept(_MOST_CODES, CODE_S, clock)
        self._sessions = _Kept(_MOST_SESSIONS, SESSION_S, clock)

    def new_code(self, scope: Scope) -> str:
        """A code with which a browser gets a session of this scope, once."""
        return self._codes.new(scope)

    def redeem(self, code: str) -> str | None:
        """The name of a new session; None where the code is none, or no more."""
        scope = self._codes.take(code)
        return None if scope is None else self._sessions.new(scope)

    def scope_of(self, session: str) -> Scope | None:
        """What a session is good for; None where it is none, or no more."""
        return self._sessions.scope_of(session)

    def end_all(self) -> int:
        """Log every browser out, and forget the codes; returns how many sessions there were."""
        self._codes.clear()
        return self._sessions.clear()
