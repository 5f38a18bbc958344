"""The SQLite files of the cache: shared by several processes, and never a reason for a run to stop."""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("clipzs")

_PATIENCE_S = 30.0  # for other processes that write
_KEYS_AT_ONCE = 256  # SQLite takes 32,766 values in a statement; more than these gain nothing
_reported: set[Path] = set()  # cache folders of which a fault was told: one full disk hits every file in them


class Database:
    """One file with one table.

    A fault of any kind ends its use in this object: nothing more is found and nothing more is kept.
    """

    def __init__(self, folder: Path | None, name: str, *, version: int, table: str) -> None:
        """Name the file; nothing is opened yet.

        Args:
            folder: the cache folder; None keeps nothing.
            name: of the file, in that folder.
            version: of the table, raised when it changes.
            table: the statement that makes it.
        """
        self._folder = folder
        self.path = None if folder is None else folder / name
        self._version = version
        self._table = table

    @property
    def exists(self) -> bool:
        """Whether anything may be found."""
        try:
            return self.path is not None and self.path.exists()
        except OSError as error:
            self.give_up(error)
            return False

    def select(self, columns: str, keys: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """Rows by key, in no order. `columns` is a statement up to the list of keys: "SELECT … WHERE key IN"."""
        path, rows = self.path, []
        if path is None or not keys or not self.exists:
            return []
        try:
            with self._opened(path) as connection:
                for start in range(0, len(keys), _KEYS_AT_ONCE):
                    some = keys[start : start + _KEYS_AT_ONCE]
                    rows += connection.execute(f"{columns} ({','.join('?' * len(some))})", some).fetchall()
        except (sqlite3.Error, OSError) as error:
            self.give_up(error)
            return []
        return rows

    def insert(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows in one transaction: all of them or, where a fault or a kill comes between, none."""
        path, rows = self.path, list(rows)
        if path is None or not rows:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._opened(path, write=True) as connection:
                connection.executemany(statement, rows)
        except (sqlite3.Error, OSError) as error:
            self.give_up(error)

    def count(self) -> int | None:
        """The number of rows; None for a file that cannot be read."""
        if self.path is None:
            return None
        name = self._table.split()[2]
        try:
            with self._opened(self.path) as connection:
                number: int = connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608
        except (sqlite3.Error, OSError):
            return None
        return number

    def give_up(self, error: Exception) -> None:
        """Use the file no more, and say so if nothing was said of its folder yet."""
        path, self.path = self.path, None
        if path is None or self._folder is None:
            return
        level = logging.DEBUG if self._folder in _reported else logging.WARNING
        _reported.add(self._folder)
        log.log(
            level,
            "the cache %s cannot be used (%s); going on without it. `clipzs cache clear` starts a new one",
            path,
            " ".join(str(error).split()),
        )

    @contextmanager
    def _opened(self, path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection in one transaction: committed at the end, closed in any case."""
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute(f"PRAGMA busy_timeout = {int(_PATIENCE_S * 1000)}")
            deadline = time.monotonic() + _PATIENCE_S
            while not self._begun(connection, write=write, last_try=time.monotonic() > deadline):
                time.sleep(0.02)
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()  # rolls back what was not committed

    def _begun(self, connection: sqlite3.Connection, *, write: bool, last_try: bool) -> bool:
        """Start the transaction; False if another process is in the way just now.

        SQLite waits by itself for most locks, but not for the one that changes the journal mode of a new file.
        """
        try:
            new = self._is_new(connection)
            if new:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE" if write or new else "BEGIN")
            if self._is_new(connection):
                # A plain rowid table: WITHOUT ROWID was measured four times slower with random keys.
                connection.execute(self._table)
                connection.execute(f"PRAGMA user_version = {self._version}")
        except sqlite3.OperationalError as error:
            if last_try or "locked" not in str(error):
                raise
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return False
        return True

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > self._version:
            raise sqlite3.DatabaseError("it was made by a newer version of clipzs")
        return version < self._version


def proof(*parts: bytes) -> bytes:
    """Short checksum of a row: a wrong value would give wrong scores without a word."""
    return hashlib.sha256(b"".join(parts)).digest()[:8]
