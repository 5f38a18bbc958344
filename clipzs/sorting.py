"""Pictures into a folder for each label, and back. Results come in batches; nothing is ever overwritten or lost."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipzs import placing
from clipzs.errors import OutputError
from clipzs.foldernames import UNLABELED, FolderNames
from clipzs.journal import FILE, Entry, Journal, Run, stopped
from clipzs.output import sync_folder
from clipzs.paths import Found, Selection
from clipzs.placing import How, Job, Stamp, Stays
from clipzs.results import Result

PROBLEMS_KEPT = 20
_LONGEST_NAME = 255  # bytes
_UNDONE_AT_ONCE = 64

Told = Callable[[Sequence[tuple[str, str]]], None]


@dataclass
class _Plan:
    """A picture that is about to be sorted: its place in the journal, its path as it was given."""

    number: int
    path: str
    label: str | None
    name: str  # of its folder
    job: Job
    gone: bool = False


class Sorting:
    """Takes the pictures of results to the folder of their label; a sink.

    Attributes:
        counts: pictures by folder.
        already: pictures that had been sorted by an earlier run, or are where they belong.
        passed_over: pictures in the folder that an earlier run had put there, found by `selection`.
        failed: pictures that stay where they are though they have an answer.
        problems: path and reason of the first of those.
    """

    def __init__(
        self,
        folder: Path,
        how: How,
        *,
        told: Told,
        dry_run: bool = False,
        min_score: float | None = None,
    ) -> None:
        """Make the folder and keep others from it; what an ended process left unfinished is finished or taken back.

        Args:
            folder: to sort into.
            how: what is done with pictures.
            told: called with source and destination of all pictures of a batch, when they are there.
            dry_run: touch nothing.
            min_score: an answer with less is none.

        Raises:
            OutputError: the folder cannot be written, another process sorts into it, or its journal is damaged.
        """
        self.how = how
        self.dry_run = dry_run
        self.counts: Counter[str] = Counter()
        self.already = self.passed_over = self.failed = 0
        self.problems: list[tuple[str, str]] = []
        self._unknown: str | None = None
        self._min_score, self._told = min_score, told
        self._shown = os.fspath(folder)
        self.journal = Journal(folder, write=not dry_run)
        self._names = FolderNames()
        for name, label in self.journal.labels.items():
            if label is not None:
                self._names.take(label, name)
        self._stamps: dict[str, Stamp] = {}  # of images found and not yet classified
        self._next: dict[tuple[str, str], int] = {}  # numbers for names that others have
        self._claimed: set[str] = set()  # targets that hold this run's pictures, though another run put them there
        _settle(self.journal, dry_run=dry_run)

    @property
    def again(self) -> str | None:
        """What goes on where a run was stopped."""
        return None if self.dry_run else "the same command goes on from there"

    def expect(self, labels: Iterable[str], *, unknown: str | None) -> None:
        """Say what the answers will be.

        Args:
            labels: as far as they are known; folders are named in this order.
            unknown: the answer that says that no label is right, if there is one.
        """
        self._unknown = unknown
        self._names.reserve(labels)

    def selection(self, chosen: Selection) -> Selection:
        """The same images, but for those that an earlier sort put into the folder.

        Those are left out where a folder around them is searched. Where a folder inside it is named, they are wanted.
        """
        inside = self.journal.folder + os.sep
        wanted = tuple(_place(path) + os.sep for path in chosen.paths if (_place(path) + os.sep).startswith(inside))
        wanted = tuple(path for path in wanted if path != inside)
        return _Unsorted(**{one.name: getattr(chosen, one.name) for one in fields(chosen)}, sorting=self, wanted=wanted)

    def remember(self, found: Found) -> None:
        """An image is about to be classified: how it looks now."""
        if found.error is None:
            with suppress(OSError, ValueError):
                status = os.stat(found.path)
                self._stamps[found.path] = (status.st_size, status.st_mtime_ns)

    def write(self, batch: Sequence[Result]) -> None:
        """Sort the pictures of a batch.

        Raises:
            OutputError: the folder takes no more.
        """
        plans = [plan for result in batch for plan in self._plans(result)]
        failure = None
        if not self.dry_run:
            plans, failure = self._carried_out(plans)
        self.counts.update(plan.name for plan in plans)
        if plans:
            self._told([(plan.path, self._said(plan.job.target)) for plan in plans])
        if failure is not None:
            raise _problem(failure, self._shown) from failure

    def close(self, run: Mapping[str, Any]) -> None:
        """The run is over; if it came to its end, the next one is another."""
        if not (run.get("interrupted") or run.get("failure")):
            self.journal.end(self.how)
        self.journal.close()

    def abandon(self) -> None:
        """Let others have the folder; one that was made for nothing goes."""
        self.journal.close()

    def _plans(self, result: Result) -> Iterator[_Plan]:
        """Where the picture goes: to one place, to several where it has several answers, or nowhere."""
        stamp = self._stamps.pop(result.path, None)
        if result.error is not None:
            return
        answers = self._answers(result)
        source = _place(result.path)
        try:
            if len(answers) > 1 and self.how == "move":
                raise Stays("it has several answers, and can be moved to one only")
            for label in answers:
                plan = self._plan(result.path, source, label, stamp)
                if plan is None:
                    self.already += 1
                else:
                    yield plan
        except Stays as reason:
            self._fail(result.path, str(reason))

    def _answers(self, result: Result) -> list[str | None]:
        """Labels; None for no label."""
        if result.label == self._unknown or (result.score is None and result.scores):
            return [None]
        scores = {one.label: one.score for one in result.scores}
        if result.label is not None and result.score is not None:
            scores.setdefault(result.label, result.score)
        least = self._min_score
        good = [name for name in result.answers if least is None or scores.get(name, least) >= least]
        return [*dict.fromkeys(good)] or [None]

    def _plan(self, path: str, source: str, label: str | None, stamp: Stamp | None) -> _Plan | None:
        """None for a picture that is where it belongs."""
        number = self.journal.find(source, label, self.how)
        if number is not None and self._is_done(number, source):
            return None
        seen, link = placing.examine(source, self.how)
        if stamp is not None and link is None and stamp != seen:
            raise Stays("changed since it was classified: left where it is")
        name = UNLABELED if label is None else self._names.of(label)
        if os.path.dirname(source) == os.path.realpath(os.path.join(self.journal.folder, name)):
            return None
        target = self._free(source, name)
        if target is None:
            return None
        return self._begun([(path, name, Entry(source, target, label, seen, link))])[0]

    def _is_done(self, number: int, source: str) -> bool:
        """Whether an earlier action still stands for what is asked now."""
        if self.journal.is_under_way(number):
            return True
        entry = self.journal.entry(number)
        if os.path.lexists(source):
            if self.how == "move":  # another picture has come where one was moved away
                return False
            with suppress(Stays):
                if placing.examine(source, self.how)[0] != entry.seen:
                    return False
        return self.journal.is_moved_on(number) or os.path.lexists(os.path.join(self.journal.folder, entry.target))

    def _free(self, source: str, folder: str) -> str | None:
        """A name in a folder that nothing has; None if what has one is this picture, and nothing has to be done."""
        own = os.path.basename(source)
        number = self._next.get((folder, own), 1)
        while True:
            target = os.path.join(folder, _numbered(own, number))
            full = os.path.join(self.journal.folder, target)
            if os.path.lexists(full):
                if not self.journal.holds(full) and target not in self._claimed and self._is_there(source, full):
                    self._claimed.add(target)
                    return None
            elif not self.journal.is_taken(full):
                break
            number += 1
        if number > 1:
            self._next[folder, own] = number
        return target

    def _is_there(self, source: str, full: str) -> bool:
        """Whether a file that no journal knows is what this would make."""
        if self.how == "copy":
            return placing.is_alike(source, full)
        if self.how == "link":
            return placing.is_one(source, full)
        return self.how == "symlink" and os.path.islink(full) and os.readlink(full) == source

    def _begun(self, wanted: Sequence[tuple[str, str, Entry]]) -> list[_Plan]:
        self.journal.start(self.how)
        numbers = self.journal.begin([entry for *_, entry in wanted])
        return [
            _Plan(number, path, entry.label, name, self.journal.job(number))
            for number, (path, name, entry) in zip(numbers, wanted, strict=True)
        ]

    def _carried_out(self, plans: Sequence[_Plan]) -> tuple[list[_Plan], OSError | None]:
        """Do it: what was done, and what stood in the way of the rest. What was begun is brought to its end."""
        self.journal.sync()
        placed: list[_Plan] = []
        failed: list[int] = []
        failure = None
        try:
            for plan in plans:
                self._place(plan, placed, failed)
        except OSError as error:
            failure = error
        for folder in {self.journal.folder, *(os.path.dirname(plan.job.target) for plan in placed)} if placed else ():
            sync_folder(Path(folder))
        done = [plan for plan in placed if self._left(plan, failed)]
        self.journal.done([(plan.number, placing.modified(plan.job.target)) for plan in done], failed)
        return done, failure

    def _place(self, plan: _Plan, placed: list[_Plan], failed: list[int]) -> None:
        while True:
            try:
                self._make_folder(plan)
                plan.gone = placing.place(plan.job)
            except FileExistsError:  # another program was faster: the next name
                failed.append(plan.number)
                entry = self.journal.entry(plan.number)
                target = self._free(entry.source, plan.name)
                if target is None:
                    self.already += 1
                    return
                again = Entry(entry.source, target, entry.label, entry.seen, entry.link)
                (plan,) = self._begun([(plan.path, plan.name, again)])
                self.journal.sync()
            except Stays as reason:
                failed.append(plan.number)
                self._fail(plan.path, str(reason))
                return
            else:
                placed.append(plan)
                return

    def _left(self, plan: _Plan, failed: list[int]) -> bool:
        """The last step of a move; whether all is done."""
        if self.how != "move" or plan.gone:
            return True
        try:
            placing.leave(plan.job)
        except Stays as reason:
            failed.append(plan.number)
            self._fail(plan.path, str(reason))
            return False
        return True

    def _make_folder(self, plan: _Plan) -> None:
        folder = os.path.join(self.journal.folder, plan.name)
        if plan.name in self.journal.labels and os.path.isdir(folder):
            return
        new = not os.path.lexists(folder)
        self.journal.use(plan.name, plan.label, made=new)
        if new:
            os.mkdir(folder)
        elif not os.path.isdir(folder):
            raise Stays(f"{self._said(folder)} is in the way: it is no folder")

    def _said(self, target: str) -> str:
        """A path inside the folder as the user would name it."""
        return os.path.join(self._shown, os.path.relpath(target, self.journal.folder))

    def _fail(self, path: str, reason: str) -> None:
        self.failed += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append((path, reason))


@dataclass(frozen=True, kw_only=True)
class _Unsorted(Selection):
    """A selection without what was sorted already."""

    sorting: Sorting
    wanted: tuple[str, ...] = ()

    def find(self, *, ordered: bool = True) -> Iterator[Found]:
        """As `Selection.find`."""
        for found in super().find(ordered=ordered):
            place = _place(found.path)
            if self.sorting.journal.holds(place) and not place.startswith(self.wanted):
                self.sorting.passed_over += ordered
                continue
            if ordered:
                self.sorting.remember(found)
            yield found


def _settle(journal: Journal, *, dry_run: bool) -> None:
    """Finish or take back what an ended process had begun; a dry run takes it for not done.

    Raises:
        OutputError: neither can be done.
    """
    for number in [*journal.under_way()]:
        job = journal.job(number)
        try:
            if not dry_run and placing.settle(job):
                journal.done([(number, placing.modified(job.target))])
            else:
                journal.done([], [number])
        except OSError as error:
            journal.close()
            raise _problem(error, job.target) from error


def _problem(error: OSError, path: str) -> OutputError:
    return stopped(os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else path, error)


@dataclass(frozen=True)
class TakenBack:
    """One picture of an undo.

    Attributes:
        path: where it was put.
        source: where it is from.
        moved: whether it returned there; otherwise it was a copy or link.
        stays: why it is left as it is; None if it was taken back.
    """

    path: str
    source: str
    moved: bool
    stays: str | None = None


class Undo:
    """Takes back what sorting did in a folder, the latest first. Ended on the way, it goes on when it is run again."""

    def __init__(self, folder: Path, *, everything: bool = False, dry_run: bool = False) -> None:
        """Read what was done.

        Args:
            folder: that was sorted into.
            everything: all runs and not only the last one that is not yet undone.
            dry_run: touch nothing.

        Raises:
            OutputError: nothing was sorted there, its journal is damaged, or another process sorts into it.
        """
        if not os.path.exists(folder / FILE):
            raise OutputError(f"{folder}: nothing was sorted here", hint="name the folder that was after --to")
        self.dry_run = dry_run
        self._shown = os.fspath(folder)
        self.journal = Journal(folder, write=not dry_run)
        _settle(self.journal, dry_run=dry_run)
        runs = [run for run in reversed(self.journal.runs) if self.journal.standing(run)]
        self.runs: list[Run] = runs if everything else runs[:1]

    def batches(self, begun: Callable[[], None] = lambda: None) -> Iterator[list[TakenBack]]:
        """What was taken back, or would be, and what stays.

        Args:
            begun: called before each batch.

        Raises:
            OutputError: a file system takes no more.
        """
        for run in self.runs:
            numbers = self.journal.standing(run)
            for start in range(0, len(numbers), _UNDONE_AT_ONCE):
                begun()
                yield self._some(run, numbers[start : start + _UNDONE_AT_ONCE])

    def _some(self, run: Run, numbers: Sequence[int]) -> list[TakenBack]:
        found, undone = [], []
        begun = [self.journal.is_undoing(number) for number in numbers]
        if run.how == "move":
            with suppress(OutputError):  # on a full disk, better without than not at all
                self.journal.undoing(numbers)
        try:
            for number, before in zip(numbers, begun, strict=True):
                job = self.journal.job(number)
                part = os.path.join(os.path.dirname(job.source), f".clipzs-{run.name}-{number}.part")
                try:
                    placing.take_back(job, self.journal.modified(number), part, begun=before, dry_run=self.dry_run)
                except Stays as reason:
                    found.append(self._told(job, str(reason)))
                    if reason.forever:  # it belongs to who changed it
                        undone.append(number)
                else:
                    undone.append(number)
                    found.append(self._told(job, None))
        except OSError as error:
            raise _problem(error, self._shown) from error
        finally:
            if not self.dry_run:
                self.journal.undone(undone)
        return found

    def _told(self, job: Job, reason: str | None) -> TakenBack:
        path = os.path.join(self._shown, os.path.relpath(job.target, self.journal.folder))
        return TakenBack(path, job.source, job.how == "move", reason)

    def close(self) -> None:
        """Remove folders that sorting made and that are empty now; the last trace of it, if all was taken back."""
        if not self.dry_run:
            undone = [run for run in self.journal.runs if not self.journal.standing(run)]
            for name in {name for run in undone for name in run.folders}:
                with suppress(OSError):
                    os.rmdir(os.path.join(self.journal.folder, name))
            if len(undone) == len(self.journal.runs):
                self.journal.remove()
        self.journal.close()


@lru_cache(4096)
def _folder(path: str) -> str:
    return os.path.realpath(path)


def _place(path: str) -> str:
    """The absolute path: links on the way are followed, the last one is not."""
    folder, name = os.path.split(path)
    if name in ("", os.curdir, os.pardir):
        return os.path.realpath(path)
    return os.path.join(_folder(folder or os.curdir), name)


def _numbered(name: str, number: int) -> str:
    """`photo.jpg`, `photo-2.jpg` and so on; never longer than file systems take."""
    stem, suffix = os.path.splitext(name)
    mark = f"-{number}" if number > 1 else ""
    while stem and len(os.fsencode(stem + mark + suffix)) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem + mark + suffix
