from __future__ import annotations

import pytest

from vecserver.connection_file import ConnectionFile
from vecserver.wire.errors import InvalidSpec, TransportUnavailable
from vecserver_client.control import ControlClient, HttpApi
from vecserver_client.credentials import choose, tls_context, without_token
from vecserver_client.openenv import GymEnvironment

URL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("VECSERVER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("VECSERVER_TOKEN", raising=False)


def test_what_is_given_comes_before_what_is_found(monkeypatch):
    """The argument, then the variable, then the file; without any of them there is none."""
    assert choose(URL, None) == (URL, None)
    with ConnectionFile("127.0.0.1", URL, "found"):
        assert choose("http://localhost:8000", None) == (URL, "found")
        monkeypatch.setenv("VECSERVER_TOKEN", "variable")
        assert choose("http://localhost:8000", None) == ("http://localhost:8000", "variable")
        assert choose(URL, "given") == (URL, "given")


def test_a_token_is_in_the_headers_and_nowhere_else():
    """Not in what a client prints of itself, nor in what an error says."""
    with ControlClient(URL, "a-secret") as client:
        assert client.headers == {"Authorization": "Bearer a-secret"}
        assert "a-secret" not in repr(client) + repr(client._http) + client.url
    api = HttpApi(URL, "a-secret", 1.0)
    assert "a-secret" not in repr(api)


@pytest.mark.parametrize("token", ["with a blank", "a\nb", "ü"])
def test_a_token_that_cannot_be_sent_is_refused_without_repeating_it(token):
    """Libraries would say what is wrong with the header, and repeat it."""
    with pytest.raises(InvalidSpec) as refused:
        ControlClient(URL, token)
    assert token not in str(refused.value)


@pytest.mark.parametrize("make", [ControlClient, GymEnvironment])
def test_an_address_with_a_password_is_refused_without_repeating_it(make):
    """Addresses end up in logs and errors."""
    with pytest.raises(TransportUnavailable, match="token=") as refused:
        make("http://:a-secret@127.0.0.1:8000")
    assert "a-secret" not in str(refused.value)


def test_a_private_servers_environment_has_no_token():
    """That of this program is for another server."""
    assert without_token({"VECSERVER_TOKEN": "x", "A": "b"}) == {"A": "b"}


def test_a_file_of_certificates_that_is_none_is_named(monkeypatch, tmp_path):
    """With its variable."""
    monkeypatch.setenv("VECSERVER_CA_FILE", str(tmp_path / "none"))
    with pytest.raises(TransportUnavailable, match="VECSERVER_CA_FILE"):
        tls_context()
