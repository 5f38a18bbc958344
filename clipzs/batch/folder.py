"""The folder of a job's output: on this machine or in an object store. Nothing in it is ever half written."""

import io
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from clipzs.batch import fetching
from clipzs.errors import OutputError, UsageProblem
from clipzs.output import locked, problem, replacing

_LOCK = ".planning"
_PATIENCE_S = 0.2  # between two looks at whether another process has done what is waited for
_SPOOLED = 64_000_000  # bytes on their way to an object store that are held in memory


class Folder(ABC):
    """Files by their names, with `/` in those of a folder inside.

    Attributes:
        place: as the user named it.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    @abstractmethod
    def open(self, name: str, start: int = 0, stop: int | None = None) -> BinaryIO:
        """Read a file from a byte on; `stop` is a byte that need not be passed.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """

    @abstractmethod
    def names(self, inside: str = "") -> set[str]:
        """The files in it, or in a folder inside, without those that are still being written.

        Raises:
            OSError: it cannot be looked into.
        """

    @abstractmethod
    def writing(self, name: str, *, first: bool = False) -> AbstractContextManager[BinaryIO]:
        """What is written in the block becomes the file at its end, in one step, or nothing does.

        Args:
            name: of the file.
            first: if there is such a file by then, it stays as it is.

        Raises:
            OutputError: it cannot be written.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def tidy(self) -> None:
        """Remove what killed processes have left of files that are there by now."""

    @contextmanager
    def planning(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Only one process at a time is in the block, where the system can do that; `waiting` is called if others are.

        Nothing is wrong if several are; it costs them time.
        """
        yield

    def read(self, name: str) -> bytes:
        """A file.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, content: bytes, *, first: bool = False) -> None:
        """As `writing`."""
        with self.writing(name, first=first) as file:
            file.write(content)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        try:
            self.open(name).close()
        except FileNotFoundError:
            return False
        return True


def opened(place: str) -> Folder:
    """A folder, which is made when something is written to it.

    Args:
        place: a path, or the URL of a place in an object store.

    Raises:
        UsageProblem: it is a file, or in a store that cannot be written to, or whose package is missing.
    """
    return _Remote(place) if fetching.is_url(place) else _Local(place)


class _Local(Folder):
    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._root = Path(place)
        if self._root.exists() and not self._root.is_dir():
            raise UsageProblem(f"{place} is a file, not a folder", hint="name a folder for the results")

    def open(self, name: str, start: int = 0, stop: int | None = None) -> BinaryIO:
        file = open(self._root / name, "rb")  # noqa: SIM115  # is closed by who asked for it
        file.seek(start)
        return file

    def names(self, inside: str = "") -> set[str]:
        try:
            with os.scandir(self._root / inside) as scan:
                return {entry.name for entry in scan if not entry.name.startswith(".")}
        except FileNotFoundError:
            return set()

    @contextmanager
    def writing(self, name: str, *, first: bool = False) -> Iterator[BinaryIO]:
        path, complete = self._root / name, False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, first=first) as file:
                yield file
                complete = True
        except FileNotFoundError as error:
            if not (complete and path.exists()):  # another process made it first, and tidied up
                raise problem(path, error) from error
        except OSError as error:
            raise problem(path, error) from error

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        there = self.names()
        for path in self._root.glob(".*.part"):
            if path.name[1:].rsplit(".", 2)[0] in there:
                with suppress(OSError):
                    path.unlink()

    @contextmanager
    def planning(self, waiting: Callable[[], None]) -> Iterator[None]:
        path, said = self._root / _LOCK, False
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab")  # noqa: SIM115  # is closed below
        except OSError as error:
            raise problem(self._root, error) from error
        with file:
            while not locked(file.fileno()):
                if not said:
                    waiting()
                    said = True
                time.sleep(_PATIENCE_S)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # who has it open and waits will find the work done, or do it
                with suppress(OSError):
                    self._root.rmdir()  # if nothing came of it


class _Remote(Folder):
    """Objects: each is put there whole, by one request."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._files, self._root = fetching.filesystem(place.rstrip("/"))
        if fetching.is_web(place):
            raise UsageProblem(
                f"--out {place}: nothing can be written by HTTP", hint="name a folder, or a place in an object store"
            )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def open(self, name: str, start: int = 0, stop: int | None = None) -> BinaryIO:
        if start or stop is not None:
            return io.BytesIO(self._files.cat_file(self._path(name), start=start, end=stop))
        return cast(BinaryIO, self._files.open(self._path(name), "rb"))

    def exists(self, name: str) -> bool:
        return bool(self._files.exists(self._path(name)))

    def names(self, inside: str = "") -> set[str]:
        self._files.invalidate_cache()
        try:
            return {str(path).rpartition("/")[2] for path in self._files.ls(self._path(inside), detail=False)}
        except FileNotFoundError:
            return set()

    @contextmanager
    def writing(self, name: str, *, first: bool = False) -> Iterator[BinaryIO]:
        with tempfile.SpooledTemporaryFile(_SPOOLED) as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            if first and self.exists(name):
                return
            try:
                self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
                with self._files.open(self._path(name), "wb") as target:
                    shutil.copyfileobj(file, target, 1 << 20)
            except OSError as error:
                raise OutputError(f"{self.place}/{name}: cannot be written: {error}") from error

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def tidy(self) -> None:
        """Nothing is left by killed processes."""
