"""Thumbnails of the images of a page: inside it while they are few, otherwise in files beside it.

They are made by the decode workers, on threads, while results come. Files are in a folder that is ours alone: a marker
says so. Each report has a folder of its own in it, so that a page always finds the pictures it was made with; those of
the page before it go when the new page is there. Nothing is deleted that does not have a name of ours.
"""

import os
import re
import secrets
from base64 import b64encode
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from clipzs import defaults
from clipzs.decoders import DECODERS, Decoding
from clipzs.errors import ImageError, OutputError
from clipzs.output import problem
from clipzs.preprocess import Thumbnail
from clipzs.stream import THREADS

LONGEST = 160  # pixels
INLINE_MOST = 2000  # rows with their pictures inside the page
AHEAD = 256  # rows that wait for their pictures, at most
TYPE, SUFFIX = "image/webp", ".webp"
MARKER = ".clipzs-thumbnails"
_MARKED = "Pictures of a report of clipzs. They are deleted when the report is made anew.\n"
_ROWS = 1000  # in a folder
_OURS = re.compile(r"[0-9a-f]{8}", re.ASCII).fullmatch
_NUMBER = re.compile(r"[0-9]{3,}", re.ASCII).fullmatch
_PICTURE = re.compile(rf"[0-9]{{6,}}{re.escape(SUFFIX)}", re.ASCII).fullmatch


def thumbnail(
    path: str,
    *,
    longest: int = LONGEST,
    max_megapixels: float = defaults.MAX_MEGAPIXELS,
    timeout: float = defaults.IMAGE_TIMEOUT_S,
) -> bytes | None:
    """The whole picture in a file as a small WebP, upright; None for what is no ordinary file or cannot be read.

    Args:
        path: of a file; a pipe would be empty, or never end.
        longest: pixels of the longer side, at most.
        max_megapixels: larger images are refused.
        timeout: seconds that it may take; 0 is without end.
    """
    if not os.path.isfile(path):
        return None
    try:
        return DECODERS.decode(path, Decoding(Thumbnail(longest), max_megapixels, False, timeout))
    except ImageError:
        return None


class Thumbnails:
    """Those of one page, a row after the other.

    Raises:
        OutputError: the folder for them is another's.
    """

    def __init__(
        self,
        page: Path,
        *,
        max_megapixels: float = defaults.MAX_MEGAPIXELS,
        timeout: float = defaults.IMAGE_TIMEOUT_S,
    ) -> None:
        """Set up; nothing is written yet.

        Args:
            page: the file that will show them.
            max_megapixels: larger images have none.
            timeout: seconds that one may take; 0 is without end.
        """
        self._shared = page.with_name(f"{page.stem}.files")
        self._token = secrets.token_hex(4)
        self._thumbnail = partial(thumbnail, max_megapixels=max_megapixels, timeout=timeout)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="clipzs-thumbnail")
        self._waiting: deque[Future[bytes | None]] = deque()
        self._inline: list[bytes | None] = []
        self._rows = self._made = 0
        self._in_files = self._kept = False
        if os.path.lexists(self._shared) and not _is_ours(self._shared):
            raise OutputError(
                f"{self._shared}: thumbnails would go there, and it is not clipzs' own",
                hint="give the page another name",
            )

    def add(self, paths: Sequence[str | None]) -> None:
        """A row each: the image to show in it, or None. Returns when few of them are still to be made.

        Raises:
            OutputError: their files cannot be written.
        """
        for path in paths:
            self._waiting.append(self._pool.submit(self._of, path))
            while len(self._waiting) > AHEAD:
                self._take()

    def _of(self, path: str | None) -> bytes | None:
        return None if path is None else self._thumbnail(path)

    def finish(self) -> dict[str, Any]:
        """Wait for the last of them; where the page finds them.

        Returns:
            `{"mode": "none"}`; or `{"mode": "inline", "type", "data"}`, in base64, null in rows without one; or
            `{"mode": "files", "folder", "suffix"}`: row 1234 is in `001/001234` of that folder beside the page.

        Raises:
            OutputError: their files cannot be written.
        """
        while self._waiting:
            self._take()
        self._pool.shutdown()
        if not self._made:
            return {"mode": "none"}
        if self._in_files:
            return {"mode": "files", "folder": f"{self._shared.name}/{self._token}", "suffix": SUFFIX}
        data = [None if one is None else b64encode(one).decode("ascii") for one in self._inline]
        return {"mode": "inline", "type": TYPE, "data": data}

    def keep(self) -> None:
        """The page is written: those of the page that was there before go, and these stay."""
        self._kept = True
        self._clear(all_but=self._token if self._in_files and self._made else None)

    def abandon(self) -> None:
        """There will be no page: what was made for it goes. Once they are kept, nothing does."""
        if self._kept:
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._waiting.clear()
        if self._in_files:
            _delete(self._shared / self._token)
            self._remove_if_empty()

    def _take(self) -> None:
        picture = self._waiting.popleft().result()
        row, self._rows = self._rows, self._rows + 1
        self._made += picture is not None
        if not self._in_files and self._rows <= INLINE_MOST:
            self._inline.append(picture)
            return
        try:
            if not self._in_files:
                self._in_files = True
                self._shared.mkdir(exist_ok=True)
                (self._shared / MARKER).write_text(_MARKED, "utf-8")
                for before, one in enumerate(self._inline):
                    self._write(before, one)
                self._inline = []
            self._write(row, picture)
        except OSError as error:
            raise problem(self._shared, error) from error

    def _write(self, row: int, picture: bytes | None) -> None:
        if picture is None:
            return
        folder = self._shared / self._token / f"{row // _ROWS:03d}"
        target = folder / f"{row:06d}{SUFFIX}"
        try:
            target.write_bytes(picture)
        except FileNotFoundError:
            folder.mkdir(parents=True)
            target.write_bytes(picture)

    def _clear(self, *, all_but: str | None) -> None:
        if not os.path.lexists(self._shared) or not _is_ours(self._shared):
            return
        with suppress(OSError):
            for entry in [*os.scandir(self._shared)]:
                if _OURS(entry.name) and entry.name != all_but and entry.is_dir(follow_symlinks=False):
                    _delete(Path(entry.path))
        if all_but is None:
            self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        """The folder, unless it holds anything but the marker."""
        with suppress(OSError):
            if os.listdir(self._shared) == [MARKER]:
                (self._shared / MARKER).unlink()
                self._shared.rmdir()


def _is_ours(folder: Path) -> bool:
    """Whether a folder was made for thumbnails, or has nothing in it."""
    try:
        return not (names := os.listdir(folder)) or MARKER in names
    except OSError:
        return False


def _delete(report: Path) -> None:
    """The thumbnails of one report; whatever else is in its folders stays, and they with it."""
    for numbered in _entries(report):
        if _NUMBER(numbered.name) and numbered.is_dir(follow_symlinks=False):
            for picture in _entries(Path(numbered.path)):
                if _PICTURE(picture.name):
                    with suppress(OSError):
                        os.unlink(picture.path)
            with suppress(OSError):
                os.rmdir(numbered.path)
    with suppress(OSError):
        report.rmdir()


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as found:
            return [*found]
    except OSError:
        return []
