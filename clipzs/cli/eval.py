"""`clipzs eval`: how often the answers are right, on pictures whose labels are known."""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipzs import __version__, defaults
from clipzs.cli import options as o
from clipzs.cli.groups import (
    LabelGroup,
    ModelGroup,
    PromptGroup,
    ReadingGroup,
    TalkGroup,
    TruthGroup,
    grouped,
    options,
    settled_head,
)
from clipzs.cli.narration import Progress, say, say_unreadable, set_up
from clipzs.cli.running import abandoned_on_failure, check_asks_no_model, put_off
from clipzs.cli.shots import compared, parsed
from clipzs.cli.show import print_lines, print_rows
from clipzs.errors import SIGNALLED, UsageProblem

if TYPE_CHECKING:
    from clipzs.classifier import Classifier
    from clipzs.evaluation import Cell, Evaluation, Measured
    from clipzs.labels import Label
    from clipzs.metrics import Figure
    from clipzs.report import Report
    from clipzs.results import Result
    from clipzs.run import Sink
    from clipzs.truth import Truth

CLASSES_SHOWN = 20
_EFFECT = "; they are in no figure"
TITLES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_recall": "mean recall per class",
    "ece": "calibration error (ECE)",
    "nll": "negative log-likelihood",
    "answered": "answered",
    "top1_answered": "of these, right",
}


@grouped
def evaluate(
    ctx: typer.Context,
    truth: TruthGroup,
    *,
    results: o.Results = None,
    root: o.Root = None,
    labels: LabelGroup,
    head: o.Head = None,
    prompts: PromptGroup,
    model: ModelGroup,
    reading: ReadingGroup,
    min_score: o.MinScore = None,
    min_margin: o.MinMargin = None,
    unknown: o.Unknown = False,
    unknown_label: o.UnknownLabel = defaults.UNKNOWN_LABEL,
    negative: o.Negative,
    seed: Annotated[
        int, o.option("--seed", min=0, help="Of the images drawn for the intervals.", panel=o.SCORES)
    ] = 0,
    json: Annotated[
        bool, o.option("--json", help="One JSON object with everything, confusion matrix and all.", panel=o.OUTPUT)
    ] = False,
    save: Annotated[
        Path | None,
        o.option("--save", metavar="FILE.jsonl", help="Write each image's record, with the truth.", panel=o.OUTPUT),
    ] = None,
    decimals: o.Decimals = defaults.DECIMALS,
    plot: Annotated[
        Path | None,
        o.option("--plot", metavar="FILE", help="Draw confusion matrix and calibration as .png or .svg.",
                 panel=o.OUTPUT),
    ] = None,
    report: o.ReportPage = None,
    shots: o.ShotsTried = None,
    draws: o.Draws = 5,
    talk: TalkGroup,
) -> None:  # fmt: skip
    """Measure how often the answers are right, on images whose labels are known.

    --templates A,B and --model X,Y measure every combination, with one image pass for each model. Labels are the
    names of the classes unless some are given. --results measures answers that are there already.

    Exit codes: 0 all measured, 1 failed, 2 wrong usage, 3 some images could not be read (they are in no figure).
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    if results is not None:
        if save is not None or report is not None:
            raise UsageProblem(
                "--save and --report are for images that are classified now",
                hint="leave them out; clipzs report makes a page of results",
            )
        check_asks_no_model(ctx, "folder", "truth", "map_", "exclude", "unknown_label", "seed", "json", "plot")
        earlier = _recorded(
            results, root, truth, plot, unknown_label, seed, Progress(enabled=not talk.quiet, until_first=False)
        )
        _print(earlier, json=json)
        raise typer.Exit(say_unreadable(earlier.truth.paths, earlier.unreadable, _EFFECT, quiet=talk.quiet))
    from clipzs.decoders import DECODERS

    DECODERS.start()
    from clipzs import evaluation, figures
    from clipzs.labels import from_names
    from clipzs.output import Output, check_apart

    fitted = settled_head(ctx, head, labels, prompts)
    answers = truth.found()
    read: list[str | Path] = [*labels.labels_file, *truth.files, *([fitted] if fitted else []), *answers.paths]
    for target, option in ((save, "--save"), (plot, "--plot")):
        check_apart(target, read, option=option)
    progress = Progress(enabled=not talk.quiet, until_first=False)
    none = unknown_label if unknown else None
    classes = [] if fitted else from_names([name for name in answers.classes if name != none])
    how: dict[str, Any] = {"min_score": min_score, "min_margin": min_margin, "unknown": unknown}
    how |= {"unknown_label": unknown_label, "negative": negative, "head": fitted}
    rows = _grid(labels.given() or classes, model, reading, prompts, progress, how)
    evaluation.check(answers, [label.name for label in rows[0][0].labels], unknown=none)
    _check_files(save, plot, alone=len(rows) * len(rows[0]) == 1)
    for row in rows:
        _ = row[0].model  # a model that cannot be had costs no image pass of another
    if shots:
        others: dict[str, Any] = {"--save": save, "--report": report, "--head": fitted, "--unknown": unknown or None}
        others |= {"--min-score": min_score, "--min-margin": min_margin}
        clash = [option for option, value in others.items() if value is not None]
        if clash or len(rows) * len(rows[0]) > 1:
            raise UsageProblem(
                f"--shots compares heads with zero-shot{f', without {clash[0]}' if clash else ''}",
                hint="name one model and one choice of templates, and leave the rest out",
            )
        code = compared(
            rows[0][0], answers, parsed(shots), draws=draws, seed=seed, json=json, plot=plot, progress=progress,
            quiet=talk.quiet,
        )  # fmt: skip
        raise typer.Exit(code)
    page = None if report is None else _page(report, [*read, *([save] if save else [])], rows[0][0], truth, decimals)
    sinks: list[Sink] = [Output("jsonl", save, decimals=decimals)] if save is not None else []
    total = len(answers.paths) * len(rows)
    with abandoned_on_failure(*sinks, *([page] if page else [])), progress.shown(lambda: total):
        found = _measured(answers, rows, sinks, page, seed=seed, done=progress.advance)
    if isinstance(found, int):
        say("stopped; what was written is complete")
        raise typer.Exit(found)
    if plot is not None:
        figures.draw(found.cells[0], plot)
    _print(found, json=json)
    raise typer.Exit(say_unreadable(answers.paths, found.unreadable, _EFFECT, quiet=talk.quiet))


def _page(
    target: Path, read: Sequence[str | Path], classifier: "Classifier", truth: TruthGroup, decimals: int
) -> "Report":
    from clipzs.cli.report import new_page

    options = classifier.options
    return new_page(
        target,
        read,
        option="--report",
        title=str(truth.folder or truth.truth),
        limits={"max_megapixels": options.max_megapixels, "timeout": options.image_timeout},
        labels=[label.name for label in classifier.labels],
        unknown=options.unknown_label if classifier.abstains else None,
        decimals=decimals,
    )


def _measured(
    answers: "Truth",
    rows: "list[list[Classifier]]",
    sinks: "list[Sink]",
    page: "Report | None",
    *,
    seed: int,
    done: Callable[[int], object],
) -> "Evaluation | int":
    """Measure, records into sinks and page. Where it is stopped, they have what was done: the exit code then."""
    from clipzs.evaluation import evaluate
    from clipzs.interrupts import Interrupts
    from clipzs.recorded import Recorded

    recorded = Recorded(unknown=rows[0][0].options.unknown_label)
    every = [*sinks]
    if page is not None:
        every += [page, recorded]
    with Interrupts(put_off) as interrupts:

        def save(batch: "Sequence[Result]") -> None:
            interrupts.begin()
            for sink in every:
                sink.write(batch)
            interrupts.end()

        found = None
        try:
            found = evaluate(answers, _taken(rows), seed=seed, done=done, save=save if every else None)
        except KeyboardInterrupt:
            if not every or (page is not None and not recorded.any):
                raise
        interrupts.begin()  # what is there shall be written
        if page is not None:
            page.evaluation = [cell.as_json() for cell in (found.cells if found else recorded.cells(seed=seed))]
        for sink in every:
            sink.close({"interrupted": found is None})
    return found or SIGNALLED + (interrupts.signal or SIGINT)


def _recorded(
    results: str,
    root: Path | None,
    truth: TruthGroup,
    plot: Path | None,
    unknown: str,
    seed: int,
    progress: Progress,
) -> "Evaluation":
    """Measure the answers of an earlier run."""
    from clipzs import figures, recorded, records
    from clipzs.output import check_apart

    answers = truth.found(there=False) if truth.folder or truth.truth else None
    if answers is None and truth.map_ is not None:
        raise UsageProblem("--map names classes of DIR or --truth, and neither is named", hint="leave out --map")
    if plot is not None:
        check_apart(plot, [results, *truth.files, *(answers.paths if answers else [])], option="--plot")
        figures.check(plot)
    with progress.shown(None, first="reading results"):
        found = recorded.evaluate(
            records.read(results), answers, root=root, unknown=unknown, seed=seed, done=progress.advance
        )
    if plot is not None:
        if len(found.cells) > 1:
            raise _one_cell()
        figures.draw(found.cells[0], plot)
    return found


def _one_cell() -> UsageProblem:
    return UsageProblem("--plot draws one model with one choice of templates", hint="name one of each")


def _check_files(save: Path | None, plot: Path | None, *, alone: bool) -> None:
    from clipzs import figures

    if plot is not None:
        if not alone:
            raise _one_cell()
        figures.check(plot)
    if save is not None and save.suffix.lower() not in (".jsonl", ".ndjson"):
        raise UsageProblem(f"--save {save}: the predictions are JSON Lines", hint="name a file that ends in .jsonl")


def _grid(
    labels: "list[Label]",
    model: ModelGroup,
    reading: ReadingGroup,
    prompts: PromptGroup,
    progress: Progress,
    how: dict[str, Any],
) -> "list[list[Classifier]]":
    """For each model the classifiers that share it; `how` are further options of theirs."""
    from clipzs.classifier import Classifier

    models: list[str | None] = [*_split(model.model, "--model")] if model.model else [None]
    if model.pretrained and len(models) > 1:
        raise UsageProblem("--pretrained goes with one model", hint="write NAME:TAG instead")
    choices = [*itertools.product(*(_split(names, "--templates") for names in prompts.templates))]
    rows = []
    for name in models:
        row: list[Classifier] = []
        for choice in choices:
            chosen = options(replace(model, model=name), reading, replace(prompts, templates=[*choice]), **how)
            shared = row[0].embedder if row else None
            row.append(
                Classifier(
                    labels, options=chosen, progress=progress.prompts, compiling=progress.compiling, embedder=shared
                )
            )
        rows.append(row)
    return rows


def _split(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageProblem(f"{option} {text}: a name is empty", hint="look for two commas in a row")
    return names


def _taken(rows: "list[list[Classifier]]") -> "Iterator[list[Classifier]]":
    """Each row once; what it holds can go when the next one is taken."""
    while rows:
        yield rows.pop(0)


def _print(found: "Evaluation", *, json: bool) -> None:
    if json:
        from clipzs.writers import json_text

        print_lines([json_text({"clipzs": __version__, **found.as_json()})])
    elif not sys.stdout.isatty():
        print_rows((), [row for cell in found.cells for row in _fields(cell)])
    else:
        _show(found)


def _fields(cell: "Cell") -> Iterator[tuple[str, ...]]:
    """model, templates, figure, label, value, low, high; empty where there is nothing to say."""
    from clipzs.writers import tsv_field

    def row(figure: str, label: str, *numbers: float) -> tuple[str, ...]:
        shown = ["" if number != number else f"{number:.4f}" for number in numbers]
        return (cell.model, "+".join(cell.templates), figure, label, *shown, *[""] * (3 - len(shown)))

    def of(figure: "Figure") -> tuple[float, ...]:
        return figure.value, figure.low, figure.high

    measured = cell.measured
    rows = [row(name, "", *of(figure)) for name, figure in measured.overall.items()]
    rows.append(row("ece_by_chance", "", measured.ece_by_chance))
    for one in measured.classes:
        rows.append((*row("images", one.label)[:4], str(one.images), "", ""))
        rows += [row(name, one.label, *of(getattr(one, name))) for name in ("precision", "recall", "f1")]
    rows += [row(f"confused with {one.answer}", one.truth, *of(one.share)) for one in measured.confused]
    for cells in rows:
        yield tuple(map(tsv_field, cells))


def _show(found: "Evaluation") -> None:
    """For a person."""
    measured = found.cells[0].measured
    print_lines([f"{measured.images:,} images of {len(found.truth.classes)} classes, {measured.labels} labels: "
                 f"guessing is right on {1 / measured.labels:.1%}", ""])  # fmt: skip
    if len(found.cells) > 1:
        _show_grid(found.cells)
    else:
        _show_cell(measured)


def _show_grid(cells: "Sequence[Cell]") -> None:
    def short(figure: "Figure", form: str = ".1%") -> str:
        value, interval = _shown(figure, form)
        return f"{value} ({interval})"

    rows = []
    for cell in cells:
        figures, gap = cell.measured.overall, cell.difference
        gain = short(gap["top1"], "+.1%") if gap else ""
        shown = short(figures["top1"]), gain, short(figures["ece"]), short(figures["nll"], ".3f")
        rows.append((cell.model, "+".join(cell.templates), *shown))
    print_rows(("model", "templates", "top-1 (95 % interval)", "beyond the first", "ECE", "NLL"), rows)


def _show_cell(measured: "Measured") -> None:
    rows = [
        (title, *_shown(measured.overall[name], ".3f" if name == "nll" else ".1%")) for name, title in TITLES.items()
    ]
    rows.insert(4, ("  by chance alone", f"{measured.ece_by_chance:.1%}", ""))
    if measured.overall["answered"].value == 1:
        del rows[-2:]
    print_rows(("", "", "95 % interval"), [row for row in rows if row[1]])
    classes = measured.classes
    if len(classes) > CLASSES_SHOWN:
        classes = tuple(sorted(classes, key=lambda one: (one.images == 0, one.recall.value))[:CLASSES_SHOWN])
        print_lines(["", f"the {CLASSES_SHOWN} classes of {len(measured.classes)} with the least recall; all: --json"])
    print_lines([""])
    print_rows(
        ("class", "images", "precision", "", "recall", "", "F1", ""),
        [(one.label, str(one.images), *_shown(one.precision), *_shown(one.recall), *_shown(one.f1)) for one in classes],
    )
    if measured.confused:
        print_lines([""])
        print_rows(
            ("true class", "taken for", "images", "of the class", ""),
            [(one.truth, one.answer, str(one.images), *_shown(one.share)) for one in measured.confused],
        )


def _shown(figure: "Figure", form: str = ".1%") -> tuple[str, str]:
    """Value and interval; both empty where there is no value."""
    if figure.value != figure.value:
        return "", ""
    return f"{figure.value:{form}}", f"{figure.low:{form}} to {figure.high:{form}}".replace("%", "", 1)
