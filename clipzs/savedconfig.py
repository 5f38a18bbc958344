"""What transformers writes about a Chinese-CLIP beside its weights → open_clip's terms. No torch, no transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipzs.errors import ModelError
from clipzs.preprocess import Preprocess

CONFIG = "config.json"
_CONTEXT_LENGTH = 52  # of all that were published; no file says so
_IMAGES, _IMAGES_AND_TEXTS = "preprocessor_config.json", "processor_config.json"

# What transformers takes for that which a file leaves out.
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_TEXT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
_PREPARED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": True,
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "image_mean": Preprocess().mean,
    "image_std": Preprocess().std,
}
_FILTERS = {2: "bilinear", 3: "bicubic"}  # by PIL's numbers


def described(folder: Path, name: str) -> tuple[dict[str, Any], Preprocess]:
    """The model in a folder, as `ModelSpec.config` and `ModelSpec.preprocess` have it.

    Args:
        folder: where `save_pretrained` wrote.
        name: of the model, for messages.

    Raises:
        ModelError: another kind of model, or settings that clipzs cannot follow.
    """
    config = _read(folder / CONFIG)
    if config is None:
        raise ModelError(f"{name} has no {CONFIG}", hint="transformers writes one beside the weights it saves")
    if config.get("model_type") != "chinese_clip":
        raise ModelError(
            f"{name}: its {CONFIG} describes {config.get('model_type', 'no model')}, not chinese_clip",
            hint="a folder of open_clip is --model local-dir:PATH",
        )
    images = _read(folder / _IMAGES) or (_read(folder / _IMAGES_AND_TEXTS) or {}).get("image_processor")
    try:
        ours = in_open_clips_terms(config)
        return ours, preprocess(ours["vision_cfg"]["image_size"], images)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"{name}: its settings make no sense to clipzs: {error}") from error


def in_open_clips_terms(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config of a Chinese-CLIP → `ModelSpec.config`; the sizes of its BERT keep their names.

    Raises:
        TypeError, ValueError, AttributeError, ArithmeticError: what is no size, or no part of a Chinese-CLIP.
    """
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    activation, in_text = vision.get("hidden_act", "quick_gelu"), text.get("hidden_act", "gelu")
    if activation not in ("quick_gelu", "gelu") or in_text != "gelu":
        raise ValueError(f"its activations are {activation} and {in_text}")
    image = {key: int(vision.get(key, usual)) for key, usual in _VISION.items()}
    words = {key: int(text.get(key, usual)) for key, usual in _TEXT.items()}
    return {
        "embed_dim": int(config.get("projection_dim", 512)),
        "quick_gelu": activation == "quick_gelu",
        "vision_cfg": {
            "image_size": image["image_size"],
            "patch_size": image["patch_size"],
            "layers": image["num_hidden_layers"],
            "width": image["hidden_size"],
            "head_width": image["hidden_size"] // image["num_attention_heads"],
            "mlp_ratio": image["intermediate_size"] / image["hidden_size"],
            "norm_kwargs": {"eps": float(vision.get("layer_norm_eps", 1e-5))},
        },
        "text_cfg": {
            **words,
            "layer_norm_eps": float(text.get("layer_norm_eps", 1e-12)),
            "context_length": min(_CONTEXT_LENGTH, words["max_position_embeddings"]),
        },
    }


def preprocess(image_size: int, settings: Mapping[str, Any] | None = None) -> Preprocess:
    """What images go through; without settings as in OFA-Sys' own code, which squashes them into a square.

    Raises:
        TypeError, ValueError, LookupError: settings that no `Preprocess` can follow.
    """
    square = (image_size, image_size)
    if settings is None:
        return Preprocess(size=square, resize_mode="squash")
    settings = {**_PREPARED, **settings}
    whole = {"height": image_size, "width": image_size}
    cut = settings["crop_size"] if settings["do_center_crop"] else None
    if settings["size"] == whole and cut in (None, whole):
        mode = "squash"
    elif settings["size"] in ({"shortest_edge": image_size}, image_size) and cut in (whole, image_size):
        mode = "shortest"
    else:
        raise ValueError(f"images of size {settings['size']}, cut to {cut}, for a model of {image_size} pixels")
    if not all(settings[step] for step in ("do_resize", "do_rescale", "do_normalize")):
        raise ValueError("images that are not resized, rescaled and normalised")
    mean, std = (tuple(map(float, settings[key])) for key in ("image_mean", "image_std"))
    return Preprocess(square, mean, std, _FILTERS[settings["resample"]], mode)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} makes no sense: it holds no settings")
    return data
