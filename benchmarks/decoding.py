"""`python -m benchmarks.decoding PHOTOS`: ways from a JPEG file to a model's pixels, their cost and what they change.

PHOTOS is a folder of pictures; the names of its subfolders are the labels. Every way gets the same bytes, on
one thread, in turn. What a way changes is measured against open_clip's own transform: in pixels, in the
cosine of the image embeddings, and in how often the best label stays the same.

simplejpeg and opencv-python-headless are compared where they are installed; clipzs needs neither.
"""

import argparse
import importlib.util
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clipzs import Classifier, images
from clipzs.preprocess import Preprocess

Pixels = NDArray[np.uint8]
Way = Callable[[bytes, Preprocess], Pixels]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
BATCH = 32


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of pictures")
    parser.add_argument("--megapixels", type=float, help="resize the pictures to that first (Lanczos, JPEG quality 90)")
    parser.add_argument("--images", type=int, default=1000, help="how many pictures at most (default 1000)")
    parser.add_argument("--model", default="tiny", help="as clipzs --model (default tiny)")
    parser.add_argument("--pretrained", help="as clipzs --pretrained")
    parser.add_argument("--way", action="append", help="only the way of this name (repeatable)")
    parser.add_argument("--time-only", action="store_true", help="embed nothing")
    options = parser.parse_args()
    chosen = {name: way for name, way in ways().items() if name in (options.way or [name])}
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    step = max(1.0, len(files) / options.images)
    files = [files[int(number * step)] for number in range(min(len(files), options.images))]
    labels = sorted({path.parent.name for path in files})
    classifier = Classifier(
        labels if len(labels) > 1 else ["cat", "dog", "house", "car", "person", "tree"],
        model=options.model,
        pretrained=options.pretrained,
        engine="torch",
    )
    measured = {name: Measured() for name in chosen}
    preprocess = classifier.model.preprocess
    for start in range(0, len(files), BATCH):
        contents = [jpeg(path, options.megapixels) for path in files[start : start + BATCH]]
        exact = [open_clip_way(content, preprocess) for content in contents]
        embedded = None if options.time_only else classifier.encoder.encode_images(np.stack(exact))
        for name, pictures in in_turn(chosen, contents, preprocess, measured).items():
            measured[name].compare(pictures, exact)
            if embedded is not None:
                measured[name].embed(classifier, pictures, embedded)
    sizes = "as they are" if options.megapixels is None else f"of {options.megapixels:g} megapixels"
    print(f"{len(files)} photos {sizes}, {options.model}, {preprocess.size[1]} pixels\n")
    print("| way | CPU ms, median | pixel change /255, mean | largest | cosine, mean | worst | best label the same |")
    print("|---|---|---|---|---|---|---|")
    for name, one in measured.items():
        print(f"| {name} | {one.row()} |")


class Measured:
    """What one way took and changed."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.changes: list[float] = []
        self.largest = 0
        self.cosines: list[float] = []
        self.same: list[bool] = []

    def compare(self, pictures: list[Pixels], exact: list[Pixels]) -> None:
        """Take in how far the pixels are from the exact ones."""
        for picture, right in zip(pictures, exact, strict=True):
            change = np.abs(picture.astype(np.int16) - right)
            self.changes.append(float(change.mean()))
            self.largest = max(self.largest, int(change.max()))

    def embed(self, classifier: Classifier, pictures: list[Pixels], exact: NDArray[np.float32]) -> None:
        """Take in how far the embeddings are from the exact ones."""
        found = classifier.encoder.encode_images(np.stack(pictures))
        self.cosines += (found * exact).sum(axis=1).tolist()
        best, right = ((vectors @ classifier.label_vectors.T).argmax(axis=1) for vectors in (found, exact))
        self.same += (best == right).tolist()

    def row(self) -> str:
        """The cells of the table."""
        cells = [f"{1000 * statistics.median(self.seconds):.2f}", f"{statistics.mean(self.changes):.3f}"]
        cells += [str(self.largest)]
        if self.cosines:
            cells += [f"{statistics.mean(self.cosines):.6f}", f"{min(self.cosines):.6f}"]
            cells += [f"{sum(self.same)} of {len(self.same)}"]
        return " | ".join(cells)


def in_turn(
    chosen: dict[str, Way], contents: list[bytes], preprocess: Preprocess, measured: dict[str, Measured]
) -> dict[str, list[Pixels]]:
    """Every way on every picture, one after the other, so that a busy moment of the machine meets all alike."""
    pictures: dict[str, list[Pixels]] = {name: [] for name in chosen}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for content in contents:
        for name, way in chosen.items():
            start = time.thread_time()
            pictures[name].append(way(content, preprocess))
            measured[name].seconds.append(time.thread_time() - start)
    torch.set_num_threads(threads)
    return pictures


def jpeg(path: Path, megapixels: float | None) -> bytes:
    """A picture as the bytes of a JPEG file."""
    if megapixels is None and path.suffix.lower() in (".jpg", ".jpeg"):
        return path.read_bytes()
    image = images.read_image(str(path))
    if megapixels is not None:
        factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = round(image.width * factor), round(image.height * factor)
        image = image.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


# The ways


def ways() -> dict[str, Way]:
    """Every way that the installed packages allow."""
    found: dict[str, Way] = {
        "open_clip's transform": open_clip_way,
        "clipzs --exact-decode": lambda content, preprocess: ours(content, preprocess, exact=True),
        "clipzs": ours,
        "Pillow, reducing_gap 2": lambda content, preprocess: pillow(content, preprocess, gap=2),
        "Pillow, reducing_gap 3": lambda content, preprocess: pillow(content, preprocess, gap=3),
        "Pillow, draft ≥ 1x": lambda content, preprocess: pillow(content, preprocess, least=1),
        "Pillow, draft ≥ 2x": lambda content, preprocess: pillow(content, preprocess, least=2),
        "Pillow, draft ≥ 4x": lambda content, preprocess: pillow(content, preprocess, least=4),
        "torchvision, exact": torchvision_way,
    }
    if importlib.util.find_spec("simplejpeg"):
        found["simplejpeg, exact"] = lambda content, preprocess: simplejpeg_way(content, preprocess, least=None)
        found["simplejpeg, scaled ≥ 2x"] = lambda content, preprocess: simplejpeg_way(content, preprocess, least=2)
    if importlib.util.find_spec("cv2"):
        found["OpenCV, area"] = lambda content, preprocess: opencv_way(content, preprocess, least=None)
        found["OpenCV, scaled ≥ 2x, area"] = lambda content, preprocess: opencv_way(content, preprocess, least=2)
    return found


def open_clip_way(content: bytes, preprocess: Preprocess) -> Pixels:
    """The reference, without the normalising, which is the same for all."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if preprocess not in _transforms:
        settings = vars(preprocess) | {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        _transforms[preprocess] = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    tensor = _transforms[preprocess](Image.open(io.BytesIO(content)))
    return (tensor * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


_transforms: dict[Preprocess, Callable[[Image.Image], torch.Tensor]] = {}


def ours(content: bytes, preprocess: Preprocess, *, exact: bool = False) -> Pixels:
    """As the command does it."""
    return np.asarray(images.pixels(io.BytesIO(content), "", preprocess, max_megapixels=float("inf"), exact=exact))


def pillow(content: bytes, preprocess: Preprocess, *, least: int | None = None, gap: float | None = None) -> Pixels:
    """Decoded at a reduced size of at least so many times the target, or reduced by whole factors after decoding."""
    image = Image.open(io.BytesIO(content))
    target, box = target_of(image.size, preprocess), None
    if least:
        drafted = image.draft(None, (least * target[0], least * target[1]))
        box = drafted[1] if drafted else None
    rgb = image.convert("RGB")
    return np.asarray(preprocess.cut(rgb.resize(target, preprocess.resampling, box, gap)))


def simplejpeg_way(content: bytes, preprocess: Preprocess, *, least: int | None) -> Pixels:
    """libjpeg-turbo without Pillow, then Pillow's resize."""
    import simplejpeg

    height, width, *_ = simplejpeg.decode_jpeg_header(content)
    target = target_of((width, height), preprocess)
    enough = {"min_width": least * target[0], "min_height": least * target[1], "min_factor": 1} if least else {}
    image = Image.fromarray(simplejpeg.decode_jpeg(content, **enough))
    return np.asarray(preprocess.cut(image.resize(target, preprocess.resampling)))


def torchvision_way(content: bytes, preprocess: Preprocess) -> Pixels:
    """Tensors all the way, with the same filter."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    width, height = target_of((tensor.shape[2], tensor.shape[1]), preprocess)
    tensor = resize(tensor, [height, width], InterpolationMode(preprocess.interpolation), antialias=True)
    return np.asarray(preprocess.cut(Image.fromarray(tensor.permute(1, 2, 0).contiguous().numpy())))


def opencv_way(content: bytes, preprocess: Preprocess, *, least: int | None) -> Pixels:
    """OpenCV's decoder and its filter for smaller images."""
    import cv2

    cv2.setNumThreads(1)
    size = Image.open(io.BytesIO(content)).size
    target = target_of(size, preprocess)
    scale = min(side // (least * small) for side, small in zip(size, target, strict=True)) if least else 1
    reduced = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    flag = next((flag for factor, flag in reduced.items() if scale >= factor), cv2.IMREAD_COLOR)
    array = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), flag), cv2.COLOR_BGR2RGB)
    return np.asarray(preprocess.cut(Image.fromarray(cv2.resize(array, target, interpolation=cv2.INTER_AREA))))


def target_of(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """(width, height) after the exact resize."""
    target = preprocess.target(*size)
    if target is None:
        raise SystemExit("a picture more than a thousand times as long as wide is no use here")
    return target


if __name__ == "__main__":
    main()
