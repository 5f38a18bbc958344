"""Prompts → label embeddings: from the store where it has them, through the text tower where it has not."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from clipzs import defaults
from clipzs.encoder import Encoder, Progress, Tokens
from clipzs.score import Array, average
from clipzs.store import LabelEmbedding, LabelStore, key


def label_embeddings(
    prompts: Sequence[Sequence[str]],
    encoder: Encoder,
    store: LabelStore,
    *,
    digest: str,
    weights: Sequence[Sequence[float]] = (),
    progress: Progress | None = None,
) -> tuple[list[LabelEmbedding], int]:
    """The embedding of each label, and how many different prompts had to be encoded.

    Args:
        prompts: the texts of each of the c labels, as `prompts.expand` gives them.
        encoder: its text tower is loaded only if some label is not in the store.
        store: where finished labels are looked up and kept.
        digest: of the model, so that no other model's embedding is taken for this one's.
        weights: of the prompts of each label, none for equal ones; labels at the end may be left out.
        progress: called with the prompts done and their number.
    """
    weighted = [_Prompts(texts, of) for texts, of in zip_longest(prompts, weights, fillvalue=())]
    keys = [key(digest, encoder.precision, *one.determinants) for one in weighted]
    known = store.get(keys)
    missing = {k: one for k, one in zip(keys, weighted, strict=True) if k not in known}
    fresh = _encoded(missing, encoder, progress) if missing else {}
    store.put(fresh)
    encoded = {text for one in missing.values() for text in one.texts}
    found = known | fresh
    return [found[k] for k in keys], len(encoded)


@dataclass(frozen=True)
class _Prompts:
    """A label's texts, and how much each counts: none if all count the same."""

    texts: Sequence[str]
    weights: Sequence[float]

    @property
    def determinants(self) -> list[object]:
        """What the embedding hangs on; the texts alone where they have no weights."""
        return [list(self.texts), *([list(self.weights)] if self.weights else [])]


def _encoded(labels: dict[bytes, _Prompts], encoder: Encoder, progress: Progress | None) -> dict[bytes, LabelEmbedding]:
    texts = list(dict.fromkeys(text for one in labels.values() for text in one.texts))  # labels may share prompts
    row = {text: number for number, text in enumerate(texts)}
    tokens = encoder.tokenize(texts)
    vectors = _in_batches(tokens, encoder, progress)
    fresh = {}
    for k, own in labels.items():
        rows = [row[text] for text in own.texts]
        digest = hashlib.sha256(tokens.ids[rows].tobytes()).digest()
        longest = max(tokens.lengths[r] for r in rows)
        unknown = dict.fromkeys(word for r in rows for word in (tokens.unknown[r] if tokens.unknown else ()))
        fresh[k] = LabelEmbedding(average(vectors[rows], own.weights), digest, longest, tuple(unknown))
    return fresh


def _in_batches(tokens: Tokens, encoder: Encoder, progress: Progress | None) -> Array:
    """float32 [n, d]. Prompts of like length go together, so that each batch can be cut short."""
    order = sorted(range(len(tokens.lengths)), key=tokens.lengths.__getitem__)
    parts, size = [], defaults.TEXT_BATCH_SIZE
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        parts.append(encoder.encode_texts(Tokens(tokens.ids[rows], tuple(tokens.lengths[r] for r in rows))))
        if progress:
            progress(min(start + size, len(order)), len(order))
    vectors = np.empty((len(order), parts[0].shape[1]), np.float32)
    vectors[order] = np.concatenate(parts)
    return vectors
