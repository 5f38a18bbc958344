"""The few-shot part of `clipzs eval`: what heads of 1, 2, 4 … images of each class would gain."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clipzs import __version__
from clipzs.cli.narration import Progress, say, say_unreadable
from clipzs.cli.show import print_lines, print_rows
from clipzs.errors import UsageProblem

if TYPE_CHECKING:
    from clipzs.classifier import Classifier
    from clipzs.fewshot import Comparison, Row, Spread
    from clipzs.truth import Truth


def parsed(text: str) -> list[int]:
    """The numbers of --shots: "1,2,4" is [1, 2, 4].

    Raises:
        UsageProblem: something else than whole numbers from 1.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageProblem(f"--shots {text}: these are numbers of images, from 1", hint="such as --shots 1,2,4,8,16")
    return [int(word) for word in words]


def compared(
    classifier: "Classifier",
    truth: "Truth",
    shots: list[int],
    *,
    draws: int,
    seed: int,
    json: bool,
    plot: Path | None,
    progress: Progress,
    quiet: bool,
) -> int:
    """Measure and show; the exit code."""
    from clipzs import fewshot, figures, fitting
    from clipzs.heads import METHODS

    fewshot.check(truth, [label.name for label in classifier.labels])
    fitting.check("linear", None)
    fewshot.possible(shots, truth.support)
    with progress.shown(lambda: len(truth.paths)):
        labelled = fewshot.embedded(classifier, truth, done=progress.advance)
    with progress.after():
        classifier.compile()
    shots = fewshot.possible(shots, labelled.examples.support.tolist())
    if not quiet:
        say(f"fitting {len(shots) * len(METHODS) * draws} heads, in {draws} draws of examples")
    found = fewshot.compare(classifier, labelled, shots, draws=draws, seed=seed)
    if plot is not None:
        figures.draw_shots(found, plot)
    _print(found, json=json)
    return say_unreadable(truth.paths, labelled.errors, "", quiet=quiet)


def _print(found: "Comparison", *, json: bool) -> None:
    if json:
        from clipzs.writers import json_text

        print_lines([json_text({"clipzs": __version__, **found.as_json()})])
    elif not sys.stdout.isatty():
        print_rows((), [row for one in found.rows for row in _fields(found, one)])
    else:
        print_lines([
            f"{found.images:,} images of {found.classes} classes tested, {found.draws} times with other examples; "
            "± is the standard deviation",
            "",
        ])  # fmt: skip
        header = ("method", "images a class", "top-1 accuracy", "over zero-shot", "negative log-likelihood")
        print_rows(header, [_shown(one) for one in found.rows])


def _fields(found: "Comparison", row: "Row") -> list[tuple[str, ...]]:
    """model, templates, method, shots, figure, mean, deviation; the last empty where there was one draw."""
    from clipzs.writers import tsv_field

    def of(name: str) -> tuple[str, ...]:
        figure: Spread = getattr(row, name)
        numbers = ["" if value != value else f"{value:.4f}" for value in (figure.mean, figure.deviation)]
        cells = (found.model, "+".join(found.templates), row.method, str(row.shots), name, *numbers)
        return tuple(map(tsv_field, cells))

    return [of(name) for name in ("top1", "gain", "nll")]


def _shown(row: "Row") -> tuple[str, ...]:
    def of(figure: "Spread", form: str) -> str:
        deviation = "" if figure.deviation != figure.deviation else f" ± {figure.deviation:{form}}"
        return f"{figure.mean:{form}}{deviation}"

    gain = of(row.gain, ".1%") if row.shots else ""
    return row.method, str(row.shots or ""), of(row.top1, ".1%"), gain, of(row.nll, ".3f")
