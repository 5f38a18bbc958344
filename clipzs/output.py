"""Where results go: standard output, or a file that is never left half a document."""

import io
import os
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from clipzs.errors import OutputError
from clipzs.results import Result
from clipzs.writers import WRITERS, Writer

_BY_SUFFIX = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "tsv"}


def default_format(path: Path | None) -> str:
    """What a file's suffix says; on a terminal the table; in a pipe TSV."""
    if path is not None:
        return _BY_SUFFIX.get(path.suffix.lower(), "tsv")
    return "table" if sys.stdout is not None and sys.stdout.isatty() else "tsv"


class Output:
    """A writer and the stream below it.

    Lines are appended to a file as they come; what the file held before is given up when the first
    result is there, not earlier. A whole document (`json`, `table`) takes its place in one step at the end.

    Raises:
        OutputError: the file cannot be written, at the start or on the way.
    """

    def __init__(self, format_: str, path: Path | None, *, cosine: bool = False) -> None:
        self.path = path
        self.to_terminal = path is None and sys.stdout is not None and sys.stdout.isatty()
        self._whole = format_ == "table" or not WRITERS[format_].streams
        self._file: BinaryIO | None = None
        self._made = self._started = False
        stream = self._opened(path) if path is not None else _standard_output()
        self.writer: Writer
        if format_ == "table":
            from clipzs.table import TableWriter

            colour = self.to_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            self.writer = TableWriter(stream, colour=colour, cosine=cosine)
        else:
            self.writer = WRITERS[format_](stream)

    def _opened(self, path: Path) -> BinaryIO:
        """The file, appended to and not yet emptied; for a whole document, memory."""
        if self._whole:
            check_writable(path)
            return io.BytesIO()
        self._made = not path.exists()
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise problem(path, error) from error
        return self._file

    def write(self, batch: Sequence[Result]) -> None:
        """Put one batch out and flush it."""
        try:
            self._start()
            self.writer.write(batch)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise problem(self.path, error) from error

    def close(self, run: Mapping[str, Any]) -> None:
        """Put out what comes last, and a whole document in its place."""
        try:
            self._start()
            self.writer.close(run)
            if self._file is not None:
                self._file.close()
            elif self.path is not None and isinstance(self.writer.stream, io.BytesIO):
                write_whole(self.path, self.writer.stream.getvalue())
        except BrokenPipeError:
            raise
        except OSError as error:
            raise problem(self.path, error) from error

    def _start(self) -> None:
        if not self._started and self._file is not None and self.path is not None and self.path.is_file():
            self._file.truncate(0)  # a device or pipe has nothing to be emptied
        self._started = True

    def abandon(self) -> None:
        """Leave things as they were found, if nothing was written."""
        if self._file is not None and not self._file.closed:
            with suppress(OSError):
                self._file.close()
        if self.path is not None and self._made and not self._started:
            with suppress(OSError):
                self.path.unlink()


def _standard_output() -> BinaryIO:
    if sys.stdout is None:  # the shell's `>&-`
        raise OutputError("standard output is closed", hint="name a file with -o FILE")
    return sys.stdout.buffer


def problem(path: Path | None, error: OSError) -> OutputError:
    """The failure to write a file (None: standard output) as the user reads it."""
    where = "standard output" if path is None else str(path)
    return OutputError(f"{where}: cannot be written: {error.strerror}", hint="choose another place for it")


def check_writable(path: Path) -> None:
    """Find out before the work, rather than after it, that a file cannot be written. Changes nothing.

    Raises:
        OutputError: it cannot.
    """
    new = not path.exists()
    try:
        if new or path.is_file() or path.is_dir():  # opening a pipe would wait for its reader
            path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise problem(path, error) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: complete, or not at all. A device or pipe is written to as it is.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(_mode(path))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """The permissions that a file has, or would have if newly made; mkstemp's are stricter."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
