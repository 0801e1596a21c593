"""Keys are known for as long as they are heard of, and there are never too many."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from vecserver.dataplane import keyring as module
from vecserver.dataplane.keyring import Keyring
from vecserver.dataplane.server_line import ServerLine
from vecserver.pools.gate import AllowKey
from vecserver.pools.handshake import send_line

TTL = 10.0


class Setting:
    """A keyring, and what it asks."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[bytes] = []
        self.driver = b""
        self.keyring = Keyring(self._new_keys, TTL, lambda: self.now, lambda: self.driver)

    def _new_keys(self) -> list[bytes]:
        told, self.told = self.told, []
        return told


@pytest.fixture
def setting():
    return Setting()


def test_only_keys_that_the_server_told_of_come_in(setting):
    """One that it has told of a moment ago is known, without a word in between."""
    assert not setting.keyring.admits(b"a")
    setting.told.append(b"a")
    assert setting.keyring.admits(b"a")
    assert setting.keyring.admits(b"a")
    assert not setting.keyring.admits(b"b")
    assert not setting.keyring.note(b"b")


def test_a_key_that_is_silent_is_forgotten(setting):
    """A message renews it; one that was forgotten comes in again only when the server tells of it again."""
    setting.told += [b"a", b"b"]
    assert setting.keyring.admits(b"a")
    setting.now += TTL - 1
    assert setting.keyring.note(b"a")
    setting.now += 2
    setting.keyring.tidy()
    assert setting.keyring.note(b"a")
    assert not setting.keyring.note(b"b")
    setting.told.append(b"b")
    assert setting.keyring.admits(b"b")


def test_the_drivers_key_is_kept_and_goes_with_its_lease(setting):
    """However long it computes; another's is not gone because the driver is."""
    setting.told += [b"driver", b"other"]
    setting.keyring.admits(b"driver")
    setting.driver = b"driver"
    setting.now += 100 * TTL
    setting.keyring.tidy()
    assert len(setting.keyring) == 1
    assert setting.keyring.admits(b"driver")
    setting.told.append(b"other")
    setting.keyring.tidy()
    assert setting.keyring.admits(b"other")
    setting.driver = b""
    assert not setting.keyring.admits(b"driver")
    assert setting.keyring.admits(b"other")


def test_a_key_that_lost_its_lease_to_another_is_told_so(setting):
    """It goes like any key that does not drive."""
    setting.told += [b"first", b"second"]
    setting.driver = b"first"
    setting.keyring.admits(b"first")
    setting.driver = b"second"
    assert setting.keyring.admits(b"first")
    setting.now += TTL + 1
    assert not setting.keyring.admits(b"first")
    assert setting.keyring.admits(b"second")


def test_keys_are_bounded(setting, monkeypatch):
    """The one that was silent for longest makes way, and never the driver's."""
    monkeypatch.setattr(module, "_MAX_KEYS", 3)
    setting.driver = b"driver"
    setting.told += [b"driver", b"a", b"b"]
    setting.keyring.admits(b"a")
    setting.keyring.note(b"a")
    setting.told.append(b"c")
    assert setting.keyring.admits(b"c")
    assert not setting.keyring.note(b"b")
    assert setting.keyring.note(b"driver")
    assert len(setting.keyring) == 3


def test_a_server_tells_of_keys_until_it_is_over(caplog):
    """Lines come whole or in pieces; a line that means nothing is passed over, and the end is the end."""
    server, host = socket.socketpair()
    with closing(server), closing(host):
        line = ServerLine(host)
        assert not line.is_over()
        send_line(server, AllowKey("one"))
        server.sendall(b'{"key":"tw')
        assert line.new_keys() == [b"one"]
        server.sendall(b'o"}\n{"what": 1}\n')
        assert not line.is_over()
        send_line(server, AllowKey("three"))
        assert line.new_keys() == [b"two", b"three"]
        assert "a defect of the server" in caplog.text
        server.shutdown(socket.SHUT_WR)
        assert line.is_over()
        assert line.new_keys() == []
