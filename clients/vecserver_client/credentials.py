"""The token for a server, as given, from the environment or from a local file; and how a certificate is checked."""

from __future__ import annotations

import os
import re
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from vecserver.connection_file import find
from vecserver.wire.errors import InvalidSpec, TransportUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TOKEN_VARIABLE", "authorization", "choose", "tls_context", "without_token"]

TOKEN_VARIABLE: Final = "VECSERVER_TOKEN"  # noqa: S105  # its name
_CA_VARIABLE: Final = "VECSERVER_CA_FILE"
_LEGAL: Final = re.compile(r"[!-~]+")


def choose(url: str, token: str | None) -> tuple[str, str | None]:
    """The address to ask, and the token to send.

    Args:
        url: The server's address.
        token: What was given; None for ``$VECSERVER_TOKEN``, and if that is not set for the connection file of a server
            of this user's on this machine.

    Returns:
        The address, which is the server's own in the place of ``localhost`` where a file has it, and the token; None
        where none is known.

    Raises:
        InvalidSpec: The token cannot be sent.
        TransportUnavailable: The address is none, or has a password in it.
    """
    try:
        has_user = "@" in urlsplit(url).netloc
    except ValueError as error:
        said = "what was given" if "@" in url else f"{url!r}"  # there may be a password in it
        raise TransportUnavailable(f"{said} is no address{'' if '@' in url else f': {error}'}") from None
    if has_user:
        raise TransportUnavailable(
            "the address has a user or password in it, which ends up in logs: give the token as token=, or as "
            f"${TOKEN_VARIABLE}"
        )
    given = token or os.environ.get(TOKEN_VARIABLE)
    if given:
        if not _LEGAL.fullmatch(given):
            raise InvalidSpec("the token has blanks, line ends or characters beyond ASCII, and is none", field="token")
        return url, given
    try:
        found = find(url)
    except ValueError:  # no address: whoever asks there says so
        found = None
    return (url, None) if found is None else (found.url, found.token)


def authorization(token: str | None) -> dict[str, str]:
    """The header with a token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def tls_context() -> ssl.SSLContext:
    """How a server's certificate is checked: ``$VECSERVER_CA_FILE`` has those that are trusted besides the machine's.

    Raises:
        TransportUnavailable: The file cannot be read.
    """
    context = ssl.create_default_context()
    if path := os.environ.get(_CA_VARIABLE):
        try:
            context.load_verify_locations(cafile=path)
        except OSError as error:
            raise TransportUnavailable(
                f"${_CA_VARIABLE} is {path!r}, which is no file of certificates: {error}"
            ) from None
    return context


def without_token(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that is not to have this program's token."""
    return {name: value for name, value in environment.items() if name != TOKEN_VARIABLE}
