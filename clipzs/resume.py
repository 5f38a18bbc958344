"""What an earlier run has left in a JSON Lines file: checked, its torn end found, and its images not done again."""

import json
import os
import secrets
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Set
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clipzs.configuration import Configuration
from clipzs.errors import OutputError, UsageProblem
from clipzs.paths import Found

_LONGEST_LINE = 1 << 26  # bytes; a record of a hundred thousand labels is a tenth of it
_START = b'{"path": '


class Earlier:
    """The records of an earlier run, of which 12 bytes each are held.

    Attributes:
        path: of the file.
        end: where its last whole record ends, in bytes.
        torn: bytes behind that, of a record that was never finished.
        records: those that stay.
        errors: of these, images that could not be read.
        retried: error records that go, because their images are tried again.
        skipped: images of this run that are among them, as far as `left` has come.
    """

    def __init__(
        self, path: Path, configuration: Configuration, *, scores: int, retry: Iterable[Found] | None = None
    ) -> None:
        """Read the file; nothing is changed.

        Args:
            path: a JSON Lines file; one that does not exist is as good as an empty one.
            configuration: of this run.
            scores: how many of them this run writes for an image.
            retry: images that are to be tried again if their record is an error; None tries none.

        Raises:
            UsageProblem: it was made with other settings, or by another program.
            OutputError: it cannot be read.
        """
        self.path = path
        self.skipped = 0
        self._salt = secrets.token_bytes(16)
        self.end = self.torn = 0
        done, failed = array("Q"), array("Q")
        folders: set[int] = set()
        try:
            with path.open("rb") as file:
                for record in self._records(file, configuration, scores):
                    mark = self._mark(record["path"])
                    (done if record["error"] is None else failed).append(mark)
                    if retry is not None and record["error"] is not None and os.path.isdir(record["path"]):
                        folders.add(mark)  # that could not be looked into, and may not be found as an image again
                self.torn = file.seek(0, os.SEEK_END) - self.end
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
        self._retried = frozenset() if retry is None else self._again(set(failed), folders, retry)
        self.retried = len(failed)
        failed = array("Q", (mark for mark in failed if mark not in self._retried))
        self.retried -= len(failed)
        self.records, self.errors = len(done) + len(failed), len(failed)
        marks, counts = np.unique(np.array(done + failed, np.uint64), return_counts=True)
        self._marks, self._left = array("Q", marks.tobytes()), array("I", counts.astype(np.uint32).tobytes())

    def _records(self, file: BinaryIO, configuration: Configuration, scores: int) -> Iterator[dict[str, Any]]:
        """Whole records, each checked; sets `end`."""
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if b"\0" in line or (not line.endswith(b"\n") and len(line) < _LONGEST_LINE):
                # A write that was cut short or, after a power failure, never reached the disk.
                torn = line.partition(b"\0")[0]
                if torn.startswith(_START) or _START.startswith(torn):
                    return
            record = _parsed(line)
            if record is None:
                raise UsageProblem(
                    f"{self.path}:{number}: not a record of clipzs", hint="choose another file with -o to start anew"
                )
            names = [one["label"] for one in record["scores"]]
            unlike = configuration.difference(model=record["model"], config=record["config"], names=names)
            if unlike is None and record["error"] is None and len(names) != scores:
                unlike = f"--top-k was {len(names)}, now {scores}"
            if unlike is not None:
                raise UsageProblem(
                    f"{self.path}:{number}: made with other settings: {unlike}",
                    hint="give the settings it was made with, or choose another file with -o",
                )
            self.end += len(line)
            yield record

    def _again(self, failed: Set[int], folders: Set[int], retry: Iterable[Found]) -> Set[int]:
        """Error records to do without: of images that are asked for, and of folders that hold some of them."""
        again = set()
        for found in retry if failed else ():
            inner: str | None = None
            outer = found.path
            while outer != inner:
                if (mark := self._mark(outer)) in failed:
                    again.add(mark)
                inner, outer = outer, os.path.dirname(outer) if folders else outer
        return again

    def _mark(self, path: str) -> int:
        """64 bits that stand for a path, with or without `./` in it."""
        raw = path.encode("utf-8", "surrogatepass")
        if raw.startswith(b"./") or b"/./" in raw or b"//" in raw:
            first, *parts, last = raw.split(b"/")
            kept = [part for part in parts if part not in (b"", b".")]
            raw = b"/".join([*([] if first == b"." else [first]), *kept, last])
        return int.from_bytes(blake2b(raw, digest_size=8, key=self._salt).digest())

    def left(self, wanted: Iterable[Found]) -> Iterator[Found]:
        """Those of the images that have no record yet. An image named twice has two."""
        for found in wanted:
            mark = self._mark(found.path)
            place = bisect_left(self._marks, mark)
            if place < len(self._marks) and self._marks[place] == mark and self._left[place]:
                self._left[place] -= 1
                self.skipped += 1
            else:
                yield found

    def copy(self, target: BinaryIO) -> None:
        """Write the records that stay.

        Raises:
            OSError: the file cannot be read, or the other not be written.
        """
        with self.path.open("rb") as file:
            while file.tell() < self.end:
                line = file.readline()
                record = json.loads(line)
                if record["error"] is None or self._mark(record["path"]) not in self._retried:
                    target.write(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a line, if it is one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    texts = [record.get(name) for name in ("path", "model", "config")]
    scores, error = record.get("scores"), record.get("error", 0)
    right = all(isinstance(text, str) for text in texts) and (error is None or isinstance(error, str))
    if not right or not isinstance(scores, list):
        return None
    return record if all(isinstance(one, dict) and isinstance(one.get("label"), str) for one in scores) else None
