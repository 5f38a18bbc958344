"""What sorting has done in a folder, one JSON object on a line: enough to go on, to take it back, to mend what is torn.

A line says what is about to be done before it is, another that it is done. Pictures are numbered as they come; of each
the position of its line and a few numbers are held, 40 bytes or so and two entries of dictionaries.
"""

import json
import os
import secrets
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, get_args

from clipzs import __version__
from clipzs.errors import OutputError
from clipzs.output import Growing, problem
from clipzs.placing import How, Job, Stamp
from clipzs.writers import json_text

FILE = ".clipzs-sort.jsonl"
_VERSION = 1
_BEGUN, _DONE, _FAILED, _UNDONE = range(4)


@dataclass(frozen=True)
class Entry:
    """A picture and where it goes, as it is written down.

    Attributes:
        source: its absolute path.
        target: its path from the folder on.
        label: the answer; None for those that have none.
        seen: as of `placing.Job`.
        link: as of `placing.Job`.
    """

    source: str
    target: str
    label: str | None
    seen: Stamp
    link: str | None = None


@dataclass
class Run:
    """One sort, which may have been interrupted and gone on with.

    Attributes:
        name: that nothing else has.
        how: what it does with pictures.
        first: the number of its first picture.
        ended: whether it came to its end.
        folders: that it made, from the folder on.
    """

    name: str
    how: How
    first: int
    ended: bool = False
    folders: list[str] = field(default_factory=list)


class Journal:
    """The file in a folder that is sorted into.

    Attributes:
        folder: the absolute path of the folder.
        runs: the oldest first.
        labels: the label of each folder that was made or used; None for the one of those without.
    """

    def __init__(self, folder: Path, *, write: bool = True) -> None:
        """Read it and, with `write`, make the folder and keep others from it until `close`.

        Raises:
            OutputError: it cannot be read or written, is damaged, or another process has it.
        """
        self.folder = os.path.realpath(folder)
        self.path = Path(self.folder, FILE)
        self.shown = folder
        self.runs: list[Run] = []
        self.labels: dict[str, str | None] = {}
        self._made_folders = 0  # this one and those above it that were made for it
        self._offsets, self._modified = array("Q"), array("q")
        self._states = bytearray()
        self._sources: dict[int, int] = {}  # number by source, label and how, the latest
        self._targets: dict[int, int] = {}  # number by target, the latest
        self._moved_on: dict[int, int] = {}  # by the number of a picture that a later sort moved, that later number
        self._new: dict[int, Entry] = {}  # begun by this process and not done, or not written at all
        self._undoing: set[int] = set()  # begun to be taken back
        self._size = 0
        self._fresh = False  # it held nothing when it was opened
        self._file: Growing | None = None
        self._reader: BinaryIO | None = None
        try:
            if write:
                self._open()
            if self.path.exists():
                with self.path.open("rb") as file:
                    self._load(file)
            if self._file is not None:
                self._file.cut(self._size)
        except OSError as error:
            self.close()
            raise problem(self.path, error) from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        missing = [Path(self.folder)]
        while not missing[-1].exists():
            missing.append(missing[-1].parent)
        os.makedirs(self.folder, exist_ok=True)
        self._made_folders = len(missing) - 1
        try:
            self._file = Growing(self.path)
        except OutputError as error:
            raise OutputError(f"{self.shown}: another clipzs is sorting here", hint="wait for it") from error
        self._fresh = not os.fstat(self._file.fileno()).st_size

    @property
    def exists(self) -> bool:
        """Whether anything was ever done here."""
        return bool(self.runs)

    def _load(self, file: BinaryIO) -> None:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # of a process that was ended
                return
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
                raise OutputError(
                    f"{self.path}:{number}: damaged: it is not known what was sorted here",
                    hint="pictures are untouched; to sort here anew, move that file away",
                ) from error
            self._size += len(line)

    def _take(self, line: Any) -> None:
        """What a line says, put to what is known."""
        if "run" in line:
            if line["version"] > _VERSION:
                raise OutputError(f"{self.path}: written by a newer version of clipzs", hint="use that one")
            if line["how"] not in get_args(How):
                raise ValueError("no way to sort")
            self.runs.append(Run(_name(line["run"]), line["how"], len(self._states)))
            self._made_folders = max(self._made_folders, int(line["made"]))
        elif "folder" in line:
            self.labels[_inside(line["folder"])] = line["label"]
            if line["made"]:
                self.runs[-1].folders.append(line["folder"])
        elif "from" in line:
            self._begin(_entry(line))
        elif "done" in line:
            for number, modified in line["done"]:
                self._states[number] = _DONE
                self._modified[number] = modified
        elif "failed" in line:
            for number in line["failed"]:
                self._states[number] = _FAILED
        elif "undoing" in line:
            self._undoing.update(line["undoing"])
        elif "undone" in line:
            for number in line["undone"]:
                self._states[number] = _UNDONE
        elif "end" in line:
            self.runs[-1].ended = True
        else:
            raise ValueError("not a line of this file")

    def _begin(self, entry: Entry) -> int:
        number = len(self._states)
        moved = self._number_at(entry.source)
        if moved is not None and self.runs[-1].how == "move":
            self._moved_on[moved] = number
        self._offsets.append(self._size)
        self._modified.append(0)
        self._states.append(_BEGUN)
        self._sources[hash((entry.source, entry.label, self.runs[-1].how))] = number
        self._targets[hash(entry.target)] = number
        return number

    def start(self, how: How) -> None:
        """A run of this process begins, or goes on with one like it that did not come to its end."""
        if self.runs and not self.runs[-1].ended and self.runs[-1].how == how:
            return
        line = {
            "run": secrets.token_hex(4),
            "how": how,
            "made": self._made_folders,
            "version": _VERSION,
            "clipzs": __version__,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._say([line])

    def use(self, folder: str, label: str | None, *, made: bool) -> None:
        """A label has that folder; with `made`, it is about to be made."""
        self._say([{"folder": folder, "label": label, "made": made}])

    def begin(self, entries: Sequence[Entry]) -> list[int]:
        """These are about to be done, once `sync` has returned: their numbers."""
        first = len(self._states)
        self._say(_line(entry) for entry in entries)
        self._new.update(enumerate(entries, first))
        return [*range(first, first + len(entries))]

    def sync(self) -> None:
        """Return when the disk has what was said."""
        try:
            if self._file is not None:
                self._file.sync()
        except OSError as error:
            raise stopped(self.path, error) from error

    def done(self, finished: Sequence[tuple[int, int]], failed: Sequence[int] = ()) -> None:
        """These are done, with the time of modification of each target; these others are not, and not under way."""
        if finished:
            self._say([{"done": [[*one] for one in finished]}])
        if failed:
            self._say([{"failed": [*failed]}])
        if self._file is not None:
            for number in (*(number for number, _ in finished), *failed):
                self._new.pop(number, None)

    def undoing(self, numbers: Sequence[int]) -> None:
        """These are about to be taken back. What is said is on the disk then."""
        self._say([{"undoing": [*numbers]}])
        self.sync()

    def is_undoing(self, number: int) -> bool:
        """Whether a process had begun to take this back, and may have been ended at it."""
        return number in self._undoing

    def undone(self, numbers: Sequence[int]) -> None:
        """These were taken back."""
        self._say([{"undone": [*numbers]}])

    def end(self, how: How) -> None:
        """The run has come to its end."""
        if self.runs and not self.runs[-1].ended and self.runs[-1].how == how:
            self._say([{"end": self.runs[-1].name}])

    def _say(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write lines, and take them in. Without a file (a dry run), only the latter."""
        lines = [*lines]
        texts = [(json_text(line) + "\n").encode() for line in lines]
        if self._file is not None:
            try:
                self._file.write(b"".join(texts))
            except OSError as error:
                raise stopped(self.path, error) from error
        for line, text in zip(lines, texts, strict=True):
            self._take(line)
            self._size += len(text)

    def entry(self, number: int) -> Entry:
        """What was written of a picture."""
        if number in self._new:
            return self._new[number]
        if self._reader is None:
            self._reader = self.path.open("rb")
        self._reader.seek(self._offsets[number])
        return _entry(json.loads(self._reader.readline()))

    def job(self, number: int) -> Job:
        """What was to be done with a picture."""
        entry, run = self.entry(number), self._run_of(number)
        target = os.path.join(self.folder, entry.target)
        part = os.path.join(os.path.dirname(target), f".clipzs-{run.name}-{number}.part")
        return Job(run.how, entry.source, target, part, entry.seen, entry.link)

    def _run_of(self, number: int) -> Run:
        return self.runs[bisect_right(self.runs, number, key=lambda run: run.first) - 1]

    def modified(self, number: int) -> int:
        """The target's time of modification when it was done, in nanoseconds."""
        return self._modified[number]

    def find(self, source: str, label: str | None, how: How) -> int | None:
        """The number under which this was begun or done the last time."""
        number = self._sources.get(hash((source, label, how)))
        if number is None or self._states[number] not in (_BEGUN, _DONE):
            return None
        entry = self.entry(number)
        return number if (entry.source, entry.label) == (source, label) else None

    def is_under_way(self, number: int) -> bool:
        """Whether it was begun, and is not done."""
        return self._states[number] == _BEGUN

    def is_moved_on(self, number: int) -> bool:
        """Whether a later sort has moved it to another place."""
        later = self._moved_on.get(number)
        return later is not None and self._states[later] in (_BEGUN, _DONE)

    def holds(self, path: str) -> bool:
        """Whether a picture was put, or is being put, at this absolute path and has not left it since."""
        number = self._number_at(path)
        return number is not None and not self.is_moved_on(number)

    def is_taken(self, path: str) -> bool:
        """Whether a picture is about to be put at this absolute path."""
        number = self._number_at(path)
        return number is not None and self.is_under_way(number)

    def _number_at(self, path: str) -> int | None:
        inside = path.removeprefix(self.folder + os.sep)
        number = self._targets.get(hash(inside)) if inside != path else None
        return number if number is not None and self._states[number] in (_BEGUN, _DONE) else None

    def under_way(self) -> Iterator[int]:
        """Numbers of what a process that was ended had begun."""
        number = self._states.find(_BEGUN)
        while number >= 0:
            yield number
            number = self._states.find(_BEGUN, number + 1)

    def standing(self, run: Run) -> list[int]:
        """Numbers of what a run did and was not taken back, the latest first."""
        place = self.runs.index(run)
        end = self.runs[place + 1].first if place + 1 < len(self.runs) else len(self._states)
        return [number for number in range(end - 1, run.first - 1, -1) if self._states[number] == _DONE]

    def close(self) -> None:
        """Let others have it. What was never written to leaves nothing behind."""
        if self._reader is not None:
            self._reader.close()
        if self._file is not None and not self._file.closed:
            with suppress(OSError):
                if self._fresh and not self.runs:
                    self.remove()
                self._file.close()

    def remove(self) -> None:
        """Forget everything, with the folder and those above it that were made for it, if nothing else is in them."""
        with suppress(OSError):
            self.path.unlink()
            for folder in [Path(self.folder), *Path(self.folder).parents][: self._made_folders]:
                folder.rmdir()


def stopped(path: str | Path, error: OSError) -> OutputError:
    """The failure in the middle of a sort or undo, as the user reads it."""
    failure = problem(Path(path), error)
    failure.hint = "nothing is lost: when that is mended, the same command goes on from there"
    return failure


def _name(text: Any) -> str:
    """Of a run, which is part of file names."""
    if not isinstance(text, str) or not text.isalnum():
        raise ValueError("no name")
    return text


def _line(entry: Entry) -> dict[str, Any]:
    link = {} if entry.link is None else {"link": entry.link}
    size, modified = entry.seen
    return {"from": entry.source, "to": entry.target, "label": entry.label, "size": size, "modified": modified, **link}


def _entry(line: Any) -> Entry:
    texts = [line["from"], line.get("label") or "", line.get("link") or ""]
    if not all(isinstance(text, str) for text in texts) or not os.path.isabs(line["from"]):
        raise ValueError("no path")
    seen = (int(line["size"]), int(line["modified"]))
    return Entry(line["from"], _inside(line["to"]), line["label"], seen, line.get("link"))


def _inside(path: str) -> str:
    """A path from the folder on, if it does not lead out of it.

    Raises:
        ValueError: it does.
    """
    parts = path.split(os.sep)
    if not all(parts) or os.pardir in parts or os.path.isabs(path):
        raise ValueError("outside")
    return path
