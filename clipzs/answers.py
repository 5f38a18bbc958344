"""From scores to answers: is the best label good enough, or its group; where several may be right, which labels are?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clipzs.results import Score
from clipzs.score import Array, Levels, ranked


class Answer(NamedTuple):
    """What is answered of one image.

    Attributes:
        label: None for the best label.
        score: that of the answer, where it is none of the scores.
        labels: all answers, where there may be several.
        groups: the likeliest of each level, the finest first, where answers are rolled up.
    """

    label: str | None = None
    score: float | None = None
    labels: tuple[str, ...] | None = None
    groups: tuple[Score, ...] | None = None


BEST = Answer()


@dataclass(frozen=True)
class Rules:
    """When a label is an answer.

    Attributes:
        names: of the c columns.
        least: for each, the score that makes it an answer; infinite for one that never is.
        unknown: what is answered where no label is.
        margin: by how much the best score must exceed the second.
        several: every label that has its `least` is an answer, not only the best.
    """

    names: tuple[str, ...]
    least: Sequence[float]
    unknown: str
    margin: float = 0.0
    several: bool = False

    def __call__(self, scores: Array) -> Iterator[Answer]:
        """Of each row of float32 [n, c]; where several may be answers, the best come first."""
        enough = scores >= np.asarray(self.least)
        if self.several:
            for row, order in zip(enough, ranked(scores, None), strict=True):
                answers = tuple(self.names[column] for column in order if row[column])
                yield Answer(answers[0] if answers else self.unknown, labels=answers)
            return
        best = np.argmax(scores, axis=1)
        good = np.take_along_axis(enough, best[:, None], axis=1)[:, 0]
        if self.margin and len(self.names) > 1:
            highest = np.partition(scores, -2, axis=1)[:, -2:].astype(np.float64)
            good &= highest[:, 1] - highest[:, 0] >= self.margin
        unknown = Answer(self.unknown)
        for one in good:
            yield BEST if one else unknown


class RollUp:
    """The best label if it is good enough; else the finest group whose labels are so together; else the unknown label.

    Groups that have more than half are in each other, so that one of them is the finest. Of two that have half each,
    it is the one of the finer level, and in one level the one that is named first.
    """

    def __init__(self, names: Sequence[str], groups: Sequence[Sequence[str]], *, least: float, unknown: str) -> None:
        """Set up.

        Args:
            names: of the c labels.
            groups: that each of them is in, as `Levels` takes them.
            least: the probability that is good enough, from 0.5 to 1.
            unknown: what is answered where none has it. It may have a probability of its own, in column c.
        """
        self._names = (*names,)
        self._levels = Levels(groups)
        self._least = least
        self._unknown = unknown

    def __call__(self, scores: Array) -> Iterator[Answer]:
        """Of each row of float32 [n, c] or [n, c + 1]."""
        labels, outside = scores[:, : len(self._names)], scores[:, len(self._names) :]
        tables, names = [labels, *self._levels(labels)], [self._names, *self._levels.names]
        best = np.column_stack([table.argmax(axis=1) for table in tables])  # [n, 1 + levels]
        highest = np.column_stack([table.max(axis=1) for table in tables])
        enough = np.column_stack([highest >= self._least, np.ones(len(scores), bool)])
        for columns, has, level, rest in zip(
            best.tolist(), highest.tolist(), enough.argmax(axis=1).tolist(), outside.tolist(), strict=True
        ):
            nodes = [name[column] for name, column in zip(names, columns, strict=True)]
            answer, score = (*zip(nodes, has, strict=True), (self._unknown, rest[0] if rest else None))[level]
            yield Answer(answer, score, groups=tuple(map(Score, nodes[1:], has[1:])))
