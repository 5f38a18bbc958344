"""Label embeddings kept between runs: one SQLite file per model, safe for several processes.

A cache must never stop a run: any fault is reported once and the run goes on without it.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipzs import defaults
from clipzs.score import Array

log = logging.getLogger("clipzs")

SCHEMA_VERSION = 1
_BUSY_TIMEOUT_MS = 30_000


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
        if self.path is None or not self.path.exists():
            return found
        try:
            with _open(self.path) as connection:
                for one in keys:
                    row = connection.execute(
                        "SELECT vector, tokens, longest FROM label WHERE key = ?", (one,)
                    ).fetchone()
                    if row is not None:
                        found[one] = LabelEmbedding(np.frombuffer(row[0], np.float32), row[1], row[2])
        except (sqlite3.Error, OSError, ValueError) as error:
            self._give_up(error)
        return found

    def put(self, embeddings: Mapping[bytes, LabelEmbedding]) -> None:
        """Keep new embeddings."""
        if self.path is None or not embeddings:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _open(self.path) as connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO label (key, vector, tokens, longest) VALUES (?, ?, ?, ?)",
                    [(k, e.vector.tobytes(), e.tokens, e.longest) for k, e in embeddings.items()],
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


class _open:
    """A connection in one transaction: committed at the end, closed in any case."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> sqlite3.Connection:
        try:
            self.connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
            version = self.connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise sqlite3.DatabaseError("it was made by a newer version of clipzs")
            if version < SCHEMA_VERSION:
                self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self.connection.execute("BEGIN IMMEDIATE" if version < SCHEMA_VERSION else "BEGIN")
            if version < SCHEMA_VERSION:
                # A plain rowid table: WITHOUT ROWID was measured four times slower with random keys.
                self.connection.execute(
                    "CREATE TABLE IF NOT EXISTS label "
                    "(key BLOB PRIMARY KEY, vector BLOB NOT NULL, tokens BLOB NOT NULL, longest INTEGER NOT NULL)"
                )
                self.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except BaseException:
            self.connection.close()
            raise
        return self.connection

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.connection.execute("COMMIT" if kind is None else "ROLLBACK")
        finally:
            self.connection.close()


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
        except sqlite3.Error:
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
        freed += path.stat().st_size
        path.unlink()
    return freed
