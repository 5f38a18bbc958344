"""Classifiers made of a few labelled images, on frozen embeddings. Here they are used: pure numpy."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from clipzs.score import Array, share

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

Method = Literal["prototypes", "linear", "cache"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Cache:
    """Example images that speak for their class, the louder the nearer they are.

    Attributes:
        keys: float32 [m, d], rows of length 1: the examples, in the order of their classes.
        answers: [m], ascending, the class of each; each of the c classes has at least one.
        alpha: weight of the examples beside the labels' texts, at least 0.
        beta: how fast an example's say falls with its distance, above 0.

    Source: Tip-Adapter, arXiv:2111.03930, equations 3 to 6.
    """

    keys: Array
    answers: Places
    alpha: float
    beta: float


class Head:
    """A `scorers.Scorer` of c classes: softmax of `images @ weight.T + bias` and of what a cache adds, if there is one.

    Attributes:
        names: of the classes.
        weight: float32 [c, d].
        bias: float32 [c].
        cache: for the method that has one.
    """

    def __init__(self, names: tuple[str, ...], weight: Array, bias: Array, cache: Cache | None = None) -> None:
        self.names = names
        self.weight = weight
        self.bias = bias
        self.cache = cache
        self._weight = weight.astype(np.float64)  # once, for all products
        self._keys = cache.keys.astype(np.float64) if cache else None

    def logits(self, images: Array) -> Floats:
        """float32 [n, d], rows of length 1 → float64 [n, c]."""
        wide = images.astype(np.float64)
        logits: Floats = wide @ self._weight.T + self.bias
        if self.cache is not None and self._keys is not None:
            said = spoken(wide @ self._keys.T, self.cache.answers, len(self.names), self.cache.beta)
            logits += self.cache.alpha * said
        return logits

    def __call__(self, images: Array) -> Array:
        """float32 [n, d], rows of length 1 → float32 [n, c], rows that sum to 1."""
        table = self.logits(images)
        share(table)
        rounded: Array = table.astype(np.float32)
        return rounded


def spoken(likeness: Floats, answers: Places, classes: int, beta: float) -> Floats:
    """What examples say of images, added up for each class.

    No class gains by having more examples than others: its sum is scaled to their mean number.

    Args:
        likeness: float64 [n, m], cosine of each image with each example.
        answers: [m], ascending, the class of each example; each of the c classes has at least one.
        classes: c.
        beta: how fast an example's say falls with its distance.

    Returns:
        float64 [n, c].
    """
    counts = np.bincount(answers, minlength=classes)  # [c]
    starts = np.cumsum(counts) - counts
    sums: Floats = np.add.reduceat(np.exp(beta * (likeness - 1.0)), starts, axis=1)
    return sums * (len(answers) / classes / counts)
