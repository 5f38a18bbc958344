"""What the user typed after --model → everything needed to load it. No torch, no building of models."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipzs import catalogue, defaults, hub
from clipzs.errors import ModelError, ModelUnavailable, UnknownModel, UsageProblem
from clipzs.modelspec import HF_HUB, ModelSpec
from clipzs.preprocess import INTERPOLATIONS, RESIZE_MODES, Preprocess
from clipzs.registry import architecture, tag_table

__all__ = ["ModelSpec", "resolve", "resolve_default", "tag_table", "tiny"]

LOCAL_DIR = "local-dir:"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_USUAL_NAMES = (  # of weights in a folder, best first; as open_clip looks for them
    hub.SAFETENSORS,
    "open_clip_pytorch_model.safetensors",
    hub.PICKLE,
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


def resolve(
    model: str,
    pretrained: str | None = None,
    *,
    quick_gelu: bool | None = None,
    allow_pickle: bool = False,
) -> ModelSpec:
    """Find a model's config and preprocessing, and where its weights are; they are fetched when first used.

    Args:
        model: a preset, `tiny`, open_clip's NAME or NAME:TAG, `hf-hub:org/repo` or `local-dir:PATH`.
        pretrained: a tag, or a checkpoint file of that architecture.
        quick_gelu: the activation of a checkpoint file; tags know their own.
        allow_pickle: take .bin weights where a repository or folder has no safetensors.

    Raises:
        UnknownModel: no such model or tag; the message names the nearest.
        ModelUnavailable: an hf-hub: model whose config is neither cached nor downloadable.
        ModelError: a config or folder that is not an open_clip model.
    """
    preset = catalogue.preset(model)
    if preset is not None:
        model = preset.model
    for_schema = {HF_HUB: _from_hub, LOCAL_DIR: _from_folder}
    for schema, find in for_schema.items():
        if model.startswith(schema):
            if pretrained:
                raise UsageProblem(f"--pretrained does not go with {schema}…", hint="name one or the other")
            spec = find(model.removeprefix(schema), allow_pickle)
            return _with_quick_gelu(spec, quick_gelu)
    if model == catalogue.TINY:
        if pretrained:
            raise UsageProblem("--pretrained does not go with the built-in model", hint="name the architecture instead")
        return tiny()
    name, tag = _split(model, pretrained)
    if tag is not None and _clean(tag) not in tag_table().get(name, {}) and os.path.isfile(tag):
        return _with_quick_gelu(_from_file(name, Path(tag)), quick_gelu)
    return _with_quick_gelu(_from_tag(name, tag, allow_pickle), quick_gelu)


def tiny() -> ModelSpec:
    """The embedded model: whatever config and weights lie in clipzs/tiny."""
    folder = Path(__file__).parent / "tiny"
    config = json.loads((folder / "clipzs-tiny.json").read_text(encoding="utf-8"))
    return ModelSpec(
        name=catalogue.TINY,
        config=config,
        preprocess=_preprocess({}, config),
        file=folder / "clipzs-tiny.safetensors",
    )


def _split(model: str, pretrained: str | None) -> tuple[str, str | None]:
    """NAME:TAG taken apart; open_clip writes names with a dash where others write a slash."""
    name, colon, tag = model.partition(":")
    if colon and pretrained and tag != pretrained:
        raise UsageProblem(f"two sets of weights named: {tag} and {pretrained}", hint="name one")
    return name.replace("/", "-"), pretrained or (tag if colon else None)


def _clean(tag: str) -> str:
    """A tag as open_clip looks it up."""
    return tag.lower().replace("-", "_")


def _from_tag(name: str, tag: str | None, allow_pickle: bool) -> ModelSpec:
    config, tags = architecture(name), tag_table().get(name, {})
    if tag is None:
        tag = _only_tag(name, list(tags))
    tag = _clean(tag) if _clean(tag) in tags else tag
    if tag not in tags:
        if Path(tag).suffix in WEIGHT_SUFFIXES or "/" in tag:
            raise UnknownModel(f"no such weights file: {tag}", hint=f"or name a tag of {name}: {', '.join(tags)}")
        raise UnknownModel(f"{name} has no weights {tag!r}", hint=f"its tags are: {', '.join(tags) or 'none'}")
    facts = tags[tag]
    repo, _, filename = facts.get("hf_hub", "").rpartition("/")
    if not repo:
        raise ModelError(f"{name}:{tag} is not on the Hugging Face hub", hint="download it, then --pretrained FILE")
    # A tag's activation is part of its weights: open_clip builds the wrong one unless told, and only warns.
    # It is never switched off: one config (roberta-ViT-B-32) is right where its tag says nothing.
    config = {**config, **({"quick_gelu": True} if facts.get("quick_gelu") else {})}
    return ModelSpec(
        f"{name}:{tag}",
        config,
        _preprocess(facts, config),
        repo=repo,
        filename=filename or None,
        allow_pickle=allow_pickle,
    )


def _only_tag(name: str, tags: list[str]) -> str:
    preset = next((each.model for each in catalogue.PRESETS if each.model.split(":")[0] == name), None)
    if preset is not None:
        return preset.split(":")[1]
    if len(tags) == 1:
        return tags[0]
    if not tags:
        raise UnknownModel(f"{name} has no published weights", hint="name a checkpoint: --pretrained FILE")
    raise UnknownModel(
        f"{name} has several sets of weights", hint=f"name one: {name}:{tags[0]}; also {', '.join(tags[1:])}"
    )


def _from_file(name: str, path: Path) -> ModelSpec:
    """A checkpoint file: its images are prepared the way most weights of its architecture want them.

    open_clip itself would fall back to OpenAI's preprocessing whatever the architecture.
    """
    config = architecture(name)
    variants = [_preprocess(facts, config) for facts in tag_table().get(name, {}).values()]
    preprocess = Counter(variants).most_common(1)[0][0] if variants else _preprocess({}, config)
    return ModelSpec(f"{name}:{path.name}", config, preprocess, file=path.resolve())


def _from_hub(repo: str, allow_pickle: bool) -> ModelSpec:
    config, preprocess = _read_config(hub.fetched(repo, hub.CONFIG), f"{HF_HUB}{repo}")
    return ModelSpec(f"{HF_HUB}{repo}", config, preprocess, repo=repo, allow_pickle=allow_pickle)


def _from_folder(folder: str, allow_pickle: bool) -> ModelSpec:
    path = Path(os.path.expanduser(folder))
    if not folder or not os.path.isdir(path):
        raise UnknownModel(f"no such folder: {folder}", hint="local-dir: takes a folder with open_clip_config.json")
    config, preprocess = _read_config(path / hub.CONFIG, f"{LOCAL_DIR}{folder}")
    suffixes = WEIGHT_SUFFIXES if allow_pickle else WEIGHT_SUFFIXES[:1]
    found = sorted(file for file in path.iterdir() if file.suffix in suffixes)
    weights = min(found, key=_preference, default=None)
    if weights is None:
        others = [file.name for suffix in WEIGHT_SUFFIXES[1:] for file in path.glob(f"*{suffix}")]
        raise ModelError(
            f"{folder} has no weights as safetensors",
            hint=f"--allow-pickle takes {others[0]} (read weights-only)" if others else "put *.safetensors there",
        )
    return ModelSpec(f"{LOCAL_DIR}{folder}", config, preprocess, file=weights.resolve(), tokenizer_dir=path)


def _preference(file: Path) -> tuple[bool, int]:
    usual = _USUAL_NAMES.index(file.name) if file.name in _USUAL_NAMES else len(_USUAL_NAMES)
    return (file.suffix != WEIGHT_SUFFIXES[0], usual)


def _read_config(path: Path, name: str) -> tuple[dict[str, Any], Preprocess]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{name} has no {hub.CONFIG}", hint="it is not an open_clip model") from error
    except ValueError as error:
        raise ModelError(f"{name}: {hub.CONFIG} is not valid JSON") from error
    config = data.get("model_cfg") if isinstance(data, dict) else None
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise ModelError(f"{name}: {hub.CONFIG} lacks model_cfg", hint="it is not an open_clip model")
    try:
        preprocess = _preprocess(data.get("preprocess_cfg") or {}, config)
        _ = int(config["embed_dim"]), int(config["text_cfg"].get("context_length", 1))
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ModelError(
            f"{name}: {hub.CONFIG} makes no sense: {error}", hint="it is not an open_clip model"
        ) from error
    return config, preprocess


def _preprocess(facts: Mapping[str, Any], config: Mapping[str, Any]) -> Preprocess:
    """open_clip's defaults, with what `facts` say; the size is always the architecture's."""
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


def _per_channel(value: float | Sequence[float]) -> tuple[float, ...]:
    channels = (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
    red, green, blue = (float(channel) for channel in channels)
    return red, green, blue


def _with_quick_gelu(spec: ModelSpec, quick_gelu: bool | None) -> ModelSpec:
    return spec if quick_gelu is None else replace(spec, config={**spec.config, "quick_gelu": quick_gelu})


def resolve_default() -> tuple[ModelSpec, str | None]:
    """The default model, or the embedded one with the reason why.

    Returns:
        The model, and None or one line for people.
    """
    spec = resolve(defaults.MODEL)
    try:
        _ = spec.weights
        return spec, None
    except ModelUnavailable as error:
        return tiny(), (
            f"using the small built-in model `{catalogue.TINY}`, good for coarse everyday classes only: "
            f"the default {defaults.MODEL} is not on this machine and could not be downloaded "
            f"({error.why}). Get it with: clipzs models pull {defaults.MODEL}"
        )
