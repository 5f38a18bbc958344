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
    """One image's answer and scores, best first; or the reason there are none.

    Attributes:
        path: as it was given or found; for an image passed as an object its number, "image-0".
        label: the answer: a label, a group that it was rolled up to, or the unknown label; None for an image that could
            not be read.
        score: that of the answer; None if it has none.
        scores: of labels (or groups), best first.
        labels: all answers, best first, where there may be several; otherwise None.
        groups: the group that is likeliest at each level, finest first, where answers are rolled up; otherwise None.
        error: why the image could not be read.
        model: its name; with `config` it names what made the numbers.
        config: results with the same one can be compared.
        truth: the right label, where it is known.
        templates: where the truth is known, what made the prompts.
    """

    path: str
    label: str | None = None
    score: float | None = None
    scores: tuple[Score, ...] = ()
    labels: tuple[str, ...] | None = None
    groups: tuple[Score, ...] | None = None
    error: str | None = None
    model: str = ""
    config: str = ""
    truth: str | None = None
    templates: tuple[str, ...] | None = None

    @property
    def answers(self) -> tuple[str, ...]:
        """All labels that are answers: where several may be, those or the unknown label; otherwise the one."""
        return self.labels or (() if self.label is None else (self.label,))

    def as_json(self, decimals: int = DECIMALS) -> dict[str, Any]:
        """The record of the JSON formats, scores as they are printed; its keys are promised."""
        return {
            "path": self.path,
            "label": self.label,
            "score": None if self.score is None else float(printed(self.score, decimals)),
            **({} if self.labels is None else {"labels": list(self.labels)}),
            **({} if self.groups is None else {"groups": [group.as_json(decimals) for group in self.groups]}),
            "scores": [score.as_json(decimals) for score in self.scores],
            "error": self.error,
            "model": self.model,
            "config": self.config,
            **({} if self.truth is None else {"truth": self.truth}),
            **({} if self.templates is None else {"templates": list(self.templates)}),
        }
