"""Chinese-CLIP: the models OFA-Sys has published, and those of their kind in files and folders. No torch.

Sizes are those of model_configs in github.com/OFA-Sys/Chinese-CLIP; the project's repositories on the
Hugging Face hub hold each model as that code saved it, most of them also as transformers saves it.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from clipzs import hub
from clipzs.errors import ModelError, ModelUnavailable, UnknownModel, UsageProblem
from clipzs.modelspec import Licence, ModelSpec
from clipzs.savedconfig import CONFIG, described, in_open_clips_terms, preprocess

SCHEMA = "cn-clip:"
BACKEND = "chinese-clip"
VOCABULARY, TOKENIZER = "vocab.txt", "tokenizer.json"
_SAFETENSORS, _PICKLE = "model.safetensors", "pytorch_model.bin"  # as transformers names weights
_PICKLES = (".bin", ".pt", ".pth")
_PROJECT = "github.com/OFA-Sys/Chinese-CLIP"


class ChineseClip(ModelSpec):
    """A Chinese-CLIP model. Its `text_cfg` has the sizes of a BERT, under the names transformers has for them."""

    @cached_property
    def weights(self) -> Path:
        """The checkpoint on this machine, downloaded now if it has to be.

        Raises:
            ModelUnavailable: neither cached nor downloadable.
        """
        return self.local_weights or hub.fetched(self.repo, str(self.filename))

    @property
    def local_weights(self) -> Path | None:
        """The checkpoint if it is on this machine already, be it the one that transformers uses. No network."""
        if self.file is not None:
            return self.file
        # What OFA-Sys has published is pickles only. They are taken without --allow-pickle: no repositories but
        # these are asked, and `Checkpoint` reads tensors and nothing else, so that no code in a file can run.
        return _cached([(self.repo, name) for name in (str(self.filename), _SAFETENSORS, _PICKLE)])

    @cached_property
    def vocabulary(self) -> Path:
        """Its vocab.txt, or the tokenizer.json that transformers writes in its place; downloaded if need be.

        Raises:
            ModelUnavailable: neither cached nor downloadable.
        """
        local = self.local_vocabulary
        if local is not None:
            return local
        try:
            return hub.fetched(self.tokenizer, VOCABULARY)
        except ModelUnavailable as error:
            raise ModelUnavailable(
                f"{self.name} has no {VOCABULARY} beside its weights; {error}",
                why=error.why,
                hint=f"put {VOCABULARY} there, or fetch it once with a network: "
                f"clipzs models pull {SCHEMA}{next(iter(PUBLISHED))}",
            ) from error

    @property
    def local_vocabulary(self) -> Path | None:
        """Its vocabulary if it is on this machine already, in the model's folder or the hub cache. No network."""
        if self.tokenizer_dir is not None:
            return _vocabulary_in(self.tokenizer_dir)
        return _cached([(repo, VOCABULARY) for repo in (self.tokenizer, *_REPOS)])

    @property
    def bytes_here(self) -> int | None:
        """Size on this machine of the weights and the vocabulary; None without the weights. No network."""
        weights, vocabulary = self.local_weights, self.local_vocabulary
        if weights is None:
            return None
        return weights.stat().st_size + (vocabulary.stat().st_size if vocabulary else 0)

    def _tokenizer_files(self) -> object:
        return self.sha256(self.vocabulary)


class Published(NamedTuple):
    """A model of OFA-Sys: its repository on the hub, the name of its checkpoint there, its config and its licence."""

    repo: str
    filename: str
    config: Mapping[str, Any]
    licence: Licence


_REPOS = tuple(  # each with the vocabulary, which is the same for all models
    f"OFA-Sys/chinese-clip-vit-{size}"
    for size in ("base-patch16", "large-patch14", "large-patch14-336px", "huge-patch14")
)
_LANGUAGES, _FAMILY = ("zh", "en"), "Chinese-CLIP"
_MIT = Licence("MIT", True, f"its authors, {_PROJECT}/issues/234; the weights' own page names none")
_APACHE = Licence("Apache-2.0", True, "huggingface.co/OFA-Sys/chinese-clip-rn50")


def _config(embed_dim: int, vision: Mapping[str, int], **text: int) -> dict[str, Any]:
    """`ModelSpec.config` of a model with what sets its towers apart from a ViT-B and a BERT of 12 layers."""
    text = {"vocab_size": 21128, **text}
    return in_open_clips_terms({"projection_dim": embed_dim, "vision_config": vision, "text_config": text})


_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_HUGE = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
_RESNET = {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None}

PUBLISHED = {
    "ViT-B-16": Published(_REPOS[0], "clip_cn_vit-b-16.pt", _config(512, {"patch_size": 16}), _MIT),
    "ViT-L-14": Published(_REPOS[1], "clip_cn_vit-l-14.pt", _config(768, {**_LARGE, "patch_size": 14}), _MIT),
    "ViT-L-14-336": Published(
        _REPOS[2], "clip_cn_vit-l-14-336.pt", _config(768, {**_LARGE, "patch_size": 14, "image_size": 336}), _MIT
    ),
    "ViT-H-14": Published(_REPOS[3], "clip_cn_vit-h-14.pt", _config(1024, {**_HUGE, "patch_size": 14}, **_LARGE), _MIT),
    "RN50": Published(
        "OFA-Sys/chinese-clip-rn50",
        "clip_cn_rn50.pt",
        {**_config(1024, {}, num_hidden_layers=3), "vision_cfg": _RESNET},
        _APACHE,
    ),
}


def spec(model: str, pretrained: str | None = None, *, allow_pickle: bool = False) -> ModelSpec:
    """Find a Chinese-CLIP.

    Args:
        model: a name of `PUBLISHED`, as OFA-Sys writes it anywhere; or a folder in which transformers has saved one.
        pretrained: a checkpoint file of the model of that name.
        allow_pickle: take a folder's .bin weights where it has no safetensors.

    Raises:
        UnknownModel: no such model, folder or file; the message names the nearest.
        ModelError: a folder that holds something else.
    """
    name = _by_any_name().get(_plain(model))
    if name is not None:
        return _published(name) if pretrained is None else _from_file(name, pretrained)
    folder = Path(os.path.expanduser(model))
    if not model or not os.path.isdir(folder):
        raise _unknown(model)
    if pretrained is not None:
        raise UsageProblem(f"--pretrained does not go with the folder {model}", hint="name one or the other")
    return _from_folder(model, folder, allow_pickle)


def _by_any_name() -> dict[str, str]:
    return {key: name for name, one in PUBLISHED.items() for key in (_plain(name), _plain(one.repo))}


def _plain(name: str) -> str:
    """A name as it is looked up.

    >>> _plain("ViT-L/14@336px")
    'vit-l-14-336'
    """
    return name.lower().replace("/", "-").replace("@", "-").removesuffix("px")


def _unknown(model: str) -> UnknownModel:
    if os.path.isfile(os.path.expanduser(model)):
        return UnknownModel(
            f"{model} is a file: its architecture must be named too",
            hint=f"--model {SCHEMA}{next(iter(PUBLISHED))} --pretrained {model}",
        )
    known = _by_any_name()
    near = dict.fromkeys(known[each] for each in difflib.get_close_matches(_plain(model), known, cutoff=0.5))
    return UnknownModel(
        f"unknown model {SCHEMA + model!r}"
        + (f"; did you mean {', '.join(SCHEMA + each for each in near)}?" if near else ""),
        hint=f"the names are {', '.join(PUBLISHED)}; a folder needs {CONFIG}, weights and {VOCABULARY}",
    )


def _published(name: str) -> ChineseClip:
    model = PUBLISHED[name]
    return ChineseClip(
        SCHEMA + name,
        _with_vocabulary(model.config, model.repo),
        preprocess(model.config["vision_cfg"]["image_size"]),
        repo=model.repo,
        filename=model.filename,
        languages=_LANGUAGES,
        licence=model.licence,
        sources=_sources(_PROJECT, weights="the name", licence=model.licence.source),
        backend=BACKEND,
        family=_FAMILY,
    )


def _from_file(name: str, file: str) -> ChineseClip:
    path = Path(os.path.expanduser(file))
    if not os.path.isfile(path):
        raise UnknownModel(f"no such weights file: {file}", hint=f"without it, {SCHEMA}{name} is the published model")
    model = _published(name)
    return replace(
        model,
        name=f"{model.name}:{path.name}",
        file=path.resolve(),
        repo="",
        filename=None,
        tokenizer_dir=path.parent if _vocabulary_in(path.parent) else None,
        licence=None,
        sources=_sources(_PROJECT, weights="--pretrained"),
    )


def _from_folder(name: str, folder: Path, allow_pickle: bool) -> ChineseClip:
    config, prepared = described(folder, SCHEMA + name)
    return ChineseClip(
        SCHEMA + name,
        _with_vocabulary(config, _REPOS[0]),
        prepared,
        file=_weights_in(folder, SCHEMA + name, allow_pickle).resolve(),
        tokenizer_dir=folder if _vocabulary_in(folder) else None,
        languages=_LANGUAGES,
        sources=_sources(
            f"the folder's {CONFIG}", weights="the best-named file of the folder", preprocessing=str(folder)
        ),
        backend=BACKEND,
        family=_FAMILY,
    )


def _sources(config: str, **others: str) -> dict[str, str]:
    """`ModelSpec.sources`, most of them `config`."""
    values = ("config", "activation", "tokenizer", "context", "scores", "preprocessing")
    return {**dict.fromkeys(values, config), "languages": _PROJECT, **others}


def _with_vocabulary(config: Mapping[str, Any], repo: str) -> dict[str, Any]:
    """A config that names the repository to fetch the vocabulary from."""
    named = repo if repo in _REPOS else _REPOS[0]
    return {**config, "text_cfg": {**config["text_cfg"], "hf_tokenizer_name": named}}


def _weights_in(folder: Path, name: str, allow_pickle: bool) -> Path:
    """The weights of a folder: safetensors, and pickles only if they are allowed."""
    files = sorted(folder.iterdir(), key=lambda file: (file.name not in (_SAFETENSORS, _PICKLE), file.name))
    safe = [file for file in files if file.suffix == ".safetensors"]
    pickles = [file for file in files if file.suffix in _PICKLES]
    if safe or (allow_pickle and pickles):
        return [*safe, *pickles][0]
    raise ModelError(
        f"{name} has no weights as safetensors",
        hint=f"--allow-pickle takes {pickles[0].name} (read weights-only)" if pickles else "put *.safetensors there",
    )


def _vocabulary_in(folder: Path) -> Path | None:
    """The file transformers would read: its own, which also knows whether words are put in small letters, if any."""
    return next((folder / name for name in (TOKENIZER, VOCABULARY) if (folder / name).is_file()), None)


def _cached(files: Iterable[tuple[str, str]]) -> Path | None:
    """The first of (repository, file name) in the hub cache."""
    return next((path for path in (hub.cached(repo, name) for repo, name in files) if path is not None), None)
