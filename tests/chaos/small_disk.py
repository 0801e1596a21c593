"""A server whose files and logs lie on a disk of its own that can be filled: a tmpfs in a name space of this user's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vecserver.control.access.tokens import new_token

SIZE = 1 << 20
PATIENCE_S = 30.0
_OWN = ("unshare", "--user", "--map-root-user", "--mount")


def why_not() -> str:
    """Why this machine lets this user have no disk of his own; empty where it does."""
    try:
        tried = subprocess.run(
            [*_OWN, "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True, text=True, timeout=PATIENCE_S
        )
    except OSError as error:
        return str(error)
    return tried.stderr.strip() if tried.returncode else ""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """What there is of a server on a small disk.

    Attributes:
        process: The server.
        url: Its address.
        token: Its token: the file that has it lies where no other process looks.
        path: The disk, as this process sees it.
    """

    process: subprocess.Popen
    url: str
    token: str
    path: Path

    def fill(self) -> None:
        """Leave no room."""
        with (self.path / "fill").open("ab", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC

    def free(self) -> None:
        """Make room again."""
        (self.path / "fill").unlink()

    @property
    def log(self) -> str:
        """What the server has written."""
        return (self.path / "server.log").read_text()


@contextmanager
def server_on_a_small_disk(mount: Path) -> Iterator[SmallDisk]:
    """Runs a server that has nothing but a small disk.

    Args:
        mount: Where the disk is, for the server alone; made, and removed.
    """
    mount.mkdir()
    serve = f"{sys.executable} -m vecserver serve --port 0 --log-format json --allow-module 'tests.*'"
    script = f'mount -t tmpfs -o size={SIZE} none "$DISK" && mkdir "$DISK/run" && exec {serve} 2>>"$DISK/server.log"'
    token = new_token()
    environment = {
        **os.environ,
        "VECSERVER_TOKEN": token,
        "DISK": str(mount),
        "VECSERVER_RUNTIME_DIR": f"{mount}/run",
        "VECSERVER_STATE_DIR": f"{mount}/state",
        "VECSERVER_GRACE": "1",
    }
    with subprocess.Popen([*_OWN, "sh", "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            url = process.stdout.readline().split()[2]
            yield SmallDisk(process, url, token, Path(f"/proc/{process.pid}/root{mount}"))
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            mount.rmdir()
