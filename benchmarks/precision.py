"""`python -m benchmarks.precision`: what bf16 and the compiled engine change in embeddings, answers and speed.

Two models on real photos (examples/, or a folder of one's own): the embedded one, and a ViT-B-32 with random weights
made here. Everything is measured against torch in fp32. Speed is that of the image tower alone, the best of several
passes in turn. `--write` puts the table between its marks in a document.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks import machine
from benchmarks.report import filled, markdown
from clipzs import Classifier, defaults, images
from clipzs.score import scores

ROOT = Path(__file__).parent.parent
LABELS = ROOT / "examples" / "labels.txt"
BATCH, PASSES = 32, 5
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
EXACT = ("torch", "fp32")
WAYS = (EXACT, ("openvino", "fp32"), ("torch", "bf16"), ("openvino", "bf16"))
HEADER = ["model", "engine", "precision", "cosine, least", "mean", "of labels, least", "same best label",
          "score changes by up to", "images/s", "x torch fp32"]  # fmt: skip


class Found(NamedTuple):
    """What one way gave: embeddings of images and labels, scores, and images a second."""

    images: NDArray[np.float32]
    labels: NDArray[np.float32]
    scores: NDArray[np.float64]
    speed: float


def main() -> None:
    """Measure, and print or write a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("photos", nargs="*", type=Path, default=[ROOT / "examples"], help="folders of pictures")
    parser.add_argument("--images", type=int, default=500, help="how many pictures at most, evenly chosen")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    files = sorted(path for folder in options.photos for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    step = max(1.0, len(files) / options.images)
    files = [files[int(number * step)] for number in range(min(len(files), options.images))]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in ("tiny", "ViT-B-32") for row in rows_of(name, files, Path(folder))]
    moment = machine.moment()
    note = (
        f"{len(files)} photos, the labels of examples/labels.txt with the default templates, batches of {BATCH}; "
        f"{moment['date'][:10]}, load average {moment['load_before']:g}."
    )
    part = markdown(HEADER, rows, words=3) + "\n\n" + note
    if options.write:
        options.write.write_text(filled(options.write.read_text(), {"precision": part}))
    else:
        print(part)


def rows_of(name: str, files: list[Path], folder: Path) -> list[list[str]]:
    """The table's rows of one model."""
    weights = None if name == "tiny" else str(random_weights(name, folder))
    found = measured(name, weights, files, folder / "cache")
    exact, shown = found[EXACT], name if weights is None else f"{name}, random weights"
    rows = []
    for (engine, precision), one in found.items():
        cosines, labels = ((getattr(one, k) * getattr(exact, k)).sum(axis=1) for k in ("images", "labels"))
        same = (one.scores.argmax(axis=1) == exact.scores.argmax(axis=1)).mean()
        change = np.abs(one.scores - exact.scores).max()
        cells = [f"{cosines.min():.6f}", f"{cosines.mean():.6f}", f"{labels.min():.6f}", f"{same:.1%}", f"{change:.1e}"]
        speed = [f"{one.speed:.0f}", f"{one.speed / exact.speed:.1f}"]
        rows.append([shown, {"openvino": "OpenVINO"}.get(engine, engine), precision, *cells, *speed])
    return rows


def measured(name: str, weights: str | None, files: list[Path], cache: Path) -> dict[tuple[str, str], Found]:
    """What each way gives for the same pixels and labels; where a way cannot be had, it is left out."""
    made = {
        way: Classifier(
            LABELS, model=name, pretrained=weights, engine=way[0], precision=way[1], device="cpu", cache_dir=cache
        )
        for way in WAYS
        if way[1] == "fp32" or machine.has_bf16()
    }
    preprocess = made[EXACT].model.preprocess
    pixels = []
    for path in files:
        with images.opened(str(path)) as file:
            pixels.append(images.pixels(file, str(path), preprocess, max_megapixels=defaults.MAX_MEGAPIXELS))
    batches = [np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    vectors = {way: np.concatenate([one.encoder.encode_images(b) for b in batches]) for way, one in made.items()}
    speeds = dict.fromkeys(made, 0.0)
    for _ in range(PASSES):
        for way, one in made.items():
            start = time.perf_counter()
            one.encoder.encode_images(batches[0])
            speeds[way] = max(speeds[way], len(batches[0]) / (time.perf_counter() - start))
    return {
        way: Found(vectors[way], one.label_vectors, softmax(one, vectors[way]), speeds[way])
        for way, one in made.items()
    }


def softmax(classifier: Classifier, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 [n, c], as `clipzs classify` computes them."""
    encoder, labels = classifier.encoder, classifier.label_vectors.astype(np.float64)
    return scores(vectors, labels, kind="softmax", scale=encoder.logit_scale, bias=encoder.logit_bias)


def random_weights(name: str, folder: Path) -> Path:
    """A checkpoint as its architecture is initialised."""
    torch.manual_seed(0)
    path = folder / "random.safetensors"
    save_file({key: value.contiguous() for key, value in open_clip.create_model(name).state_dict().items()}, path)
    return path


if __name__ == "__main__":
    main()
