"""`python -m benchmarks.searching [SECTION ...]`: how well and how fast `clipzs search` and `clipzs dupes` find.

`--data DIR` holds labelled sets, a folder of images for each class, for what is measured on photos. `--write` puts the
tables between their marks in a document. The speed is measured on made-up vectors, in processes of their own.
"""

import argparse
import io
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.processes import run
from benchmarks.report import filled, markdown
from clipzs import __version__, duplicates, embeddings, searching, templates
from clipzs.embedder import Embedder
from clipzs.imagecache import Content, ImageCache
from clipzs.options import Options
from clipzs.truth import Truth, from_folder

MODEL = "tiny"
PROMPTS = {"the text as it is": ("<>",), "a <>": ("a <>",), "a photo of a <>": ("a photo of a <>",),
           "the default templates": templates.chosen()}  # fmt: skip
LESSER = (0.0, 0.25, 0.5, 0.75, 1.0)
SIMILAR = (0.95, 0.96, 0.97, 0.98, 0.99)
ROWS, DIMENSIONS = 1_000_000, (512, 256)
QUERIES = 20
AT_ONCE = 10_000
COMPARED = (10_000, 100_000)
WORDS = ("a dog on a beach",)


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searching", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all unless given")
    parser.add_argument("--data", type=Path, help="a folder of sets")
    parser.add_argument("--rows", type=int, default=ROWS, help="vectors of `speed` and `cache`")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(unknown)}")
    document = options.write.read_text() if options.write else ""
    marked = re.findall(r"<!-- figures: (.+?) -->", document)
    wanted = options.sections or [name for name in SECTIONS if name in marked or not options.write]
    parts = {name: SECTIONS[name](options) for name in wanted}
    if options.write:
        options.write.write_text(filled(options.write.read_text(), parts))
    else:
        print("\n\n".join(parts.values()))


# On photos


@cache
def _embedder() -> Embedder:
    return Embedder(Options(model=MODEL))


def _sets(data: Path) -> Iterator[tuple[str, Truth, np.ndarray]]:
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        truth = from_folder(folder)
        yield folder.name, truth, np.concatenate([batch.vectors for batch in _embedder().batches(truth.paths)])


def precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Average precision of a ranking: the mean, over the right ones, of the share of right ones up to there."""
    ranked = right[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def prompts(options: argparse.Namespace) -> str:
    """Each class as a query, in several wordings: mean average precision."""
    rows = []
    for name, truth, vectors in _sets(options.data):
        answers, cells = np.array(truth.answers), []
        for chosen in PROMPTS.values():
            scores = vectors @ searching.embedded(_embedder(), truth.classes, chosen).T
            cells.append(np.mean([precision(scores[:, c], answers == c) for c in range(len(truth.classes))]))
        rows.append([name, f"{len(answers)}", f"{len(truth.classes)}", *(f"{cell:.3f}" for cell in cells)])
    return markdown(["set", "images", "queries", *PROMPTS], rows)


def less(options: argparse.Namespace) -> str:
    """Each class as a query, and the class it is most taken for as what is not wanted: mean average precision."""
    rows = []
    for name, truth, vectors in _sets(options.data):
        answers, queries = np.array(truth.answers), searching.embedded(_embedder(), truth.classes, ("<>",))
        means = np.stack([(vectors[answers == c] @ queries.T).mean(axis=0) for c in range(len(truth.classes))])
        np.fill_diagonal(means, -1)
        cells = [
            np.mean([
                precision(vectors @ (queries[c] - part * queries[means[:, c].argmax()]), answers == c)
                for c in range(len(truth.classes))
            ])
            for part in LESSER
        ]  # fmt: skip
        rows.append([name, *(f"{cell:.3f}" for cell in cells)])
    return markdown(["set", *(f"less {part:g} times" for part in LESSER)], rows)


def _encoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _resized(image: Image.Image, part: float) -> Image.Image:
    size = round(image.width * part), round(image.height * part)
    return image.resize(size, Image.Resampling.LANCZOS)


def _cropped(image: Image.Image, part: float) -> Image.Image:
    left, top = round(image.width * (1 - part) / 2), round(image.height * (1 - part) / 2)
    return image.crop((left, top, image.width - left, image.height - top))


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 75": lambda image: _encoded(image, 75),
    "JPEG, quality 30": lambda image: _encoded(image, 30),
    "twice the size": lambda image: _resized(image, 2),
    "half the size": lambda image: _resized(image, 0.5),
    "a quarter of the size": lambda image: _resized(image, 0.25),
    "20 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "20 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "20 % more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "cropped to 95 %": lambda image: _cropped(image, 0.95),
    "cropped to 90 %": lambda image: _cropped(image, 0.9),
    "cropped to 80 %": lambda image: _cropped(image, 0.8),
    "mirrored": ImageOps.mirror,
    "in greys": lambda image: image.convert("L").convert("RGB"),
}


def similar(options: argparse.Namespace) -> str:
    """Edited copies of photos, and other photos: how many reach a similarity."""
    sets = [*_sets(options.data)]
    images = [Image.open(path).convert("RGB") for _, truth, _ in sets for path in truth.paths]
    own = np.concatenate([vectors for _, _, vectors in sets])

    def shares(found: np.ndarray) -> list[str]:
        return [f"{(found >= least).mean():.1%}" for least in SIMILAR]

    rows = []
    for name, edit in EDITS.items():
        edited = np.concatenate([batch.vectors for batch in _embedder().batches(edit(image) for image in images)])
        rows.append([name, *shares(np.einsum("nd,nd->n", own, edited))])
    others = own @ own.T
    np.fill_diagonal(others, -1)
    rows.append(["**another photo** of the set", *shares(others.max(axis=1))])
    return markdown([f"of {len(images)} photos", *(f"over {least:.2f}" for least in SIMILAR)], rows)


# On made-up vectors


def _made(count: int, d: int) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(0)
    for start in range(0, count, AT_ONCE):
        rows = draw.standard_normal((min(AT_ONCE, count - start), d), np.float32)
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


_ASK = """
import sys, time, re
from pathlib import Path
from statistics import median
import numpy as np
from clipzs import embeddings, searching
start = time.perf_counter()
found = embeddings.read(Path(sys.argv[1]))
loaded = time.perf_counter() - start
seconds, draw = [], np.random.default_rng(1)
for _ in range(int(sys.argv[2])):
    query = draw.standard_normal(found.vectors.shape[1], np.float32)
    query /= np.linalg.norm(query)
    start = time.perf_counter()
    hits = [*searching.nearest(found.vectors, query, top_k=10)]
    seconds.append(time.perf_counter() - start)
status = Path("/proc/self/status").read_text()
anonymous = int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]) / 1e6
mapped = int(re.search(r"RssFile:\\s+(\\d+)", status)[1]) / 1e6
print(loaded, median(seconds), anonymous, mapped)
"""


def speed(options: argparse.Namespace) -> str:
    """Files of each kind: seconds to load and to answer."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for d in DIMENSIONS:
            for suffix, dtype in ((".npy", "float32"), (".safetensors", "float32"), (".parquet", "float32"),
                                  (".npy", "float16")):  # fmt: skip
                path = Path(folder) / f"x{suffix}"
                start, done = time.perf_counter(), 0
                facts = embeddings.Facts("made up", "0" * 64, "images", __version__)
                with embeddings.written(path, facts, dtype) as put:
                    for some in _made(options.rows, d):
                        put([f"photos/folder {row // 1000:05}/image {row:08}.jpg" for row in
                             range(done, done + len(some))], some)  # fmt: skip
                        done += len(some)
                written, size = time.perf_counter() - start, path.stat().st_size / 1e9
                command = [sys.executable, "-c", _ASK, str(path), str(QUERIES)]
                loaded, each, anonymous, mapped = map(float, run(command).output.split())
                rows.append(
                    [f"{options.rows:,} x {d}", f"{suffix}, {dtype}", f"{size:.1f} GB", f"{written:.0f} s",
                     f"{loaded:.1f} s", f"{each * 1000:.0f} ms", f"{anonymous:.1f} GB", f"{mapped:.1f} GB"]
                )  # fmt: skip
                path.unlink()
    return markdown(
        ["vectors", "file", "size", "to write", "to load and check", "a query", "memory", "mapped file"], rows
    )


def cached(options: argparse.Namespace) -> str:
    """Images whose embeddings are in the cache, by path: the whole command over a folder."""
    rows, count = [], options.rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        embedder = Embedder(Options(model=MODEL, cache_dir=folder / "cache", cache_limit="0"))
        d = int(embedder.model.config["embed_dim"])
        done = 0
        with ImageCache(
            folder / "cache", MODEL, embedder.model.digest, precision="fp32", exact=False
        ) as kept:  # fmt: skip
            for some in _made(count, d):
                for vector in some:
                    path = folder / "photos" / f"{done // 1000:05}" / f"{done:08}.jpg"
                    if done % 1000 == 0:
                        path.parent.mkdir(parents=True)
                    path.touch()
                    status = path.stat()
                    stamp = b"%d %d %d %d" % (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                    kept.keep(Content(str(path), stamp, done.to_bytes(32, "little")), vector)
                    done += 1
        command = [sys.executable, "-m", "clipzs", "search", *WORDS, str(folder / "photos"), "--model", MODEL,
                   "--cache-dir", str(folder / "cache"), "--cache-limit", "0", "-f", "paths"]  # fmt: skip
        run(command)  # which compiles the model, and finds the words
        whole = run(command)
        index = folder / "index.npy"
        run([sys.executable, "-m", "clipzs", "embed", str(folder / "photos"), "-o", str(index), "--model", MODEL,
             "--cache-dir", str(folder / "cache"), "--cache-limit", "0"])  # fmt: skip
        by_file = run([sys.executable, "-m", "clipzs", "search", *WORDS, "--embeddings", str(index), "--cache-dir",
                       str(folder / "cache"), "-f", "paths"])  # fmt: skip
        size = sum(path.stat().st_size for path in (folder / "cache").rglob("*.sqlite")) / 1e9
        for what, measured in (("a folder, all in the cache", whole), ("a file of embeddings", by_file)):
            rows.append([what, f"{count:,} x {d}", f"{measured.seconds:.1f} s", f"{measured.megabytes / 1000:.1f} GB"])
    table = markdown(["`clipzs search` over", "vectors", "whole command", "peak memory"], rows)
    return f"{table}\n\nThe cache has {size:.1f} GB."


def compared(options: argparse.Namespace) -> str:
    """`clipzs dupes`: each image with each other."""
    rows = []
    for count in COMPARED:
        for d in DIMENSIONS:
            vectors = np.concatenate([*_made(count, d)])
            start = time.perf_counter()
            groups = [*duplicates.stars(vectors, np.arange(count), 0.97)]
            assert not groups
            rows.append([f"{count:,} x {d}", f"{time.perf_counter() - start:.1f} s"])
    return markdown(["vectors", "seconds"], rows)


SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "prompts": prompts,
    "less": less,
    "similar": similar,
    "speed": speed,
    "cached": cached,
    "compared": compared,
}

if __name__ == "__main__":
    main()
