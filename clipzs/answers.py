"""From scores to answers: whether the best label is good enough or, where several may be right, which labels are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipzs.score import Array, ranked


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

    def __call__(self, scores: Array) -> Iterator[tuple[str | None, tuple[str, ...] | None]]:
        """Of each row of float32 [n, c], the unknown label if it is the answer, and all answers where several may be.

        Both are None otherwise; the best answers come first.
        """
        enough = scores >= np.asarray(self.least)
        if self.several:
            for row, order in zip(enough, ranked(scores, None), strict=True):
                answers = tuple(self.names[column] for column in order if row[column])
                yield (None if answers else self.unknown), answers
            return
        best = np.argmax(scores, axis=1)
        good = np.take_along_axis(enough, best[:, None], axis=1)[:, 0]
        if self.margin and len(self.names) > 1:
            highest = np.partition(scores, -2, axis=1)[:, -2:].astype(np.float64)
            good &= highest[:, 1] - highest[:, 0] >= self.margin
        for one in good:
            yield (None if one else self.unknown), None
