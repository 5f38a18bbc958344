"""Results onto a stream: one class per format, one mapping of names to them. Streams are binary: names may be no text.

Every writer takes batches as they come and flushes after each, so that a pipeline sees results at once. Scores have the
decimals that it is made with (see `results.printed`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from clipzs.defaults import DECIMALS
from clipzs.formulas import protected
from clipzs.results import Result, Score, printed

_ESCAPED = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Writer(Protocol):
    """A format. `streams` tells whether each batch stands by itself or the whole is one document."""

    streams: bool
    stream: BinaryIO

    def write(self, batch: Sequence[Result]) -> None:
        """Put one batch out."""

    def close(self, run: Mapping[str, Any]) -> None:
        """Put out what comes last; `run` holds the facts of the run."""


_TSV_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})


def tsv_field(text: str) -> str:
    """A field that holds no tab and no line end of its own; backslashes are doubled so that it can be undone."""
    return text.translate(_TSV_ESCAPES)


def json_text(value: Any) -> str:
    """JSON on one line, letters of all scripts as they are.

    A file name that is not UTF-8 is held by Python as lone surrogates; they are written as JSON
    escapes (byte 0xff as \\udcff), which `json.loads` and `os.fsencode` turn back into the same bytes.
    So are the few other characters that a terminal obeys or some readers take for a line's end.
    """
    text = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class JsonlWriter:
    """One JSON object per image and line."""

    streams = True

    def __init__(self, stream: BinaryIO, decimals: int = DECIMALS) -> None:
        self.stream = stream
        self._decimals = decimals

    def write(self, batch: Sequence[Result]) -> None:
        """One line an image."""
        self.stream.write("".join(json_text(result.as_json(self._decimals)) + "\n" for result in batch).encode("utf-8"))
        self.stream.flush()

    def close(self, run: Mapping[str, Any]) -> None:
        """Nothing: the lines stand by themselves."""


class JsonWriter:
    """One document, `{"run": ..., "results": [...]}`, written when all is done."""

    streams = False

    def __init__(self, stream: BinaryIO, decimals: int = DECIMALS) -> None:
        self.stream = stream
        self._decimals = decimals
        self.results: list[dict[str, Any]] = []

    def write(self, batch: Sequence[Result]) -> None:
        """Keep the batch for the end."""
        self.results += [result.as_json(self._decimals) for result in batch]

    def close(self, run: Mapping[str, Any]) -> None:
        """The document."""
        lines = ",\n".join(json_text(result) for result in self.results)
        body = f"\n{lines}\n" if lines else ""
        self.stream.write(f'{{"run": {json_text(run)},\n"results": [{body}]}}\n'.encode())
        self.stream.flush()


class TsvWriter:
    """path, label, score; no header. Tabs, newlines and backslashes inside a field are escaped as \\t, \\n, \\\\."""

    streams = True

    def __init__(self, stream: BinaryIO, decimals: int = DECIMALS) -> None:
        self.stream = stream
        self._decimals = decimals

    def write(self, batch: Sequence[Result]) -> None:
        """One line per image and kept label; an image that could not be read has an empty label and score.

        Where the answer is none of the labels, it is in the first line, with its score if it has one. Where
        several may be, there are lines of the answers only.
        """
        lines = (
            "\t".join(tsv_field(field) for field in row[:3]) + "\n"
            for result in batch
            for row in _rows(result, self._decimals)
        )
        self.stream.write(_bytes("".join(lines)))
        self.stream.flush()

    def close(self, run: Mapping[str, Any]) -> None:
        """Nothing: the lines stand by themselves."""


class CsvWriter:
    """path,label,score,error with a header, quoted where needed.

    A label or path that a spreadsheet would run as a formula gets a leading apostrophe; so does one with apostrophes
    before a formula, so that taking one away gives every text back.
    """

    streams = True

    def __init__(self, stream: BinaryIO, decimals: int = DECIMALS) -> None:
        self.stream = stream
        self._decimals = decimals
        self._started = False

    def write(self, batch: Sequence[Result]) -> None:
        """One row per image and kept label, as `TsvWriter.write` does."""
        rows = [] if self._started else [("path", "label", "score", "error")]
        self._started = True
        for result in batch:
            rows += [(protected(row[0]), protected(row[1]), *row[2:]) for row in _rows(result, self._decimals)]
        self.stream.write(_bytes("".join(",".join(map(_quoted, row)) + "\n" for row in rows)))
        self.stream.flush()

    def close(self, run: Mapping[str, Any]) -> None:
        """The header, if there was no row."""
        if not self._started:
            self.write([])


class LabelWriter:
    """The answer of each image and nothing else; an empty line for one that could not be read.

    Where there may be several, tabs part them.
    """

    streams = True

    def __init__(self, stream: BinaryIO, decimals: int = DECIMALS) -> None:
        self.stream = stream
        self._decimals = decimals

    def write(self, batch: Sequence[Result]) -> None:
        """One line an image."""
        lines = ("\t".join(" ".join(label.splitlines()) for label in result.answers) + "\n" for result in batch)
        self.stream.write(_bytes("".join(lines)))
        self.stream.flush()

    def close(self, run: Mapping[str, Any]) -> None:
        """Nothing: the lines stand by themselves."""


WRITERS: dict[str, type[JsonlWriter | JsonWriter | TsvWriter | CsvWriter | LabelWriter]] = {
    "json": JsonWriter,
    "jsonl": JsonlWriter,
    "csv": CsvWriter,
    "tsv": TsvWriter,
    "label": LabelWriter,
}


def _rows(result: Result, decimals: int) -> list[tuple[str, str, str, str]]:
    if result.error is not None:
        return [(result.path, "", "", result.error)]
    scores: Sequence[Score] = result.scores
    if result.labels is not None:
        scores = [one for one in scores if one.label in result.labels]
    rows = [(result.path, one.label, printed(one.score, decimals), "") for one in scores]
    answer = (result.path, result.label or "", "" if result.score is None else printed(result.score, decimals), "")
    return [answer, *(row for row in rows if row != answer)][: max(1, len(rows))]


def _bytes(text: str) -> bytes:
    """UTF-8, with the bytes of file names that are not UTF-8 as they are on disk."""
    return text.encode("utf-8", "surrogateescape")


def _quoted(field: str) -> str:
    # Python's csv module before 3.13 leaves a lone carriage return unquoted, and then reads it as a line's end.
    # The semicolon and the tab part the cells where spreadsheets are told so, or guess.
    return '"' + field.replace('"', '""') + '"' if any(mark in field for mark in ',"\r\n;\t') else field
