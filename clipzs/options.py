"""How to classify: every setting with its default, and whether they go together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from clipzs import defaults
from clipzs.errors import UsageProblem
from clipzs.score import ScoreKind

ENGINES = ("auto", "torch", "openvino")
SCORE_KINDS: tuple[ScoreKind, ...] = ("softmax", "sigmoid", "cosine")


@dataclass(frozen=True)
class Options:
    """How to classify; every field has the default of the command line.

    Attributes:
        model: a preset, NAME[:TAG], `hf-hub:…` or `local-dir:…`; None is the default model, or the
            embedded one where the default cannot be had.
        pretrained: a tag or a checkpoint file.
        model_config: a model config of one's own (JSON) in place of `model`; its weights are `pretrained`.
        templates: names or files of template sets.
        template: single templates, joined to the sets.
        context: appended to every prompt, e.g. "a type of flower".
        score: "softmax", "sigmoid" (SigLIP-type models only) or "cosine".
        top_k: how many labels to keep per image; None keeps all.
        by_group: add up the probabilities of each label group.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32", "bf16" or "fp16".
        engine: "auto", "torch" or "openvino".
        compile: let torch compile the image tower; on a GPU only.
        batch_size: images per forward pass.
        max_megapixels: larger images are refused.
        image_timeout: seconds that a file may take to be read and decoded; 0 is without end.
        exact_decode: decode and resize every pixel as open_clip does, also where fewer are enough.
        cache: keep between runs what costs time to make.
        image_cache: of this, the embeddings of image files.
        cache_dir: where; None is the user's cache folder.
        prompts_dir: the user's own template sets; None is the user's config folder.
        language: of the labels, for a model whose tokenizer must be told, e.g. "zho_Hans" (NLLB-CLIP).
        quick_gelu: the activation of a checkpoint file, where it is not the architecture's usual one.
        allow_pickle: take .bin weights where there are no safetensors.
    """

    model: str | None = None
    pretrained: str | None = None
    model_config: Path | None = None
    templates: Sequence[str] = ()
    template: Sequence[str] = ()
    context: str = ""
    score: ScoreKind = "softmax"
    top_k: int | None = None
    by_group: bool = False
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"
    compile: bool = False
    batch_size: int = defaults.BATCH_SIZE
    max_megapixels: float = defaults.MAX_MEGAPIXELS
    image_timeout: float = defaults.IMAGE_TIMEOUT_S
    exact_decode: bool = False
    cache: bool = True
    image_cache: bool = True
    cache_dir: Path | None = None
    prompts_dir: Path | None = None
    language: str | None = None
    quick_gelu: bool | None = None
    allow_pickle: bool = False


def from_settings(settings: dict[str, Any]) -> Options:
    """Options from keyword arguments; `templates` may mix sets and templates there."""
    given = _listed(settings.pop("templates", ()))
    single = [text for text in given if any(mark in text for mark in defaults.PLACEHOLDERS)]
    sets = [text for text in given if text not in single]
    for path in ("cache_dir", "model_config", "prompts_dir"):
        settings[path] = Path(settings[path]) if settings.get(path) else None
    return Options(templates=sets, template=single + _listed(settings.pop("template", ())), **settings)


def _listed(given: "str | PathLike[str] | Iterable[str | PathLike[str]]") -> list[str]:
    return [fspath(one) for one in ([given] if isinstance(given, (str, PathLike)) else given)]


def checked(options: Options) -> Options:
    """The options, if they go together.

    Raises:
        UsageProblem: an unknown kind of score, a number out of range, or options that contradict each other.
    """
    if options.score not in SCORE_KINDS:
        raise UsageProblem(f"unknown score {options.score!r}", hint=f"--score takes {', '.join(SCORE_KINDS)}")
    if options.engine not in ENGINES:
        raise UsageProblem(f"unknown engine {options.engine!r}", hint=f"--engine takes {', '.join(ENGINES)}")
    if options.by_group and options.score != "softmax":
        raise UsageProblem("--by-group adds up probabilities", hint="leave --score at softmax")
    if options.model is not None and options.model_config is not None:
        raise UsageProblem("--model and --model-config both name the architecture", hint="name one")
    if options.pretrained and options.model is None and options.model_config is None:
        from clipzs.names import architecture_hint  # looks into the file

        raise UsageProblem("--pretrained needs the architecture", hint=architecture_hint(Path(options.pretrained)))
    if options.top_k is not None and options.top_k < 1:
        raise UsageProblem("--top-k must be at least 1")
    if options.batch_size < 1:
        raise UsageProblem("--batch-size must be at least 1")
    if not options.image_timeout >= 0:
        raise UsageProblem("--image-timeout must be at least 0", hint="0 is without end")
    return replace(options, templates=tuple(_listed(options.templates)), template=tuple(_listed(options.template)))
