"""The figures of an evaluation from its records: what was measured once is measured again without a model."""

import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipzs import defaults
from clipzs.errors import RecordsError, listed
from clipzs.evaluation import Cell, Evaluation, check, measure
from clipzs.metrics import Outcomes
from clipzs.results import Result
from clipzs.truth import Truth

log = logging.getLogger("clipzs")

LEAST_PRINTED = 5e-10  # stands for a probability that is printed as 0, which is less than that with four decimals


class _Outcome(NamedTuple):
    """Of one image; the numbers are those of `metrics.Outcomes`."""

    path: str
    truth: str
    answer: str
    rank: int
    confidence: float
    loss: float
    answered: bool


@dataclass
class _Answers:
    """Of one configuration; `whole` is whether all of its records hold what the figures need."""

    model: str
    templates: tuple[str, ...]
    labels: dict[str, None] = field(default_factory=dict)
    outcomes: list[_Outcome] = field(default_factory=list)
    whole: bool = True
    fewest: int = sys.maxsize  # labels of a record


class Recorded:
    """A sink that measures records with their truth as `evaluation.evaluate` measures the answers themselves.

    Figures differ in what the rounding of printed scores has taken. Labels come in the order in which they are first
    the truth.

    Attributes:
        again: nothing goes on from here.
    """

    again: str | None = None

    def __init__(self, *, unknown: str = defaults.UNKNOWN_LABEL) -> None:
        """`unknown` is the answer where no label is, if it has a probability of its own."""
        self._unknown = unknown
        self._failed: set[str] = set()
        self._answers: dict[str, _Answers] = {}

    def write(self, batch: Sequence[Result]) -> None:
        """Take the outcomes of a batch; results without a truth are none."""
        for result in batch:
            if result.truth is None:
                continue
            if result.error is not None:
                self._failed.add(result.path)
                continue
            self._take(self._answers.setdefault(result.config, _Answers(result.model, result.templates or ())), result)

    def _take(self, answers: _Answers, result: Result) -> None:
        labels, truth = [one.label for one in result.scores], result.truth or ""
        answers.labels.update(dict.fromkeys(labels))
        answers.fewest = min(answers.fewest, len(labels))
        best = result.scores[0].score if labels else math.nan
        own = result.scores[labels.index(truth)].score if truth in labels else math.nan
        if not (0 <= own <= 1 and 0 <= best <= 1) or result.labels is not None:
            answers.whole = False
            return
        held_back = result.label not in labels or result.label == self._unknown
        answer, rank = labels[0], labels.index(truth)
        if held_back and result.label in labels:
            answer, rank = self._unknown, 0 if truth == self._unknown else max(rank, 1)
        loss = -math.log(own or LEAST_PRINTED)
        answers.outcomes.append(_Outcome(result.path, truth, answer, rank, best, loss, not held_back))

    def close(self, run: Mapping[str, Any]) -> None:
        """Nothing: see `cells`."""

    def abandon(self) -> None:
        """Nothing was written."""

    @property
    def any(self) -> bool:
        """Whether there are records of images whose truth is known."""
        return bool(self._answers)

    @property
    def labels(self) -> list[str]:
        """All that the records name."""
        return [*dict.fromkeys(label for answers in self._answers.values() for label in answers.labels)]

    @property
    def any_cut(self) -> bool:
        """Whether some records name fewer labels than others."""
        return any(answers.fewest < len(answers.labels) for answers in self._answers.values())

    def cells(self, *, seed: int = 0) -> list[Cell]:
        """The figures of each configuration whose records hold the scores of all labels; of others there are none.

        An image that could not be read for one of them is in no figure of any.

        Args:
            seed: of the bootstrap.
        """
        cells: list[Cell] = []
        first: list[str] = []
        for config, answers in self._answers.items():
            some = [one for one in answers.outcomes if one.path not in self._failed]
            if not answers.whole or not some:
                continue
            labels = [*dict.fromkeys([*(one.truth for one in some), *answers.labels])]
            measured, paths = measure(labels, _outcomes(some, labels), seed=seed), [one.path for one in some]
            first = first or paths
            difference = measured.minus(cells[0].measured) if cells and paths == first else None
            cells.append(Cell(answers.model, answers.templates, config, measured, difference))
        return cells


def _outcomes(some: Sequence[_Outcome], labels: Sequence[str]) -> Outcomes:
    column = {name: place for place, name in enumerate(labels)}
    return Outcomes(
        truth=np.array([column[one.truth] for one in some]),
        answer=np.array([column[one.answer] for one in some]),
        rank=np.array([one.rank for one in some]),
        confidence=np.array([one.confidence for one in some]),
        loss=np.array([one.loss for one in some]),
        answered=np.array([one.answered for one in some]),
        classes=len(labels),
    )


def evaluate(
    results: Iterable[Result],
    truth: Truth | None = None,
    *,
    root: Path | None = None,
    unknown: str = defaults.UNKNOWN_LABEL,
    seed: int = 0,
    done: Callable[[int], object] = lambda images: None,
) -> Evaluation:
    """Measure results of an earlier run on labelled images; other images among them are passed over.

    Args:
        results: of any number; of several of one image and configuration the first counts.
        truth: what is right, by the paths of images; None where the records say it.
        root: the folder from which relative paths of the results start, if it is not the working folder.
        unknown: as of `Recorded`.
        seed: of the bootstrap.
        done: called with 1 for each result.

    Raises:
        RecordsError: no labelled image is among them, or they do not hold the scores of all labels.
        LabelsError: a class is none of their labels.
    """
    recorded, seen = Recorded(unknown=unknown), set[tuple[str, str]]()
    found: dict[str, str] = {}  # the class of each labelled image that has a result
    errors: dict[str, str] = {}
    for result in _labelled(results, truth, root, done):
        if (result.config, result.path) in seen:
            continue
        seen.add((result.config, result.path))
        found.setdefault(result.path, result.truth or "")
        if result.error is not None:
            errors.setdefault(result.path, result.error)
        recorded.write([result])
    measured = _truth_of(found, truth)
    if len(errors) == len(found):
        path, error = next(iter(errors.items()))
        raise RecordsError(f"none of the {len(found):,} labelled images could be read, e.g. {path}: {error}")
    if not recorded.any_cut:
        check(measured, recorded.labels, unknown=unknown)
    cells = recorded.cells(seed=seed)
    if not cells:
        raise RecordsError(
            "the results do not hold the probabilities of all labels, which the figures need",
            hint="classify again without --top-k, --multi and --score cosine",
        )
    unreadable = {number: errors[path] for number, path in enumerate(measured.paths) if path in errors}
    return Evaluation(measured, unreadable, seed, tuple(cells))


def _labelled(
    results: Iterable[Result], truth: Truth | None, root: Path | None, done: Callable[[int], object]
) -> Iterator[Result]:
    """Those of labelled images, with their class, and with the path by which the truth knows them."""
    numbers = {_place(path): number for number, path in enumerate(truth.paths)} if truth is not None else {}
    for result in results:
        done(1)
        if truth is None:
            if result.truth is not None:
                yield result
            continue
        number = numbers.get(_place(os.path.join(root or "", result.path)))
        if number is not None:
            yield replace(result, path=truth.paths[number], truth=truth.classes[truth.answers[number]])


def _place(path: str) -> str:
    """One name for a file, however it is named; an address of elsewhere stays as it is."""
    return path if "://" in path else os.path.abspath(path)


def _truth_of(found: Mapping[str, str], truth: Truth | None) -> Truth:
    """Labelled images that have results.

    Raises:
        RecordsError: there are none.
    """
    if not found and truth is not None:
        raise RecordsError(
            f"none of the {len(truth.paths):,} labelled images is among the results, e.g. {truth.paths[0]}",
            hint="relative paths of results start here; --root DIR says where else",
        )
    if not found:
        raise RecordsError("the results do not say what is right", hint="name a folder of classes, or --truth FILE")
    missing = [path for path in truth.paths if path not in found] if truth is not None else []
    if missing:
        log.warning("%s of %s labelled images have no result: %s", f"{len(missing):,}",
                    f"{len(missing) + len(found):,}", listed(missing))  # fmt: skip
    places = {name: place for place, name in enumerate(dict.fromkeys(found.values()))}
    return Truth(tuple(found), tuple(map(places.__getitem__, found.values())), tuple(places))
