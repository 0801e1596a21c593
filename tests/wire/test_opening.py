"""What is said before the first message: known bytes, and no other way in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.strategies import broken, fixed
from vecserver.wire.errors import MalformedMessage, Unauthorized
from vecserver.wire.opening import ClientOpening, HostOpening
from vecserver.wire.zmtp import GREETING, READY, ROUTER_READY, Incoming, greeting

TICKET = "a ticket"
HELLO = b"\x04\x19\x05HELLO\x09vecserver\x08a ticket"
WELCOME = b"\x04\x08\x07WELCOME"
INITIATE = b"\x04\x1f\x08INITIATE\x0bSocket-Type\0\0\0\x06DEALER"
REFUSAL = b"\x04\x0a\x05ERROR\x03400"


def commands(data: bytes) -> list[tuple[bytes, bytes]]:
    """The commands in some bytes."""
    incoming = Incoming((64, 64, 64))
    incoming.room()[: len(data)] = data
    incoming.received(len(data))
    assert incoming.message() is None
    return incoming.commands


def converse(client: ClientOpening, host: HostOpening) -> list[bytes]:
    """What both say behind their greetings, in turn, until neither has anything to say."""
    host.check(client.greeting)
    client.check(host.greeting)
    said = [client.greeted(), host.greeted()]
    to_host, to_client = said
    while to_host or to_client:
        answers = [host.heard(*each) for each in commands(to_host)]
        others = [client.heard(*each) for each in commands(to_client)]
        to_host, to_client = b"".join(others), b"".join(answers)
        said += [to_host, to_client]
    return [each for each in said if each]


def test_without_a_ticket_each_side_says_ready():
    """The mechanism NULL."""
    client, host = ClientOpening(), HostOpening()
    assert (client.greeting, host.greeting) == (GREETING, GREETING)
    assert converse(client, host) == [READY, ROUTER_READY]
    assert client.is_open
    assert host.is_open


def test_a_ticket_is_shown_by_the_mechanism_plain():
    """The bytes are the specification's, so that any ZeroMQ library can send them."""
    client, host = ClientOpening(TICKET), HostOpening(TICKET)
    assert client.greeting == host.greeting == greeting(b"PLAIN") == GREETING.replace(b"NULL\0", b"PLAIN")
    assert converse(client, host) == [HELLO, WELCOME, INITIATE, ROUTER_READY]
    assert client.is_open
    assert host.is_open


@pytest.mark.parametrize("shown", ["another", "a ticke", "a tickets", "A ticket"])
def test_another_ticket_is_refused(shown):
    """By a command that ZeroMQ's libraries know; the client's error is the typed one."""
    client, host = ClientOpening(shown), HostOpening(TICKET)
    with pytest.raises(Unauthorized, match="not this pool's"):
        converse(client, host)
    assert not host.is_open
    assert host.refusal == REFUSAL
    with pytest.raises(Unauthorized, match="does not know this ticket"):
        client.heard(*commands(host.refusal)[0])
    assert not client.is_open


@pytest.mark.parametrize(("mine", "theirs"), [("", TICKET), (TICKET, "")])
def test_who_shows_nothing_is_told_where_to_ask(mine, theirs):
    """And who shows a ticket where none is asked for; each side sees it by the other's greeting."""
    client, host = ClientOpening(mine), HostOpening(theirs)
    with pytest.raises(Unauthorized, match="/access"):
        client.check(host.greeting)
    with pytest.raises(Unauthorized):
        host.check(client.greeting)


@pytest.mark.parametrize(
    "said",
    [READY, INITIATE, WELCOME, HELLO + HELLO, HELLO + READY, b"\x04\x05\x04PING"],
    ids=["ready", "initiate", "welcome", "hello twice", "ready after hello", "ping"],
)
def test_there_is_no_way_around_the_ticket(said):
    """Whatever else a client says, it is not let in."""
    host = HostOpening(TICKET)
    with pytest.raises(MalformedMessage, match="in the place of"):
        for each in commands(said):
            host.heard(*each)
    assert not host.is_open


@fixed(300)
@given(broken(st.just(HELLO[8:])) | st.binary(max_size=40))
def test_noise_in_the_place_of_a_ticket_is_none(data):
    """Nothing but the refusal comes of it."""
    host = HostOpening(TICKET)
    if data == HELLO[8:]:
        return
    try:
        host.heard(b"HELLO", data)
    except Unauthorized:
        assert not host.is_open
    else:  # another name before the very ticket
        assert data.endswith(b"\x08a ticket")


def test_a_client_names_any_other_refusal():
    """The reason is the peer's own."""
    with pytest.raises(MalformedMessage, match="refuses the connection: go away"):
        ClientOpening(TICKET).heard(b"ERROR", b"\x07go away")
