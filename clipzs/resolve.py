"""What the user typed after --model → a full description of the model. No torch, no building of models.

`names` takes the words apart, `registry` and `modelconfig` read open_clip's tables and files, `families` knows
languages and licences; here they are put together, with where each value came from.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

from clipzs import catalogue, defaults, describing, families, hub, modelconfig, names
from clipzs.describing import in_language
from clipzs.errors import ModelError, ModelUnavailable, UnknownModel, UsageProblem
from clipzs.modelspec import HF_HUB, Licence, ModelSpec
from clipzs.names import WEIGHT_SUFFIXES
from clipzs.registry import architecture, tag_table

__all__ = ["ModelSpec", "in_language", "of_anyone", "resolve", "resolve_default", "tag_table", "tiny"]

CHINESE = "cn-clip:"
LOCAL_DIR = "local-dir:"
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
    """Describe a model, and find where its weights are; they are fetched when first used.

    Args:
        model: a preset, `tiny`, open_clip's NAME, NAME:TAG or NAME/TAG, OpenAI's name of one of its models,
            `hf-hub:org/repo` or `local-dir:PATH`.
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
    if model == catalogue.TINY:
        if pretrained:
            raise UsageProblem("--pretrained does not go with the built-in model", hint="name the architecture instead")
        return tiny()
    return describing.with_activation(_found(model, pretrained, quick_gelu, allow_pickle), quick_gelu)


def of_anyone(name: str) -> bool:
    """Whether a model of that name is a file, a folder or a repository that anyone may have made.

    What stands in a file of unknown origin must not choose such a one.
    """
    return name.startswith((HF_HUB, LOCAL_DIR)) or name.endswith(WEIGHT_SUFFIXES)


def _found(model: str, pretrained: str | None, quick_gelu: bool | None, allow_pickle: bool) -> ModelSpec:
    if model.startswith(CHINESE):
        from clipzs import chinese  # not needed for any other model

        return chinese.spec(model.removeprefix(CHINESE), pretrained, allow_pickle=allow_pickle)
    for schema, find in ((HF_HUB, _from_hub), (LOCAL_DIR, _from_folder)):
        if model.startswith(schema):
            if pretrained:
                raise UsageProblem(f"--pretrained does not go with {schema}…", hint="name one or the other")
            return find(model.removeprefix(schema), allow_pickle)
    name, tag = names.parsed(model, pretrained)
    if tag is not None and names.known_tag(name, tag) is None and os.path.isfile(tag):
        if quick_gelu is None:
            describing.ask_for_activation(name, Path(tag))
        return _from_file(name, Path(tag))
    return _from_tag(name, tag, allow_pickle)


def resolve_config(config: Path, pretrained: str | None, *, quick_gelu: bool | None = None) -> ModelSpec:
    """Describe a model by a config file of the user's own.

    Args:
        config: an architecture as in open_clip's model_configs, or an open_clip_config.json.
        pretrained: its checkpoint file.
        quick_gelu: its activation, where the config is wrong.

    Raises:
        UsageProblem: no checkpoint file is named.
        UnknownModel: a file that is not there.
        ModelError: the config is none of open_clip's formats.
    """
    if not pretrained:
        raise UsageProblem("--model-config needs the weights too", hint="name their file: --pretrained FILE")
    description, preprocess = modelconfig.of_user(config)
    if not os.path.isfile(pretrained):
        raise UnknownModel(f"no such weights file: {pretrained}", hint="--model-config takes weights from a file")
    said = describing.sources(str(config), weights="--pretrained", preprocessing=str(config))
    if preprocess is None:
        preprocess, said["preprocessing"] = describing.usual_preprocess(description)
    beside = hub.cached_tokenizer(str(config.parent))
    if beside and description["text_cfg"].get("hf_tokenizer_name"):
        said["tokenizer"] = f"the folder {beside}"
    spec = ModelSpec(
        f"{config.stem}:{Path(pretrained).name}",
        description,
        preprocess,
        file=Path(pretrained).resolve(),
        tokenizer_dir=beside,
        sources=said,
    )
    return describing.with_activation(describing.guessed(spec), quick_gelu)


def tiny() -> ModelSpec:
    """The embedded model: whatever config and weights lie in clipzs/tiny."""
    folder = Path(__file__).parent / "tiny"
    config = json.loads((folder / "clipzs-tiny.json").read_text(encoding="utf-8"))
    licence = Licence("CC BY-NC 4.0", commercial=False, source="the LICENSE beside the weights")
    return ModelSpec(
        name=catalogue.TINY,
        config=config,
        preprocess=modelconfig.preprocessing({}, config),
        file=folder / "clipzs-tiny.safetensors",
        languages=families.ENGLISH,
        licence=licence,
        sources=describing.sources(
            "clipzs-tiny.json",
            weights="comes with clipzs",
            preprocessing=describing.DEFAULTS,
            languages="its model card",
            licence=licence.source,
        ),
        family="clipzs' own",
    )


def _from_tag(name: str, tag: str | None, allow_pickle: bool) -> ModelSpec:
    tag = tag if tag is not None else names.only_tag(name)
    own = names.known_tag(name, tag)
    if own is None:
        raise names.unknown_tag(name, tag)
    config, facts = architecture(name), tag_table()[name][own]
    repo, _, filename = facts.get("hf_hub", "").rpartition("/")
    if not repo:
        raise ModelError(f"{name}:{own} is not on the Hugging Face hub", hint="download it, then --pretrained FILE")
    said = describing.sources(f"open_clip's {name}.json", weights=describing.TABLE, preprocessing=describing.TABLE)
    # A tag's activation is part of its weights: open_clip builds the wrong one unless told, and only warns.
    # It is never switched off: one config (roberta-ViT-B-32) is right where its tag says nothing.
    if facts.get("quick_gelu") and not config.get("quick_gelu"):
        config, said["activation"] = {**config, "quick_gelu": True}, describing.TABLE
    spec = ModelSpec(
        f"{name}:{own}",
        config,
        modelconfig.preprocessing(facts, config),
        repo=repo,
        filename=filename or None,
        allow_pickle=allow_pickle,
        sources=said,
    )
    return describing.known(spec, families.of_weights(name, own))


def _from_file(name: str, path: Path) -> ModelSpec:
    """A checkpoint file: its images are prepared the way most weights of its architecture want them.

    open_clip itself would fall back to OpenAI's preprocessing whatever the architecture.
    """
    config = architecture(name)
    preprocess, source = describing.common_preprocess(name, config)
    spec = ModelSpec(
        f"{name}:{path.name}",
        config,
        preprocess,
        file=path.resolve(),
        sources=describing.sources(f"open_clip's {name}.json", weights="--pretrained", preprocessing=source),
    )
    family = families.of_architecture(name)
    return describing.guessed(replace(spec, family=family.name if family else ""))


def _from_hub(repo: str, allow_pickle: bool) -> ModelSpec:
    config, preprocess = modelconfig.of_model(hub.fetched(repo, hub.CONFIG), f"{HF_HUB}{repo}")
    said = f"the repository's {hub.CONFIG}"
    spec = ModelSpec(
        f"{HF_HUB}{repo}",
        config,
        preprocess or modelconfig.preprocessing({}, config),
        repo=repo,
        allow_pickle=allow_pickle,
        sources=describing.sources(said, weights="the name", preprocessing=said if preprocess else describing.DEFAULTS),
    )
    pairs = ((name, tag, facts) for name, tags in tag_table().items() for tag, facts in tags.items())
    pair = next(((name, tag) for name, tag, facts in pairs if facts.get("hf_hub", "").rpartition("/")[0] == repo), None)
    return describing.known(spec, families.of_weights(*pair)) if pair else describing.guessed(spec)


def _from_folder(folder: str, allow_pickle: bool) -> ModelSpec:
    path = Path(os.path.expanduser(folder))
    if not folder or not os.path.isdir(path):
        raise UnknownModel(f"no such folder: {folder}", hint="local-dir: takes a folder with open_clip_config.json")
    config, preprocess = modelconfig.of_model(path / hub.CONFIG, f"{LOCAL_DIR}{folder}")
    suffixes = WEIGHT_SUFFIXES if allow_pickle else WEIGHT_SUFFIXES[:1]
    found = sorted(file for file in path.iterdir() if file.suffix in suffixes)
    weights = min(found, key=_preference, default=None)
    if weights is None:
        others = [file.name for suffix in WEIGHT_SUFFIXES[1:] for file in path.glob(f"*{suffix}")]
        raise ModelError(
            f"{folder} has no weights as safetensors",
            hint=f"--allow-pickle takes {others[0]} (read weights-only)" if others else "put *.safetensors there",
        )
    said = f"the folder's {hub.CONFIG}"
    spec = ModelSpec(
        f"{LOCAL_DIR}{folder}",
        config,
        preprocess or modelconfig.preprocessing({}, config),
        file=weights.resolve(),
        tokenizer_dir=path,
        sources=describing.sources(
            said,
            weights="the folder",
            tokenizer="the folder" if config["text_cfg"].get("hf_tokenizer_name") else said,
            preprocessing=said if preprocess else describing.DEFAULTS,
        ),
    )
    return describing.guessed(spec)


def _preference(file: Path) -> tuple[bool, int]:
    usual = _USUAL_NAMES.index(file.name) if file.name in _USUAL_NAMES else len(_USUAL_NAMES)
    return (file.suffix != WEIGHT_SUFFIXES[0], usual)


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
