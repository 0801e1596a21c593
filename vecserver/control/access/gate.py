"""The decision on every request: who asks, what the route takes, and whether that is enough."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from vecserver.control.access.attempts import MOST_ATTEMPTS, Attempts, Refusals
from vecserver.control.access.logins import Logins
from vecserver.control.access.scopes import WEBSOCKET, Door, Scope, rule_for
from vecserver.control.access.wording import login_page
from vecserver.control.guards import LOOPBACK_NAMES, without_port
from vecserver.control.problems import answer
from vecserver.wire.errors import Forbidden, TooManyAttempts, Unauthorized, VecServerError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

    from vecserver.control.access.scopes import Rule
    from vecserver.control.access.tokens import Tokens

__all__ = ["SCOPE_KEY", "Access", "Gate", "count_failure", "granted_to", "peer_of"]

SCOPE_KEY: Final = "vecserver.scope"
"""Where a request's ASGI scope holds what was granted to it."""

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of a proxy, behind which whoever asks may be anywhere."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Access:
    """What a server asks of whoever wants something from it.

    Attributes:
        tokens: Those that are good.
        logins: Of browsers.
        attempts: What went wrong.
        refusals: How many of them there are.
        openenv_public: Whether OpenEnv's routes and the page, to look at, are open to everybody.
        cookie: Name of the browsers' cookie: they keep one jar for all ports of a machine.
        secure: Whether browsers send it back over TLS only.
        insecure: Whether the operator said ``--insecure``; for whoever asks about the server.
    """

    tokens: Tokens
    logins: Logins = field(default_factory=Logins)
    attempts: Attempts = field(default_factory=Attempts)
    refusals: Refusals = field(default_factory=Refusals)
    openenv_public: bool = False
    cookie: str = "vecserver_session"
    secure: bool = False
    insecure: bool = False


def granted_to(scope: AsgiScope) -> Scope:
    """What was granted to a request; everything where nobody asks for tokens."""
    granted: Scope = scope.get(SCOPE_KEY, Scope.ADMIN)
    return granted


class Gate:
    """Middleware that hands on what is allowed and refuses what is not.

    Args:
        app: What is behind it.
        access: What is asked for.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Hand on a request, with its scope, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            scope[SCOPE_KEY] = self._admit(scope)
        except VecServerError as error:
            refusal = _refusal(error, scope)
        else:
            await self.app(scope, receive, send)
            return
        if rest := self._access.refusals.rest():  # without the error, which holds what it passed through
            await asyncio.sleep(rest)
        await refusal(scope, receive, send)

    def _admit(self, scope: AsgiScope) -> Scope:
        """What a request is granted.

        Raises:
            Unauthorized, Forbidden, TooManyAttempts: It is refused.
        """
        method = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
        rule = rule_for(method, scope["path"])
        headers = Headers(scope=scope)
        without = rule.scope if self._is_open(rule, scope, headers) else None
        if rule.door is Door.OPEN:
            return rule.scope
        granted = self._granted(method, scope, headers, tolerant=without is not None) or without
        if granted is None:
            raise Unauthorized(
                "this needs a token: send it as `Authorization: Bearer TOKEN`. `vecserver token show` prints this "
                "user's server's, and `vecserver login` a link for a browser"
            )
        if granted < rule.scope and without is None:
            raise Forbidden(
                f"this needs a token of scope {rule.scope}, and this one's is {granted}",
                needed=str(rule.scope),
                granted=str(granted),
            )
        return max(granted, without or granted)

    def _is_open(self, rule: Rule, scope: AsgiScope, headers: Headers) -> bool:
        """Whether a route is open to whoever asks without a token."""
        if rule.door is Door.OPENENV:
            return self._access.openenv_public or _is_local(scope, headers)
        return rule.door is Door.PAGE and self._access.openenv_public

    def _granted(self, method: str, scope: AsgiScope, headers: Headers, *, tolerant: bool) -> Scope | None:
        """What a request's token or cookie is good for; None where it has none.

        Args:
            method: The request's.
            scope: It.
            headers: Its headers.
            tolerant: Whether a wrong token, another server's say, does no harm.
        """
        given = headers.getlist("authorization")
        if given:
            return self._of_token(given, peer_of(scope), tolerant=tolerant)
        session = cookie_parser(headers.get("cookie", "")).get(self._access.cookie)
        granted = self._access.logins.scope_of(session) if session else None
        # browsers say where a request comes from that could do something
        if granted is not None and method not in _READING and not _is_same_origin(headers):
            raise Forbidden("a browser's log-in is good for this server's own pages: the Origin header is another's")
        return granted

    def _of_token(self, given: list[str], peer: str, *, tolerant: bool) -> Scope | None:
        attempts = self._access.attempts
        # others of this machine share its loopback address, and must not lock anybody out: there every token is looked
        # at, so that to count them would keep nobody from guessing
        is_shared = _is_loopback(peer)
        wait = 0.0 if tolerant or is_shared else attempts.wait_for(peer)
        if wait:
            raise _too_many(wait)
        token = _token_in(given[0]) if len(given) == 1 else ""
        found = self._access.tokens.scope_of(token) if token else None
        if found is not None or tolerant:
            return found
        if not is_shared:
            count_failure(attempts, peer)
        raise Unauthorized("this token is none of this server's: one that was made at its start ended with it")


def count_failure(attempts: Attempts, peer: str) -> None:
    """Count a wrong token, or a wrong code.

    Raises:
        TooManyAttempts: There were too many already.
    """
    wait = attempts.wait_for(peer)
    if wait:
        raise _too_many(wait)
    if attempts.failed(peer) == MOST_ATTEMPTS:
        _log.warning("%s tried %d wrong tokens and has to wait", peer, MOST_ATTEMPTS)


def _refusal(error: VecServerError, scope: AsgiScope) -> ASGIApp:
    headers: dict[str, str] = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
        if scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", ""):
            return login_page(error, scope, headers)
    if isinstance(error, TooManyAttempts):
        headers["Retry-After"] = str(error.details["retry_after_s"])
    return answer(error, scope, headers)


def _too_many(wait: float) -> TooManyAttempts:
    seconds = math.ceil(wait)
    return TooManyAttempts(f"too many wrong tokens came from this address: wait {seconds} s", retry_after_s=seconds)


def _token_in(authorization: str) -> str:
    """The token of an Authorization header: after ``Bearer``, or the password of ``Basic``.

    The latter is what clients send whose address has one in it, ``http://:TOKEN@host``: OpenEnv's older ones have no
    other way.
    """
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                decoded = base64.b64decode(rest.strip(), validate=True).decode()
            except (binascii.Error, ValueError):
                return ""
            return decoded.partition(":")[2]
    return ""


def _is_local(scope: AsgiScope, headers: Headers) -> bool:
    """Whether a request is this machine's own: by its peer and by its Host, with no proxy in between.

    What pages of others make a browser ask for is refused before, see ``vecserver.control.guards``.
    """
    if not _is_loopback(peer_of(scope)) or any(name in headers for name in _FORWARDED):
        return False
    return without_port(headers.get("host", "")).lower() in LOOPBACK_NAMES


def peer_of(scope: AsgiScope) -> str:
    """The address that a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _is_same_origin(headers: Headers) -> bool:
    return headers.get("origin", "").partition("://")[2] == headers.get("host")
