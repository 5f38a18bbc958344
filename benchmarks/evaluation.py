"""`python -m benchmarks.evaluation --data DIR`: figures of accuracy and calibration on labelled photos.

DIR holds labelled sets, a folder of images for each class. `--write` puts the tables between their marks in a document.
A new table is a function in `SECTIONS` and a pair of marks, `<!-- figures: NAME -->` and `<!-- end -->`.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.report import filled, markdown
from clipzs import Classifier, metrics
from clipzs.evaluation import Cell, Evaluation, evaluate
from clipzs.metrics import Figure, Outcomes
from clipzs.truth import from_folder

MODEL = "tiny"
TEMPLATES = ("default", "name", "simple", "imagenet7", "imagenet80")  # differences are to the first
CONFUSED = 3  # pairs of a set
# Of made-up answers: images, classes, how sharp the probabilities are (2 is right, more is overconfident)
WORLDS = ((140, 7, 1.5), (140, 7, 2.0), (140, 7, 2.6), (300, 15, 2.3), (120, 2, 2.0), (1000, 10, 2.0), (1000, 10, 2.2))
REPEATS, RESAMPLES, MANY = 200, 200, 300_000


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all unless given")
    parser.add_argument("--data", type=Path, required=True, help="a folder of sets")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(unknown)}")
    document = options.write.read_text() if options.write else ""
    marked = re.findall(r"<!-- figures: (.+?) -->", document)
    wanted = options.sections or [name for name in SECTIONS if name in marked or not options.write]
    parts = {name: SECTIONS[name](options.data) for name in wanted}
    if options.write:
        options.write.write_text(filled(document, parts))
    else:
        print("\n\n".join(parts.values()))


def accuracy(data: Path) -> str:
    """Each set with the first templates."""
    rows = []
    for name, found in evaluations(data):
        measured = found.cells[0].measured
        figures = measured.overall
        rows.append(
            [name, str(measured.labels), str(measured.images), f"{1 / measured.labels:.1%}", share(figures["top1"]),
             share(figures["top5"]), share(figures["mean_recall"]), share(figures["ece"]),
             f"{measured.ece_by_chance:.1%}", number(figures["nll"])]
        )  # fmt: skip
    return markdown(
        ["set", "labels", "images", "guessing", "top-1", "top-5", "mean recall", "ECE", "ECE by chance", "NLL"], rows
    )


def prompts(data: Path) -> str:
    """Each set with each choice of templates: top-1, and its difference to the first choice."""

    def of(cell: Cell) -> str:
        if cell.difference is None:
            return share(cell.measured.overall["top1"])
        gap = cell.difference["top1"]
        return f"{gap.value * 100:+.1f} ({gap.low * 100:+.1f} … {gap.high * 100:+.1f})"

    rows = [[name, *map(of, found.cells)] for name, found in evaluations(data)]
    return markdown(["set", f"`{TEMPLATES[0]}`", *(f"`{name}`" for name in TEMPLATES[1:])], rows)


def mistakes(data: Path) -> str:
    """The most confused classes of each set."""
    rows = [
        [name, one.truth, one.answer, f"{one.images}", share(one.share)]
        for name, found in evaluations(data)
        for one in found.cells[0].measured.confused[:CONFUSED]
    ]
    return markdown(["set", "true class", "taken for", "images", "of the class"], rows, words=3)


def coverage(data: Path) -> str:
    """How often intervals hold what they should, on answers made up so that the truth is known."""
    rows = []
    for n, classes, sharpness in WORLDS:
        true = _figures(_made_up(MANY, classes, sharpness, np.random.default_rng(1)))
        held, errors, chances = np.zeros(4), [], []
        draw = np.random.default_rng(2)
        for repeat in range(REPEATS):
            outcomes = _made_up(n, classes, sharpness, draw)
            estimate = _figures(outcomes)
            samples = metrics.bootstrap(
                lambda chosen, of=outcomes: _figures(of.at(chosen)), n, seed=repeat, resamples=RESAMPLES
            )
            chance = metrics.errors_by_chance(outcomes, seed=repeat, resamples=RESAMPLES)
            safe = metrics.calibration_interval(estimate[0], samples[:, 0], chance)
            ends = np.vstack([safe, metrics.intervals(samples)])
            wanted = true[[0, 0, 1, 2]]
            held += (ends[:, 0] <= wanted) & (wanted <= ends[:, 1])
            errors.append(estimate[0])
            chances.append(chance.mean())
        shares = [f"{one / REPEATS:.0%}" for one in held]
        rows.append(
            [str(n), str(classes), f"{true[0]:.1%}", f"{np.mean(errors):.1%}", f"{np.mean(chances):.1%}", *shares]
        )
    return markdown(
        ["images", "classes", "true ECE", "mean ECE found", "by chance", "ECE", "ECE, percentiles", "top-1", "NLL"],
        rows, words=0,
    )  # fmt: skip


def evaluations(data: Path) -> Iterator[tuple[str, Evaluation]]:
    """Each set's name and its grid of templates."""
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        yield folder.name, _evaluation(folder)


@cache
def _evaluation(folder: Path) -> Evaluation:
    truth = from_folder(folder)
    row: list[Classifier] = []
    for name in TEMPLATES:
        shared = row[0].embedder if row else None
        row.append(Classifier(truth.classes, model=MODEL, templates=name, embedder=shared))
    return evaluate(truth, [row])


def share(figure: Figure) -> str:
    """In per cent, with the interval; nothing where it says nothing."""
    if np.isnan(figure.value):
        return ""
    return f"{figure.value:.1%} ({figure.low * 100:.1f} … {figure.high * 100:.1f})"


def number(figure: Figure) -> str:
    """As it is, with the interval."""
    return f"{figure.value:.2f} ({figure.low:.2f} … {figure.high:.2f})"


def _made_up(n: int, classes: int, sharpness: float, draw: np.random.Generator) -> Outcomes:
    """Answers whose probabilities are exactly right with a sharpness of 2."""
    truth = draw.integers(0, classes, n)
    logits = draw.normal(size=(n, classes))
    logits[np.arange(n), truth] += 2
    logits *= sharpness
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Outcomes.of(truth, odds / odds.sum(axis=1, keepdims=True))


def _figures(outcomes: Outcomes) -> metrics.Floats:
    return np.array(
        [metrics.calibration_error(outcomes), metrics.top(outcomes, 1), metrics.negative_log_likelihood(outcomes)]
    )


SECTIONS: dict[str, Callable[[Path], str]] = {
    "accuracy": accuracy, "prompts": prompts, "mistakes": mistakes, "coverage": coverage,
}  # fmt: skip

if __name__ == "__main__":
    main()
