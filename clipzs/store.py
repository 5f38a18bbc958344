"""Embeddings kept between runs, of labels and of images: a file for each model, by keys that hash what made them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipzs import defaults
from clipzs.database import Database, proof
from clipzs.score import Array

SCHEMA_VERSION = 1
LABELS, IMAGES = "labels", "images"  # folders in the cache folder
_TABLES = {  # their versions, and what makes them
    LABELS: (
        2,
        "CREATE TABLE label (key BLOB PRIMARY KEY, vector BLOB NOT NULL, tokens BLOB NOT NULL, "
        "longest INTEGER NOT NULL, unknown TEXT NOT NULL, proof BLOB NOT NULL)",
    ),
    IMAGES: (1, "CREATE TABLE image (key BLOB PRIMARY KEY, vector BLOB NOT NULL, proof BLOB NOT NULL)"),
}


def key(*determinants: object) -> bytes:
    """Hash of everything that determines a value."""
    return hashlib.sha256(json.dumps([SCHEMA_VERSION, *determinants]).encode("utf-8", "surrogatepass")).digest()


def database(folder: Path | None, kind: str, file: str) -> Database:
    """One file of a kind of embeddings, "labels" or "images"."""
    version, table = _TABLES[kind]
    return Database(folder, f"{kind}/{file}", version=version, table=table)


def _file_name(model: str, digest: str) -> str:
    """`digest` tells models of one name apart."""
    return f"{defaults.file_name(model)}-{digest[:12]}.sqlite"


@dataclass(frozen=True)
class LabelEmbedding:
    """A label's averaged embedding, and what its prompts were found to be.

    Attributes:
        vector: float32 [d] of length 1.
        tokens: hash of the token ids of all its prompts: equal for labels the model cannot tell apart.
        longest: tokens of its longest prompt before any cut, start and end included.
        unknown: the words of its prompts that the model's tokenizer has no tokens for.
    """

    vector: Array
    tokens: bytes
    longest: int
    unknown: tuple[str, ...] = ()


class LabelStore:
    """Label embeddings of one model, by key; `None` as folder keeps nothing."""

    def __init__(self, folder: Path | None, model: str, digest: str) -> None:
        self._database = database(folder, LABELS, _file_name(model, digest))

    def get(self, keys: Iterable[bytes]) -> dict[bytes, LabelEmbedding]:
        """The stored embeddings among `keys`."""
        columns = "SELECT key, vector, tokens, longest, unknown, proof FROM label WHERE key IN"
        rows = self._database.select(columns, list(keys))
        try:
            return {row[0]: _label(*row) for row in rows}
        except ValueError as error:
            self._database.give_up(error)
            return {}

    def put(self, embeddings: Mapping[bytes, LabelEmbedding]) -> None:
        """Keep new embeddings."""
        self._database.insert(
            "INSERT OR IGNORE INTO label (key, vector, tokens, longest, unknown, proof) VALUES (?, ?, ?, ?, ?, ?)",
            [_label_row(k, e) for k, e in embeddings.items()],
        )


def _label_row(key_: bytes, embedding: LabelEmbedding) -> tuple[bytes, bytes, bytes, int, str, bytes]:
    vector, longest, unknown = _bytes(embedding.vector), embedding.longest, " ".join(embedding.unknown)
    checksum = proof(key_, vector, embedding.tokens, str(longest).encode(), unknown.encode())
    return key_, vector, embedding.tokens, longest, unknown, checksum


def _label(
    key_: object, vector: object, tokens: object, longest: object, unknown: object, checksum: object
) -> LabelEmbedding:
    if not (isinstance(key_, bytes) and isinstance(vector, bytes) and isinstance(tokens, bytes)):
        raise ValueError("a row of it holds the wrong types")
    if not (isinstance(longest, int) and isinstance(unknown, str)):
        raise ValueError("a row of it holds the wrong types")
    if checksum != proof(key_, vector, tokens, str(longest).encode(), unknown.encode()):
        raise ValueError("a row of it is damaged")
    return LabelEmbedding(np.frombuffer(vector, np.float32), tokens, longest, tuple(unknown.split()))


class ImageStore:
    """Image embeddings of one model, by key; `None` as folder keeps nothing."""

    def __init__(self, folder: Path | None, model: str, digest: str) -> None:
        self._database = database(folder, IMAGES, _file_name(model, digest))

    @property
    def exists(self) -> bool:
        """Whether anything may be found."""
        return self._database.exists

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Array]:
        """The stored embeddings among `keys`, float32 [d] each."""
        rows = self._database.select("SELECT key, vector, proof FROM image WHERE key IN", keys)
        try:
            return {row[0]: _image(*row) for row in rows}
        except ValueError as error:
            self._database.give_up(error)
            return {}

    def put(self, vectors: Mapping[bytes, Array]) -> None:
        """Keep new embeddings, float32 [d] each."""
        rows = [(k, vector := _bytes(v), proof(k, vector)) for k, v in vectors.items()]
        self._database.insert("INSERT OR IGNORE INTO image (key, vector, proof) VALUES (?, ?, ?)", rows)


def _image(key_: object, vector: object, checksum: object) -> Array:
    if not (isinstance(key_, bytes) and isinstance(vector, bytes)) or checksum != proof(key_, vector):
        raise ValueError("a row of it is damaged")
    return np.frombuffer(vector, np.float32)


def _bytes(vector: Array) -> bytes:
    return np.asarray(vector, np.float32).tobytes()
