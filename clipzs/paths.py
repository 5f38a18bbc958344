"""Which files to classify: files, folders and lists in, image paths out, in a stable order."""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
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
_IMAGE_SUFFIXES = frozenset(map(os.fsencode, IMAGE_SUFFIXES))
_SKIPPED_FOLDERS = frozenset(map(os.fsencode, SKIPPED_FOLDERS))
_FOLDER = b"\0"  # after the name of a folder; no name holds it, and it sorts before every byte of one


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

    def find(self, *, ordered: bool = True) -> Iterator[Found]:
        """Every image once per mention, as soon as it is known.

        What the user named comes in the order in which it was named, a folder's images and subfolders sorted by the
        bytes of their names. Of the folder that is being searched, and of those around it, the names are held; of no
        other. A path named by the user or by a list is always yielded, whatever its suffix and whether it
        exists or not: it deserves an answer.

        Args:
            ordered: False leaves out the sorting, for who only counts.

        Raises:
            UsageProblem: a list that cannot be read.
        """
        for path in self.paths:
            yield from self._listed(path, ordered) if path == STDIN else self._expanded(path, ordered)
        for path in self.lists:
            yield from self._listed(path, ordered)

    def _expanded(self, path: str, ordered: bool) -> Iterator[Found]:
        if os.path.isdir(path):
            yield from self._walk(os.fsencode(path), ordered)
        else:
            yield Found(path)

    def _listed(self, list_path: str, ordered: bool) -> Iterator[Found]:
        for raw in _entries(list_path, b"\0" if self.null else b"\n"):
            yield from self._expanded(os.fsdecode(raw), ordered)

    def _walk(self, top: bytes, ordered: bool) -> Iterator[Found]:
        """Images of a folder and of those inside it. A stack of its own: Python's ends at some hundred folders."""
        inside: list[tuple[bytes, tuple[int, int], list[bytes]]] = []
        around: set[tuple[int, int]] = set()  # device and inode of the folders in `inside`, against circles of links
        next_one: bytes | None = top
        while True:
            if next_one is not None:
                names, place, problem = self._names(next_one, around)
                if place:
                    if ordered:
                        names.sort(reverse=True)
                    inside.append((next_one, place, names))
                    around.add(place)
                if problem is not None:
                    yield Found(os.fsdecode(next_one), f"cannot look into this folder: {problem.strerror}")
                next_one = None
            if not inside:
                return
            folder, place, names = inside[-1]
            if not names:
                inside.pop()
                around.remove(place)
                continue
            path = os.path.join(folder, names.pop())
            if path.endswith(_FOLDER):
                next_one = path[: -len(_FOLDER)]
            else:
                yield Found(os.fsdecode(path))

    def _names(
        self, folder: bytes, around: Set[tuple[int, int]]
    ) -> tuple[list[bytes], tuple[int, int] | None, OSError | None]:
        """Names of a folder's images and, marked as such, subfolders; its device and inode; what went wrong.

        Nothing of all that for a folder that is one of those around it.
        """
        names: list[bytes] = []
        place = None
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in around:
                return names, None, None
            place = (status.st_dev, status.st_ino)
            with os.scandir(folder) as scan:
                for entry in scan:
                    name = entry.name
                    if name.startswith(b"."):
                        continue
                    is_folder = _is_folder(entry)
                    if is_folder is None or self._excluded(entry):
                        continue
                    if not is_folder:
                        names.append(name)
                    elif self.recursive and name.lower() not in _SKIPPED_FOLDERS:
                        names.append(name + _FOLDER)
        except OSError as error:
            return names, place, error  # with what was listed before it went wrong
        return names, place, None

    @cached_property
    def _globs(self) -> list[str]:
        globs = [glob.removeprefix("./").rstrip("/") for glob in self.exclude]
        return globs + [glob.replace("**/", "") for glob in globs if "**/" in glob]  # which may also mean no folder

    def _excluded(self, entry: os.DirEntry[bytes]) -> bool:
        if not self._globs:
            return False
        return self.excludes(os.fsdecode(entry.name), Path(os.fsdecode(entry.path)).as_posix())

    def excludes(self, name: str, path: str) -> bool:
        """Whether an entry of a folder, of that name and path with slashes, is to be left out."""
        return any(fnmatchcase(name, glob) or fnmatchcase(f"/{path}", f"*/{glob}") for glob in self._globs)


def _is_folder(entry: os.DirEntry[bytes]) -> bool | None:
    """Whether an entry is a folder (True) or an image (False); None for all else: other files, sockets, devices."""
    named_so = os.path.splitext(entry.name)[1].lower() in _IMAGE_SUFFIXES
    try:
        if named_so and entry.is_file():
            return False
        return True if entry.is_dir() else None
    except OSError as error:
        # A link to itself is nothing. Of other faults the image has a record: from the attempt to open it.
        return False if named_so and error.errno != errno.ELOOP else None


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
        yield from entries(lambda size: os.read(descriptor, size), separator)
    except OSError as error:
        raise UsageProblem(f"{list_path}: cannot be read: {error.strerror}") from error
    finally:
        if descriptor != 0:
            os.close(descriptor)


def entries(read: Callable[[int], bytes], separator: bytes) -> Iterator[bytes]:
    """Non-empty entries of a list, each as soon as its separator has arrived.

    Args:
        read: gives some bytes, at most so many; none at the end.
        separator: a newline or a NUL byte.
    """
    rest, first = b"", True
    while True:
        block = read(1 << 16)
        if first:
            block, first = block.removeprefix(b"\xef\xbb\xbf"), False
        if not block:
            break
        *whole, rest = (rest + block).split(separator)
        yield from filter(None, (_clean(entry, separator) for entry in whole))
    if _clean(rest, separator):
        yield _clean(rest, separator)


def _clean(entry: bytes, separator: bytes) -> bytes:
    """Lists written on Windows end their lines in CR LF; NUL-separated ones are taken byte for byte."""
    return entry.removesuffix(b"\r") if separator == b"\n" else entry


_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def printable(text: str) -> str:
    """A name as a person may see it: control characters, text-direction marks and broken bytes as escapes.

    >>> printable("a\\x1b[31m\\n")
    'a\\\\x1b[31m\\\\n'
    """
    return _UNSAFE.sub(_escape, text)


def encodable(text: str) -> str:
    """The text with what UTF-8 cannot hold as escapes: bytes of file names that are not UTF-8 as \\xff."""
    return _SURROGATES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
