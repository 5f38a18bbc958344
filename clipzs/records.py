"""Results that were written earlier, read back: of `classify`, `eval` and `batch`, and the corrections of a report."""

import csv
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from clipzs import columns
from clipzs.errors import RecordsError
from clipzs.formulas import original
from clipzs.results import Result, Score

log = logging.getLogger("clipzs")

STDIN = "-"
_HINT = "records are what `clipzs classify --json` writes; a table needs the columns `path` and `label`"


def read(file: str | Path, *, root: Path | None = None) -> Iterator[Result]:
    """One result after the other, in the order of the file; a record that an interrupted run left torn is left out.

    Args:
        file: JSON Lines, one JSON document of `--format json`, or .csv, .tsv and .parquet with columns `path` and
            `label`, one row an image; a folder that `clipzs batch` wrote, whose parts are read one after the other; "-"
            is standard input. What a record lacks is as if it were not known.
        root: the folder from which relative paths start, if it is not the working folder.

    Raises:
        RecordsError: with file and line: unreadable, malformed, or not a record; or a folder of something else.
        UsageProblem: pyarrow is not installed, for Parquet.
    """
    name = os.fspath(file)
    try:
        if name == STDIN:
            yield from _placed(_json(sys.stdin.buffer, "standard input"), root)
        elif "://" in name or os.path.isdir(name):
            yield from _placed(_parts(name), root)
        else:
            with open(name, "rb") as opened:
                yield from _placed(_records(opened, name), root)
    except OSError as error:
        raise RecordsError(f"{name}: cannot be read: {error.strerror or error}") from error


def _records(file: BinaryIO, name: str) -> Iterator[Result]:
    suffix = Path(name).suffix.lower()
    if suffix == ".parquet":
        return _rows(file, name)
    return _cells(file, name, suffix) if suffix in (".csv", ".tsv") else _json(file, name)


def _parts(place: str) -> Iterator[Result]:
    from clipzs.batch import done

    for name, file in done.parts(place):
        yield from _records(file, name)


def _rows(file: BinaryIO, name: str) -> Iterator[Result]:
    try:
        for number, record in enumerate(columns.rows(file), 1):
            yield _result(record, name, number)
    except ValueError as error:
        raise RecordsError(f"{name}: not a Parquet table, or damaged: {error}", hint=_HINT) from error


def _placed(results: Iterator[Result], root: Path | None) -> Iterator[Result]:
    if root is None:
        return results
    return (replace(result, path=os.path.join(root, result.path)) for result in results)


def _json(file: BinaryIO, name: str) -> Iterator[Result]:
    """Lines; or the document whose first line opens its results, in which each has a line, too."""
    for number, line in enumerate(file, 1):
        if number == 1 and line.startswith(b'{"run":'):
            yield from _document(line + file.read(), name)
        elif line.strip():
            try:
                record = _parsed(line, name, number)
            except RecordsError:
                if number > 1 and not line.endswith(b"\n"):
                    log.warning("%s:%d: the last record is not whole: left out", name, number)
                    return
                raise
            yield _result(record, name, number)


def _document(text: bytes, name: str) -> Iterator[Result]:
    document = _parsed(text, name, 1)
    found = document.get("results") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise RecordsError(f"{name}: it has no list of `results`", hint=_HINT)
    yield from (_result(one, name, place) for place, one in enumerate(found, 1))


def _parsed(line: bytes, name: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordsError(f"{name}:{number}: not valid JSON: {error}", hint=_HINT) from error


def _cells(file: BinaryIO, name: str, suffix: str) -> Iterator[Result]:
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        rows = csv.reader(text, delimiter="," if suffix == ".csv" else "\t", strict=True)
        try:
            header = [cell.strip().lower() for cell in next(rows, [])]
            if not {"path", "label"} <= set(header):
                raise RecordsError(f"{name}:1: no columns `path` and `label`", hint=_HINT)
            for row in rows:
                if row:
                    yield _result(_numbered(dict(zip(header, row, strict=False))), name, rows.line_num)
        except csv.Error as error:
            raise RecordsError(f"{name}:{rows.line_num}: not valid CSV: {error}", hint=_HINT) from error


def _numbered(cells: dict[str, str]) -> dict[str, Any]:
    """A row of texts as the record that it stands for."""
    record: dict[str, Any] = {key: original(cell) or None for key, cell in cells.items()}
    with suppress(ValueError):  # what is no number is named as such later
        record["score"] = float(cells.get("score", "")) if cells.get("score") else None
    return record


def _result(record: Any, name: str, number: int) -> Result:
    def wrong(what: str) -> RecordsError:
        return RecordsError(f"{name}:{number}: {what}", hint=_HINT)

    if not isinstance(record, dict) or not isinstance(record.get("path"), str) or not record["path"]:
        raise wrong("not a record: it has no path")
    texts = {key: record.get(key) for key in ("label", "error", "truth")}
    strange = next((key for key, value in texts.items() if not isinstance(value, str | None)), None)
    if strange is not None:
        raise wrong(f"`{strange}` is not text")
    lists = {key: record.get(key) for key in ("labels", "templates")}
    strange = next((key for key, value in lists.items() if value is not None and not _are_texts(value)), None)
    if strange is not None:
        raise wrong(f"`{strange}` is not a list of texts")
    score = record.get("score")
    if score is not None and not _is_number(score):
        raise wrong("`score` is not a number")
    try:
        scores = tuple(map(_score, record.get("scores") or ()))
        groups = None if record.get("groups") is None else tuple(map(_score, record["groups"]))
    except (KeyError, TypeError, ValueError):
        raise wrong("`scores` and `groups` are lists of labels with their scores") from None
    if texts["label"] is None and texts["error"] is None:
        raise wrong("it has neither a label nor an error")
    return Result(
        record["path"],
        texts["label"],
        None if score is None else float(score),
        scores,
        _tuple(lists["labels"]),
        groups,
        texts["error"],
        str(record.get("model") or ""),
        str(record.get("config") or ""),
        texts["truth"],
        _tuple(lists["templates"]),
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _tuple(texts: list[str] | None) -> tuple[str, ...] | None:
    return None if texts is None else tuple(texts)


def _score(one: Any) -> Score:
    if not isinstance(one["label"], str) or not _is_number(one["score"]):
        raise ValueError
    return Score(one["label"], float(one["score"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
