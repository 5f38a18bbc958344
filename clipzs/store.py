"""Label embeddings kept between runs: one SQLite file per model, safe for several processes.

A cache must never stop a run: any fault is reported once and the run goes on without it.
"""

import hashlib
import json
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipzs import defaults
from clipzs.score import Array

log = logging.getLogger("clipzs")

SCHEMA_VERSION = 1
_PATIENCE_S = 30.0  # for other processes that write


@dataclass(frozen=True)
class LabelEmbedding:
    """A label's averaged embedding, and what its prompts were found to be.

    Attributes:
        vector: float32 [d] of length 1.
        tokens: hash of the token ids of all its prompts: equal for labels the model cannot tell apart.
        longest: tokens of its longest prompt before any cut, start and end included.
    """

    vector: Array
    tokens: bytes
    longest: int


def key(*determinants: object) -> bytes:
    """Hash of everything that determines a value."""
    return hashlib.sha256(json.dumps([SCHEMA_VERSION, *determinants]).encode("utf-8", "surrogatepass")).digest()


class LabelStore:
    """Label embeddings of one model, by key; `None` as folder keeps nothing."""

    def __init__(self, folder: Path | None, model: str, digest: str) -> None:
        """`digest` tells models of one name apart; the name is for people who look into the folder."""
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in model)[:60]
        self.path = None if folder is None else folder / "labels" / f"{plain}-{digest[:12]}.sqlite"

    def get(self, keys: Iterable[bytes]) -> dict[bytes, LabelEmbedding]:
        """The stored embeddings among `keys`."""
        found: dict[bytes, LabelEmbedding] = {}
        if self.path is None:
            return found
        try:
            if not self.path.exists():
                return found
            with _open(self.path) as connection:
                for one in keys:
                    row = connection.execute(
                        "SELECT vector, tokens, longest, proof FROM label WHERE key = ?", (one,)
                    ).fetchone()
                    if row is not None:
                        found[one] = _embedding(one, *row)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._give_up(error)
            return {}
        return found

    def put(self, embeddings: Mapping[bytes, LabelEmbedding]) -> None:
        """Keep new embeddings."""
        if self.path is None or not embeddings:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _open(self.path, write=True) as connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO label (key, vector, tokens, longest, proof) VALUES (?, ?, ?, ?, ?)",
                    [(k, *_columns(k, e)) for k, e in embeddings.items()],
                )
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning(
            "the text cache %s cannot be used (%s); going on without it. `clipzs cache clear` starts a new one",
            self.path,
            " ".join(str(error).split()),
        )
        self.path = None


def _columns(key_: bytes, embedding: LabelEmbedding) -> tuple[bytes, bytes, int, bytes]:
    vector = np.asarray(embedding.vector, np.float32).tobytes()
    return vector, embedding.tokens, embedding.longest, _proof(key_, vector, embedding.tokens, embedding.longest)


def _proof(key_: bytes, vector: bytes, tokens: bytes, longest: int) -> bytes:
    """Checksum of a row: a wrong embedding would give wrong scores without a word."""
    return hashlib.sha256(b"".join((key_, vector, tokens, str(longest).encode()))).digest()[:8]


def _embedding(key_: bytes, vector: object, tokens: object, longest: object, proof: object) -> LabelEmbedding:
    if not (isinstance(vector, bytes) and isinstance(tokens, bytes) and isinstance(longest, int)):
        raise ValueError("a row of it holds the wrong types")
    if proof != _proof(key_, vector, tokens, longest):
        raise ValueError("a row of it is damaged")
    return LabelEmbedding(np.frombuffer(vector, np.float32), tokens, longest)


@contextmanager
def _open(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection in one transaction: committed at the end, closed in any case."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA busy_timeout = {int(_PATIENCE_S * 1000)}")
        deadline = time.monotonic() + _PATIENCE_S
        while not _begun(connection, write=write, last_try=time.monotonic() > deadline):
            time.sleep(0.02)
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()  # rolls back what was not committed


def _begun(connection: sqlite3.Connection, *, write: bool, last_try: bool) -> bool:
    """Start the transaction; False if another process is in the way just now.

    SQLite waits by itself for most locks, but not for the one that changes the journal mode of a new file.
    """
    try:
        version = _version(connection)
        if version < SCHEMA_VERSION:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE" if write or version < SCHEMA_VERSION else "BEGIN")
        if _version(connection) < SCHEMA_VERSION:
            # A plain rowid table: WITHOUT ROWID was measured four times slower with random keys.
            connection.execute(
                "CREATE TABLE label (key BLOB PRIMARY KEY, vector BLOB NOT NULL, tokens BLOB NOT NULL, "
                "longest INTEGER NOT NULL, proof BLOB NOT NULL)"
            )
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except sqlite3.OperationalError as error:
        if last_try or "locked" not in str(error):
            raise
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        return False
    return True


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError("it was made by a newer version of clipzs")
    return version


@dataclass(frozen=True)
class CacheFile:
    """One file of the cache, for people."""

    path: Path
    bytes: int
    labels: int | None


def contents(folder: Path | None = None) -> list[CacheFile]:
    """The stores in the cache folder; `labels` is None for one that cannot be read."""
    found = []
    for path in sorted(((folder or defaults.cache_dir()) / "labels").glob("*.sqlite")):
        try:
            with _open(path) as connection:
                labels = connection.execute("SELECT count(*) FROM label").fetchone()[0]
        except (sqlite3.Error, OSError):
            labels = None
        size = sum(part.stat().st_size for part in path.parent.glob(path.name + "*"))
        found.append(CacheFile(path, size, labels))
    return found


def clear(folder: Path | None = None) -> int:
    """Delete all stores; returns the bytes freed.

    Raises:
        OSError: a file that cannot be deleted.
    """
    freed = 0
    for path in ((folder or defaults.cache_dir()) / "labels").glob("*.sqlite*"):
        with suppress(FileNotFoundError):  # another process has closed it, and with it gone its journal
            freed += path.lstat().st_size
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    return freed
