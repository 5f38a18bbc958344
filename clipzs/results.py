"""What comes out: one result an image, and the facts of the run. Plain data, and its JSON shape."""

from dataclasses import dataclass
from typing import Any

from clipzs.defaults import DECIMALS

_MORE = 5  # decimals of small scores, at most


def printed(score: float, decimals: int = DECIMALS) -> str:
    """A score with so many decimals and, below 0.01, with so many more that as many digits count as at 0.01.

    With four (two is the least) 0.97312 is 0.9731, and 0.000031234 is 0.0000312. The larger score never has the
    smaller number.
    """
    size, more = abs(score), 0
    while size < 0.01 and more < _MORE:
        size, more = 10 * size, more + 1
    return f"{score:.{decimals + more}f}"


@dataclass(frozen=True)
class Score:
    """A label (or group) and its score: a probability, or a cosine similarity in [-1, 1]. Never rounded."""

    label: str
    score: float

    def as_json(self, decimals: int = DECIMALS) -> dict[str, Any]:
        """`{"label", "score"}`, the score as it is printed."""
        return {"label": self.label, "score": float(printed(self.score, decimals))}


@dataclass(frozen=True)
class Result:
    """One image's scores, best first; or the reason there are none.

    `path` is as it was given or found; for an image passed as an object it is its number, "image-0".
    `model` and `config` name what made the numbers: results with the same config can be compared.
    `unknown` is the unknown label where it is the answer, otherwise None. `labels` are all answers, best first, where
    there may be several; otherwise None.
    """

    path: str
    scores: tuple[Score, ...] = ()
    error: str | None = None
    model: str = ""
    config: str = ""
    unknown: str | None = None
    labels: tuple[str, ...] | None = None

    @property
    def label(self) -> str | None:
        """The answer: the best label or the unknown label; None for an image that could not be read."""
        if self.unknown is not None:
            return self.unknown
        if self.labels:
            return self.labels[0]
        return self.scores[0].label if self.scores else None

    @property
    def score(self) -> float | None:
        """That of the answer; None for an image that could not be read, or if the answer has none among the scores."""
        label = self.label
        return next((one.score for one in self.scores if one.label == label), None)

    def as_json(self, decimals: int = DECIMALS) -> dict[str, Any]:
        """The record of the JSON formats, scores as they are printed; its keys are promised."""
        return {
            "path": self.path,
            "label": self.label,
            "score": None if self.score is None else float(printed(self.score, decimals)),
            **({} if self.labels is None else {"labels": list(self.labels)}),
            "scores": [score.as_json(decimals) for score in self.scores],
            "error": self.error,
            "model": self.model,
            "config": self.config,
        }
