"""`python -m benchmarks.explaining --data DIR`: whether heat lies on the photo that a label is of, and what crops do.

DIR holds labelled sets, a folder of images for each class. Photos are pasted at half the size into noise, and cut to
halves of one picture, each beside a photo of another class. `--write` puts the tables between marks in a document.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import filled, markdown
from clipzs import Classifier, heatmap, metrics
from clipzs.encoder import Pixels
from clipzs.explaining import explain
from clipzs.images import read_image
from clipzs.truth import Truth, from_folder

MODEL = "tiny"
SETS = ("cats-dogs", "pacs-photo")
LAYERS = {"chosen": heatmap.LEAST_CELLS, "last": 1}
RESAMPLES = 1000
Box = tuple[int, int, int, int]  # left, top, right, bottom


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explaining", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of sets")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, the places and what stands beside what")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    sets = [options.data / name for name in SETS]
    parts = {"pointing": pointing(sets, options.seed), "crops": crops(sets, options.seed)}
    if options.write:
        options.write.write_text(filled(options.write.read_text(), parts))
    else:
        print("\n\n".join(parts.values()))


def pointing(sets: list[Path], seed: int) -> str:
    """The share of the heat on the photo of the label, and how often the hottest pixel lies on it."""
    rows = []
    for folder in sets:
        truth, numbers = from_folder(folder), np.random.default_rng(seed)
        classifier = Classifier(truth.classes, model=MODEL)
        maps = heatmap.HeatMaps(classifier.model, device="cpu")
        found: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
        for number, answer in enumerate(truth.answers):
            label = classifier.label_vectors[answer]
            other = numbers.choice(np.flatnonzero(np.asarray(truth.answers) != answer))
            for scene, (picture, box) in {
                "in noise": in_noise(truth, number, classifier.model.preprocess.size, numbers),
                "beside another": beside(truth, number, int(other), classifier.model.preprocess.size, numbers),
            }.items():
                for layer, heatmap.LEAST_CELLS in LAYERS.items():
                    found[scene, layer].append(on(maps(picture, label).grid, picture.shape[:2], box))
        heatmap.LEAST_CELLS = LAYERS["chosen"]
        for (scene, layer), measured in found.items():
            shares, hits = np.array(measured, float).T
            area = "25 %" if scene == "in noise" else "50 %"
            rows.append([folder.name, scene, layer, str(len(shares)), area, with_interval(shares, seed),
                         with_interval(hits, seed)])  # fmt: skip
    return markdown(
        ["set", "photo", "layer", "images", "area", "heat on the photo", "hottest pixel on it"], rows, words=3
    )


def crops(sets: list[Path], seed: int) -> str:
    """How often another way to cut a picture changes its answer, and how right each way is."""
    rows = []
    for folder in sets:
        truth = from_folder(folder)
        classifier = Classifier(truth.classes, model=MODEL)
        changed, right = defaultdict(list), defaultdict(list)
        for path, answer in zip(truth.paths, truth.answers, strict=True):
            found = explain(classifier, path)
            for crop in found.crops:
                changed[crop.crop].append(float(crop.best.label != found.answer.label))
                right[crop.crop].append(float(crop.best.label == truth.classes[answer]))
        rows += [
            [folder.name, crop, str(len(changes)), "" if crop == "model" else with_interval(np.array(changes), seed),
             with_interval(np.array(right[crop]), seed)]
            for crop, changes in changed.items()
        ]  # fmt: skip
    return markdown(["set", "crop", "images", "other answer", "right"], rows, words=2)


def in_noise(truth: Truth, number: int, size: tuple[int, int], numbers: np.random.Generator) -> tuple[Pixels, Box]:
    """A photo at half the size somewhere in noise."""
    height, width = size
    picture = numbers.integers(0, 256, (height, width, 3), np.uint8)
    top, left = int(numbers.integers(0, height - height // 2 + 1)), int(numbers.integers(0, width - width // 2 + 1))
    picture[top : top + height // 2, left : left + width // 2] = photo(truth, number, width // 2, height // 2)
    return picture, (left, top, left + width // 2, top + height // 2)


def beside(
    truth: Truth, number: int, other: int, size: tuple[int, int], numbers: np.random.Generator
) -> tuple[Pixels, Box]:
    """The middle of a photo in one half, that of another in the other."""
    height, width = size
    half, first = width // 2, int(numbers.integers(2))
    parts = [photo(truth, each, half, height) for each in (number, other)]
    picture = np.concatenate(parts if first == 0 else parts[::-1], axis=1)
    return picture, (first * half, 0, first * half + half, height)


def photo(truth: Truth, number: int, width: int, height: int) -> Pixels:
    """The middle of a picture, scaled to fill the size."""
    image = read_image(truth.paths[number])
    scale = max(width / image.width, height / image.height)
    left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
    box = (
        max(0.0, left),
        max(0.0, top),
        min(image.width, left + width / scale),
        min(image.height, top + height / scale),
    )
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box))


def on(grid: NDArray[np.float32], size: tuple[int, int], box: Box) -> tuple[float, bool]:
    """The share of the heat in a box, and whether the hottest pixel is; without heat, that of the area and not."""
    fine = np.asarray(Image.fromarray(grid).resize(size[::-1], Image.Resampling.BILINEAR))
    left, top, right, bottom = box
    if not fine.any():
        return (right - left) * (bottom - top) / fine.size, False
    y, x = np.unravel_index(fine.argmax(), fine.shape)
    return float(fine[top:bottom, left:right].sum() / fine.sum()), bool(top <= y < bottom and left <= x < right)


def with_interval(values: NDArray[np.float64], seed: int) -> str:
    """The mean, and where 95 % of the means of images drawn again lie."""
    samples = metrics.bootstrap(lambda chosen: values[chosen].mean(), len(values), seed=seed, resamples=RESAMPLES)
    low, high = np.quantile(samples, (0.025, 0.975))
    return f"{values.mean():.1%} ({low:.1%} … {high:.1%})"


if __name__ == "__main__":
    main()
