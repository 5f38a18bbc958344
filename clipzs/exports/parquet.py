"""A Parquet table of records."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO

from clipzs.columns import RecordTable
from clipzs.errors import OutputError
from clipzs.exports.common import LeftOut, Settings
from clipzs.output import check_writable, problem, replacing
from clipzs.results import Result


class ParquetExport:
    """One row a record, unreadable images and unknown answers among them: see `columns.RecordTable`.

    Raises:
        UsageProblem: pyarrow is not installed.
        OutputError: the target cannot be written.
    """

    again: str | None = None

    def __init__(self, settings: Settings) -> None:
        self.left_out = LeftOut()
        self._path = settings.file
        self._open = ExitStack()
        self._table = RecordTable(self._opened)
        if self._path.exists() and not self._path.is_file():
            raise OutputError(f"{self._path}: not an ordinary file", hint="Parquet is not written to devices and pipes")
        check_writable(self._path)

    def _opened(self) -> BinaryIO:
        return self._open.enter_context(replacing(self._path.resolve()))

    def write(self, batch: Sequence[Result]) -> None:
        """Take a batch; write a row group when it is full."""
        try:
            self._table.write(batch)
        except OSError as error:
            raise problem(self._path, error) from error

    def close(self, run: Mapping[str, Any]) -> None:
        """Put the table in its place."""
        if run.get("interrupted"):
            self.abandon()
            return
        try:
            self._table.close()
            self._open.close()
        except OSError as error:
            raise problem(self._path, error) from error

    def abandon(self) -> None:
        """Leave the file as it was found."""
        with suppress(OSError):
            self._table.abandon()
        with suppress(OSError):  # of what is still in a buffer where the disk is full
            self._open.__exit__(OutputError, OutputError("stopped"), None)

    def summary(self) -> str:
        """What was done, in words."""
        return f"{self._table.rows:,} rows in {self._path}"
