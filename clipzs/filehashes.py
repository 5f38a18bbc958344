"""What is in a file, by its SHA-256, remembered so that a file that has not changed is not read again."""

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from clipzs.database import Database, proof

FILE = "files.sqlite"
_VERSION = 1
_TABLE = "CREATE TABLE file (path BLOB PRIMARY KEY, stamp BLOB NOT NULL, sha256 BLOB NOT NULL, proof BLOB NOT NULL)"
_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system: sooner, a file may change and its times may not


def database(folder: Path | None) -> Database:
    """The one file for all files and models."""
    return Database(folder, FILE, version=_VERSION, table=_TABLE)


class FileHashes:
    """SHA-256 of files by path, for as long as their size, times and inode stay as they were.

    The time of the last change (ctime) is among them, which no copying tool sets back. `None` as folder keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._database = database(folder)

    def known(self, paths: Sequence[str]) -> list[bytes | None]:
        """The SHA-256 of each file that is as it was when it was remembered. Reads no file."""
        here = _here()
        seen = [_seen(path, here) for path in paths]
        remembered = self._remembered([one[0] for one in seen if one])
        return [remembered.get(one) if one else None for one in seen]

    def _remembered(self, places: Sequence[bytes]) -> dict[tuple[bytes, bytes], bytes]:
        """SHA-256 by (path, stamp)."""
        rows = self._database.select("SELECT path, stamp, sha256, proof FROM file WHERE path IN", places)
        try:
            return {(path, mark): _checked(path, mark, sha256, checksum) for path, mark, sha256, checksum in rows}
        except ValueError as error:
            self._database.give_up(error)
            return {}

    def remember(self, found: Iterable[tuple[str, bytes, bytes]]) -> None:
        """Keep the path, stamp and SHA-256 of files; the stamp is what `stamp` gave before a file was read."""
        here = _here()
        rows = [(_absolute(path, here), mark, sha256) for path, mark, sha256 in found]
        self._database.insert(
            "INSERT OR REPLACE INTO file (path, stamp, sha256, proof) VALUES (?, ?, ?, ?)",
            [(*row, proof(*row)) for row in rows],
        )

    def sha256(self, path: str | Path) -> str:
        """The SHA-256 of one file in hexadecimal, read only if it has to be.

        Raises:
            OSError: it cannot be read.
        """
        name = os.fspath(path)
        (digest,) = self.known([name])
        if digest is None:
            with open(name, "rb") as file:
                mark = stamp(file)
                digest = hashlib.file_digest(file, "sha256").digest()
            if mark:
                self.remember([(name, mark, digest)])
        return digest.hex()


def stamp(file: BinaryIO) -> bytes | None:
    """What changes when an open file does; None for a pipe, and for a file changed just now."""
    now = time.time_ns()
    try:
        status = os.fstat(file.fileno())
    except OSError:  # it is in memory
        return None
    return settled(_stamp(status), now) if stat.S_ISREG(status.st_mode) else None


def settled(mark: bytes, now: int) -> bytes | None:
    """A stamp, or None if its file may change again without showing it.

    A file that changes twice within one tick of its file system's clock would not show the second change.

    Args:
        mark: size, time of modification, time of change (nanoseconds) and inode, as decimal numbers.
        now: nanoseconds of the clock before the file was looked at.
    """
    _, modified, changed, _ = map(int, mark.split())
    return mark if max(modified, changed) < now - _SETTLED_NS else None


def _stamp(status: os.stat_result) -> bytes:
    return b"%d %d %d %d" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _here() -> str:
    """The working folder; asking for it once for many files saves a tenth of the time they take."""
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return os.sep


def _absolute(path: str, here: str) -> bytes:
    return os.fsencode(os.path.normpath(os.path.join(here, path)))


def _seen(path: str, here: str) -> tuple[bytes, bytes] | None:
    """The absolute path and the stamp of an ordinary file; other things are not remembered."""
    try:
        status = os.stat(path)
        return (_absolute(path, here), _stamp(status)) if stat.S_ISREG(status.st_mode) else None
    except (OSError, ValueError):  # it is missing, or no name of a file
        return None


def _checked(path: object, mark: object, sha256: object, checksum: object) -> bytes:
    if not (isinstance(path, bytes) and isinstance(mark, bytes) and isinstance(sha256, bytes)):
        raise ValueError("a row of it holds the wrong types")
    if checksum != proof(path, mark, sha256):
        raise ValueError("a row of it is damaged")
    return sha256
