from __future__ import annotations

import httpx
import pytest

from tests.control.access.conftest import guarding
from vecserver.connection_file import ConnectionFile
from vecserver.control.access.scopes import Scope
from vecserver.control.access.tokens import digest_of, read_tokens

URL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("VECSERVER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("VECSERVER_TOKEN", raising=False)


def test_the_token_of_this_users_server_is_shown(vecserver):
    """Alone, and as the header that curl reads; without such a server that is said."""
    with ConnectionFile("127.0.0.1", URL, "secret"):
        assert vecserver("token", "show", "--url", URL).out == "secret\n"
        assert vecserver("token", "header", "--url", URL).out == "Authorization: Bearer secret\n"
    refused = vecserver("token", "show", "--url", URL)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("error [unauthorized]")


def test_a_new_token_is_said_once_and_its_hash_is_for_the_file(vecserver, tmp_path):
    """The token goes to stderr, so that a file gets the hash alone."""
    made = vecserver("token", "new", "--scope", "use", "--name", "lab-2")
    (tmp_path / "tokens.toml").write_text(made.out)
    (kept,) = read_tokens(tmp_path / "tokens.toml")
    assert (kept.name, kept.scope, kept.sha256) == ("lab-2", Scope.USE, digest_of(made.err.strip()))
    found = vecserver("token", "new", "--scope", "read", "--json").json
    assert digest_of(found["token"]) == found["sha256"]


@pytest.mark.parametrize("wrong", [("--scope", "root"), ("--scope", "read", "--name", "a b"), ("--scope", "READ")])
def test_a_new_token_has_a_scope_and_a_name(vecserver, wrong):
    """Others are wrong usage."""
    assert vecserver("token", "new", *wrong).code == 2


def test_login_prints_a_link(vecserver, monkeypatch):
    """Behind the server's address, good once."""
    with guarding() as app:
        code = app.access.logins.new_code(Scope.READ)

        def request(self, method, path, **options):
            assert (method, path) == ("POST", "/v1/logins")
            return httpx.Response(201, json={"path": f"/web/login?code={code}", "expires_s": 600.0})

        with monkeypatch.context() as patch:
            patch.setattr(httpx.Client, "request", request)
            assert vecserver("login", "--url", URL).out == f"{URL}/web/login?code={code}\n"
