"""A Parquet table of records, written a row group at a time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from clipzs.errors import OutputError, UsageProblem
from clipzs.exports.common import LeftOut, Settings, encodable
from clipzs.output import check_writable, problem, replacing
from clipzs.results import Result, Score

ROWS = 65_536  # in a row group, at most
BYTES = 64_000_000  # of a row group before it is compressed, about: what is held at once


class ParquetExport:
    """One row a record, unreadable images and unknown answers among them; columns as the keys of the JSON record.

    Bytes of paths that are not UTF-8 are written as \\xff, since Parquet's texts are UTF-8.

    Raises:
        UsageProblem: pyarrow is not installed.
        OutputError: the target cannot be written.
    """

    again: str | None = None

    def __init__(self, settings: Settings) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise UsageProblem("Parquet needs pyarrow", hint="pip install 'clipzs[parquet]'") from error
        self._arrow, self._parquet = pyarrow, parquet
        self.left_out = LeftOut()
        self._path = settings.file
        self._tables: list[Any] = []  # of batches; together they become a row group
        self._rows = self._bytes = self._written = 0
        self._open = ExitStack()
        self._writer: Any = None
        text, number = pyarrow.string(), pyarrow.float64()
        scores = pyarrow.list_(pyarrow.struct([("label", text), ("score", number)]))
        # Of each column its type, and its cell of a record.
        self._columns: dict[str, tuple[Any, Callable[[Result], Any]]] = {
            "path": (text, lambda result: encodable(result.path)),
            "label": (text, lambda result: _text(result.label)),
            "score": (number, lambda result: result.score),
            "labels": (pyarrow.list_(text), lambda result: _texts(result.labels)),
            "groups": (scores, lambda result: None if result.groups is None else _scores(result.groups)),
            "scores": (scores, lambda result: _scores(result.scores)),
            "error": (text, lambda result: _text(result.error)),
            "model": (text, lambda result: encodable(result.model)),
            "config": (text, lambda result: encodable(result.config)),
            "truth": (text, lambda result: _text(result.truth)),
        }
        self._schema = pyarrow.schema([(name, kind) for name, (kind, _) in self._columns.items()])
        if self._path.exists() and not self._path.is_file():
            raise OutputError(f"{self._path}: not an ordinary file", hint="Parquet is not written to devices and pipes")
        check_writable(self._path)

    def write(self, batch: Sequence[Result]) -> None:
        """Take a batch; write a row group when it is full."""
        if self._rows + len(batch) > ROWS or self._bytes > BYTES:
            self._flush()
        columns = [self._arrow.array(map(cell, batch), kind) for kind, cell in self._columns.values()]
        self._tables.append(self._arrow.Table.from_arrays(columns, schema=self._schema))
        self._rows += len(batch)
        self._bytes += self._tables[-1].nbytes

    def _flush(self) -> None:
        if not self._tables:
            return
        try:
            if self._writer is None:
                file = self._open.enter_context(replacing(self._path.resolve()))
                self._writer = self._parquet.ParquetWriter(file, self._schema, compression="zstd")
            self._writer.write_table(self._arrow.concat_tables(self._tables))
        except OSError as error:
            raise problem(self._path, error) from error
        self._written += self._rows
        self._tables, self._rows, self._bytes = [], 0, 0

    def close(self, run: Mapping[str, Any]) -> None:
        """Put the table in its place."""
        if run.get("interrupted"):
            self.abandon()
            return
        self._flush()
        try:
            self._writer.close()
            self._open.close()
        except OSError as error:
            raise problem(self._path, error) from error

    def abandon(self) -> None:
        """Leave the file as it was found."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
            with suppress(OSError):  # of what is still in a buffer where the disk is full
                self._open.__exit__(OutputError, OutputError("stopped"), None)

    def summary(self) -> str:
        """What was done, in words."""
        return f"{self._written:,} rows in {self._path}"


def _text(text: str | None) -> str | None:
    return None if text is None else encodable(text)


def _texts(texts: Sequence[str] | None) -> list[str] | None:
    return None if texts is None else [*map(encodable, texts)]


def _scores(scores: Sequence[Score]) -> list[dict[str, Any]]:
    return [{"label": encodable(one.label), "score": one.score} for one in scores]
