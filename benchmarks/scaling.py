"""`python -m benchmarks.scaling [SECTION ...]`: what `clipzs batch` costs besides the model, and what follows from it.

Listing, planning, parts, rows and reading are measured here with made-up files and the embedded model; what a core does
of a full-size model is taken from the tables of docs/performance.md. `--write` puts the tables between their marks.
"""

import argparse
import io
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import machine, photos, processes
from benchmarks.report import filled, markdown
from clipzs.columns import RecordTable
from clipzs.images import pixels
from clipzs.preprocess import Preprocess
from clipzs.results import Result, Score
from clipzs.writers import JsonlWriter

ROOT = processes.ROOT
PERFORMANCE = ROOT / "docs" / "performance.md"
LABELS = ROOT / "examples" / "labels.txt"
WORDS = ROOT / "clipzs" / "background.txt"
SIZES = {"1 million": 10**6, "100 million": 10**8, "5 billion": 5 * 10**9}
PART, SHARD = 4096, 10_000  # images of a part of listed files, and of one of img2dataset's archives
SHRUNK = 27_000  # bytes of an image in the archives of LAION-400M at 256 pixels, as its documentation says
GPU = 1500.0  # images/s that clip-retrieval's documentation names for an RTX 3080; not measured here
CORES, DAY = 64, 86_400
LIST, GET = 0.005 / 1000, 0.0004 / 1000  # US dollars a request, S3 Standard in us-east-1
LISTED = 1000  # names that one request lists
DIMENSIONS = 512
ROWS, AT_ONCE = 4096, 256
READ = (12, 48)  # parts of ROWS rows
FILES, TINY = 200_000, 8192
DECIMALS = 4


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all unless given")
    parser.add_argument("--work", type=Path, help="where files are made and stay; a temporary folder unless given")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as name:
        folder = options.work or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [section for section in SECTIONS if section in (options.sections or SECTIONS)]
        parts = {section: SECTIONS[section](folder) for section in wanted}
    if options.write:
        options.write.write_text(filled(options.write.read_text(), parts))
    else:
        print("\n\n".join(parts.values()))


def machine_line(folder: Path) -> str:
    """What was measured on."""
    facts, moment = machine.facts(None), machine.moment()
    return (
        f"{facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB, {facts['system']}, Python "
        f"{facts['python']}; {moment['date'][:10]}, load average before {moment['load_before']:g}."
    )


# Images


@cache
def _photos(folder: Path, size: tuple[int, int], count: int) -> tuple[float, float]:
    """Mean bytes of a photo, and milliseconds in which a core makes 224 x 224 pixels of it."""
    files = [Path(path).read_bytes() for path in photos.made(folder / f"photos-{size[0]}", count, size)]
    preprocess, seconds = Preprocess(), []
    for content in files:
        start = time.process_time()
        pixels(io.BytesIO(content), "", preprocess, max_megapixels=math.inf)
        seconds.append(time.process_time() - start)
    return sum(map(len, files)) / count, 1000 * median(seconds)


def _small(folder: Path) -> tuple[float, float]:
    return _photos(folder, photos.SMALL, 64)


def _large(folder: Path) -> tuple[float, float]:
    return _photos(folder, photos.LARGE, 8)


def images(folder: Path) -> str:
    """Bytes and decoding of an image, and what that asks of the cores and the network beside a GPU."""
    rows = []
    for title, (size, ms) in (("0.2 megapixels", _small(folder)), ("12 megapixels", _large(folder))):
        rows.append([title, f"{size / 1e3:,.0f} KB", f"{ms:.1f} ms", f"{GPU * ms / 1000:.0f}",
                     f"{GPU * size * 8 / 1e9:.1f} Gbit/s"])  # fmt: skip
    header = ["JPEG", "bytes", "decoding, one core", f"cores that feed {GPU:,.0f} images/s", "and network"]
    return markdown(header, rows)


# Results


def _results(labels: int, top_k: int | None) -> Iterator[list[Result]]:
    """Rows as a batch has them, some at a time."""
    words = WORDS.read_text().split("\n")
    names = [words[number % len(words)] + f" {number}" * (number >= len(words)) for number in range(labels)]
    draw = np.random.default_rng(0)
    for start in range(0, ROWS, AT_ONCE):
        some = []
        for number in range(start, start + AT_ONCE):
            logits = draw.normal(0, 3, labels)
            shares = np.exp(logits) / np.exp(logits).sum()
            best = np.argsort(-shares)[:top_k].tolist()
            scores = tuple(Score(names[place], float(shares[place])) for place in best)
            path = f"shards/{number // SHARD:05}.tar/{number:09}.jpg"
            some.append(
                Result(path, scores[0].label, scores[0].score, scores, model="ViT-B-32:openai", config="0" * 16)
            )
        yield some


def _part(batches: Iterator[list[Result]], suffix: str) -> bytes:
    """A part with these rows."""
    part = io.BytesIO()
    if suffix == "parquet":
        table = RecordTable(lambda: part, decimals=DECIMALS)
        for some in batches:
            table.write(some)
        table.close()
    else:
        lines = JsonlWriter(part, DECIMALS)
        for some in batches:
            lines.write(some)
    return part.getvalue()


@cache
def _row_bytes(labels: int, top_k: int | None, suffix: str) -> float:
    return len(_part(_results(labels, top_k), suffix)) / ROWS


@cache
def _vector_bytes(dtype: str) -> float:
    """Bytes that an embedding adds to a row."""
    results, sizes = next(_results(10, 1)), []
    vectors = np.random.default_rng(0).standard_normal((AT_ONCE, DIMENSIONS), np.float32)
    for kept in (None, dtype):
        table = io.BytesIO()
        written = RecordTable(lambda table=table: table, embeddings=kept)
        written.write(results, vectors if kept else None)
        written.close()
        sizes.append(len(table.getvalue()) / AT_ONCE)
    return sizes[1] - sizes[0]


def rows(folder: Path) -> str:
    """Bytes of a row by what is in it."""
    table = []
    for labels, top_k in ((10, 1), (10, None), (1000, 5), (1000, None)):
        sizes = [_row_bytes(labels, top_k, suffix) for suffix in ("parquet", "jsonl")]
        what = f"{labels:,} labels, {'all scores' if top_k is None else f'--top-k {top_k}'}"
        table.append([what, *(f"{size:,.0f}" for size in sizes)])
    for dtype in ("float16", "float32"):
        table.append([f"an embedding of {DIMENSIONS} numbers, {dtype}", f"{_vector_bytes(dtype):,.0f} more", ""])
    return markdown(["a row with", "Parquet, bytes", "JSON Lines, bytes"], table)


# Listing and planning

_PLAN = """
import re, sys, time
from pathlib import Path
from clipzs.batch import planning
from clipzs.batch.job import Inputs, Job
job = Job(sys.argv[1], Inputs((sys.argv[2],)))
start = time.perf_counter()
parts = planning.plan(job, job.folder())
seconds = time.perf_counter() - start
status = Path("/proc/self/status").read_text()
print(seconds, len(parts), int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024)
"""


def _planned(out: Path, source: Path) -> list[str]:
    seconds, parts, megabytes = map(
        float, processes.run([sys.executable, "-c", _PLAN, str(out), str(source)]).output.split()
    )
    inputs, plan = ((out / name).stat().st_size for name in ("inputs.jsonl", "plan.jsonl"))
    return [
        f"{seconds:.1f} s",
        _bytes(inputs),
        f"{parts:,.0f}",
        _bytes(plan),
        f"{megabytes:.0f} MB",
    ]


def listing(folder: Path) -> str:
    """Seconds and bytes to list and plan: files in folders, a list of paths, and a list of archives."""
    tree = folder / f"empty-{FILES}"
    for number in range(0, FILES if not tree.exists() else 0, 1000):
        (tree / f"{number // 1000:05}").mkdir(parents=True)
        for one in range(number, number + 1000):
            (tree / f"{number // 1000:05}" / f"{one:09}.jpg").touch()
    paths = folder / "paths.txt"
    with paths.open("w") as file:
        file.writelines(f"s3://bucket/photos/{one // 1000:05}/{one:09}.jpg\n" for one in range(5 * FILES))
    table = []
    for what, count, source in (("files in folders of 1,000", FILES, tree), ("a list of paths", 5 * FILES, paths)):
        out = folder / f"plan-{count}"
        shutil.rmtree(out, ignore_errors=True)
        table.append([what, f"{count:,}", *_planned(out, source)])
        shutil.rmtree(out)
    return markdown(
        ["inputs", "images", "to list and plan", "inputs.jsonl", "parts", "plan.jsonl", "peak memory"], table
    )


# Parts


def _command(folder: Path, name: str, source: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "clipzs", name, str(source), "--labels-file", str(LABELS), "--model", "tiny",
            "--cache-dir", str(folder / "cache"), "--quiet", *more]  # fmt: skip


def _new(folder: Path, name: str) -> Path:
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    return out


def parts(folder: Path) -> str:
    """One process on this machine, by the size of parts; next to `clipzs classify`."""
    tree = photos.small_and_distinct(folder / "tiny", TINY)
    processes.run(_command(folder, "classify", tree / "000", "-o", str(folder / "warm.jsonl")))  # compiles
    whole = processes.run(_command(folder, "classify", tree, "--no-image-cache", "-o", str(folder / "one.jsonl")))
    table = [
        [
            "`clipzs classify`",
            "",
            f"{whole.seconds:.1f} s",
            f"{TINY / whole.seconds:.0f}",
            "",
            f"{whole.megabytes:.0f} MB",
        ]
    ]
    first: tuple[float, int] | None = None
    for size in (4096, 512, 64):  # the cost of a part is what many small ones take longer than few
        out, count = _new(folder, f"out-{size}"), math.ceil(TINY / size)
        done = processes.run(_command(folder, "batch", tree, "--out", str(out), "--part-size", str(size)))
        first = first or (done.seconds, count)
        each = (done.seconds - first[0]) / (count - first[1]) if size == 64 else None
        table.append([f"`clipzs batch --part-size {size}`", f"{count:,}", f"{done.seconds:.1f} s",
                      f"{TINY / done.seconds:.0f}", "" if each is None else f"{1000 * each:.0f} ms",
                      f"{done.megabytes:.0f} MB"])  # fmt: skip
    again = processes.run(_command(folder, "batch", tree, "--out", str(folder / "out-64"), "--part-size", "64"))
    table.append(
        ["the same again", f"{math.ceil(TINY / 64):,}", f"{again.seconds:.1f} s", "", "", f"{again.megabytes:.0f} MB"]
    )
    start = time.perf_counter()
    out = _new(folder, "out-shards")
    running = [
        subprocess.Popen(
            _command(folder, "batch", tree, "--out", str(out), "--part-size", "512", "--num-shards", "2", "--shard",
                     shard),
            cwd=ROOT, stdout=subprocess.DEVNULL,
        )
        for shard in "01"
    ]  # fmt: skip
    codes = [process.wait() for process in running]
    if codes != [0, 0]:
        raise SystemExit(f"a shard failed: {codes}")
    seconds = time.perf_counter() - start
    table.append(
        [
            "two processes, `--num-shards 2`, parts of 512",
            f"{TINY // 512}",
            f"{seconds:.1f} s",
            f"{TINY / seconds:.0f}",
            "",
            "",
        ]
    )
    return markdown(["", "parts", "whole process", "images/s", "a part more", "peak memory"], table)


# Reading


def reading(folder: Path) -> str:
    """`clipzs filter --results` over a folder of parts: rows a second, and memory that does not grow."""
    table = []
    for count in READ:
        for suffix in ("parquet", "jsonl"):
            out = _new(folder, f"read-{suffix}-{count}")
            # in a process of its own: what this one has held at most is counted as that of those it starts
            code = f"from benchmarks.scaling import made_up; made_up({str(out)!r}, {suffix!r}, {count})"
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
            words = [sys.executable, "-m", "clipzs", "filter", "--is", "bird", "--results", str(out)]
            seen = processes.run(words)
            table.append([f"{count * ROWS:,}", suffix, f"{seen.seconds:.1f} s", f"{count * ROWS / seen.seconds:,.0f}",
                          f"{seen.megabytes:.0f} MB"])  # fmt: skip
            shutil.rmtree(out)
    return markdown(["rows, 1,000 labels, --top-k 5", "format", "whole process", "rows/s", "peak memory"], table)


def made_up(place: str, suffix: str, count: int) -> None:
    """A folder as a batch leaves it, with so many parts."""
    out = Path(place)
    out.mkdir(parents=True)
    (out / "job.json").write_text("{}")
    (out / "plan.jsonl").write_text("".join(f"{json.dumps({'id': number})}\n" for number in range(count)))
    part = _part(_results(1000, 5), suffix)
    for number in range(count):
        (out / f"part-{number:06}.{suffix}").write_bytes(part)


# What follows


def _rates() -> Iterator[tuple[str, float]]:
    """Images a second and core of ViT-B-32, small photos, from the tables that were measured."""
    page = PERFORMANCE.read_text()
    cores = re.search(r"<!-- figures: machine -->\s+(\d+) cores", page)
    small = re.search(r"<!-- figures: small -->(.*?)<!-- end -->", page, re.DOTALL)
    if cores is None or small is None:
        raise SystemExit(f"{PERFORMANCE} has no figures")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in small[1].splitlines()]
    header = next(line for line in lines if "images/s" in line)
    for name, precision in (("clipzs", "fp32"), ("clipzs bf16", "bf16")):
        row = next(line for line in lines if line and line[0] == name)
        yield precision, float(row[header.index("images/s")]) / int(cores[1])


def sizing(folder: Path) -> str:
    """Hours, bytes and requests for so many images."""
    rates = dict(_rates())
    small, large = _small(folder)[0], _large(folder)[0]
    best, path = rates["bf16"], len("s3://bucket/photos/00000/000000000.jpg") + 3  # quotes and the end of its line
    facts: dict[str, Callable[[int], str]] = {
        **{f"core-hours, {name} ({rate:.0f} images/s a core)": lambda n, rate=rate: _rounded(n / rate / 3600)
           for name, rate in rates.items()},
        f"machines of {CORES} cores for one day, bf16": lambda n: f"{math.ceil(n / (CORES * best * DAY)):,}",
        f"GPU-hours at {GPU:,.0f} images/s": lambda n: _rounded(n / GPU / 3600),
        "such GPUs for one day": lambda n: f"{math.ceil(n / (GPU * DAY)):,}",
        "to read, photos of 0.2 megapixels": lambda n: _bytes(n * small),
        "to read, photos of 12 megapixels": lambda n: _bytes(n * large),
        f"to read, img2dataset's 256 pixels ({SHRUNK // 1000} KB)": lambda n: _bytes(n * SHRUNK),
        "network for one day, 0.2 megapixels": lambda n: f"{n * small * 8 / DAY / 1e9:,.2f} Gbit/s",
        "an object each: requests to list": lambda n: _requests(n / LISTED, LIST),
        "an object each: requests to read": lambda n: _requests(n, GET),
        f"in archives of {SHARD:,}: requests to read": lambda n: _requests(n / SHARD, GET),
        "list of inputs, an object each": lambda n: _bytes(n * path),
        "list of inputs, archives": lambda n: _bytes(n / SHARD * (path + 8)),
        f"parts of {PART:,} listed images": lambda n: f"{math.ceil(n / PART):,}",
        "parts, archives": lambda n: f"{math.ceil(n / SHARD):,}",
        "results, Parquet, 10 labels": lambda n: _bytes(n * _row_bytes(10, None, "parquet")),
        "results, Parquet, 1,000 labels, --top-k 5": lambda n: _bytes(n * _row_bytes(1000, 5, "parquet")),
        "results, JSON Lines, 1,000 labels, all scores": lambda n: _bytes(n * _row_bytes(1000, None, "jsonl")),
        f"embeddings, {DIMENSIONS} x float16": lambda n: _bytes(n * _vector_bytes("float16")),
    }  # fmt: skip
    return markdown(["", *SIZES], [[name, *(fact(count) for count in SIZES.values())] for name, fact in facts.items()])


def _rounded(hours: float) -> str:
    return f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"


def _bytes(count: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} KB"


def _requests(count: float, price: float) -> str:
    dollars = count * price
    return f"{math.ceil(count):,} ({f'${dollars:,.2f}' if dollars >= 0.01 else 'under a cent'})"


SECTIONS: dict[str, Callable[[Path], str]] = {
    "machine": machine_line,
    "listing": listing,  # what starts processes comes first: memory of this one would be counted as theirs
    "parts": parts,
    "reading": reading,
    "images": images,
    "rows": rows,
    "sizing": sizing,
}

if __name__ == "__main__":
    main()
