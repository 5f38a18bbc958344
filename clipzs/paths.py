"""Which files to classify: files, folders and lists in, image paths out, in a stable order."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from clipzs.errors import UsageProblem

# Suffixes of the formats Pillow reads that hold pictures (it also lists PDF, MPEG and science formats), and of HEIC.
_SUFFIXES = """
    apng avif avifs bmp dds dib gif heic heif hif icns ico j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx mpo pbm
    pcx pfm pgm png pnm ppm psd qoi ras sgi tga tif tiff webp xbm xpm
"""
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
SKIPPED_FOLDERS = frozenset({"@eadir", "#recycle", "$recycle.bin", "__macosx", "node_modules", "lost+found"})
STDIN = "-"


@dataclass(frozen=True)
class Found:
    """A path to classify, or a place that could not be looked into and why.

    The path is text as Python holds file names: bytes that are not UTF-8 are lone surrogates.
    """

    path: str
    error: str | None = None


@dataclass(frozen=True)
class Selection:
    """What the user pointed at.

    Attributes:
        paths: files, folders and "-" (a list on standard input), in the order given.
        lists: files that hold lists of paths.
        null: lists are separated by NUL bytes instead of newlines.
        recursive: look into folders inside folders.
        exclude: globs; an entry of a folder whose name or path matches is left out.
    """

    paths: Sequence[str] = ()
    lists: Sequence[str] = ()
    null: bool = False
    recursive: bool = True
    exclude: Sequence[str] = ()

    @property
    def live(self) -> bool:
        """Whether a list is no ordinary file: its paths may arrive over time, and can be read only once."""
        return STDIN in self.paths or not all(os.path.isfile(path) for path in self.lists)

    def find(self) -> Iterator[Found]:
        """Every image once per mention, folders in sorted order, as soon as it is known.

        A path named by the user or by a list is always yielded, whatever its suffix and whether it
        exists or not: it deserves an answer.

        Raises:
            UsageProblem: a list that cannot be read.
        """
        for path in self.paths:
            yield from self._listed(path) if path == STDIN else self._expanded(path)
        for path in self.lists:
            yield from self._listed(path)

    def _expanded(self, path: str) -> Iterator[Found]:
        if os.path.isdir(path):
            yield from self._walk(path, ())
        else:
            yield Found(path)

    def _listed(self, list_path: str) -> Iterator[Found]:
        for raw in _entries(list_path, b"\0" if self.null else b"\n"):
            yield from self._expanded(os.fsdecode(raw))

    def _walk(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
        """Images of one folder. `above`: device and inode of the folders around it, against symlink loops."""
        try:
            status = os.stat(folder)
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield Found(folder, f"cannot look into this folder: {error.strerror}")
            return
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for entry in entries:
            if entry.name.startswith(".") or self._excluded(entry):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a symlink to itself
                is_folder = is_file = False
            if is_folder:
                if self.recursive and entry.name.lower() not in SKIPPED_FOLDERS:
                    yield from self._walk(entry.path, (*above, here))
            elif is_file and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                yield Found(entry.path)

    def _excluded(self, entry: os.DirEntry[str]) -> bool:
        if not self.exclude:
            return False
        path = f"/{Path(entry.path).as_posix()}"
        globs = [glob.removeprefix("./").rstrip("/") for glob in self.exclude]
        globs += [glob.replace("**/", "") for glob in globs if "**/" in glob]  # which may also stand for no folder
        return any(fnmatchcase(entry.name, glob) or fnmatchcase(path, f"*/{glob}") for glob in globs)


def _entries(list_path: str, separator: bytes) -> Iterator[bytes]:
    """Non-empty entries of a list, each as soon as its separator has arrived."""
    try:
        # Standard input is read through its descriptor: a thread blocked in sys.stdin could not be left at exit.
        descriptor = 0 if list_path == STDIN else os.open(list_path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise UsageProblem(
            f"{list_path}: cannot be read: {error.strerror}", hint="--files-from takes a file"
        ) from error
    try:
        rest, first = b"", True
        while True:
            try:
                block = os.read(descriptor, 1 << 16)
            except OSError as error:
                raise UsageProblem(f"{list_path}: cannot be read: {error.strerror}") from error
            if first:
                block, first = block.removeprefix(b"\xef\xbb\xbf"), False
            if not block:
                break
            *whole, rest = (rest + block).split(separator)
            yield from filter(None, (_clean(entry, separator) for entry in whole))
        if _clean(rest, separator):
            yield _clean(rest, separator)
    finally:
        if descriptor != 0:
            os.close(descriptor)


def _clean(entry: bytes, separator: bytes) -> bytes:
    """Lists written on Windows end their lines in CR LF; NUL-separated ones are taken byte for byte."""
    return entry.removesuffix(b"\r") if separator == b"\n" else entry


_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A name as a person may see it: control characters, text-direction marks and broken bytes as escapes.

    >>> printable("a\\x1b[31m\\n")
    'a\\\\x1b[31m\\\\n'
    """
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
