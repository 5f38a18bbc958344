"""`clipzs classify`: the main job."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from clipzs.cli.narration import Progress, set_up
from clipzs.cli.running import (
    abandoned_on_failure,
    check_resumable,
    classified,
    classifier_of,
    concluded,
    earlier_in,
    format_of,
    replayed,
    selected,
    usual_top_k,
)
from clipzs.errors import UsageProblem, listed

if TYPE_CHECKING:
    from clipzs.classifier import Classifier
    from clipzs.preview import Preview
    from clipzs.report import Report
    from clipzs.results import Result
    from clipzs.run import Sink


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
    report: o.ReportPage = None,
    preview: o.Preview = False,
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
    from clipzs.output import Output, check_apart

    format_, json = o.as_typed(ctx, format_=format_ or "", json=json)
    fitted = settled_head(ctx, head, labels, prompts)
    selection = selected(paths or [], files)
    target = None if output in (None, "-") else Path(str(output))
    chosen_format = format_of(format_, json, target)
    resume = resume or retry_errors
    if resume:
        check_resumable(chosen_format, target, selection, retry_errors=retry_errors)
    read = [*files.files_from, *labels.labels_file, *(str(file) for file in (fitted, log) if file)]
    check_apart(target, read)
    top_k = top_k or usual_top_k(chosen_format, several=answers.multi)
    kept = _kept(top_k) if report and not resume else top_k
    chosen = options(model, reading, prompts, score=score, top_k=kept, by_group=by_group, head=fitted, **vars(answers))
    pictures = _preview(ctx, chosen_format, target, reading) if preview else None
    results = Output(chosen_format, target, cosine=score == "cosine", decimals=decimals, preview=pictures)
    with abandoned_on_failure(results):
        progress = Progress(enabled=not talk.quiet, until_first=results.to_terminal)
        classifier = classifier_of(labels.given(), chosen, progress)
        earlier = earlier_in(target, classifier, selection, retry_errors=retry_errors) if resume and target else None
        if earlier is not None:
            results.go_on_after(earlier)
        page = None
        if report is not None:
            page = _page(
                report,
                [*read, *filter(None, [target])],
                classifier,
                listed([*(paths or []), *files.files_from]),
                decimals,
            )
        at_once = [page] if page and earlier is None else []
        with abandoned_on_failure(*at_once):
            written: Sink = results if kept == top_k else _Fewer(results, top_k)
            run = classified(classifier, selection, [written, *at_once], progress, earlier=earlier, log=log)
    if page and earlier and target:
        with abandoned_on_failure(page):  # of the earlier records, too
            replayed(target, [page], progress)
    raise typer.Exit(concluded(run, reasons_shown=chosen_format not in ("tsv", "label"), quiet=talk.quiet))


def _preview(context: typer.Context, format_: str, target: Path | None, reading: ReadingGroup) -> "Preview | None":
    """What shows pictures, on a terminal; elsewhere the environment asks in vain, and the command line is told so."""
    if format_ == "table" and target is None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from clipzs.preview import Preview

        return Preview(max_megapixels=reading.max_megapixels, timeout=reading.image_timeout)
    if o.is_typed(context, "preview"):
        raise UsageProblem(
            "--preview shows images in the table on a terminal, and the results go elsewhere",
            hint="leave it out; --report FILE.html makes a page with thumbnails",
        )
    return None


def _kept(top_k: int | None) -> int | None:
    """Scores of an image where a page shows some, too: without the second best there is no margin."""
    from clipzs.report import KEPT

    return top_k and max(top_k, KEPT)


class _Fewer:
    """A sink that gives another the first scores only, as if no more had been kept."""

    def __init__(self, sink: "Sink", top_k: int | None) -> None:
        self._sink, self._top_k = sink, top_k

    @property
    def again(self) -> str | None:
        """As the other says."""
        return self._sink.again

    def write(self, batch: "Sequence[Result]") -> None:
        """Leave out the other scores, and that of an answer which is among them."""
        self._sink.write([self._fewer(result) for result in batch])

    def _fewer(self, result: "Result") -> "Result":
        left_out = result.scores[self._top_k :]
        score = None if any(one.label == result.label for one in left_out) else result.score
        return replace(result, scores=result.scores[: self._top_k], score=score)

    def close(self, run: Mapping[str, Any]) -> None:
        """Close the other."""
        self._sink.close(run)

    def abandon(self) -> None:
        """Abandon the other."""
        self._sink.abandon()


def _page(target: Path, read: Sequence[str | Path], classifier: "Classifier", title: str, decimals: int) -> "Report":
    from clipzs.cli.report import new_page

    options = classifier.options
    return new_page(
        target,
        read,
        option="--report",
        title=title,
        limits={"max_megapixels": options.max_megapixels, "timeout": options.image_timeout},
        labels=() if options.by_group else [label.name for label in classifier.labels],
        unknown=options.unknown_label if classifier.abstains else None,
        decimals=decimals,
    )
