"""`clipzs classify`: the main job."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.groups import (
    AnswerGroup,
    FilesGroup,
    LabelGroup,
    ModelGroup,
    PromptGroup,
    ReadingGroup,
    TalkGroup,
    grouped,
    options,
    settled_head,
)
from clipzs.cli.narration import Progress, say, set_up
from clipzs.cli.running import abandoned_on_failure, classified, concluded, selected
from clipzs.errors import UsageProblem

if TYPE_CHECKING:
    from clipzs.classifier import Classifier
    from clipzs.paths import Selection
    from clipzs.resume import Earlier


@grouped
def classify(
    ctx: typer.Context,
    paths: o.Paths = None,
    *,
    labels: LabelGroup,
    head: o.Head = None,
    prompts: PromptGroup,
    model: ModelGroup,
    score: o.Score = "softmax",
    top_k: o.TopK = None,
    by_group: o.ByGroup = False,
    answers: AnswerGroup,
    decimals: o.Decimals = defaults.DECIMALS,
    files: FilesGroup,
    reading: ReadingGroup,
    format_: o.Format = None,
    json: o.Json = False,
    output: o.OutputFile = None,
    resume: o.Resume = False,
    retry_errors: o.RetryErrors = False,
    log: o.Log = None,
    talk: TalkGroup,
) -> None:
    """Say which of your labels fits each image, and how well.

    Exit codes: 0 all labelled, 1 failed or nothing to classify, 2 wrong usage, 3 some images could not be read
    (each has its error record), 130 stopped with Ctrl-C (143 by SIGTERM, 129 by SIGHUP).
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    from clipzs.decoders import DECODERS

    DECODERS.start()  # ready when the model is
    from clipzs.classifier import Classifier
    from clipzs.output import Output, check_apart

    format_, json = o.as_typed(ctx, format_=format_ or "", json=json)
    fitted = settled_head(ctx, head, labels, prompts)
    selection = selected(paths or [], files)
    target = None if output in (None, "-") else Path(str(output))
    chosen_format = _format(format_, json, target)
    resume = resume or retry_errors
    if resume:
        _check_resumable(chosen_format, target, selection, retry_errors=retry_errors)
    check_apart(target, [*files.files_from, *labels.labels_file, *(str(file) for file in (fitted, log) if file)])
    top_k = top_k or _top_k(chosen_format, several=answers.multi)
    chosen = options(model, reading, prompts, score=score, top_k=top_k, by_group=by_group, head=fitted, **vars(answers))
    results = Output(chosen_format, target, cosine=score == "cosine", decimals=decimals)
    with abandoned_on_failure(results):
        progress = Progress(enabled=not talk.quiet, until_first=results.to_terminal)
        classifier = Classifier(
            labels.given(),
            options=chosen,
            progress=progress.prompts,
            compiling=progress.compiling,
        )
        earlier = _earlier(target, classifier, selection, retry_errors=retry_errors) if resume and target else None
        if earlier is not None:
            results.go_on_after(earlier)
        run = classified(classifier, selection, [results], progress, earlier=earlier, log=log)
    if run.images == 0 and earlier and earlier.skipped and not talk.quiet:
        say(f"nothing left to do: {target} has a record of every image")
    raise typer.Exit(concluded(run, reasons_shown=chosen_format not in ("tsv", "label"), quiet=talk.quiet))


def _format(format_: str, json: bool, target: Path | None) -> str:
    from clipzs.output import default_format

    if json and format_ not in ("", "jsonl"):
        raise UsageProblem(f"--json is --format jsonl, and --format {format_} is named too", hint="name one")
    return "jsonl" if json else format_ or default_format(target)


def _top_k(format_: str, *, several: bool) -> int | None:
    return {"table": defaults.TABLE_TOP_K, "json": None, "jsonl": None}.get(format_, None if several else 1)


def _check_resumable(format_: str, target: Path | None, selection: "Selection", *, retry_errors: bool) -> None:
    if target is None or (target.exists() and not target.is_file()):
        raise UsageProblem("--resume needs the file of the earlier run", hint="name it: -o FILE.jsonl")
    if format_ != "jsonl":
        raise UsageProblem(
            f"--resume goes on with JSON Lines only: {format_} does not say what made its scores",
            hint="write JSON Lines: -o FILE.jsonl, or --json",
        )
    if retry_errors and selection.live:
        raise UsageProblem(
            "--retry-errors reads the list of paths twice, which a pipe cannot",
            hint="write the list to a file and name it with --files-from",
        )


def _earlier(path: Path, classifier: "Classifier", selection: "Selection", *, retry_errors: bool) -> "Earlier":
    from clipzs.resume import Earlier

    again = selection.find(ordered=False) if retry_errors else None
    return Earlier(path, classifier.configuration, scores=classifier.scores_kept, retry=again)
