"""`clipzs classify`: the main job."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.narration import Progress, say, set_up
from clipzs.errors import FAILED, INTERRUPTED, SOME_IMAGES_FAILED, UsageProblem

if TYPE_CHECKING:
    from clipzs.labels import Label
    from clipzs.paths import Selection
    from clipzs.run import Run


def classify(
    ctx: typer.Context,
    paths: o.Paths = None,
    *,
    labels: o.LabelsCsv,
    label: o.LabelOne,
    labels_file: o.LabelsFile,
    templates: o.Templates,
    template: o.Template,
    context: o.Context = "",
    prompts_dir: o.PromptsDir = None,
    model: o.Model = None,
    pretrained: o.Pretrained = None,
    model_config: o.ModelConfig = None,
    language: o.Language = None,
    quick_gelu: o.QuickGelu = None,
    allow_pickle: o.AllowPickle = False,
    offline: o.Offline = False,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    engine: o.Engine = "auto",
    compile: o.Compile = False,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
    cache: o.Cache = True,
    image_cache: o.ImageCache = True,
    cache_dir: o.CacheDir = None,
    score: o.Score = "softmax",
    top_k: o.TopK = None,
    by_group: o.ByGroup = False,
    files_from: o.FilesFrom,
    null: o.Null = False,
    recursive: o.Recursive = True,
    exclude: o.Exclude,
    max_megapixels: o.MaxMegapixels = defaults.MAX_MEGAPIXELS,
    exact_decode: o.ExactDecode = False,
    format_: o.Format = None,
    json: o.Json = False,
    output: o.OutputFile = None,
    log: o.Log = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Say which of your labels fits each image, and how well.

    Exit codes: 0 all labelled, 1 failed or nothing to classify, 2 wrong usage, 3 some images could not be read
    (each has its error record), 130 stopped with Ctrl-C.
    """
    set_up(quiet=quiet, verbose=verbose)
    from clipzs.classifier import Classifier
    from clipzs.options import Options
    from clipzs.output import Output
    from clipzs.run import Run

    labels, label, labels_file = o.as_typed(ctx, labels=labels, label=label, labels_file=labels_file)
    templates, template = o.as_typed(ctx, templates=templates, template=template)
    format_, json = o.as_typed(ctx, format_=format_ or "", json=json)
    model, config = o.as_typed(ctx, model=model, model_config=str(model_config or ""))
    selection = _selection(paths or [], files_from, null=null, recursive=recursive, exclude=exclude)
    target = None if output in (None, "-") else Path(str(output))
    chosen_format = _format(format_, json, target)
    options = Options(
        model=None if config and not model else model,
        pretrained=pretrained,
        model_config=Path(config) if config else None,
        templates=templates,
        template=template,
        context=context,
        score=score,
        top_k=top_k or _top_k(chosen_format),
        by_group=by_group,
        device=device,
        precision=precision,
        engine=engine,
        compile=compile,
        batch_size=batch_size,
        max_megapixels=max_megapixels,
        exact_decode=exact_decode,
        cache=cache,
        image_cache=image_cache,
        cache_dir=cache_dir,
        prompts_dir=prompts_dir,
        language=language or None,
        quick_gelu=quick_gelu,
        allow_pickle=allow_pickle,
    )
    results = Output(chosen_format, target, cosine=score == "cosine")
    try:
        progress = Progress(enabled=not quiet, until_first=results.to_terminal)
        classifier = Classifier(
            given_labels(labels, label, labels_file),
            options=options,
            progress=progress.prompts,
            compiling=progress.compiling,
        )
        run = Run(classifier, selection, results, log=log)
        with progress.shown(None if selection.live else lambda: sum(1 for _ in selection.find())):
            run(progress.advance)
        with progress.after():
            classifier.compile()
    except BaseException:
        results.abandon()
        raise
    raise typer.Exit(_concluded(run, reasons_shown=chosen_format not in ("tsv", "label"), quiet=quiet))


def given_labels(csv: list[str], one: list[str], files: list[str]) -> "list[Label]":
    """The labels of all label options, in this order: --labels, --label, --labels-file."""
    from clipzs.labelfiles import read
    from clipzs.labels import from_names, split_commas

    named = from_names([name for text in csv for name in split_commas(text)] + one)
    return [*named, *(label for file in files for label in read(Path(file)))]


def _selection(paths: list[str], lists: list[str], **how: Any) -> "Selection":
    from clipzs.paths import STDIN, Selection

    if not paths and not lists:
        if not how["null"]:
            raise UsageProblem(
                "no images named", hint="name files or folders, or - to read a list of paths from a pipe"
            )
        paths = [STDIN]
    if STDIN in (*paths, *lists) and sys.stdin is not None and sys.stdin.isatty():
        say("reading paths from the keyboard, one a line; Ctrl-D ends the list")
    return Selection(paths, lists, **how)


def _format(format_: str, json: bool, target: Path | None) -> str:
    from clipzs.output import default_format

    if json and format_ not in ("", "jsonl"):
        raise UsageProblem(f"--json is --format jsonl, and --format {format_} is named too", hint="name one")
    return "jsonl" if json else format_ or default_format(target)


def _top_k(format_: str) -> int | None:
    return {"table": defaults.TABLE_TOP_K, "json": None, "jsonl": None}.get(format_, 1)


def _concluded(run: "Run", *, reasons_shown: bool, quiet: bool) -> int:
    """The exit code, with the closing words that go with it."""
    if run.interrupted:
        say(f"stopped after {run.images} images; what was written is complete", kind="note")
        return INTERRUPTED
    if run.images == 0:
        say("nothing to classify: no images found", kind="error")
        say("folders are searched for the usual image suffixes; a file named directly is always tried", kind="hint")
        return FAILED
    if run.errors:
        if not quiet:
            for path, reason in run.reasons if not reasons_shown else ():
                say(f"{path}: {reason}", kind="error")
            say(f"{run.errors} of {run.images} images could not be read", kind="error")
        return SOME_IMAGES_FAILED
    return 0
