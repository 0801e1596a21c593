"""How local users' programs find a server's token: a file of mode 0600, which the server writes and removes.

It lies in a folder of its own (mode 0700) below ``$VECSERVER_RUNTIME_DIR``, ``$XDG_RUNTIME_DIR`` or the folder for
temporary files: ``vecserver-UID/PORT.json``. Owner and mode of both are looked at whenever one is written or read. A
server holds a lock on its file as long as it lives, so what a killed one left behind is told from what is true.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ConnectionFile", "Server", "UnsafeFolder", "find", "folder", "is_loopback", "runtime_dir", "sweep"]

_MAX_BYTES: Final = 4096
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_TRIES: Final = 10
"""How often a folder is made that another server, which ends, takes away."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared, not bound
_ANY_LOOPBACK: Final = frozenset({"localhost", "0.0.0.0"})  # noqa: S104  # compared, not bound


class UnsafeFolder(OSError):
    """The folder is another user's, or others may enter it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs.

    Attributes:
        url: Its address, from this machine.
        token: Its token.
    """

    url: str
    token: str = field(repr=False)


def runtime_dir() -> Path:
    """The user's own runtime directory where there is a usable one, else that for temporary files."""
    chosen = os.environ.get("VECSERVER_RUNTIME_DIR", "")
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = own if own and os.access(own, os.W_OK | os.X_OK) else tempfile.gettempdir()
    return Path(chosen or usable)


def folder() -> Path:
    """Where the files of this user's servers are."""
    return runtime_dir() / f"vecserver-{os.geteuid()}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than ``localhost`` counts as reachable."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ConnectionFile:
    """The file of one server, as long as this object is used as a context manager.

    Args:
        bound: The address that the server listens on.
        url: Its address, from this machine.
        token: Its token.

    Raises:
        OSError: The file cannot be written; ``UnsafeFolder`` where the folder is not this user's alone.
    """

    def __init__(self, bound: str, url: str, token: str) -> None:
        self._name = f"{_port_of(url)}.json"
        self._folder = _made_folder()
        temporary = f".{self._name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(temporary, flags, 0o600, dir_fd=self._folder)
            try:
                os.fchmod(self._file, 0o600)  # whatever the process's mask
                os.write(self._file, json.dumps({"bound": bound, "url": url, "token": token}).encode())
                # before it has its name: who finds it finds it locked
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except BaseException:
                os.close(self._file)
                os.unlink(temporary, dir_fd=self._folder)
                raise
        except BaseException:
            os.close(self._folder)
            raise

    def close(self) -> None:
        """Remove the file, unless another server has the port meanwhile, and the folder after the last one."""
        with contextlib.suppress(OSError):
            there = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(self._file)):
                os.unlink(self._name, dir_fd=self._folder)
        os.close(self._file)
        with contextlib.suppress(OSError):  # there are other servers
            folder().rmdir()
        os.close(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find(url: str) -> Server | None:
    """The server of this user at an address of this machine; None where none is known.

    Args:
        url: The address. For ``localhost`` the server's own is given back: that name may lead to several addresses, and
            on one of them another user may listen.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        said = _read(f"{_port_of(url)}.json")
    except (OSError, ValueError):  # there is none, or it is not to be trusted
        return None
    if said is None or urlsplit(said["url"]).scheme != parts.scheme:
        return None
    bound = said["bound"]
    meant = host == bound or (is_loopback(host) and bound in _WILDCARDS)
    if not meant and not (host in _ANY_LOOPBACK and (is_loopback(bound) or bound in _WILDCARDS)):
        return None
    return Server(said["url"] if host == "localhost" else url, said["token"])


def sweep() -> None:
    """Remove what servers that were killed left behind."""
    try:
        at = _open_folder()
    except OSError:
        return
    try:
        for name in os.listdir(at):  # noqa: PTH208  # of the descriptor that was checked
            with contextlib.suppress(OSError):  # it lives, or somebody else removes it
                _remove_dead(at, name)
        with contextlib.suppress(OSError):  # there are others
            folder().rmdir()
    finally:
        os.close(at)


def _remove_dead(at: int, name: str) -> None:
    if not name.endswith(".json"):  # one that is being written has no lock yet
        return
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=at)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(name, dir_fd=at, follow_symlinks=False), os.fstat(fd)):
            os.unlink(name, dir_fd=at)
    finally:
        os.close(fd)


def _port_of(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _made_folder() -> int:
    path = folder()
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_TRIES):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            return _open_folder()
    raise UnsafeFolder(f"{path} cannot be made: something takes it away")


def _open_folder() -> int:
    fd = os.open(folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_own(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_own(fd: int) -> None:
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & _OTHERS:
        raise UnsafeFolder(
            f"{folder()}, or a file in it, is another user's or open to others: remove it (it has mode 0700 and files "
            "of mode 0600 where it is vecserver's)"
        )


def _read(name: str) -> dict[str, str] | None:
    """What a file says whose server lives; None where it does not.

    Raises:
        OSError, ValueError: There is no such file, or it is none of a server's of this user.
    """
    at = _open_folder()
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=at)
    finally:
        os.close(at)
    try:
        _check_own(fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said(os.read(fd, _MAX_BYTES))
        return None
    finally:
        os.close(fd)


def _said(text: bytes) -> dict[str, str]:
    """What a file says.

    Raises:
        ValueError: It says something else.
    """
    said = json.loads(text)
    if not isinstance(said, dict) or said.keys() != {"bound", "url", "token"}:
        raise ValueError("no connection file")
    return {key: str(value) for key, value in said.items()}
