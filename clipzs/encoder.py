"""What the rest of clipzs needs of a model, whatever runs it. Arrays are numpy; nothing here imports torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from clipzs.score import Array

Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]  # told how much is done, and of how much


@dataclass(frozen=True)
class Tokens:
    """Prompts as a model reads them.

    Attributes:
        ids: int64 [n, context length], cut and padded as the model was trained.
        lengths: how many tokens each prompt has before any cut, start and end included.
        unknown: the words of each prompt that its tokenizer has no tokens for; () where all are known.
    """

    ids: NDArray[np.int64]
    lengths: tuple[int, ...]
    unknown: tuple[tuple[str, ...], ...] = ()

    def __getitem__(self, rows: slice) -> "Tokens":
        """Some of the prompts."""
        return Tokens(self.ids[rows], self.lengths[rows], self.unknown[rows])


class TextEnd(NamedTuple):
    """Behind what nothing in a row of token ids can change its embedding.

    A causal tower reads its answer at the end token, which it takes to be the largest id ("largest") or the
    first `token` ("first"), and sees nothing of what follows. One that masks padding sees nothing of the
    `token` after the text ("padding").
    """

    how: Literal["largest", "first", "padding"]
    token: int = 0


def trimmed(ids: NDArray[np.int64], end: TextEnd | None) -> NDArray[np.int64]:
    """int64 [n, context length] → [n, shorter]: cut where no row has anything left that can change its embedding.

    Args:
        ids: token ids.
        end: as the tower finds it; None cuts nothing.
    """
    if end is None:
        return ids
    if end.how == "padding":
        texts = ids != end.token
        if not texts.any(axis=1).all():
            return ids  # a row of nothing but padding attends to all of it
        longest = int(np.flatnonzero(texts.any(axis=0))[-1]) + 1
    else:
        ends = ids.argmax(axis=1) if end.how == "largest" else (ids == end.token).argmax(axis=1)
        longest = int(ends.max()) + 1
    return np.ascontiguousarray(ids[:, :longest])


class Computes(Protocol):
    """How a model computes, wherever it does."""

    @property
    def engine(self) -> str:
        """What computes: "torch" or "openvino"."""

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda", "cuda:1", "mps"."""

    @property
    def precision(self) -> str:
        """What it computes in: "fp32", "bf16" or "fp16"."""

    @property
    def logit_scale(self) -> float:
        """exp of the learned log scale; unitless."""

    @property
    def logit_bias(self) -> float | None:
        """The learned bias, of models trained with a sigmoid."""


class Encoder(Computes, Protocol):
    """A model, loaded tower by tower as it is needed."""

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts → token ids; needs no tower."""

    def encode_texts(self, tokens: Tokens) -> Array:
        """Token ids → float32 [n, d], rows of length 1."""

    def encode_images(self, pixels: Pixels) -> Array:
        """uint8 [b, height, width, 3], as `Preprocess` gives them → float32 [b, d], rows of length 1."""

    def expect_images(self) -> None:
        """Images will follow: what can be loaded meanwhile may be."""
