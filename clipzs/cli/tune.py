"""`clipzs tune`: a labels file fitted to some labelled pictures, with the evidence that it is better."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipzs.cli import options as o
from clipzs.cli.groups import LabelGroup, ModelGroup, PromptGroup, ReadingGroup, TalkGroup, TruthGroup, grouped, options
from clipzs.cli.narration import Progress, say, say_unreadable, set_up
from clipzs.cli.running import classifier_of
from clipzs.errors import UsageProblem, listed

if TYPE_CHECKING:
    from clipzs.metrics import Figure
    from clipzs.tuner import TunedLabels

_SUFFIXES = (".yaml", ".yml")
_NAMES = {"top1": "top-1 accuracy", "mean_class_recall": "mean recall per class", "nll": "negative log-likelihood"}


@grouped
def tune(
    ctx: typer.Context,
    *,
    truth: TruthGroup,
    labels: LabelGroup,
    prompts: PromptGroup,
    model: ModelGroup,
    reading: ReadingGroup,
    thresholds: Annotated[
        str,
        o.option("--thresholds", metavar="f1|none|SHARE", help="What thresholds of labels are for: the best F1, or a "
                 "share of right answers such as 0.95.", panel=o.SCORES),
    ] = "f1",
    folds: Annotated[int, o.option("--folds", min=2, help="Parts that are left out in turn.", panel=o.SCORES)] = 5,
    seed: Annotated[int, o.option("--seed", min=0, help="Of the parts and the intervals.", panel=o.SCORES)] = 0,
    output: Annotated[
        Path | None,
        o.option("--output", "-o", metavar="FILE.yaml", help="The labels file to write; unless given, standard output.",
                 panel=o.OUTPUT),
    ] = None,
    json: Annotated[
        bool, o.option("--json", help="Print the evidence as one JSON object instead.", panel=o.OUTPUT)
    ] = False,
    talk: TalkGroup,
) -> None:  # fmt: skip
    """Fit templates, temperature and thresholds to labelled images, and write a labels file for `classify`.

    All figures are of images that were left out of what was fitted (cross-validation). What does not help beyond
    noise is left as it was. Templates are chosen among those named; unless some are, among `default` and `imagenet80`.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done without the images that could not be read.
    """
    set_up(quiet=talk.quiet, verbose=talk.verbose)
    from clipzs.decoders import DECODERS

    DECODERS.start()
    from clipzs import evaluation
    from clipzs.labels import from_names
    from clipzs.output import check_apart, check_writable, save
    from clipzs.tuner import prepared, untuned

    fit, precision = _goal(thresholds)
    if output is not None:
        if output.suffix.lower() not in _SUFFIXES:
            raise UsageProblem(f"-o {output}: a tuned labels file is YAML", hint="name a file that ends in .yaml")
        check_apart(output, [*labels.labels_file, *truth.files])
        check_writable(output)
    known = truth.found()
    given = labels.given() or from_names(known.classes)
    evaluation.check(known, [label.name for label in given])
    progress = Progress(enabled=not talk.quiet, until_first=False)
    classifier = classifier_of(untuned(given), options(model, reading, prompts), progress)
    with progress.shown(lambda: len(known.paths)):
        ready = prepared(known, classifier, done=progress.advance)
        found = ready.tuned(folds=folds, seed=seed, thresholds=fit, precision=precision, progress=progress.fits)
    if output is not None:
        save(output, found.as_yaml().encode())
    elif not json:
        sys.stdout.write(found.as_yaml())
    if json:
        from clipzs.writers import json_text

        sys.stdout.write(json_text(found.as_json()) + "\n")
    if not talk.quiet:
        for line in _report(found):
            sys.stderr.write(f"{line}\n")
        for line in _conclusions(found, precision):
            say(line)
    raise typer.Exit(say_unreadable(known.paths, found.unreadable, "; the rest was used", quiet=talk.quiet))


def _goal(text: str) -> tuple[bool, float | None]:
    """Whether to fit thresholds, and the precision they are for."""
    if text in ("f1", "none"):
        return text == "f1", None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageProblem(
            f"--thresholds {text}: neither f1 nor none nor a share of right answers", hint="a share is above 0, up to 1"
        )
    return True, share


def _report(found: "TunedLabels") -> Iterator[str]:
    """What images that were left out say, as a table."""
    evidence = found.tuning.evidence
    yield f"{evidence.images:,} images, {len(found.labels)} labels; each image is judged by what was fitted without it"
    rows: list[tuple[str, ...]] = [("", "before", "95 % interval", "after", "95 % interval", "change", "95 % interval")]
    for name, title in _NAMES.items():
        plain = name == "nll"
        cells = [_shown(table[name], plain=plain, signed=table is evidence.gain)
                 for table in (evidence.before, evidence.after, evidence.gain)]  # fmt: skip
        rows.append((title, *itertools.chain(*cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _conclusions(found: "TunedLabels", precision: float | None) -> Iterator[str]:
    """What was taken over, and what was not because it does not help."""
    tuning, evidence = found.tuning, found.tuning.evidence
    used = sum(1 for weight in tuning.weights if weight)
    templates = {
        "unchanged": f"none of {len(found.templates)} are better than the {found.unchanged} from before beyond noise",
        "chosen": f"{used} of {len(found.templates)} chosen",
        "weighted": f"{used} of {len(found.templates)} weighted",
    }[tuning.method]
    yield f"templates: {templates} (log-likelihood {_loss(evidence.templates)})"
    scale = f"1/{found.model_scale:.4g}"
    temperature = f"none is better than the model's {scale} beyond noise"
    if tuning.scale is not None:
        temperature = f"1/{tuning.scale:.4g} in place of the model's {scale}"
    yield f"temperature: {temperature} (log-likelihood {_loss(evidence.temperature)})"
    left = evidence.abstaining
    if left is None:
        yield "thresholds: none asked for"
        return
    effect = (
        f"{' '.join(_brackets(left.answered))} of images left out are answered, "
        f"{' '.join(_brackets(left.precision))} of these rightly"
    )
    if tuning.thresholds is None:
        yield f"thresholds: none raise the mean F1 beyond noise ({', '.join(_shown(left.gain, signed=True))})"
        return
    number = sum(1 for threshold in tuning.thresholds if threshold)
    goal = "the best F1" if precision is None else f"{precision:.0%} right answers"
    yield f"thresholds: {number} labels have one, for {goal}: {effect}"
    if tuning.unreached:
        names = [found.labels[place].name for place in tuning.unreached]
        yield f"never right often enough, and hardly ever answered now: {listed(names)}"


def _loss(change: "Figure") -> str:
    """The change of the negative log-likelihood as one of the likelihood, for which more is better."""
    return f"{-change.value:+.3f}, {-change.high:+.3f} to {-change.low:+.3f}"


def _brackets(figure: "Figure") -> tuple[str, str]:
    value, ends = _shown(figure)
    return value, f"({ends})" if ends else ""


def _shown(figure: "Figure", *, plain: bool = False, signed: bool = False) -> tuple[str, str]:
    """Value and interval, in per cent unless `plain`."""
    if figure.value != figure.value:
        return "nothing", ""
    factor, form, unit = (1, ".3f", "") if plain else (100, ".1f", " %")
    value, low, high = (
        f"{factor * number:{'+' if signed else ''}{form}}" for number in (figure.value, figure.low, figure.high)
    )
    return f"{value}{unit}", f"{low} to {high}"
