"""Where a server keeps its durable pools between one start and the next: a file of SQLite's, and one writer."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

import msgspec

from vecserver.pools.spec import PoolSpec
from vecserver.wire.errors import StateUnavailable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FILE", "DurablePool", "PoolStore"]

FILE: Final = "pools.sqlite"
_VERSION: Final = 1
_WAIT_S: Final = 1.0
"""For another server to let go of the file: one that ends just now."""


@dataclass(frozen=True, slots=True)
class DurablePool:
    """A pool that is made again whenever it is not there.

    Attributes:
        name: Its id.
        spec: What it is made from.
    """

    name: str
    spec: PoolSpec


class PoolStore:
    """The durable pools of one server, in a file that is the server's alone as long as it is open. Thread-safe.

    The file is made with the first pool. Each change is on the disk when its method returns, whole or not at all. A
    file that could not be read at the start is never written to: what it holds may be wanted yet.

    Args:
        directory: Where the file lies; made when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._lock = Lock()
        self._database: sqlite3.Connection | None = None
        self._unusable: StateUnavailable | None = None

    def load(self) -> list[DurablePool]:
        """The pools, in the order in which they were made.

        Raises:
            StateUnavailable: The file cannot be read, is damaged or another server's; so will ``add`` and ``remove``.
        """
        with self._lock:
            try:
                if not self._path.exists():
                    return []
                rows = self._open().execute("SELECT name, spec FROM pools ORDER BY rowid").fetchall()
                return [DurablePool(name, msgspec.json.decode(spec, type=PoolSpec)) for name, spec in rows]
            except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
                self._unusable = self._refusal("read", error)
                raise self._unusable from None

    def add(self, pool: DurablePool) -> None:
        """Keep a pool, in the place of another one of its name.

        Raises:
            StateUnavailable: It could not be written, and is not kept.
        """
        spec = msgspec.json.encode(asdict(pool.spec)).decode()
        self._change("INSERT OR REPLACE INTO pools (name, spec) VALUES (?, ?)", (pool.name, spec))

    def remove(self, name: str) -> None:
        """Forget a pool, if it is kept.

        Raises:
            StateUnavailable: It could not be written, and is still kept.
        """
        self._change("DELETE FROM pools WHERE name = ?", (name,))

    def _change(self, statement: str, values: tuple[str, ...]) -> None:
        with self._lock:
            if self._unusable is not None:
                raise self._unusable
            try:
                self._open().execute(statement, values)
            except (sqlite3.Error, OSError) as error:
                raise self._refusal("written", error) from None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600)  # what environments are given may be nobody else's business
            database = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                _prepare(database)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _refusal(self, done: str, error: Exception) -> StateUnavailable:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_BUSY"):
            why, advice = "another server has it", "give this one a --state-dir of its own"
        elif name in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
            why, advice = f"it is damaged ({error})", "move it away, or repair it, and start the server again"
        else:
            why, advice = str(error), "make room there, or start the server with another --state-dir"
        return StateUnavailable(
            f"the file of durable pools, {self._path}, cannot be {done}: {why}; {advice}. Pools that run go on",
            path=str(self._path),
        )

    def close(self) -> None:
        """Close the file; may be called again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None


def _prepare(database: sqlite3.Connection) -> None:
    # the lock is taken with the first write and kept: two servers that make the same pools would be one too many
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("BEGIN EXCLUSIVE")
    try:
        _check(database)
        database.execute("CREATE TABLE IF NOT EXISTS pools (name TEXT PRIMARY KEY, spec TEXT NOT NULL)")
        database.execute(f"PRAGMA user_version = {_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _check(database: sqlite3.Connection) -> None:
    with closing(database.execute("PRAGMA quick_check")) as check:
        (verdict,) = check.fetchone()
    if verdict != "ok":
        error = sqlite3.DatabaseError(verdict)
        error.sqlite_errorname = "SQLITE_CORRUPT"
        raise error
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise OSError(f"a newer release wrote it (version {version}; this one knows {_VERSION})")
