"""The figures of an evaluation from its records: what was measured once is measured again without a model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from clipzs import defaults
from clipzs.evaluation import Cell, measure
from clipzs.metrics import Outcomes
from clipzs.results import Result

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
        best = result.scores[0].score if labels else math.nan
        own = result.scores[labels.index(truth)].score if truth in labels else math.nan
        if not (0 <= own <= 1 and 0 <= best <= 1):
            answers.whole = False
            return
        held_back = result.label not in labels or result.label == self._unknown
        answer, rank = labels[0], labels.index(truth)
        if held_back and result.label in labels:
            answer, rank = self._unknown, 0 if truth == self._unknown else max(rank, 1)
        answers.labels.update(dict.fromkeys(labels))
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
