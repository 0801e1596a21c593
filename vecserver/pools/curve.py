"""A server's CURVE keys: made, kept in files, and read. The cryptography is libzmq's."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import zmq
from zmq.utils import z85

from vecserver.wire.errors import InvalidSpec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "NO_CURVE",
    "PUBLIC_NAME",
    "SECRET_NAME",
    "KeyPair",
    "check_public_key",
    "has_curve",
    "new_keys",
    "read_keys",
    "write_keys",
]

PUBLIC_NAME: Final = "vecserver.pub"
SECRET_NAME: Final = "vecserver.key"  # noqa: S105 - a file's name
NO_CURVE: Final = "install pyzmq from its own wheels (pip install --force-reinstall --only-binary :all: pyzmq)"
"""What helps where ``has_curve`` is false."""

_KEY_CHARACTERS: Final = 40
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """Keys as 40 characters of Z85 each. Its repr has no secret."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


def has_curve() -> bool:
    """Whether the libzmq of this installation can do CURVE."""
    return bool(zmq.has("curve"))


def new_keys() -> KeyPair:
    """A fresh pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def write_keys(folder: Path, keys: KeyPair) -> tuple[Path, Path]:
    """Write a pair: the secret one for its owner alone, the public one for everybody.

    Args:
        folder: Made where it is not there.
        keys: What to write.

    Returns:
        The paths of the secret and of the public key.

    Raises:
        FileExistsError: There is one already; nothing is replaced.
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / SECRET_NAME, folder / PUBLIC_NAME
    for path, key, mode in zip(paths, (keys.secret, keys.public), (0o600, 0o644), strict=True):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, mode)  # whatever the umask
            file.write(f"{key}\n")
    return paths


def read_keys(path: Path) -> KeyPair:
    """Read a secret key that ``write_keys`` wrote; the public one follows from it.

    Raises:
        ValueError: It cannot be read, is none, or is readable by others.
    """
    try:
        with path.open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(_KEY_CHARACTERS + 2).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a key: {error}") from None
    if mode & 0o077:
        raise ValueError(f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}, or make another pair")
    try:
        check_public_key(secret)  # of the same form
        return KeyPair(zmq.curve_public(secret.encode()).decode(), secret)
    except (InvalidSpec, ValueError, zmq.ZMQError):
        raise ValueError(f"{path} holds no secret key of `vecserver keygen`") from None


def check_public_key(key: str) -> None:
    """Refuse what is no CURVE key.

    Raises:
        InvalidSpec: It is none.
    """
    try:
        fits = len(key) == _KEY_CHARACTERS and len(z85.decode(key.encode("ascii"))) == _KEY_BYTES
    except (ValueError, KeyError, struct.error):
        fits = False
    if not fits:
        raise InvalidSpec("key is no CURVE key: 40 characters of Z85 stand for its 32 bytes", field="key")
