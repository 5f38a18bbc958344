"""The options that commands share, declared once. Each can also be given as CLIPZS_<NAME>."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clipzs import defaults

IMAGES, LABELS, PROMPTS, MODEL, SCORES, ANSWERS, FITTING, OUTPUT = (
    "Images",
    "Labels",
    "Prompts",
    "Model",
    "Scores",
    "Answers",
    "Fitting",
    "Output",
)


def option(*flags: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option that can also be set in the environment, under the name of its first long flag."""
    return typer.Option(*flags, help=help, envvar=env_name(flags), rich_help_panel=panel, **more)


def repeated(*flags: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """A repeatable option; its environment variable holds one value a line (spaces belong to values)."""
    name = env_name(flags)
    return typer.Option(
        *flags,
        help=f"{help} Repeatable. \\[env var: {name}, one a line]",
        default_factory=_lines_of(name),
        show_default=False,
        rich_help_panel=panel,
        **more,
    )


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether a parameter is on the command line, and not only in the environment."""
    return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"


def as_typed(context: typer.Context, /, **values: Any) -> tuple[Any, ...]:
    """Values of options of one kind: what the command line says of any of them silences the environment for all.

    Otherwise CLIPZS_LABELS would join labels from a file that was named for this one call.
    """
    typed = {name for name in values if is_typed(context, name)}
    if not typed:
        return tuple(values.values())
    return tuple(value if name in typed else type(value)() for name, value in values.items())


def env_name(flags: tuple[str, ...]) -> str:
    """CLIPZS_ and the first long flag in capitals."""
    long = next(flag for flag in flags if flag.startswith("--"))
    return "CLIPZS_" + long.split("/")[0].strip("-").upper().replace("-", "_")


def _lines_of(name: str) -> Callable[[], list[str]]:
    return lambda: [line for line in os.environ.get(name, "").splitlines() if line]


def _stay_offline(wanted: bool) -> bool:
    """At once, before anything has a chance to ask."""
    if wanted:
        from clipzs.hub import go_offline

        go_offline()
    return wanted


Paths = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATHS", help="Images and folders; - reads a list of paths from standard input."),
]
FilesFrom = Annotated[
    list[str], repeated("--files-from", metavar="FILE", help="A file that lists paths, one a line.", panel=IMAGES)
]
Null = Annotated[bool, option("--null", "-0", help="Lists are separated by NUL bytes (find -print0).", panel=IMAGES)]
Recursive = Annotated[
    bool, option("--recursive/--no-recursive", help="Look into folders inside folders.", panel=IMAGES)
]
Exclude = Annotated[
    list[str], repeated("--exclude", metavar="GLOB", help="Leave out what matches, inside folders.", panel=IMAGES)
]
MaxMegapixels = Annotated[
    float, option("--max-megapixels", min=0.0, help="Refuse larger images before decoding them.", panel=IMAGES)
]
ImageTimeout = Annotated[
    float,
    option("--image-timeout", metavar="SECONDS", min=0.0, help="Give up on an image after so long; 0 never does.",
           panel=IMAGES),
]  # fmt: skip
ExactDecode = Annotated[
    bool,
    option("--exact-decode", help="Decode every pixel of large images: slower, bit-equal to open_clip.", panel=IMAGES),
]

TruthFolder = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="A folder that holds a folder of images for each class.")
]
TruthFile = Annotated[
    Path | None,
    option("--truth", metavar="FILE", help="In place of DIR: a .csv, .tsv or .jsonl with path and label.",
           panel=IMAGES),
]  # fmt: skip
TruthMap = Annotated[
    Path | None,
    option("--map", metavar="FILE", help="Labels for the names of classes: a .yaml, .json or .csv of class and label. "
           "Classes may share one.", panel=LABELS),
]  # fmt: skip

LabelsCsv = Annotated[
    list[str],
    repeated("--labels", metavar="A,B", help='Labels, comma-separated; CSV quotes keep a comma: \'"salt, pepper",x\'.',
             panel=LABELS),
]  # fmt: skip
LabelOne = Annotated[
    list[str], repeated("--label", "-l", metavar="TEXT", help="One label; may hold commas.", panel=LABELS)
]
LabelsFile = Annotated[
    list[str],
    repeated(
        "--labels-file",
        metavar="FILE",
        help="Labels of a .txt (one a line), .csv, .json or .yaml file (aliases, prompts, groups); "
        "of a .jsonl, those of its images.",
        panel=LABELS,
    ),
]

Head = Annotated[
    str | None,
    option(
        "--head",
        metavar="FILE",
        help="A classifier that `clipzs fit` made of example images, in place of labels and prompts.",
        panel=LABELS,
    ),
]

Templates = Annotated[
    list[str],
    repeated(
        "--templates",
        "-t",
        metavar="NAME|FILE",
        help=f"A prompt-template set; `{defaults.TEMPLATES}` unless given. See `clipzs prompts list`.",
        panel=PROMPTS,
    ),
]
Template = Annotated[
    list[str],
    repeated("--template", metavar="TEXT", help='One template, e.g. "a photo of a <>".', panel=PROMPTS),
]
Context = Annotated[
    str, option("--context", metavar="TEXT", help='Appended to every prompt, e.g. "a type of flower".', panel=PROMPTS)
]
PromptsDir = Annotated[
    Path | None,
    option("--prompts-dir", metavar="DIR", help="Folder of your own template sets (YAML).", panel=PROMPTS),
]

Model = Annotated[
    str | None,
    option(
        "--model",
        "-m",
        metavar="NAME[:TAG]",
        help=f"A preset (tiny, fast, balanced, best, multilingual), any open_clip model, cn-clip:NAME, "
        f"hf-hub:ORG/REPO or local-dir:PATH. Unless given: {defaults.MODEL}, or `tiny` where that cannot be had.",
        panel=MODEL,
    ),
]
Models = Annotated[
    list[str],
    repeated(
        "--model",
        "-m",
        metavar="NAME[:TAG]",
        help="As of `clipzs classify`. The first is asked where a request names none.",
        panel=MODEL,
    ),
]
Pretrained = Annotated[
    str | None, option("--pretrained", metavar="TAG|FILE", help="Weights for --model: a tag or a file.", panel=MODEL)
]
ModelConfig = Annotated[
    Path | None,
    option(
        "--model-config",
        metavar="FILE",
        help="A model config of your own (JSON) in place of --model; --pretrained names its weights.",
        panel=MODEL,
    ),
]
Language = Annotated[
    str | None,
    option(
        "--language",
        metavar="CODE",
        help="Of the labels, for models that must be told: NLLB-CLIP takes zho_Hans, fra_Latn and the like.",
        panel=MODEL,
    ),
]
QuickGelu = Annotated[
    bool | None,
    option("--quick-gelu/--no-quick-gelu", help="The activation of a weights file; tags know theirs.", panel=MODEL),
]
AllowPickle = Annotated[
    bool,
    option("--allow-pickle", help="Take .bin weights where there are no safetensors (weights-only).", panel=MODEL),
]
Offline = Annotated[
    bool,
    option(
        "--offline",
        help="Never touch the network: what is not on this machine is missing. HF_HUB_OFFLINE=1 does the same.",
        panel=MODEL,
        callback=_stay_offline,
    ),
]
Server = Annotated[
    str | None,
    option(
        "--server",
        metavar="URL|auto",
        help="Let a running `clipzs serve` compute: http://HOST:PORT or unix:PATH; auto takes one of yours that has "
        "the model. Its token is CLIPZS_TOKEN.",
        panel=MODEL,
    ),
]
Device = Annotated[str, option("--device", help="auto, cpu, cuda, cuda:N or mps.", panel=MODEL)]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    option("--precision", help="auto is fp32 on a CPU, fp16 on a GPU.", panel=MODEL),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino"],
    option(
        "--engine",
        help="On a CPU, auto compiles the model once with OpenVINO and needs no torch from then on.",
        panel=MODEL,
    ),
]
Compile = Annotated[
    bool, option("--compile", help="Let torch compile the image tower (GPU only; takes a minute).", panel=MODEL)
]
BatchSize = Annotated[int, option("--batch-size", "-b", min=1, help="Images per forward pass.", panel=MODEL)]
CacheDir = Annotated[Path | None, option("--cache-dir", metavar="DIR", help="Where the cache is.", panel=MODEL)]
CacheLimit = Annotated[
    str,
    option(
        "--cache-limit",
        metavar="SIZE",
        help="How large the cache may become: 5GB, 500MB; what was used least recently goes. 0 is without limit.",
        panel=MODEL,
    ),
]
Cache = Annotated[bool, option("--cache/--no-cache", help="Keep between runs what costs time to make.", panel=MODEL)]
ImageCache = Annotated[
    bool,
    option(
        "--image-cache/--no-image-cache",
        help="Keep the embeddings of image files: with other labels, an unchanged file is not read again.",
        panel=MODEL,
    ),
]

Score = Annotated[
    Literal["softmax", "sigmoid", "cosine"],
    option(
        "--score",
        help="softmax shares one probability among the labels; sigmoid gives each its own (SigLIP-type "
        "models); cosine is the similarity itself.",
        panel=SCORES,
    ),
]
TopK = Annotated[
    int | None,
    option(
        "--top-k",
        "-k",
        min=1,
        help="Labels per image. Unless given: table 5, tsv and csv 1 (with --multi all), json all.",
        panel=SCORES,
    ),
]
Decimals = Annotated[
    int,
    option("--decimals", metavar="N", min=2, max=9,
           help="Of scores, except in tables. Behind the fourth they are not the same for every batch size.",
           panel=SCORES),
]  # fmt: skip
MinScore = Annotated[
    float | None,
    option("--min-score", metavar="SCORE", help="Answer `unknown` where the best label has less.", panel=ANSWERS),
]
MinMargin = Annotated[
    float | None,
    option(
        "--min-margin",
        metavar="SCORE",
        help="Answer `unknown` where the best label is not so far ahead of the second.",
        panel=ANSWERS,
    ),
]
Unknown = Annotated[
    bool,
    option(
        "--unknown",
        help="Give `unknown` a probability: that many everyday words fit the image better than your labels do.",
        panel=ANSWERS,
    ),
]
UnknownLabel = Annotated[
    str, option("--unknown-label", metavar="TEXT", help="What is answered where no label is.", panel=ANSWERS)
]
Negative = Annotated[
    list[str],
    repeated(
        "--negative",
        metavar="TEXT",
        help="With --unknown or --multi: what else there may be and is none of your labels.",
        panel=ANSWERS,
    ),
]
RollUp = Annotated[
    float | None,
    option(
        "--roll-up",
        metavar="SCORE",
        help="Where no label has so much (0.5 to 1), answer the finest group whose labels have it together, else "
        "`unknown`.",
        panel=ANSWERS,
    ),
]
Multi = Annotated[
    bool,
    option(
        "--multi",
        help="Several labels may be right: give each a probability of its own, and answer all that reach --threshold.",
        panel=ANSWERS,
    ),
]
Threshold = Annotated[
    float | None,
    option("--threshold", metavar="SCORE", help="With --multi: 0.5 unless given.", panel=ANSWERS),
]
ByGroup = Annotated[bool, option("--by-group", help="Add up the probabilities of each label group.", panel=SCORES)]

Format = Annotated[
    Literal["table", "json", "jsonl", "csv", "tsv", "label"] | None,
    option(
        "--format",
        "-f",
        help="Unless given: by the suffix of -o, else table on a terminal and tsv in a pipe.",
        panel=OUTPUT,
    ),
]
Json = Annotated[bool, option("--json", help="Short for --format jsonl: one JSON object per image.", panel=OUTPUT)]
OutputFile = Annotated[
    str | None, option("--output", "-o", metavar="FILE", help="Write there instead of standard output.", panel=OUTPUT)
]
Results = Annotated[
    str | None,
    option(
        "--results",
        metavar="FILE",
        help="Take the answers of this file (of classify, eval, export --to parquet, or corrections) or of a folder of "
        "clipzs batch, and load no model; - reads standard input.",
        panel=IMAGES,
    ),
]
Root = Annotated[
    Path | None,
    option(
        "--root",
        metavar="DIR",
        help="Where relative paths of earlier results start, if not here.",
        panel=IMAGES,
    ),
]
ReportPage = Annotated[
    Path | None,
    option(
        "--report",
        metavar="FILE.html",
        help="Also write a page to look through the results and correct them; it holds thumbnails of the images.",
        panel=OUTPUT,
    ),
]
Preview = Annotated[
    bool,
    option(
        "--preview",
        help="Show each image in the table on a terminal: Kitty's graphics, Sixel, else half-blocks.",
        panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    option("--resume", help="Go on where an earlier run stopped: keep what -o FILE.jsonl holds, do the rest.",
           panel=OUTPUT),
]  # fmt: skip
RetryErrors = Annotated[
    bool, option("--retry-errors", help="As --resume, and try again what could not be read.", panel=OUTPUT)
]
Log = Annotated[
    Path | None,
    option("--log", metavar="FILE", help="Write a JSON of what made these results: versions, model, prompts, counts.",
           panel=OUTPUT),
]  # fmt: skip
ShotsTried = Annotated[
    str | None,
    option(
        "--shots",
        metavar="N,N",
        help="Measure instead what `clipzs fit` would gain with so many images of each class: 1,2,4,8,16.",
        panel=FITTING,
    ),
]
Draws = Annotated[
    int, option("--draws", metavar="N", min=1, help="With --shots: how often other images are drawn.", panel=FITTING)
]
Quiet = Annotated[bool, option("--quiet", "-q", help="Errors only: no progress, no warnings.", panel=OUTPUT)]
Verbose = Annotated[bool, option("--verbose", "-v", help="Say more, the libraries' messages too.", panel=OUTPUT)]
