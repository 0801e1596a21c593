from __future__ import annotations

from contextlib import contextmanager

import pytest

from tests.control.conftest import serving
from tests.control.fakes import FakeRegistry
from tests.openenv.served import Clock
from vecserver.control.access.attempts import Attempts
from vecserver.control.access.gate import Access
from vecserver.control.access.logins import Logins
from vecserver.control.access.scopes import Scope
from vecserver.control.access.tokens import Token, Tokens, digest_of, new_token
from vecserver.control.app import create_app
from vecserver.control.openenv.sessions import SessionOptions, Sessions
from vecserver.control.web.mount import WebPage


class Guarded:
    """An app with a token of each scope.

    Attributes:
        app: It.
        access: What it asks for.
        tokens: By scope.
        clock: Its seconds.
    """

    def __init__(self, app, access, tokens, clock) -> None:
        self.app, self.access, self.tokens, self.clock = app, access, tokens, clock

    def headers(self, scope: Scope) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[scope]}"}


@contextmanager
def guarding(*, loopback_only=True, allowed_hosts=(), **options):
    """An app whose parts are real, but for the registry and the page."""
    tokens, clock = {scope: new_token() for scope in Scope}, Clock()
    access = Access(
        Tokens(Token(str(scope), digest_of(token), scope) for scope, token in tokens.items()),
        Logins(clock),
        Attempts(clock),
        **options,
    )
    registry, sessions = FakeRegistry(), Sessions(SessionOptions())
    page = WebPage(registry, sessions)
    app = create_app(
        registry, sessions, page=page, access=access, loopback_only=loopback_only, allowed_hosts=allowed_hosts
    )
    try:
        yield Guarded(app, access, tokens, clock)
    finally:
        sessions.close()
        registry.close()


@pytest.fixture
def guarded():
    with guarding() as found:
        yield found


@pytest.fixture
def client(guarded):
    with serving(guarded.app) as found:
        yield found
