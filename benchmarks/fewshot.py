"""`python -m benchmarks.fewshot --data DIR`: what `clipzs fit` gains over zero-shot, by the number of examples.

DIR holds labelled sets, a folder of images for each class. `--write` puts the tables between their marks in a document.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.report import filled, markdown
from clipzs import Classifier, fewshot
from clipzs.fewshot import ZERO_SHOT, Comparison, Row, Spread
from clipzs.heads import METHODS
from clipzs.truth import from_folder

MODEL = "tiny"
SHOTS = (1, 2, 4, 8, 16)
DRAWS = 5


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fewshot", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of sets")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    found = {path.name: compared(path) for path in sorted(options.data.iterdir()) if path.is_dir()}
    parts = {"few-shot accuracy": accuracy(found), "few-shot likelihood": likelihood(found)}
    if options.write:
        options.write.write_text(filled(options.write.read_text(), parts))
    else:
        print("\n\n".join(parts.values()))


def compared(folder: Path) -> Comparison:
    """One set, as `clipzs eval --shots` measures it."""
    truth = from_folder(folder)
    classifier = Classifier(truth.classes, model=MODEL)
    labelled = fewshot.embedded(classifier, truth)
    shots = fewshot.possible(SHOTS, labelled.examples.support.tolist())
    return fewshot.compare(classifier, labelled, shots, draws=DRAWS, seed=0)


def accuracy(found: dict[str, Comparison]) -> str:
    """Top-1 of each set and number of shots, and the mean over the sets that have so many images."""
    rows = []
    for name, one in found.items():
        by = _by(one)
        for shots in sorted({row.shots for row in one.rows} - {0}):
            cells = [by[ZERO_SHOT, 0], *(by[method, shots] for method in METHODS)]
            rows.append([name, str(one.images), str(shots), *(_share(row.top1) for row in cells)])
    for shots in SHOTS:
        some = [by for by in map(_by, found.values()) if (METHODS[0], shots) in by]
        keys = [(ZERO_SHOT, 0), *((method, shots) for method in METHODS)]
        means = [np.mean([by[key].top1.mean for by in some]) for key in keys]
        rows.append([f"mean of {len(some)}", "", str(shots), *(f"{mean:.1%}" for mean in means)])
    return markdown(["set", "images tested", "shots", ZERO_SHOT, *METHODS], rows)


def likelihood(found: dict[str, Comparison]) -> str:
    """The negative log-likelihood at the most shots of each set."""
    rows = []
    for name, one in found.items():
        by, most = _by(one), max(row.shots for row in one.rows)
        cells = [by[ZERO_SHOT, 0], *(by[method, most] for method in METHODS)]
        rows.append([name, str(most), *(f"{row.nll.mean:.2f}" for row in cells)])
    return markdown(["set", "shots", ZERO_SHOT, *METHODS], rows)


def _by(found: Comparison) -> dict[tuple[str, int], Row]:
    return {(row.method, row.shots): row for row in found.rows}


def _share(figure: Spread) -> str:
    return f"{figure.mean:.1%} ± {figure.deviation * 100:.1f}"


if __name__ == "__main__":
    main()
