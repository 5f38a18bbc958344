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


def average(prompts: Array) -> Array:
    """One label's embedding from its prompts': normalise each, average, normalise again.

    Averaging raw embeddings would let long ones outvote the rest.

    Args:
        prompts: float32 [t, d].

    Returns:
        float32 [d] of length 1.

    Source: arXiv:2103.00020, section 3.1.4.
    """
    mean = normalise(prompts).mean(axis=0, keepdims=True)  # [1, d]
    averaged: Array = normalise(mean)[0]
    return averaged


def scores(images: Array, labels: Array, *, kind: ScoreKind, scale: float, bias: float | None) -> Array:
    """The score of every label for every image.

    Args:
        images: float32 [n, d], rows of length 1.
        labels: float32 [c, d], rows of length 1.
        kind: "softmax" shares one probability among the labels; "sigmoid" gives each its own and
            needs a model trained that way; "cosine" is the similarity itself.
        scale: exp(logit_scale) as the model learned it, near 100 for CLIP; unitless.
        bias: the model's logit_bias, or None. It is the same for all labels, so softmax ignores it.

    Returns:
        float32 [n, c]; rows sum to 1 for softmax.

    Source: softmax arXiv:2103.00020, sigmoid arXiv:2303.15343.
    """
    cosine: Array = images @ labels.T
    if kind == "cosine":
        return cosine
    logits = cosine.astype(np.float64) * scale + (bias or 0.0)
    if kind == "sigmoid":
        shares = np.exp(-np.logaddexp(0.0, -logits))  # 1 / (1 + exp(-logits)), where exp cannot overflow
    else:
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))  # shifted so that exp cannot overflow
        shares = exp / exp.sum(axis=1, keepdims=True)
    rounded: Array = shares.astype(np.float32)
    return rounded


def sum_groups(scores: Array, groups: Sequence[str]) -> tuple[Array, list[str]]:
    """Probabilities added up per group.

    Args:
        scores: float32 [n, c].
        groups: the c groups of the labels; a label without one is a group of its own.

    Returns:
        float32 [n, g] and the g group names in order of first appearance.
    """
    names = list(dict.fromkeys(groups))
    member = np.array([[group == name for name in names] for group in groups], np.float32)  # [c, g]
    return scores @ member, names
