"""`python -m benchmarks.tuning --data DIR`: what `clipzs tune` gains, and whether new images confirm what it reports.

DIR holds labelled sets, a folder of images for each class. `--write` puts the tables between their marks in a document.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.evaluation import MODEL, number, share
from benchmarks.report import filled, markdown
from clipzs import Classifier, tuning
from clipzs.metrics import Figure, Floats, Outcomes, Places
from clipzs.truth import from_folder
from clipzs.tuner import Prepared, prepared
from clipzs.tuning import FIGURES, Tuning, probabilities

SIZES = (3, 5, 10)  # images of each class to tune with; the others are new
DRAWS = 5
PRECISION = 0.8  # wanted of answers


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of sets")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    sets = dict(_sets(options.data))
    parts = {"gains": gains(sets), "parts": parts_of(sets), "new": on_new_images(sets), "precision": precise(sets)}
    if options.write:
        options.write.write_text(filled(options.write.read_text(), parts))
    else:
        print("\n\n".join(parts.values()))


def _sets(data: Path) -> Iterator[tuple[str, Prepared]]:
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        truth = from_folder(folder)
        yield folder.name, prepared(truth, Classifier(truth.classes, model=MODEL))


def gains(sets: dict[str, Prepared]) -> str:
    """Each set with and without, on images left out."""
    rows = []
    for name, ready in sets.items():
        evidence = ready.tuned().tuning.evidence
        before, after, gain = evidence.before, evidence.after, evidence.gain
        rows.append(
            [name, f"{evidence.images}", share(before["top1"]), share(after["top1"]), _points(gain["top1"]),
             number(before["nll"]), number(after["nll"]), _signed(gain["nll"])]
        )  # fmt: skip
    return markdown(["set", "images", "top-1", "tuned", "change", "NLL", "tuned", "change"], rows)


def parts_of(sets: dict[str, Prepared]) -> str:
    """What was fitted to each set, and what each part is worth."""
    rows = []
    for name, ready in sets.items():
        found = ready.tuned().tuning
        used = np.count_nonzero(found.weights)
        templates = "as before" if found.method == "unchanged" else f"{used} {found.method}"
        scale = "the model's" if found.scale is None else f"1/{found.scale:.3g}"
        evidence, thresholds = found.evidence, sum(1 for one in found.thresholds or () if one)
        gain = evidence.abstaining.gain if evidence.abstaining else Figure(np.nan, np.nan, np.nan)
        rows.append(
            [name, templates, _signed(evidence.templates), scale, _signed(evidence.temperature),
             str(thresholds or "none"), _points(gain)]
        )  # fmt: skip
    return markdown(
        ["set", "templates", "their change of the NLL", "temperature", "its change of the NLL", "thresholds",
         "their change of the F1"],
        rows,
    )  # fmt: skip


def on_new_images(sets: dict[str, Prepared]) -> str:
    """Tuned with a few images of each class: what was reported, and what the images that had no part in it say."""
    rows = []
    for size in SIZES:
        for name, ready in sets.items():
            found = [(draw.tuning, draw.figures()) for draw in _draws(ready, size)]
            reported = [[tuned.evidence.gain[figure].value for figure in ("top1", "nll")] for tuned, _ in found]
            true = [[after[figure] - before[figure] for figure in ("top1", "nll")] for _, (before, after) in found]
            changed = sum(tuned.method != "unchanged" or tuned.scale is not None for tuned, _ in found)
            said, seen = np.mean(reported, axis=0), np.mean(true, axis=0)
            rows.append(
                [name, f"{size}", f"{changed} of {DRAWS}", f"{said[0] * 100:+.1f}", f"{seen[0] * 100:+.1f}",
                 f"{said[1]:+.2f}", f"{seen[1]:+.2f}"]
            )  # fmt: skip
    return markdown(
        ["set", "images of each class", "anything changed", "top-1, reported", "on new images", "NLL, reported",
         "on new images"],
        rows,
    )  # fmt: skip


def precise(sets: dict[str, Prepared]) -> str:
    """Thresholds for a wanted precision, fitted to some images of each class."""
    rows, size = [], SIZES[-1]
    for name, ready in sets.items():
        numbers = []
        for draw in _draws(ready, size, precision=PRECISION):
            abstaining = draw.tuning.evidence.abstaining
            if abstaining is not None:
                numbers.append([abstaining.answered.value, abstaining.precision.value, *draw.answered(), draw.plain()])
        answered, right, new_answered, new_right, plain = np.nanmean(numbers, axis=0)
        rows.append(
            [name, f"{plain:.0%}", f"{answered:.0%}", f"{right:.0%}", f"{new_answered:.0%}", f"{new_right:.0%}"]
        )
    return markdown(
        ["set", "right without thresholds", "answered, reported", "right of these", "answered of new images",
         "right of these"],
        rows,
    )  # fmt: skip


class _Draw:
    """Tuned with some images, seen with the others."""

    def __init__(self, ready: Prepared, rows: Places, seed: int, precision: float | None) -> None:
        self._ready = ready
        inside = np.isin(np.arange(len(ready.examples)), rows)
        self._new = ready.examples.at(np.flatnonzero(~inside))
        self._scale = ready.classifier.encoder.logit_scale
        self.tuning: Tuning = tuning.tune(
            ready.examples.at(rows), ready.start, self._scale, seed=seed, precision=precision
        )

    def _scores(self, *, tuned: bool) -> Floats:
        weights = self.tuning.weights if tuned else self._ready.start
        scale = self.tuning.scale if tuned and self.tuning.scale is not None else self._scale
        return probabilities(self._new.cosines(weights), scale)

    def figures(self) -> tuple[dict[str, float], dict[str, float]]:
        """Before and after, on the new images."""
        both = (Outcomes.of(self._new.answers, self._scores(tuned=tuned)) for tuned in (False, True))
        before, after = ({name: figure(of) for name, figure in FIGURES.items()} for of in both)
        return before, after

    def plain(self) -> float:
        """The share of right answers if all new images have one."""
        return float((self._scores(tuned=True).argmax(axis=1) == self._new.answers).mean())

    def answered(self) -> tuple[float, float]:
        """The share of new images that are answered, and the share of these that are so rightly."""
        scores, floors = self._scores(tuned=True), np.array(self.tuning.thresholds)
        called = scores.argmax(axis=1)
        some = scores.max(axis=1) >= floors[called]
        right = (called == self._new.answers)[some].mean() if some.any() else np.nan
        return float(some.mean()), float(right)


def _draws(ready: Prepared, size: int, precision: float | None = None) -> Iterator[_Draw]:
    answers = ready.examples.answers
    for seed in range(DRAWS):
        draw = np.random.default_rng(seed)
        rows = [draw.permutation(np.flatnonzero(answers == label))[:size] for label in np.unique(answers)]
        yield _Draw(ready, np.sort(np.concatenate(rows)), seed, precision)


def _points(figure: Figure) -> str:
    return f"{figure.value * 100:+.1f} ({figure.low * 100:+.1f} … {figure.high * 100:+.1f})"


def _signed(figure: Figure) -> str:
    return f"{figure.value:+.2f} ({figure.low:+.2f} … {figure.high:+.2f})"


if __name__ == "__main__":
    main()
