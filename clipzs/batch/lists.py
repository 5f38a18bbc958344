"""Lists of images: lines of text, and tables with a column of paths; read as they come, never whole."""

import csv
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from clipzs.batch import fetching
from clipzs.batch.tables import NotATable, open_table
from clipzs.errors import UsageProblem
from clipzs.formulas import original
from clipzs.paths import STDIN, entries

log = logging.getLogger("clipzs")

COLUMNS = ("path", "url", "filepath", "file_path", "file_name", "image", "image_path")
TEXTS = (".txt", ".lst", ".list")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_ROWS = 8192  # of a Parquet table that are read together
_TIMEOUT_S = 60.0  # without a byte of a list from a web server


def texts(name: str, *, null: bool) -> Iterator[str]:
    """The entries of a list, each as soon as it has arrived; paths are as they are in it.

    Args:
        name: a file, a URL, or "-".
        null: they are separated by NUL bytes instead of newlines.

    Raises:
        UsageProblem: it cannot be read, or is no text.
        SourceError: it cannot be fetched.
    """
    with _open(name) as file:
        separator = b"\0" if null else b"\n"
        for entry in entries(file.read1, separator):
            if not null and b"\0" in entry:
                raise UsageProblem(
                    f"{_shown(name)}: a NUL byte is in it", hint="a list made with -print0 needs --null (-0)"
                )
            yield os.fsdecode(entry)


def rows(name: str, suffix: str) -> Iterator[str]:
    """The paths in a table with a header that has one of `COLUMNS`; relative ones start from the folder of the table.

    Args:
        name: a file or a URL.
        suffix: of `TABLES`, or .parquet.

    Raises:
        UsageProblem: it cannot be read, or has no such column.
        SourceError: it cannot be fetched.
    """
    folder, empty = name.rpartition("/")[0] if fetching.is_url(name) else os.path.dirname(name), 0
    found = _of_parquet(name) if suffix == ".parquet" else _of_lines(name, suffix)
    for path in found:
        if not path:
            empty += 1
        elif fetching.is_url(path):
            yield path
        else:
            yield f"{folder}/{path}" if fetching.is_url(name) else os.path.join(folder, path)
    if empty:
        log.warning("%s: %s rows name no image: left out", name, f"{empty:,}")


def path_column(names: Sequence[str]) -> str | None:
    """The name of the column that has paths, if one has."""
    small = {name.strip().lower(): name for name in reversed(names)}
    return next((small[name] for name in COLUMNS if name in small), None)


def _of_lines(name: str, suffix: str) -> Iterator[str]:
    with _open(name) as file:
        if suffix in (".jsonl", ".ndjson"):
            yield from _of_objects(file, name)
        else:
            yield from _of_cells(file, name, "," if suffix == ".csv" else "\t")


def _of_cells(file: BinaryIO, name: str, separator: str) -> Iterator[str]:
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(text, delimiter=separator, strict=True)
        try:
            header = next(reader, [])
            column = path_column(header)
            if column is None:
                raise _no_column(name, header)
            place = header.index(column)
            for row in reader:
                if row:
                    yield original(row[place]) if place < len(row) else ""
        except csv.Error as error:
            raise UsageProblem(f"{name}:{reader.line_num}: not a table: {error}") from error


def _of_objects(file: BinaryIO, name: str) -> Iterator[str]:
    key: str | None = None
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageProblem(f"{name}:{number}: not valid JSON: {error}", hint="one object a line") from error
        if not isinstance(record, dict):
            raise UsageProblem(f"{name}:{number}: not an object", hint="one object a line")
        key = key or path_column([*record])
        if key is None:
            raise _no_column(name, [*record])
        path = record.get(key)
        if not isinstance(path, str | None):
            raise UsageProblem(f"{name}:{number}: `{key}` is not text")
        yield path or ""


def _of_parquet(name: str) -> Iterator[str]:
    try:
        with open_table(name) as table:
            column = path_column(table.schema_arrow.names)
            if column is None:
                raise _no_column(name, table.schema_arrow.names)
            for batch in table.iter_batches(_ROWS, columns=[column]):
                for path in batch.column(0).to_pylist():
                    if not isinstance(path, str | None):
                        raise UsageProblem(f"{name}: the column `{column}` is not text")
                    yield path or ""
    except NotATable as error:
        raise UsageProblem(f"{name}: {error}") from error


def _no_column(name: str, there: Sequence[Any]) -> UsageProblem:
    return UsageProblem(
        f"{name}: no column of paths, but {', '.join(map(str, there))[:200] or 'nothing'}",
        hint=f"a list of images has a column {', '.join(COLUMNS)}",
    )


def _shown(name: str) -> str:
    return "standard input" if name == STDIN else name


@contextmanager
def _open(name: str) -> Iterator[Any]:
    """A list, read from its start to its end."""
    if fetching.is_url(name):
        with fetching.open_stream(name, _TIMEOUT_S) as stream:
            yield stream
        return
    try:
        # Standard input by its descriptor: a thread blocked in sys.stdin could not be left at exit.
        with open(0 if name == STDIN else name, "rb", closefd=name != STDIN) as file:
            yield file
    except OSError as error:
        raise UsageProblem(f"{_shown(name)}: cannot be read: {error.strerror}") from error
