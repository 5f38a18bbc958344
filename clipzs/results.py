"""What comes out: one result an image, and the facts of the run. Plain data, and its JSON shape."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """A label (or group) and its score: a probability, or a cosine similarity in [-1, 1]."""

    label: str
    score: float

    def as_json(self) -> dict[str, Any]:
        """`{"label", "score"}`, the score to six decimals: below that, machines and batch sizes differ."""
        return {"label": self.label, "score": round(self.score, 6)}


@dataclass(frozen=True)
class Result:
    """One image's scores, best first; or the reason there are none.

    `path` is as it was given or found; for an image passed as an object it is its number, "image-0".
    `model` and `config` name what made the numbers: results with the same config can be compared.
    """

    path: str
    scores: tuple[Score, ...] = ()
    error: str | None = None
    model: str = ""
    config: str = ""

    @property
    def label(self) -> str | None:
        """The best label, or None for an image that could not be read."""
        return self.scores[0].label if self.scores else None

    @property
    def score(self) -> float | None:
        """The best score, or None for an image that could not be read."""
        return self.scores[0].score if self.scores else None

    def as_json(self) -> dict[str, Any]:
        """The record of the JSON formats; its keys are promised."""
        return {
            "path": self.path,
            "label": self.label,
            "score": None if self.score is None else round(self.score, 6),
            "scores": [score.as_json() for score in self.scores],
            "error": self.error,
            "model": self.model,
            "config": self.config,
        }
