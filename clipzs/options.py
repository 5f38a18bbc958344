"""How to classify: every setting with its default, and whether they go together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from clipzs import defaults, sizes
from clipzs.errors import UsageProblem
from clipzs.score import ScoreKind

ADDRESSES = ("http://", "https://", "unix:")  # how those of servers begin
AUTO = "auto"  # a server that is looked for
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
        head: the file of a classifier that `clipzs fit` made, in place of templates; its labels are known.
        score: "softmax", "sigmoid" (SigLIP-type models only) or "cosine".
        top_k: how many labels to keep per image; None keeps all.
        by_group: add up the probabilities of each label group.
        min_score: a best label with less is no answer; labels' own thresholds go before it.
        min_margin: a best label that does not exceed the second by so much is no answer.
        unknown: give the unknown label a probability of its own: that no label fits better than other words do.
        unknown_label: what is answered where no label is.
        negative: what else there may be and is not wanted, beside the words that `unknown` and `multi` compare with.
        roll_up: where no label has this probability, from 0.5 to 1, the finest group that has it is the answer.
        multi: give each label a probability of its own; all that reach `threshold` are answers.
        threshold: with `multi`, the probability that makes a label an answer; None is 0.5. Labels' own go before it.
        server: address of a running `clipzs serve` that shall compute, or "auto" for one of this user that has the
            model; None is this process.
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
        cache_limit: how large that folder may become: bytes, or a text such as "5GB"; 0 is without limit.
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
    head: Path | None = None
    score: ScoreKind = "softmax"
    top_k: int | None = None
    by_group: bool = False
    min_score: float | None = None
    min_margin: float | None = None
    unknown: bool = False
    unknown_label: str = defaults.UNKNOWN_LABEL
    negative: Sequence[str] = ()
    roll_up: float | None = None
    multi: bool = False
    threshold: float | None = None
    server: str | None = None
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
    cache_limit: int | str = defaults.CACHE_LIMIT
    prompts_dir: Path | None = None
    language: str | None = None
    quick_gelu: bool | None = None
    allow_pickle: bool = False


def from_settings(settings: dict[str, Any]) -> Options:
    """Options from keyword arguments; `templates` may mix sets and templates there."""
    given = _listed(settings.pop("templates", ()))
    single = [text for text in given if any(mark in text for mark in defaults.PLACEHOLDERS)]
    sets = [text for text in given if text not in single]
    for path in ("cache_dir", "head", "model_config", "prompts_dir"):
        settings[path] = Path(settings[path]) if settings.get(path) else None
    negative = _listed(settings.pop("negative", ()))
    return Options(
        templates=sets, template=single + _listed(settings.pop("template", ())), negative=negative, **settings
    )


def names_a_model(options: Options) -> bool:
    """Whether it is not left open which model there shall be."""
    return options.model is not None or options.model_config is not None


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
    if options.server not in (None, AUTO) and not str(options.server).startswith(ADDRESSES):
        raise UsageProblem(
            f"--server {options.server}: not the address of a server",
            hint="write http://HOST:PORT, https://HOST or unix:PATH; or auto",
        )
    if options.by_group and options.score != "softmax":
        raise UsageProblem("--by-group adds up probabilities", hint="leave --score at softmax")
    _check_answers(options)
    if options.head is not None:
        _check_head(options)
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
    sizes.parsed(options.cache_limit)
    return replace(
        options,
        templates=tuple(_listed(options.templates)),
        template=tuple(_listed(options.template)),
        negative=tuple(_listed(options.negative)),
        threshold=defaults.THRESHOLD if options.multi and options.threshold is None else options.threshold,
    )


def _check_head(options: Options) -> None:
    if options.templates or options.template or options.context:
        raise UsageProblem("templates are for `clipzs fit`: a head holds its texts already", hint="leave them out")
    for name, wanted in (
        ("--score", options.score != "softmax"),
        ("--unknown", options.unknown),
        ("--multi", options.multi),
    ):
        if wanted:
            raise UsageProblem(
                f"{name} does not go with --head, which shares one probability among its labels",
                hint="leave it out; --min-score and --min-margin tell what is unsure",
            )


def _check_answers(options: Options) -> None:
    least = -1.0 if options.score == "cosine" else 0.0
    for name, low in (("min_score", least), ("min_margin", 0.0), ("threshold", 0.0)):
        value = getattr(options, name)
        if value is not None and not low <= value <= 1:
            raise UsageProblem(f"--{name.replace('_', '-')} must be from {low:g} to 1")
    if not options.unknown_label.strip():
        raise UsageProblem("--unknown-label is empty", hint=f"leave it out: it is {defaults.UNKNOWN_LABEL!r} then")
    if options.unknown and options.multi:
        raise UsageProblem(
            "--unknown shares one probability, --multi gives each label its own",
            hint="leave --unknown out: where no label reaches its threshold, --multi answers the unknown label too",
        )
    if (options.unknown or options.multi) and options.score != "softmax":
        name = "--unknown" if options.unknown else "--multi"
        raise UsageProblem(f"{name} makes probabilities its own way", hint="leave --score out")
    if options.multi and options.by_group:
        raise UsageProblem("--by-group adds up probabilities", hint="leave --multi out")
    if options.multi and (options.min_score is not None or options.min_margin is not None):
        raise UsageProblem("--min-score and --min-margin are about one best label", hint="--multi takes --threshold")
    if options.roll_up is not None:
        _check_roll_up(options, options.roll_up)
    if options.threshold is not None and not options.multi:
        raise UsageProblem("--threshold is for --multi", hint="--min-score is for the best label")
    if options.negative and not (options.unknown or options.multi):
        raise UsageProblem("--negative says what is unknown", hint="add --unknown, or --multi")
    if not all(text.strip() for text in _listed(options.negative)):
        raise UsageProblem("--negative is empty", hint="say in words what is not wanted")


def _check_roll_up(options: Options, least: float) -> None:
    if not 0.5 <= least <= 1:
        raise UsageProblem(
            "--roll-up must be from 0.5 to 1", hint="two groups may have less than half, and neither is in the other"
        )
    for name, wanted in (
        (f"--score {options.score}", options.score != "softmax"),
        ("--multi", options.multi),
        ("--by-group", options.by_group),
        ("--min-score", options.min_score is not None),
        ("--min-margin", options.min_margin is not None),
    ):
        if wanted:
            raise UsageProblem(
                f"--roll-up does not go with {name}",
                hint="it adds up the one probability that labels share, and says itself when that is too little",
            )
