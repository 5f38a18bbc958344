"""Image embeddings kept between runs: by what is in a file, and without reading it while it has not changed."""

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from clipzs.filehashes import FileHashes
from clipzs.score import Array
from clipzs.store import ImageStore, key

HANDLING = 1  # raised whenever `images` or `preprocess` make other pixels of a file
_ROWS_AT_ONCE = 512  # in one transaction
_SECONDS_AT_RISK = 5.0  # of work that a kill may cost


@dataclass(frozen=True)
class Content:
    """What was read of a file.

    Attributes:
        path: where.
        stamp: by which the file is known again, as `filehashes.stamp` gave it; None for one that cannot be.
        sha256: of its bytes.
    """

    path: str
    stamp: bytes | None
    sha256: bytes


class ImageCache:
    """Image embeddings of one model, computed in one way. New ones are written on a thread, the last
    at the end of the `with` block."""

    def __init__(
        self,
        folder: Path,
        model: str,
        digest: str,
        *,
        precision: str,
        exact: bool,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        """Name the stores; nothing is opened yet.

        Args:
            folder: the cache folder.
            model: its name.
            digest: of the model: what tells two of one name apart.
            precision: what it computes in.
            exact: whether every pixel of large images is decoded.
            written: called on the thread that has written some.
        """
        self._report_written = written
        self._files = FileHashes(folder)
        self._images = ImageStore(folder, model, digest)
        self._prefix = key(digest, precision, exact, HANDLING)
        self._may_hold_copies = self._images.exists
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="clipzs-cache")
        self._new: dict[Content, Array] = {}
        self._written = time.monotonic()

    def look_up(self, paths: Sequence[str]) -> list[Array | None]:
        """float32 [d] of each file that has not changed since its embedding was kept. Reads no file."""
        keys = [self._key(sha256) if sha256 else None for sha256 in self._files.known(paths)]
        found = self._images.get([one for one in keys if one])
        return [found.get(one) if one else None for one in keys]

    def of_content(self, content: Content) -> Array | None:
        """float32 [d] of a file that had to be read (new, moved or touched), if its bytes were embedded before."""
        if not self._may_hold_copies:
            return None
        one = self._key(content.sha256)
        return self._images.get([one]).get(one)

    def _key(self, sha256: bytes) -> bytes:
        return hashlib.sha256(self._prefix + sha256).digest()

    def keep(self, content: Content, vector: Array) -> None:
        """Keep the embedding, float32 [d], of what was read; it may be written later."""
        self._new[content] = vector
        if len(self._new) >= _ROWS_AT_ONCE or time.monotonic() - self._written > _SECONDS_AT_RISK:
            self._write_soon()

    def _write_soon(self) -> None:
        new, self._new, self._written = self._new, {}, time.monotonic()
        self._writer.submit(self._write, new)

    def _write(self, new: dict[Content, Array]) -> None:
        """Embeddings first: a file that is known while its embedding is not would only be read again."""
        self._images.put({self._key(content.sha256): vector for content, vector in new.items()})
        self._files.remember((one.path, one.stamp, one.sha256) for one in new if one.stamp)
        self._report_written()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left, and wait for it."""
        self._write_soon()
        self._writer.shutdown()
