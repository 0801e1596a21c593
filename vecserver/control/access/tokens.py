"""Tokens: 256 random bits each, kept as hashes.

A hash without salt or stretching is right for these: nobody tries 2²⁵⁶ of them. So a token that somebody made up is
refused where it is short.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vecserver.control.access.scopes import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Token", "Tokens", "check_token", "digest_of", "new_token", "read_token", "read_tokens"]

_BYTES: Final = 32
_SHORTEST: Final = 22
"""Characters: 128 bits, in the alphabet of those that are made here."""

_LEGAL: Final = re.compile(r"[!-~]+")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_FIELDS: Final = {"sha256", "scope"}
_MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a server keeps it.

    Attributes:
        name: For people.
        sha256: Its hash, in hexadecimal digits.
        scope: What it is good for.
    """

    name: str
    sha256: str
    scope: Scope


def new_token() -> str:
    """A fresh one: 43 characters that need no quoting anywhere."""
    return secrets.token_urlsafe(_BYTES)


def digest_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_token(token: str) -> str:
    """Make sure that a token that was given is one.

    Raises:
        ValueError: It is none; does not repeat it.
    """
    if not _LEGAL.fullmatch(token):
        raise ValueError("a token has no blanks, line ends or characters beyond ASCII")
    if len(token) < _SHORTEST:
        raise ValueError(
            f"a token has {_SHORTEST} characters or more, for nobody to guess it: `vecserver token new` makes one"
        )
    return token


def read_token(path: Path) -> str:
    """The token in a file, which has nothing else in it.

    Raises:
        ValueError: It cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("ascii", errors="replace")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return check_token(text.strip())


def read_tokens(path: Path) -> list[Token]:
    """The tokens in a TOML file: ``[tokens.NAME]`` with ``sha256`` and ``scope`` each.

    Raises:
        ValueError: It cannot be read, or says something else; names the token.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    named = tables.get("tokens")
    if tables.keys() != {"tokens"} or not isinstance(named, dict):
        raise ValueError(f"{path} has tables named [tokens.NAME], and nothing else")
    return [_token(path, name, table) for name, table in named.items()]


def _token(path: Path, name: str, table: Any) -> Token:
    if not isinstance(table, dict) or table.keys() != _FIELDS:
        raise ValueError(f"{path}: token {name!r} has {' and '.join(sorted(_FIELDS))}, and nothing else")
    digest = str(table["sha256"])
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{path}: sha256 of token {name!r} is no hash: `vecserver token new` prints one")
    try:
        return Token(name, digest, Scope.named(str(table["scope"])))
    except ValueError as error:
        raise ValueError(f"{path}: token {name!r}: {error}") from None


class Tokens:
    """Those that a server takes.

    Args:
        tokens: Them.
    """

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens = [(token.sha256.encode(), token.scope) for token in tokens]

    def scope_of(self, presented: str) -> Scope | None:
        """What a token is good for; None where it is none. Takes as long for every token that is none."""
        digest = digest_of(presented).encode()
        found = [scope for known, scope in self._tokens if hmac.compare_digest(known, digest)]
        return max(found, default=None)
