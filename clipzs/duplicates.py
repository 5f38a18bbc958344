"""Images that are nearly the same: groups around the best of each, and which of them are copies to the byte."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipzs.defaults import DECIMALS
from clipzs.filehashes import FileHashes
from clipzs.results import printed
from clipzs.score import Array

_ROWS, _COLUMNS = 1024, 1 << 14  # of similarities that are computed together
_CELLS = 1 << 27  # bytes that say which rows are similar to which
_ROUNDING = 1e-6  # of a cosine


@dataclass(frozen=True)
class Image:
    """One image of a group.

    Attributes:
        path: as it was given or found.
        bytes: of its file.
        similarity: cosine with the first of the group; 1 for that itself.
        copy_of: an image before it in the group whose file holds the same bytes, if there is one.
    """

    path: str
    bytes: int
    similarity: float
    copy_of: str | None

    def as_json(self, group: int, rank: int, model: str, decimals: int = DECIMALS) -> dict[str, Any]:
        """The record of the JSON format; its keys are promised."""
        return {
            "path": self.path,
            "score": float(printed(self.similarity, decimals)),
            "group": group,
            "rank": rank,
            "bytes": self.bytes,
            "copy_of": self.copy_of,
            "error": None,
            "model": model,
        }


@dataclass(frozen=True)
class Files:
    """What can be compared: of n embedded paths those that are files, each file once.

    Attributes:
        rows: of these, the largest file first, equal ones in the order of the paths.
        bytes: of the file of every path; 0 where there is none.
        gone: paths that are no file any more.
        changed: of these, files that were modified after `embedded_at`.
        again: paths of files that were there under another path before: links, and what is named twice.
    """

    rows: NDArray[np.intp]
    bytes: NDArray[np.int64]
    gone: Sequence[str]
    changed: Sequence[str]
    again: Sequence[str]


def files(paths: Sequence[str], *, embedded_at: float | None = None) -> Files:
    """Look at files, without reading them.

    Args:
        paths: of images.
        embedded_at: when they were embedded (as of `time.time`): what was modified later is left out. None is now.
    """
    sizes = np.zeros(len(paths), np.int64)
    rows: list[int] = []
    gone: list[str] = []
    changed: list[str] = []
    again: list[str] = []
    seen: set[tuple[int, int]] = set()
    for row, path in enumerate(paths):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            gone.append(path)
            continue
        place = (status.st_dev, status.st_ino)
        if embedded_at is not None and status.st_mtime > embedded_at:
            changed.append(path)
        elif place in seen:
            again.append(path)
        else:
            seen.add(place)
            sizes[row] = status.st_size
            rows.append(row)
    order = np.array(rows, np.intp)
    return Files(order[np.argsort(-sizes[order], kind="stable")], sizes, gone, changed, again)


def stars(
    vectors: Array,
    order: NDArray[np.intp],
    least: float,
    *,
    done: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[tuple[int, NDArray[np.intp], Array]]:
    """Groups in which all rows are similar to the first.

    In the given order, each row that is in no group yet takes with it all later ones of no group that are similar to
    it. So nothing is in a group because of a chain of others, and no row stands for one that it does not resemble.

    Args:
        vectors: float32 [n, d], rows of length 1.
        order: rows to group, those to keep first.
        least: cosine similarity from which on two are similar.
        done: called with the number of rows that have their place, and of all.

    Yields:
        Of each group of two or more its first row, the others in order, and their similarities with it.
    """
    left, bound = order, least - _ROUNDING
    while len(left):
        some = left[: max(1, min(_ROWS, _CELLS // len(left)))]
        block = vectors[some]
        near = np.empty((len(some), len(left)), bool)
        for start in range(0, len(left), _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            near[:, columns] = block @ vectors[left[columns]].T >= bound
        near[:, : len(some)] &= np.tri(len(some), dtype=bool).T  # each with itself and with later ones
        np.fill_diagonal(near, False)
        taken = np.zeros(len(left), bool)
        for place in np.flatnonzero(near.any(axis=1)).tolist():
            members = np.flatnonzero(near[place] & ~taken)
            if not taken[place] and len(members):
                taken[members] = True
                others = left[members]
                yield int(some[place]), others, vectors[others] @ block[place]
        taken[: len(some)] = True
        left = left[~taken]
        done(len(order) - len(left), len(order))


def grouped(
    paths: Sequence[str],
    found: Iterable[tuple[int, NDArray[np.intp], Array]],
    sizes: NDArray[np.int64],
    hashes: FileHashes,
) -> Iterator[list[Image]]:
    """Groups of rows as images.

    Args:
        paths: of all rows.
        found: as `stars` gives them.
        sizes: bytes of each file.
        hashes: by which exact copies are known; a file is read only if it is not known there, and has the size of
            another in its group.
    """
    for first, others, similarities in found:
        rows = [first, *others.tolist()]
        copies = _copies([(paths[row], int(sizes[row])) for row in rows], hashes)
        scores = [1.0, *similarities.tolist()]
        yield [
            Image(paths[row], int(sizes[row]), score, copy)
            for row, score, copy in zip(rows, scores, copies, strict=True)
        ]


def _copies(group: Sequence[tuple[str, int]], hashes: FileHashes) -> Iterator[str | None]:
    """For each the first before it with the same bytes."""
    number = Counter(size for _, size in group)
    first: dict[str, str] = {}
    for path, size in group:
        content = _content(path, hashes) if number[size] > 1 else path
        before = first.setdefault(content, path)
        yield None if before == path else before


def _content(path: str, hashes: FileHashes) -> str:
    """What two files share that hold the same; the path of one that cannot be read."""
    try:
        return hashes.sha256(path)
    except OSError:
        return path
