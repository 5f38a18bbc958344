"""What a label has to beat before it is an answer: how well an image fits many everyday words. Pure numpy.

An image is as similar to the words as pictures of its kind are to any text. So similarities are counted in standard
deviations above the mean of the words, for each image anew; that makes them the same unit for all models. The words
that fit best then stand against the labels, as the negative labels of arXiv:2403.20078 do. None of them is left out
because of a label, so that what one label gets never depends on the others.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipzs.score import Array, share, squash

Wide = NDArray[np.float64]

SHARPNESS = 2.5  # nats that one standard deviation is worth
WEIGHT = 3.0  # how many average words the background counts for
ODDS = 5.0  # of labels each for itself: wrong ones for each right one, before the image is seen
CONSTANTS = (SHARPNESS, WEIGHT, ODDS)
_LEAST_SPREAD = 1e-6  # of similarities; embeddings are exact to about 1e-7


@cache
def words() -> tuple[str, ...]:
    """The everyday words that come with clipzs."""
    lines = Path(__file__).with_name("background.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


class Background:
    """Embeddings of the words, and of what the user says is not wanted."""

    def __init__(self, words: Array, negatives: Array) -> None:
        """Set up.

        Args:
            words: float32 [m, d], rows of length 1, at least two.
            negatives: float32 [k, d], rows of length 1; k may be 0. Each counts as much as a label does.
        """
        self.size = len(words) + len(negatives)
        self._words = words.astype(np.float64)
        self._negatives = negatives.astype(np.float64)

    def evidence(self, images: Array, labels: Array) -> tuple[Wide, Wide]:
        """How much speaks for each label, and for none of them.

        Args:
            images: float32 [n, d], rows of length 1.
            labels: float32 [c, d], rows of length 1.

        Returns:
            float64 [n, c] and [n], in nats. Their differences are log odds; a column depends on its label alone.
        """
        wide = images.astype(np.float64)
        words = wide @ self._words.T  # [n, m]
        mean, spread = words.mean(axis=1, keepdims=True), words.std(axis=1, keepdims=True)
        spread = np.maximum(spread, _LEAST_SPREAD)  # a model that reads all words alike

        def standardised(similarities: Wide) -> Wide:
            above: Wide = SHARPNESS * (similarities - mean) / spread
            return above

        against = _log_sum(standardised(words)) + np.log(WEIGHT / len(self._words))
        if len(self._negatives):
            against = np.logaddexp(against, _log_sum(standardised(wide @ self._negatives.T)))
        return standardised(wide @ labels.astype(np.float64).T), against


class WithUnknown:
    """Scores of the labels, and of one more: that none of them is right. They sum to 1.

    The probability that some label is right comes from the background; how it is shared among them, from the model.
    """

    def __init__(
        self, names: tuple[str, ...], vectors: Array, background: Background, *, scale: float, unknown: str
    ) -> None:
        """Set up.

        Args:
            names: of the c labels.
            vectors: float32 [c, d], rows of length 1.
            background: what they have to beat.
            scale: exp(logit_scale) of the model.
            unknown: name of the last column.
        """
        self.names = (*names, unknown)
        self._vectors = vectors
        self._background = background
        self._scale = scale

    def __call__(self, images: Array) -> Array:
        """float32 [n, d], rows of length 1 → float32 [n, c + 1]."""
        evidence, against = self._background.evidence(images, self._vectors)
        known = _log_sum(evidence) - against
        unknown = -known
        squash(known)
        squash(unknown)
        shares = self._scale * (images.astype(np.float64) @ self._vectors.astype(np.float64).T)
        share(shares)
        table: Array = np.column_stack([shares * known[:, None], unknown]).astype(np.float32)
        return table


class Contrast:
    """A probability of its own for each label: that it fits the image better than the background does."""

    def __init__(self, names: tuple[str, ...], vectors: Array, background: Background) -> None:
        """Set up.

        Args:
            names: of the c labels.
            vectors: float32 [c, d], rows of length 1.
            background: what each of them has to beat.
        """
        self.names = names
        self._vectors = vectors
        self._background = background

    def __call__(self, images: Array) -> Array:
        """float32 [n, d], rows of length 1 → float32 [n, c]."""
        evidence, against = self._background.evidence(images, self._vectors)
        evidence -= against[:, None] + np.log(ODDS)
        squash(evidence)
        table: Array = evidence.astype(np.float32)
        return table


def _log_sum(logs: Wide) -> Wide:
    """Log of the sum of exp, of each row of [n, c]: [n]."""
    highest = logs.max(axis=1)  # so that exp cannot overflow
    summed: Wide = highest + np.log(np.exp(logs - highest[:, None]).sum(axis=1))
    return summed
