"""`clipzs caption`: classify among whole sentences, read as they are."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipzs import defaults
from clipzs.cli import options as o
from clipzs.cli.groups import FilesGroup, ModelGroup, ReadingGroup, TalkGroup, grouped, options
from clipzs.cli.narration import Progress, set_up
from clipzs.cli.running import (
    abandoned_on_failure,
    check_resumable,
    classified,
    classifier_of,
    concluded,
    earlier_in,
    format_of,
    selected,
    usual_top_k,
)
from clipzs.errors import LabelsError, UsageProblem

if TYPE_CHECKING:
    from clipzs.labels import Label

STDIN = "-"
TABLE_TOP_K = 3
PANEL = "Candidates"


@grouped
def caption(
    ctx: typer.Context,
    paths: o.Paths = None,
    *,
    candidates: Annotated[
        list[str],
        o.repeated("--candidates", metavar="FILE", help="Sentences, one a line; - reads standard input.", panel=PANEL),
    ],
    candidate: Annotated[
        list[str], o.repeated("--candidate", "-c", metavar="TEXT", help="One sentence.", panel=PANEL)
    ],
    model: ModelGroup,
    score: o.Score = "softmax",
    top_k: Annotated[
        int | None,
        o.option("--top-k", "-k", min=1, help="Sentences per image. Unless given: table 3, tsv and csv 1, json all.",
                 panel=o.SCORES),
    ] = None,
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
) -> None:  # fmt: skip
    """Say which of some sentences fits each image best. They are read as they are, without prompt templates.

    Exit codes: 0 all captioned, 1 failed or no image found, 2 wrong usage, 3 some images could not be read
    (each has its error record), 130 stopped with Ctrl-C (143 by SIGTERM, 129 by SIGHUP).
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    from clipzs.decoders import DECODERS

    DECODERS.start()  # ready when the model is
    from clipzs.output import Output, check_apart

    format_, json = o.as_typed(ctx, format_=format_ or "", json=json)
    candidates, candidate = o.as_typed(ctx, candidates=candidates, candidate=candidate)
    selection = selected(paths or [], files)
    if STDIN in candidates and selection.live:
        raise UsageProblem("standard input is the list of images, and of sentences too", hint="write one to a file")
    target = None if output in (None, "-") else Path(str(output))
    shown = format_of(format_, json, target)
    resume = resume or retry_errors
    if resume:
        check_resumable(shown, target, selection, retry_errors=retry_errors)
    check_apart(target, [*files.files_from, *candidates, *([log] if log else [])])
    chosen = options(model, reading, score=score, top_k=top_k or usual_top_k(shown, table=TABLE_TOP_K))
    sentences = _sentences(candidate, candidates, alone=score != "softmax")
    results = Output(shown, target, cosine=score == "cosine", decimals=decimals)
    with abandoned_on_failure(results):
        progress = Progress(enabled=not talk.quiet, until_first=results.to_terminal)
        classifier = classifier_of(sentences, chosen, progress)
        earlier = earlier_in(target, classifier, selection, retry_errors=retry_errors) if resume and target else None
        if earlier is not None:
            results.go_on_after(earlier)
        run = classified(classifier, selection, [results], progress, earlier=earlier, log=log)
    raise typer.Exit(concluded(run, reasons_shown=shown not in ("tsv", "label"), quiet=talk.quiet))


def _sentences(texts: list[str], files: list[str], *, alone: bool) -> "list[Label]":
    """The candidates, in this order: --candidate, --candidates.

    Args:
        texts: one candidate each.
        files: some each.
        alone: whether one is enough.

    Raises:
        LabelsError: with file and line: none, an empty one, one that occurs twice, or a file that cannot be read.
    """
    from clipzs.labelfiles import sentences
    from clipzs.labels import as_it_is, where

    found: dict[str, Label] = {}
    for one in (*map(as_it_is, texts), *(each for file in files for each in sentences(*_read(file)))):
        if not one.name:
            raise LabelsError("--candidate is empty", hint="give it a sentence")
        if one.name in found:
            raise LabelsError(f"{where(one)}given twice: {one.name!r}", hint="a sentence can be a candidate once")
        found[one.name] = one
    if not found:
        raise LabelsError("no sentences given", hint="--candidates FILE has one a line; --candidate TEXT is one")
    if len(found) == 1 and not alone:
        raise LabelsError(
            f"only one sentence given: {next(iter(found))!r}",
            hint="its share is always 1: give others too, or ask for the similarity itself with --score cosine",
        )
    return [*found.values()]


def _read(file: str) -> tuple[str, str]:
    """Text and name of a file, or of standard input."""
    from clipzs.textfiles import decoded, read_text

    if file != STDIN:
        return read_text(Path(file), LabelsError), file
    return decoded(sys.stdin.buffer.read(), "standard input", LabelsError), "standard input"
