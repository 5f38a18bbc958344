"""The SQLite files of the cache: shared by several processes, and never a reason for a run to stop."""

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipzs.privatefiles import make_file, make_folder

log = logging.getLogger("clipzs")

_PATIENCE_S = 30.0  # for other processes that write
_KEYS_AT_ONCE = 256  # SQLite takes 32,766 values in a statement; more than these gain nothing
_ROWS_AT_ONCE = 10_000  # deleted in one transaction: others may write in between
_IN_THE_WAY = {  # faults that say nothing about what is in a file
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
# Besides the usual ones: a damaged file may claim more than fits in the memory, and be named in broken UTF-8.
_FAULTS = (sqlite3.Error, OSError, MemoryError, UnicodeDecodeError)
_reported: set[Path] = set()  # cache folders of which a fault was told: one full disk hits every file in them


class Database:
    """One file with one table. Its time of modification is set when it is first used: by that it is pruned.

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
        self._marked = False

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
        except _FAULTS as error:
            self.give_up(error)
            return []
        self._mark_used(path)
        return rows

    def insert(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows in one transaction: all of them or, where a fault or a kill comes between, none."""
        path, rows = self.path, list(rows)
        if path is None or not rows:
            return
        try:
            make_folder(path.parent)
            make_file(path)
            with self._opened(path, write=True) as connection:
                connection.executemany(statement, rows)
        except _FAULTS as error:
            self.give_up(error)
        else:
            self._mark_used(path)

    def count(self) -> int | None:
        """The number of rows; None for a file that cannot be read."""
        if self.path is None:
            return None
        try:
            with self._opened(self.path) as connection:
                number: int = connection.execute(f"SELECT count(*) FROM {self._name}").fetchone()[0]  # noqa: S608
        except _FAULTS:
            return None
        return number

    def shrink(self, size: int) -> bool:
        """Delete the oldest rows until the file has at most `size` bytes, or no row. Others may use it meanwhile.

        Returns:
            False if it is no file that can be used: damaged, of a newer version, or of one that could not shrink.
        """
        try:
            while self._shrunk(size):
                continue
        except _FAULTS as error:
            log.debug("the cache %s cannot be pruned: %s", self.path, error)
            return isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _IN_THE_WAY
        return True

    def _shrunk(self, size: int) -> bool:
        """Delete some of the oldest rows; False if nothing is left to do."""
        if self.path is None:
            return False
        with self._opened(self.path, write=True) as connection:

            def number(name: str) -> int:
                return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

            if not number("auto_vacuum"):
                raise sqlite3.DatabaseError("it was made by an older version of clipzs")
            oldest = f"SELECT rowid FROM {self._name} ORDER BY rowid LIMIT ?"  # noqa: S608
            deleted, pages = 0, size // number("page_size")
            while deleted < _ROWS_AT_ONCE:
                excess = number("page_count") - pages  # no row takes more than a page
                if excess <= 0:
                    return False
                some = connection.execute(f"DELETE FROM {self._name} WHERE rowid IN ({oldest})", [excess])  # noqa: S608
                for _ in range(number("freelist_count")):  # Python steps through this statement only once
                    connection.execute("PRAGMA incremental_vacuum(1)")
                if some.rowcount <= 0:
                    return False
                deleted += some.rowcount
        return True

    @property
    def _name(self) -> str:
        return self._table.split()[2]

    def _mark_used(self, path: Path) -> None:
        if not self._marked:
            self._marked = True
            with suppress(OSError):  # it may only be read
                os.utime(path)

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
            " ".join(str(error).split()) or type(error).__name__,
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
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that it can shrink
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE" if write or new else "BEGIN")
            if self._is_new(connection):
                connection.execute(f"DROP TABLE IF EXISTS {self._name}")  # of an older version
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
