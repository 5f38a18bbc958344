"""Where results go: standard output, or a file that is never left half a document."""

import io
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from clipzs import defaults
from clipzs.errors import OutputError, UsageProblem
from clipzs.paths import IMAGE_SUFFIXES, printable
from clipzs.results import Result
from clipzs.resume import Earlier
from clipzs.writers import WRITERS, Writer

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from clipzs.table import Preview

_SECONDS_AT_RISK = 5.0  # of results, in a power failure
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

    Lines appear a batch at a time, whole; a batch that does not fit on the disk leaves nothing of itself. A power
    failure costs what the last `_SECONDS_AT_RISK` brought. Other processes of clipzs are kept from the file.

    Raises:
        OutputError: the file cannot be written, at the start or on the way, or another process is writing it.
        UsageProblem: it has the name of an image.
    """

    def __init__(
        self,
        format_: str,
        path: Path | None,
        *,
        cosine: bool = False,
        decimals: int = defaults.DECIMALS,
        preview: "Preview | None" = None,
    ) -> None:
        self.path = path
        self.resumable = path is not None and format_ == "jsonl"
        self.to_terminal = path is None and sys.stdout is not None and sys.stdout.isatty()
        self._whole = format_ == "table" or not WRITERS[format_].streams
        self._file: Growing | None = None
        self._earlier: Earlier | None = None
        self._made = self._started = False
        self._synced = time.monotonic()
        stream = self._opened(path) if path is not None else _standard_output()
        self.writer: Writer
        if format_ == "table":
            from clipzs.table import TableWriter

            colour = self.to_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            self.writer = TableWriter(stream, colour=colour, cosine=cosine, preview=preview)
        else:
            shown = cast(BinaryIO, _Screen(stream)) if self.to_terminal else stream
            self.writer = WRITERS[format_](shown, decimals)

    def _opened(self, path: Path) -> BinaryIO:
        """The file, appended to and not yet emptied; for a whole document, memory."""
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise UsageProblem(f"-o {path} would overwrite an image", hint="name a file for the results after -o")
        if self._whole:
            check_writable(path)
            return io.BytesIO()
        self._made = not path.exists()
        try:
            self._file = Growing(path)
        except OSError as error:
            raise problem(path, error) from error
        return self._file

    @property
    def again(self) -> str | None:
        """What goes on where a run was stopped."""
        return "the same command with --resume goes on from there" if self.resumable else None

    def go_on_after(self, earlier: Earlier) -> None:
        """Keep the whole records of an earlier run that are in the file, and write behind them."""
        self._earlier = earlier

    def write(self, batch: Sequence[Result]) -> None:
        """Put one batch out and flush it."""
        try:
            self._start()
            self.writer.write(batch)
            if self._file is not None and time.monotonic() - self._synced > _SECONDS_AT_RISK:
                self._file.sync()
                self._synced = time.monotonic()
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
                self._file.sync()
                self._file.close()
            elif self.path is not None and isinstance(self.writer.stream, io.BytesIO):
                write_whole(self.path, self.writer.stream.getvalue())
        except BrokenPipeError:
            raise
        except OSError as error:
            raise problem(self.path, error) from error

    def _start(self) -> None:
        if self._started or self._file is None:
            return
        if self._earlier is None:
            self._file.cut(0)
        elif self._earlier.retried:
            self._file = self.writer.stream = self._without_retried(self._file, self._earlier)
        else:
            self._file.cut(self._earlier.end)
        if self._made and self.path is not None:
            sync_folder(self.path.parent)
        self._started = True

    def _without_retried(self, file: "Growing", earlier: Earlier) -> "Growing":
        """In place of the file, a copy of the records that stay; a kill leaves the one or the other."""
        path = earlier.path.resolve()
        with replacing(path) as copy:
            earlier.copy(copy)
            file.close()  # Windows replaces no open file
        return Growing(path)

    def abandon(self) -> None:
        """Leave things as they were found, if nothing was written; but for the torn end of an earlier run."""
        if self._file is not None and not self._file.closed:
            with suppress(OSError):
                if self._earlier is not None and self._earlier.torn and not self._started:
                    self._file.cut(self._earlier.end)
                self._file.close()
        if self.path is not None and self._made and not self._started:
            with suppress(OSError):
                self.path.unlink()


class Growing(io.FileIO):
    """A file that grows at its end, by whole writes only, and that no other process of clipzs may have open.

    A device or pipe is written to as it is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "ab")
        try:
            status = os.fstat(self.fileno())
            self._ordinary = stat.S_ISREG(status.st_mode)
            if self._ordinary and not (locked(self.fileno()) and os.path.samestat(status, path.stat())):
                raise OutputError(f"{path}: another clipzs is writing it", hint="wait for it, or name another file")
        except BaseException:
            self.close()
            raise

    def write(self, data: "ReadableBuffer", /) -> int:
        """All of it or, where the disk is full, nothing.

        Raises:
            OSError: as the system says.
        """
        left = memoryview(data).cast("B")
        start = os.fstat(self.fileno()).st_size
        try:
            while left:
                left = left[super().write(left) or 0 :]
        except OSError:
            self.cut(start)
            raise
        return memoryview(data).nbytes

    def cut(self, size: int) -> None:
        """Leave out what lies behind that many bytes."""
        if self._ordinary:
            self.truncate(size)

    def sync(self) -> None:
        """Return when the disk has it."""
        if self._ordinary:
            os.fsync(self.fileno())


def locked(descriptor: int) -> bool:
    """Take the file for this process, until it is closed; False if another has it. Windows has no such lock."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # some network drives know no locks
        return True
    return True


class _Screen:
    """A terminal, given nothing that it would obey, whatever is in names and labels."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        """Bytes of lines and tab-separated fields."""
        text = data.decode("utf-8", "surrogateescape")
        shown = "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))
        return self._stream.write(shown.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Show it now."""
        self._stream.flush()


def _standard_output() -> BinaryIO:
    if sys.stdout is None:  # the shell's `>&-`
        raise OutputError("standard output is closed", hint="name a file with -o FILE")
    return sys.stdout.buffer


def problem(path: Path | None, error: OSError) -> OutputError:
    """The failure to write a file (None: standard output) as the user reads it."""
    where = "standard output" if path is None else str(path)
    return OutputError(f"{where}: cannot be written: {error.strerror}", hint="choose another place for it")


def put_out(text: str) -> None:
    """Results onto standard output, at once.

    Raises:
        OutputError: they cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise problem(None, error) from error


def check_apart(target: Path | None, others: Iterable[str | Path], *, option: str = "-o") -> None:
    """See that what is written does not take the place of what is still to be read.

    Raises:
        UsageProblem: it is one of the other files.
    """
    for other in others:
        if target is not None and target.is_file() and os.path.exists(other) and os.path.samefile(target, other):
            raise UsageProblem(f"{option} {target} would overwrite {other}", hint=f"name another file after {option}")


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


def save(path: Path, content: bytes) -> None:
    """As `write_whole`.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_whole(path, content)
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
    with replacing(path.resolve()) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, first: bool = False) -> Iterator[BinaryIO]:
    """What is written in the block takes the place of a file in one step at its end; a failure changes nothing.

    Args:
        path: of the file.
        first: a file that is there by then stays, and what was written goes.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power failure may leave the new name with nothing behind it
        temporary.chmod(_mode(path))
        if not (first and _named(temporary, path)):
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _named(temporary: Path, path: Path) -> bool:
    """Give a file its name unless another has it; False where the system cannot do that in one step, and none has it.

    The temporary name is gone in both of the other cases.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        if not path.exists():
            return False
    temporary.unlink()
    return True


def sync_folder(folder: Path) -> None:
    """Return when the disk has the folder's new entries, where there is a way to know."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _mode(path: Path) -> int:
    """The permissions that a file has, or would have if newly made; mkstemp's are stricter."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
