"""Image embeddings and label embeddings in, scores out. Pure numpy: no model, no files, no printing."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
ScoreKind = Literal["softmax", "sigmoid", "cosine"]


def normalise(vectors: Array) -> Array:
    """Rows scaled to length 1. float32 [n, d] → float32 [n, d]."""
    unit: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def average(prompts: Array, weights: Sequence[float] = ()) -> Array:
    """One label's embedding from its prompts': normalise each, average, normalise again.

    Averaging raw embeddings would let long ones outvote the rest.

    Args:
        prompts: float32 [t, d].
        weights: of the t prompts, positive; none: all count the same.

    Returns:
        float32 [d] of length 1.

    Source: arXiv:2103.00020, section 3.1.4.
    """
    unit = normalise(prompts)
    mean = np.asarray(weights, np.float32)[None] @ unit if weights else unit.mean(axis=0, keepdims=True)  # [1, d]
    averaged: Array = normalise(mean)[0]
    return averaged


def scores(
    images: Array, labels: Array | NDArray[np.float64], *, kind: ScoreKind, scale: float, bias: float | None
) -> Array:
    """The score of every label for every image.

    Args:
        images: float32 [n, d], rows of length 1.
        labels: float32 [c, d], rows of length 1; in float64 they need no conversion here.
        kind: "softmax" shares one probability among the labels; "sigmoid" gives each its own and
            needs a model trained that way; "cosine" is the similarity itself.
        scale: exp(logit_scale) as the model learned it, near 100 for CLIP; unitless.
        bias: the model's logit_bias, or None. It is the same for all labels, so softmax ignores it.

    Returns:
        float32 [n, c]; rows sum to 1 for softmax.

    Source: softmax arXiv:2103.00020, sigmoid arXiv:2303.15343.
    """
    # In float32 the product of one image depends on how many others are multiplied with it.
    table = np.asarray(images, np.float64) @ np.asarray(labels, np.float64).T
    if kind != "cosine":
        table *= scale
        table += bias or 0.0
        share(table) if kind == "softmax" else squash(table)
    rounded: Array = table.astype(np.float32)
    return rounded


def share(logits: NDArray[np.float64]) -> None:
    """Softmax of each row of [n, c], in place."""
    logits -= logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)


def squash(logits: NDArray[np.float64]) -> None:
    """1 / (1 + exp(-logits)) in place, of any shape; exp cannot overflow."""
    np.negative(logits, out=logits)
    np.logaddexp(0.0, logits, out=logits)
    np.negative(logits, out=logits)
    np.exp(logits, out=logits)


def sum_groups(scores: Array, groups: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """Probabilities added up per group.

    Args:
        scores: float32 [n, c].
        groups: the c groups of the labels; a label without one is a group of its own.

    Returns:
        float32 [n, g] and the g group names in order of first appearance.
    """
    number = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    member = np.array([number[group] for group in groups])  # [c]
    order = np.argsort(member, kind="stable")  # the labels of a group side by side
    starts = np.searchsorted(member[order], np.arange(len(number)))
    sums: Array = np.add.reduceat(scores[:, order], starts, axis=1)
    return sums, tuple(number)


class Levels:
    """Groups of several levels, and what the labels of each have together.

    Attributes:
        names: of the groups of each level, the finest level first; in a level in the order of their first labels.
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        """Set up.

        Args:
            groups: of each of c labels those that it is in, the coarsest first, or none. A group is in the same
                other with all its labels.
        """
        depth = max(map(len, groups), default=0)
        self.names = []
        self._steps = []
        for level in reversed(range(depth)):
            names = tuple(dict.fromkeys(chain[level] for chain in groups if len(chain) > level))
            own = [column for column, chain in enumerate(groups) if len(chain) == level + 1]
            inner = {chain[level + 1]: chain[level] for chain in groups if len(chain) > level + 1}  # in that order, too
            number = {name: place for place, name in enumerate(names)}
            member = np.array([number[name] for name in (*(groups[column][level] for column in own), *inner.values())])
            order = np.argsort(member, kind="stable")  # what is in one group side by side
            self.names.append(names)
            self._steps.append((np.array(own, np.intp), order, np.searchsorted(member[order], np.arange(len(names)))))

    def __call__(self, scores: Array) -> list[Array]:
        """Sums of each level, the finest first: float32 [n, at least c] → float32 [n, g] each, g as many as `names`.

        No group has less than one that is in it, nor than one of its labels.
        """
        sums: NDArray[np.float64] = np.empty((len(scores), 0))
        found: list[Array] = []
        for own, order, starts in self._steps:
            # In float64, so that many add up to what they are. np.take has rows side by side, an index may not.
            inside = np.concatenate([np.take(scores, own, axis=1), sums], axis=1)
            sums = np.add.reduceat(np.take(inside, order, axis=1), starts, axis=1)
            found.append(sums.astype(np.float32))
        return found


def ranked(scores: Array, top_k: int | None) -> NDArray[np.intp]:
    """The best columns of each row, best first, ties in the order of the columns.

    Args:
        scores: float32 [n, c].
        top_k: how many to keep; None keeps all.

    Returns:
        [n, min(top_k, c)].
    """
    n, c = scores.shape
    if top_k == 1:
        return np.expand_dims(np.argmax(scores, axis=1), 1)
    if top_k is None or top_k >= c:
        return np.argsort(-scores, axis=1, kind="stable")
    least = np.partition(scores, c - top_k, axis=1)[:, c - top_k, None]
    kept = scores >= least
    sure = np.count_nonzero(kept, axis=1) == top_k  # elsewhere several are tied for the last place
    kept[~sure] = False
    found = np.nonzero(kept)[1].reshape(-1, top_k)
    values = np.take_along_axis(scores[sure], found, axis=1)
    columns = np.empty((n, top_k), np.intp)
    columns[sure] = np.take_along_axis(found, np.argsort(-values, axis=1, kind="stable"), axis=1)
    columns[~sure] = np.argsort(-scores[~sure], axis=1, kind="stable")[:, :top_k]
    return columns
