"""Image embeddings in, a table of scores out: what a classifier is, once its labels are embedded."""

from typing import Protocol

import numpy as np

from clipzs.score import Array, ScoreKind, scores


class Scorer(Protocol):
    """Scores of some names for image embeddings."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the c columns are scores of."""

    def __call__(self, images: Array) -> Array:
        """float32 [n, d], rows of length 1 → float32 [n, c]."""


class ZeroShot:
    """Scores by the similarity to label embeddings."""

    def __init__(
        self, names: tuple[str, ...], vectors: Array, *, kind: ScoreKind, scale: float, bias: float | None
    ) -> None:
        """Set up.

        Args:
            names: of the c labels.
            vectors: float32 [c, d], rows of length 1.
            kind: of score, as `score.scores` takes it.
            scale: exp(logit_scale) of the model.
            bias: its logit_bias, or None.
        """
        self.names = names
        self._vectors = vectors.astype(np.float64)  # once, for all products
        self._kind: ScoreKind = kind
        self._scale = scale
        self._bias = bias

    def __call__(self, images: Array) -> Array:
        """float32 [n, d], rows of length 1 → float32 [n, c]."""
        return scores(images, self._vectors, kind=self._kind, scale=self._scale, bias=self._bias)
