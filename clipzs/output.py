"""Where results go: standard output, or a file that is never left half a document."""

import io
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from clipzs.errors import OutputError
from clipzs.results import Result
from clipzs.writers import WRITERS, Writer

FORMATS = ("table", *WRITERS)
_BY_SUFFIX = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "tsv"}


def default_format(path: Path | None) -> str:
    """What a file's suffix says; on a terminal the table; in a pipe TSV."""
    if path is not None:
        return _BY_SUFFIX.get(path.suffix.lower(), "tsv")
    return "table" if sys.stdout.isatty() else "tsv"


class Output:
    """A writer and the stream below it.

    Lines are appended to a file as they come; what the file held before is given up when the first
    result is there, not earlier. A whole document (`json`, `table`) takes its place in one step at the end.

    Raises:
        OutputError: the file cannot be written, at the start or on the way.
    """

    def __init__(self, format_: str, path: Path | None, *, cosine: bool = False) -> None:
        self.path = path
        self.to_terminal = path is None and sys.stdout.isatty()
        self._whole = format_ == "table" or not WRITERS[format_].streams
        self._file: BinaryIO | None = None
        self._made = self._started = False
        stream = sys.stdout.buffer if path is None else self._opened(path)
        self.writer: Writer
        if format_ == "table":
            from clipzs.table import TableWriter

            colour = self.to_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            self.writer = TableWriter(stream, colour=colour, cosine=cosine)
        else:
            self.writer = WRITERS[format_](stream)

    def _opened(self, path: Path) -> BinaryIO:
        """The file, appended to and not yet emptied; for a whole document, memory."""
        self._made = not path.exists()
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise self._problem(error) from error
        return io.BytesIO() if self._whole else self._file

    def write(self, batch: Sequence[Result]) -> None:
        """Put one batch out and flush it."""
        try:
            self._start()
            self.writer.write(batch)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._problem(error) from error

    def close(self, run: Mapping[str, Any]) -> None:
        """Put out what comes last, and a whole document in its place."""
        try:
            self._start()
            self.writer.close(run)
            if self._file is not None:
                self._file.close()
            if self._whole and self.path is not None:
                stream = self.writer.stream
                write_whole(self.path, stream.getvalue() if isinstance(stream, io.BytesIO) else b"")
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._problem(error) from error

    def _start(self) -> None:
        if not self._started and self._file is not None and not self._whole and self._file.seekable():
            self._file.truncate(0)
        self._started = True

    def abandon(self) -> None:
        """Leave things as they were found, if nothing was written."""
        if self._file is not None and not self._file.closed:
            with suppress(OSError):
                self._file.close()
        if self.path is not None and self._made and (self._whole or not self._started):
            with suppress(OSError):
                self.path.unlink()

    def _problem(self, error: OSError) -> OutputError:
        where = "standard output" if self.path is None else str(self.path)
        return OutputError(f"{where}: cannot be written: {error.strerror}", hint="choose another place with -o FILE")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: complete, or not at all. A device or pipe is written to as it is.

    Raises:
        OSError: it cannot be written.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # as a newly made file would have; mkstemp is stricter
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
