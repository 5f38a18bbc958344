"""What the user typed after --model → everything needed to load it. No torch, no building of models."""

import difflib
import hashlib
import importlib
import importlib.util
import json
import sys
import types
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from clipzs import catalogue, defaults, hub
from clipzs.errors import ModelError, ModelUnavailable, UnknownModel, UsageProblem
from clipzs.preprocess import INTERPOLATIONS, RESIZE_MODES, Preprocess

HF_HUB, LOCAL_DIR = "hf-hub:", "local-dir:"
DEFAULT_CONTEXT_LENGTH = 77
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class ModelSpec:
    """A model, fully described.

    Attributes:
        name: how results name it, e.g. "ViT-B-32:openai".
        config: open_clip's model config (embed_dim, vision_cfg, text_cfg, quick_gelu ...).
        preprocess: what its images go through.
        file: the checkpoint, of a model that is a local file.
        repo: the Hugging Face repository of one that is not, and
        filename: the checkpoint's name in it; None for open_clip's usual names.
        tokenizer_dir: a local-dir model's folder, where its own tokenizer lies.
        allow_pickle: whether the repository's .bin will do.
    """

    name: str
    config: Mapping[str, Any] = field(repr=False)
    preprocess: Preprocess
    file: Path | None = None
    repo: str = ""
    filename: str | None = None
    tokenizer_dir: Path | None = None
    allow_pickle: bool = False

    @cached_property
    def weights(self) -> Path:
        """The checkpoint on this machine, downloaded now if it has to be.

        Raises:
            ModelUnavailable: neither cached nor downloadable.
        """
        if self.file is not None:
            return self.file
        if self.filename:
            return hub.fetched(self.repo, self.filename)
        return hub.weights(self.repo, allow_pickle=self.allow_pickle)

    @property
    def local_weights(self) -> Path | None:
        """The checkpoint if it is on this machine already. No network."""
        if self.file is not None:
            return self.file
        names = (self.filename,) if self.filename else (hub.SAFETENSORS, *((hub.PICKLE,) if self.allow_pickle else ()))
        return next((path for path in (hub.cached(self.repo, name) for name in names) if path), None)

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        return str(self.file) if self.file else f"{HF_HUB}{self.repo}"

    @property
    def context_length(self) -> int:
        """Tokens a prompt may have, its start and end included."""
        return int(self.config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH))

    @property
    def tokenizer(self) -> str:
        """Name of the tokenizer: a Hugging Face one, or open_clip's BPE."""
        name = self.config["text_cfg"].get("hf_tokenizer_name")
        return str(self.tokenizer_dir or name) if name else "open_clip BPE"

    @property
    def sigmoid(self) -> bool:
        """Whether it was trained with a bias for independent probabilities (SigLIP)."""
        return self.config.get("init_logit_bias") is not None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights: what tells two models of one name apart."""
        blob = self.weights.resolve().name  # the hub cache names large files by their SHA-256
        if len(blob) == 64 and not set(blob) - set("0123456789abcdef"):
            return blob
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else _sha256(file)

    @property
    def digest(self) -> str:
        """Hash of all that determines an embedding but the texts: weights, architecture, tokenizer, preprocessing."""
        described = [self.fingerprint, dict(self.config), self.tokenizer, vars(self.preprocess)]
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=list).encode()).hexdigest()


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


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
    preset = next((each for each in catalogue.PRESETS if each.name == model), None)
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
    if tag is not None and _clean(tag) not in tag_table().get(name, {}) and Path(tag).is_file():
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


def model_names() -> list[str]:
    """Names of all architectures open_clip has."""
    return sorted(path.stem for path in (_open_clip_folder() / "model_configs").glob("*.json"))


def model_tags(name: str) -> list[str]:
    """Pretrained tags of one architecture."""
    return list(tag_table().get(name, {}))


@cache
def tag_table() -> dict[str, dict[str, dict[str, Any]]]:
    """open_clip's table of pretrained weights: architecture → tag → its facts.

    Read from open_clip's own module, loaded on its own: importing the package would import torch,
    torchvision and timm first, which takes seconds.
    """
    alias = "_clipzs_open_clip"
    package = types.ModuleType(alias)
    package.__path__ = [str(_open_clip_folder())]
    blocked = "safetensors.torch" not in sys.modules
    if blocked:
        sys.modules["safetensors.torch"] = None  # type: ignore[assignment]  # its import is optional there, and slow
    try:
        sys.modules[alias] = package
        module = importlib.import_module(f"{alias}.pretrained")
    finally:
        if blocked:
            del sys.modules["safetensors.torch"]
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for name, tag in module.list_pretrained():
        table.setdefault(name, {})[tag] = module.get_pretrained_cfg(name, tag)
    return table


def _open_clip_folder() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("open_clip is not installed", hint="pip install open_clip_torch")
    return Path(next(iter(spec.submodule_search_locations)))


def _config(name: str) -> dict[str, Any]:
    """The config of a built-in architecture.

    Raises:
        UnknownModel: naming the nearest names.
    """
    known = model_names()
    if name not in known:
        by_lower = {each.lower(): each for each in known}
        near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
        raise UnknownModel(
            f"unknown model {name!r}"
            + (f"; did you mean {', '.join(by_lower[each] for each in near)}?" if near else ""),
            hint="`clipzs models list` shows the recommended ones, --all everything",
        )
    text = (_open_clip_folder() / "model_configs" / f"{name}.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


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
    config, tags = _config(name), tag_table().get(name, {})
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
    config = _config(name)
    variants = [_preprocess(facts, config) for facts in tag_table().get(name, {}).values()]
    preprocess = Counter(variants).most_common(1)[0][0] if variants else _preprocess({}, config)
    return ModelSpec(f"{name}:{path.name}", config, preprocess, file=path.resolve())


def _from_hub(repo: str, allow_pickle: bool) -> ModelSpec:
    config, preprocess = _read_config(hub.fetched(repo, hub.CONFIG), f"{HF_HUB}{repo}")
    return ModelSpec(f"{HF_HUB}{repo}", config, preprocess, repo=repo, allow_pickle=allow_pickle)


def _from_folder(folder: str, allow_pickle: bool) -> ModelSpec:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UnknownModel(f"no such folder: {folder}", hint="local-dir: takes a folder with open_clip_config.json")
    config, preprocess = _read_config(path / hub.CONFIG, f"{LOCAL_DIR}{folder}")
    suffixes = WEIGHT_SUFFIXES if allow_pickle else WEIGHT_SUFFIXES[:1]
    found = sorted(file for suffix in suffixes for file in path.glob(f"*{suffix}"))
    weights = next((file for file in found if file.name.startswith("open_clip_")), found[0] if found else None)
    if weights is None:
        others = [file.name for suffix in WEIGHT_SUFFIXES[1:] for file in path.glob(f"*{suffix}")]
        raise ModelError(
            f"{folder} has no weights as safetensors",
            hint=f"--allow-pickle takes {others[0]} (read weights-only)" if others else "put *.safetensors there",
        )
    return ModelSpec(f"{LOCAL_DIR}{folder}", config, preprocess, file=weights.resolve(), tokenizer_dir=path)


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
    return config, _preprocess(data.get("preprocess_cfg") or {}, config)


def _preprocess(facts: Mapping[str, Any], config: Mapping[str, Any]) -> Preprocess:
    size = config["vision_cfg"].get("image_size", 224)
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in facts.items()
        if key in ("mean", "std", "interpolation", "resize_mode", "fill_color") and value is not None
    }
    preprocess = replace(Preprocess(), size=(size, size) if isinstance(size, int) else (size[0], size[1]), **given)
    if preprocess.interpolation not in INTERPOLATIONS or preprocess.resize_mode not in RESIZE_MODES:
        raise ModelError(
            f"unknown preprocessing: {preprocess.interpolation}, {preprocess.resize_mode}",
            hint=f"interpolation is one of {', '.join(INTERPOLATIONS)}; resize_mode of {', '.join(RESIZE_MODES)}",
        )
    return preprocess


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
            f"({str(error).rpartition(', and ')[2]}). Get it with: clipzs models pull {defaults.MODEL}"
        )
