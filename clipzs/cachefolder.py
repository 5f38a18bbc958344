"""The cache folder as a whole: what is in it, and getting rid of it."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clipzs import compiled, filehashes, store

# What is kept, by kind: globs in the cache folder. With a * after them they match journals as well.
KINDS = {
    store.LABELS: f"{store.LABELS}/*.sqlite",
    store.IMAGES: f"{store.IMAGES}/*.sqlite",
    "files": filehashes.FILE,
    compiled.FOLDER: f"{compiled.FOLDER}/*[0-9a-f]",
}


@dataclass(frozen=True)
class CacheFile:
    """One file of the cache, for people; `entries` is None for one that cannot be read."""

    kind: str
    path: Path
    bytes: int
    entries: int | None


def contents(folder: Path) -> list[CacheFile]:
    """All files of the cache, by kind and name."""
    return [
        CacheFile(kind, path, sum(_bytes(part) for part in path.parent.glob(path.name + "*")), _count(kind, path))
        for kind, pattern in KINDS.items()
        for path in sorted(folder.glob(pattern))
    ]


def clear(folder: Path) -> int:
    """Delete them; returns the bytes freed.

    Raises:
        OSError: a file that cannot be deleted.
    """
    freed = 0
    for pattern in KINDS.values():
        for path in folder.glob(f"{pattern}*"):
            with suppress(FileNotFoundError):  # another process has closed it, and with it gone its journal
                size = _bytes(path)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                freed += size
    return freed


def _bytes(path: Path) -> int:
    """Of a file, or of all in a folder."""
    with suppress(FileNotFoundError):
        return sum(_bytes(part) for part in path.iterdir()) if path.is_dir() else path.stat().st_size
    return 0


def _count(kind: str, path: Path) -> int | None:
    if kind == compiled.FOLDER:
        return len(list(path.glob("*.blob")))
    if kind == "files":
        return filehashes.database(path.parent).count()
    return store.database(path.parent.parent, kind, path.name).count()
