"""Model configs as JSON, and the preprocessing they ask for: open_clip's formats, read without importing it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipzs.errors import ModelError, UnknownModel
from clipzs.preprocess import INTERPOLATIONS, RESIZE_MODES, Preprocess

_NEEDED = {"embed_dim", "vision_cfg", "text_cfg"}
_NOT_OURS = "it is not an open_clip model"


def of_model(path: Path, name: str) -> tuple[dict[str, Any], Preprocess | None]:
    """A model's open_clip_config.json.

    Args:
        path: the file.
        name: how messages call the model.

    Returns:
        The model's config, and its preprocessing if the file says anything of it.

    Raises:
        ModelError: no such file, or not of this format.
    """
    data = _json(path, name)
    config = data.get("model_cfg") if isinstance(data, dict) else None
    if not isinstance(config, dict) or not set(config) >= _NEEDED:
        raise ModelError(f"{name}: {path.name} lacks model_cfg", hint=_NOT_OURS)
    return config, _preprocessing(path, name, config, data)


def of_user(path: Path) -> tuple[dict[str, Any], Preprocess | None]:
    """A config a person named: an open_clip_config.json, or an architecture alone, as in open_clip's model_configs.

    Returns:
        As `of_model`.

    Raises:
        UnknownModel: no such file.
        ModelError: it is neither of these.
    """
    if not path.is_file():
        raise UnknownModel(f"no such model config: {path}", hint="--model-config takes a JSON file")
    data = _json(path, str(path))
    config = data.get("model_cfg", data) if isinstance(data, dict) else None
    if not isinstance(config, dict) or not set(config) >= _NEEDED:
        raise ModelError(
            f"{path} is not a model config",
            hint="it needs embed_dim, vision_cfg and text_cfg, as they are or under model_cfg (open_clip_config.json)",
        )
    return config, _preprocessing(path, str(path), config, data)


def preprocessing(facts: Mapping[str, Any], config: Mapping[str, Any]) -> Preprocess:
    """open_clip's defaults, with what `facts` say; the size is always the architecture's.

    Raises:
        ModelError: a way of resizing there is not.
    """
    usual, size = Preprocess(), config["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, (int, float, str)) else size
    interpolation = facts.get("interpolation") or usual.interpolation
    preprocess = Preprocess(
        size=(int(height), int(width)),
        mean=_per_channel(facts.get("mean") or usual.mean),
        std=_per_channel(facts.get("std") or usual.std),
        interpolation="bicubic" if interpolation == "random" else interpolation,  # "random" is for training only
        resize_mode=facts.get("resize_mode") or usual.resize_mode,
        fill_color=int(facts.get("fill_color") or 0),
    )
    if preprocess.interpolation not in INTERPOLATIONS or preprocess.resize_mode not in RESIZE_MODES:
        raise ModelError(
            f"unknown preprocessing: {preprocess.interpolation}, {preprocess.resize_mode}",
            hint=f"interpolation is one of {', '.join(INTERPOLATIONS)}; resize_mode of {', '.join(RESIZE_MODES)}",
        )
    return preprocess


def _json(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "a Chinese-CLIP is written cn-clip:NAME, or cn-clip:FOLDER" if "chinese" in name.lower() else _NOT_OURS
        raise ModelError(f"{name} has no {path.name}", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name}: {path.name} is not valid JSON") from error


def _preprocessing(path: Path, name: str, config: Mapping[str, Any], data: Mapping[str, Any]) -> Preprocess | None:
    """What the file says of it, after a look at what every model needs."""
    facts = data.get("preprocess_cfg")
    try:
        _ = int(config["embed_dim"]), int(config["text_cfg"].get("context_length", 1))
        preprocess = preprocessing(facts or {}, config)
        return preprocess if facts else None
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        raise ModelError(f"{name}: {path.name} makes no sense: {error}", hint=_NOT_OURS) from error


def _per_channel(value: float | Sequence[float]) -> tuple[float, ...]:
    channels = (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
    red, green, blue = (float(channel) for channel in channels)
    return red, green, blue
