"""The cache folder as a whole: what is in it, keeping it within a limit, and getting rid of it."""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clipzs import compiled, filehashes, store
from clipzs.database import Database

log = logging.getLogger("clipzs")

# What is kept, by kind: globs in the cache folder. With a * after them they match journals as well.
KINDS = {
    store.LABELS: f"{store.LABELS}/*.sqlite",
    store.IMAGES: f"{store.IMAGES}/*.sqlite",
    "files": filehashes.FILE,
    compiled.FOLDER: f"{compiled.FOLDER}/*[0-9a-f]",
}
_PRUNED_FIRST = (store.IMAGES, "files", store.LABELS, compiled.FOLDER)  # of what is in use: what is made anew soonest
_LEFT = 0.8  # of the limit, so that not every run has to prune


@dataclass(frozen=True)
class CacheFile:
    """One file of the cache, for people; `entries` is None for one that cannot be read."""

    kind: str
    path: Path
    bytes: int
    entries: int | None


def contents(folder: Path) -> list[CacheFile]:
    """All files of the cache, by kind and name."""
    return [CacheFile(kind, path, _bytes_with_journals(path), _count(kind, path)) for kind, path in _files(folder)]


def prune(folder: Path, limit: int, *, since: float | None = None) -> int:
    """If the cache is larger than a limit, make it smaller: what was used least recently goes first.

    Compiled models go as a whole; of the other files the oldest rows go, as many as have to. Other processes
    may go on using all of them. What cannot be pruned now is left as it is.

    Args:
        folder: the cache folder.
        limit: bytes; 0 is without limit.
        since: what was used later (a time as of `time.time`) counts as in use and goes last; None is now.

    Returns:
        The bytes freed.
    """
    try:
        before = _size(folder)
        if not limit or before <= limit:
            return 0
        in_use = time.time() if since is None else since
        for kind, path in sorted(_files(folder), key=lambda file: _rank(file[0], file[1], in_use)):
            excess = _size(folder) - (limit if kind == compiled.FOLDER else int(limit * _LEFT))
            if excess > 0:
                _cut(kind, path, excess)
        freed = before - _size(folder)
    except OSError as error:
        log.debug("the cache %s cannot be pruned: %s", folder, error)
        return 0
    log.debug("the cache %s was pruned by %d bytes", folder, freed)
    return freed


def clear(folder: Path) -> int:
    """Delete all; returns the bytes freed.

    Raises:
        OSError: a file that cannot be deleted.
    """
    freed = 0
    for pattern in KINDS.values():
        for path in folder.glob(f"{pattern}*"):
            with suppress(FileNotFoundError):  # another process has closed it, and with it gone its journal
                freed += _delete(path)
    return freed


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for kind, pattern in KINDS.items():
        for path in sorted(folder.glob(pattern)):
            yield kind, path


def _rank(kind: str, path: Path, in_use: float) -> tuple[float, int]:
    used = 0.0
    with suppress(FileNotFoundError):
        used = path.stat().st_mtime
    return min(used, in_use), _PRUNED_FIRST.index(kind)


def _cut(kind: str, path: Path, excess: int) -> None:
    """Make one file smaller by so many bytes, if it is as large as that; delete what is damaged."""
    if not path.is_dir() and _database(kind, path).shrink(_bytes_with_journals(path) - excess):
        return
    for part in path.parent.glob(path.name + "*"):
        with suppress(OSError):  # another process has deleted it or, on Windows, has it open
            _delete(part)


def _delete(path: Path) -> int:
    """Returns its bytes."""
    size = _bytes(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return size


def _size(folder: Path) -> int:
    return sum(_bytes_with_journals(path) for _, path in _files(folder))


def _bytes_with_journals(path: Path) -> int:
    return sum(_bytes(part) for part in path.parent.glob(path.name + "*"))


def _bytes(path: Path) -> int:
    """Of a file, or of all in a folder."""
    with suppress(FileNotFoundError):
        return sum(_bytes(part) for part in path.iterdir()) if path.is_dir() else path.stat().st_size
    return 0


def _count(kind: str, path: Path) -> int | None:
    return len(list(path.glob("*.blob"))) if kind == compiled.FOLDER else _database(kind, path).count()


def _database(kind: str, path: Path) -> Database:
    return filehashes.database(path.parent) if kind == "files" else store.database(path.parent.parent, kind, path.name)
