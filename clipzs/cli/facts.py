"""A model's description for people, as lines, and for programs, as JSON."""

from collections.abc import Iterator
from typing import Any

from clipzs import catalogue, families
from clipzs.modelspec import ModelSpec, named_hash
from clipzs.sizes import in_words


def lines(spec: ModelSpec, typed: str) -> Iterator[tuple[str, str]]:
    """What is known of a model, and at the end where it was found.

    Args:
        spec: the model.
        typed: what a person wrote to name it.

    Yields:
        (key, value); the last keys are all "from": a source, and what came from it.
    """
    local, size, prepared = spec.local_weights, spec.bytes_here, spec.preprocess
    preset = catalogue.preset(spec.name)
    yield "name", spec.name
    yield "family", spec.family or "unknown"
    yield "weights", str(local) if local else f"not on this machine; `clipzs models pull {typed}` fetches them"
    if size is not None:
        yield "size", in_words(size)
    yield "source", spec.source
    yield "image size", f"{prepared.size[1]}×{prepared.size[0]} pixels"
    yield (
        "preprocessing",
        f"{prepared.resize_mode}, {prepared.interpolation}, mean {prepared.mean}, std {prepared.std}",
    )
    yield "embedding", f"{spec.config['embed_dim']} numbers"
    yield "tokenizer", spec.tokenizer
    yield "context", f"{spec.context_length} tokens"
    yield "scores", ", ".join(_scores(spec))
    yield "activation", _activation(spec)
    yield "languages", families.in_words(spec.languages)
    yield "licence", licence(spec)
    if preset is not None:
        yield "ImageNet", f"{preset.accuracy} % zero-shot top-1" if preset.accuracy else "see the model card"
    if spec.name == catalogue.TINY and local:
        yield "licence file", str(local.parent / "LICENSE")
        yield "card", str(local.parent / "MODEL_CARD.md")
    for source in dict.fromkeys(spec.sources.values()):
        yield "from", f"{source}: {', '.join(key for key, value in spec.sources.items() if value == source)}"


def document(spec: ModelSpec) -> dict[str, Any]:
    """The same as one JSON object; what is unknown is null, an empty list or an empty text."""
    local, prepared = spec.local_weights, spec.preprocess
    return {
        "name": spec.name,
        "family": spec.family,
        "backend": spec.backend,
        "config": dict(spec.config),
        "weights": {
            "path": str(local) if local else None,
            "source": spec.source,
            "sha256": named_hash(local) if local else None,
            "bytes": local.stat().st_size if local else None,
        },
        "preprocessing": vars(prepared),
        "activation": _activation(spec),
        "tokenizer": spec.tokenizer,
        "context_length": spec.context_length,
        "scores": _scores(spec),
        "languages": list(spec.languages),
        "licence": vars(spec.licence) if spec.licence else None,
        "sources": dict(spec.sources),
    }


def licence(spec: ModelSpec) -> str:
    """The licence of the weights, with a word on commercial use unless it is open."""
    if spec.licence is None:
        return "unknown; ask whoever published the weights"
    return spec.licence.name + ("" if spec.licence.commercial else " (not for commercial use)")


def _scores(spec: ModelSpec) -> list[str]:
    return ["softmax", "sigmoid", "cosine"] if spec.sigmoid else ["softmax", "cosine"]


def _activation(spec: ModelSpec) -> str:
    return "QuickGELU" if spec.config.get("quick_gelu") else "GELU"
