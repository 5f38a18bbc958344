"""Text or images to the nearest of many embeddings: exact, one product for all rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipzs.defaults import DECIMALS
from clipzs.embedder import Embedder
from clipzs.embeddings import blocks
from clipzs.errors import UsageProblem
from clipzs.results import printed
from clipzs.score import Array, normalise, ranked
from clipzs.templates import fill

LESS = 0.5  # how much an unwanted query counts beside a wanted one
_NOTHING = 1e-6  # length of a query that is left when what is not wanted is taken from what is


@dataclass(frozen=True)
class Hit:
    """An image that was found.

    Attributes:
        path: as it was given or found.
        score: cosine similarity with the query, in [-1, 1].
        rank: from 1.
    """

    path: str
    score: float
    rank: int

    def as_json(self, query: str, model: str, decimals: int = DECIMALS) -> dict[str, Any]:
        """The record of the JSON format; its keys are promised."""
        return {
            "path": self.path,
            "score": float(printed(self.score, decimals)),
            "rank": self.rank,
            "query": query,
            "error": None,
            "model": model,
        }


def embedded(embedder: Embedder, texts: Sequence[str], templates: Sequence[str]) -> Array:
    """The embedding of each of n texts, averaged over templates: float32 [n, d], rows of length 1.

    Raises:
        ModelError: the model gives numbers that are not finite.
    """
    labels = embedder.labels([[fill(template, text) for template in templates] for text in texts])
    return np.stack([label.vector for label in labels])


def combined(wanted: Sequence[Array], unwanted: Sequence[Array]) -> Array:
    """One query: the mean of what is wanted less `LESS` times the mean of what is not, scaled to length 1.

    Args:
        wanted: float32 [d] each, of length 1; at least one.
        unwanted: the same, or none.

    Returns:
        float32 [d].

    Raises:
        UsageProblem: nothing is left.

    Source: J. Rocchio, Relevance Feedback in Information Retrieval (1971).
    """
    query: Array = np.mean(wanted, axis=0)
    if unwanted:
        query = query - np.float32(LESS) * np.mean(unwanted, axis=0)
    if np.linalg.norm(query) < _NOTHING:
        raise UsageProblem("what is wanted and what is not are the same", hint="say something else after --not")
    unit: Array = normalise(query[None])[0]
    return unit


def nearest(vectors: Array, query: Array, *, top_k: int, least: float | None = None) -> Iterator[tuple[int, float]]:
    """The rows that are most similar to a query, best first, ties in the order of the rows.

    Args:
        vectors: float32 [n, d], rows of length 1.
        query: float32 [d] of length 1.
        top_k: how many, at most.
        least: leave out less similar ones.

    Yields:
        Row and cosine similarity.
    """
    similar = np.concatenate([block @ query for block in blocks(vectors)])
    for row in ranked(similar[None], top_k)[0].tolist():
        if least is not None and similar[row] < least:
            return
        yield row, float(similar[row])
