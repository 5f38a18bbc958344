"""Photo-like JPEGs, the same on every machine: nobody needs a data set to repeat the measurements.

Natural pictures have detail at every scale, the finer the weaker. So has the sum of random fields made here, coarse to
fine, with a few hard-edged shapes in it; the files come out about as large as those of a camera.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.Image import Resampling

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SMALL, LARGE = (500, 375), (4000, 3000)
QUALITY = 90
_ROUGHNESS = 0.8  # strength of each octave against the next coarser one: 0.5 is nature's, the rest a sensor's grain


def given(folder: Path, count: int) -> list[str]:
    """The first pictures of a folder, in sorted order."""
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"no pictures in {folder}")
    return found[:count]


def made(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """As many photos of a size; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        print(f"making {len(missing)} photos of {size[0]}x{size[1]} in {folder} ...", flush=True)
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(_write, size=size), missing, chunksize=4))
    return [str(path) for path in paths]


def _write(path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(int(path.stem) * 2 + (size == LARGE))
    part = path.with_suffix(".part")
    _photo(rng, *size).save(part, "JPEG", quality=QUALITY)
    part.rename(path)


def _photo(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """In JPEG's own colours: brightness in full, both colour channels softer."""
    planes = [
        _field(rng, width, height, contrast=52),
        _field(rng, width // 4, height // 4, contrast=22).resize((width, height), Resampling.BILINEAR),
        _field(rng, width // 4, height // 4, contrast=22).resize((width, height), Resampling.BILINEAR),
    ]
    pens = [ImageDraw.Draw(plane) for plane in planes]
    for _ in range(rng.integers(3, 9)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        w, h = rng.uniform(0.03, 0.25, 2) * width
        draw = "ellipse" if rng.random() < 0.5 else "rectangle"
        for pen, spread in zip(pens, (90, 40, 40), strict=True):
            getattr(pen, draw)((x, y, x + w, y + h), fill=int(128 + rng.uniform(-spread, spread)))
    return Image.merge("YCbCr", planes)


def _field(rng: np.random.Generator, width: int, height: int, contrast: float) -> Image.Image:
    """A random field with detail at every scale; some are dark, some bright."""
    octaves = int(np.log2(min(width, height))) - 1
    field, strength = Image.new("F", (1, 1)), 1.0
    for octave in range(octaves, -1, -1):
        size = max(1, width >> octave), max(1, height >> octave)
        grain = rng.standard_normal((size[1], size[0]), dtype=np.float32)
        field = Image.fromarray(np.asarray(field.resize(size, Resampling.BICUBIC)) + strength * grain)
        strength *= _ROUGHNESS
    values = np.asarray(field)
    grey = (values - values.mean()) * (contrast / values.std()) + 128 + contrast * rng.uniform(-1, 1)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def small_and_distinct(folder: Path, count: int) -> Path:
    """A folder tree of many tiny JPEGs, 4 KB each, no two with the same bytes, a thousand to a folder.

    There are 64 pictures; the rest of each file, behind the picture's end, is its number.
    """
    done = folder / f"{count}.complete"
    if not done.exists():
        print(f"making {count} tiny pictures in {folder} ...", flush=True)
        bases = [Path(path).read_bytes() for path in made(folder.with_name("tiny-bases"), 64, (64, 48))]
        for number in range(count):
            path = tiny_path(folder, number)
            if number % 1000 == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes((bases[number % 64] + f"{number:08}".encode()).ljust(4096, b"\0"))
        done.touch()
    return folder


def tiny_path(folder: Path, number: int) -> Path:
    """Where the picture of a number lies."""
    return folder / f"{number // 1000:03}" / f"{number:06}.jpg"
