"""Which architectures the weights in a file look like, by the names and shapes of their tensors. No torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipzs.checkpoint import plain_name
from clipzs.registry import architecture, model_names

_HEADER_LIMIT = 100_000_000  # bytes; the format's own


def architectures_of(weights: Path) -> list[str]:
    """Names of open_clip's plain ViT architectures that have tensors of these shapes; [] if none, or if unreadable.

    A hint for people, no more: activations and preprocessing do not show in shapes.
    """
    try:
        return looking_like(_shapes(weights))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []


def looking_like(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """The same of tensors by name."""
    try:
        seen = _key(
            patch=shapes["visual.conv1.weight"][2],
            width=shapes["visual.conv1.weight"][0],
            tokens=shapes["visual.positional_embedding"][0],
            layers=_layers(shapes, "visual.transformer.resblocks."),
            context=shapes["positional_embedding"][0],
            vocabulary=shapes["token_embedding.weight"][0],
            text_width=shapes["positional_embedding"][1],
            text_layers=_layers(shapes, "transformer.resblocks."),
            embed=shapes["text_projection"][1],
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
    configs = ((name, architecture(name)) for name in model_names() if not name.endswith("-quickgelu"))
    return [name for name, config in configs if _of_config(config) == seen]


def _of_config(config: dict[str, Any]) -> Any:
    vision, text = config["vision_cfg"], config["text_cfg"]
    if not vision.get("patch_size") or config.get("custom_text") or "width" not in text:
        return None
    return _key(
        patch=vision["patch_size"],
        width=vision["width"],
        tokens=(vision["image_size"] // vision["patch_size"]) ** 2 + 1,
        layers=vision["layers"],
        context=text.get("context_length", 77),
        vocabulary=text.get("vocab_size", 49408),
        text_width=text["width"],
        text_layers=text["layers"],
        embed=config["embed_dim"],
    )


def _key(**numbers: int) -> Any:
    return tuple(sorted(numbers.items()))


def _layers(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).partition(".")[0]) for name in shapes if name.startswith(prefix))


def _shapes(weights: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file: eight bytes of its length, then JSON."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_LIMIT:
            return {}
        header = json.loads(file.read(length))
    return {plain_name(name): entry["shape"] for name, entry in header.items() if "shape" in entry}
