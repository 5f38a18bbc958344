"""The measurements, each by itself: a workbench in, raw numbers out."""

import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, photos, processes
from benchmarks.sides import EXACT, Side, compare, read_answers
from benchmarks.workbench import IMAGENET80, LABELS, TEMPLATE, Workbench

GFLOP_PER_IMAGE = 8.82  # ViT-B-32 at 224 px: 12 layers of 50 tokens x 768, the patches, the projection
TOLERANT = 0.98  # agreement of a side that reads pixels slightly differently: JPEG drafts, resizing on tensors
FRESH = ("shiny", "dull", "rough", "smooth", "heavy", "light")  # a word before each label makes it a new one
TINY = ("--model", "tiny", "--template", TEMPLATE)


def start(bench: Workbench) -> dict[str, Any]:
    """What a command costs that computes nothing: its help, and a wrong option."""
    commands = {"clipzs --help": (["--help"], 0), "a wrong option": (["classify", "--nonsense", "x.jpg"], 2)}
    rows = []
    for name, (words, status) in commands.items():
        command = [sys.executable, "-m", "clipzs", *words]
        runs = [processes.run(command, status=status) for _ in range(2 * bench.runs + 1)]
        rows.append(
            {"side": name, "seconds": [r.seconds for r in runs[1:]], "megabytes": [r.megabytes for r in runs[1:]]}
        )
    return {"title": "Nothing to compute", "rows": rows}


def one(bench: Workbench) -> dict[str, Any]:
    """One photo, whole process."""
    files = bench.small_photos(4)[-1:]
    bench.used_before(files[0], *_precisions())
    cold = bench.folder / "caches" / "cold"
    clipzs, mine = bench.clipzs, {"runs": bench.runs, "ours": True}
    bf16 = partial(clipzs, precision="bf16")
    sides = [
        Side("open_clip's README snippet", partial(_open_clip, bench, "0"), bench.runs, new_labels=True),
        Side("transformers pipeline", partial(_transformers, bench, 1), bench.slow_runs, agree=None),
        Side("clipzs, first use of the model", partial(clipzs, cache=cold), before=partial(_empty, bench), **mine),
        Side("clipzs, labels new", clipzs, new_labels=True, **mine),
        Side("clipzs, labels seen", clipzs, **mine),
    ]
    if machine.has_bf16():
        sides += [
            Side("clipzs bf16, labels new", bf16, new_labels=True, agree=None, **mine),
            Side("clipzs bf16, labels seen", bf16, agree=None, **mine),
        ]
    return compare("One photo", files, sides)


def small(bench: Workbench) -> dict[str, Any]:
    """Many photos of about 0.2 megapixels, whole process."""
    files = bench.small_photos(bench.sizes["images"])
    bench.used_before(files[0], *_precisions())
    sides = [
        Side("open_clip, batches of 32", partial(_open_clip, bench, "32"), bench.runs, workers=True),
        Side("transformers pipeline, batches of 32", partial(_transformers, bench, 32), bench.slow_runs, agree=None),
        Side("clipzs", bench.clipzs, bench.runs, ours=True),
    ]
    if machine.has_bf16():
        sides += [
            Side(
                "open_clip, batches of 32, bf16 autocast",
                partial(_open_clip, bench, "32bf16"), bench.slow_runs, workers=True, agree=None,
            ),
            Side("clipzs bf16", partial(bench.clipzs, precision="bf16"), bench.runs, ours=True, agree=None),
        ]  # fmt: skip
    return compare(f"{len(files):,} photos of 0.2 megapixels", files, sides)


def large(bench: Workbench) -> dict[str, Any]:
    """Photos of 12 megapixels, whole process."""
    files = bench.large_photos(bench.sizes["large_images"])
    bench.used_before(files[0], *_precisions())
    sides = [
        Side("open_clip, batches of 32", partial(_open_clip, bench, "32"), bench.runs, workers=True),
        Side(
            "clipzs, exact decoding",
            lambda f, labels: bench.clipzs(f, labels, "--exact-decode"),
            bench.slow_runs,
            ours=True,
        ),
        Side("clipzs", bench.clipzs, bench.runs, ours=True, agree=TOLERANT),
    ]
    if machine.has_bf16():
        bf16 = partial(bench.clipzs, precision="bf16")
        sides.append(Side("clipzs bf16", bf16, bench.runs, ours=True, agree=None))
    return compare(f"{len(files):,} photos of 12 megapixels", files, sides)


def tools(bench: Workbench) -> dict[str, Any]:
    """A folder of photos with every other tool, whole process."""
    files = bench.small_photos(bench.sizes["tool_images"])
    bench.used_before(files[0], *_precisions())
    bench.used_before(files[0], *_precisions(), templates=IMAGENET80)
    import_it = [bench.rivals_python, "-c", "import bioclip.predict"]
    sides = [
        Side("open_clip, one by one", partial(_open_clip, bench, "0"), bench.slow_runs),
        Side("open_clip, batches of 32", partial(_open_clip, bench, "32"), bench.runs, workers=True),
        Side("transformers pipeline, one by one", partial(_transformers, bench, 1), bench.slow_runs, agree=None),
        Side("transformers pipeline, batches of 32", partial(_transformers, bench, 32), bench.slow_runs, agree=None),
        Side("pybioclip (80 templates)", bench.pybioclip, bench.slow_runs, prompts="80", warm_up=import_it),
    ]
    for precision in _precisions():
        name, agree = _named(precision), None if precision == "bf16" else EXACT
        plain = partial(bench.clipzs, precision=precision)
        eighty = partial(plain, templates=IMAGENET80)
        mine = {"ours": True, "agree": agree}
        sides += [
            Side(name, plain, bench.runs, **mine),
            Side(f"{name} (80 templates)", eighty, bench.runs, prompts="80", **mine),
            Side(f"{name} (80 templates, labels new)", eighty, bench.runs, prompts="80", new_labels=True, **mine),
        ]
    return compare(f"{len(files):,} small photos, every tool", files, sides)


def text(bench: Workbench) -> dict[str, Any]:
    """Many labels x 80 templates: prompts a second.

    open_clip is measured inside its process and on few labels; clipzs as a whole process that answers for one photo.
    Scaling both by the number of prompts is in open_clip's favour: its imports and its model are not counted.
    """
    photo = bench.small_photos(1)[0]
    few, many = bench.labels_file(bench.sizes["rival_labels"]), bench.labels_file(bench.sizes["labels"])
    bench.used_before(photo, *_precisions())
    rows, best = [], ""
    for _ in range(bench.slow_runs):
        run = json.loads(bench.ask_rival("open_clip_text", bench.weights, few, photo))
        best = run["best"]
        rows.append({"seconds": run["seconds"], "prompts": run["prompts"]})
        print(f"  text: open_clip: {run['seconds']:.1f} s for {run['prompts']} prompts", flush=True)
    sides = [{"side": "open_clip, build_zero_shot_classifier", "ours": False, "runs": rows}]
    for precision in _precisions():
        command = partial(bench.clipzs, [photo], precision=precision, templates=IMAGENET80)
        agrees = read_answers(processes.run(command(few)).output) == [best]
        if precision == "fp32" and not agrees:
            raise SystemExit("the two disagree about the best label")
        rows = []
        for number in range(bench.slow_runs):
            labels = bench.labels_file(bench.sizes["labels"], prefix=f"{FRESH[number % len(FRESH)]} ")
            run = processes.run(command(labels))
            prompts = 80 * len(Path(many).read_text().splitlines())
            rows.append({"seconds": run.seconds, "prompts": prompts, "megabytes": run.megabytes})
            print(f"  text: clipzs {precision}: {run.seconds:.1f} s for {prompts} prompts", flush=True)
        sides.append({"side": _named(precision), "ours": True, "runs": rows, "agrees": agrees})
    return {"title": "1,000 labels x 80 templates", "sides": sides}


def relabel(bench: Workbench) -> dict[str, Any]:
    """New labels for a folder whose images were seen before: whole process of the embedded model."""
    count = bench.sizes["relabel_images"]
    folder, cache, first = _filled(bench, count, again=True)
    labels = bench.sizes["relabel_labels"]
    runs = []
    for number in range(bench.runs):
        file = bench.labels_file(labels, prefix=f"{FRESH[number % len(FRESH)]} ")
        run = processes.run(bench.classify([str(folder)], file, *TINY, cache=cache))
        print(f"  relabel: {run.seconds:.2f} s, {run.read_megabytes:.0f} MB read", flush=True)
        runs.append({"seconds": run.seconds, "megabytes": run.megabytes, "read_megabytes": run.read_megabytes})
    _check_relabelled(bench, folder, cache, file, read_answers(run.output))
    return {
        "title": f"Relabelling {count:,} images with {labels:,} labels",
        "images": count,
        "image_megabytes": count * 4096 / 1e6,
        "first_pass": first,
        "runs": runs,
    }


def _check_relabelled(bench: Workbench, folder: Path, cache: Path, labels: str, answers: list[str]) -> None:
    """A sample must get the same labels when its images are read."""
    numbers = random.Random(0).sample(range(len(answers)), min(200, len(answers)))
    files = [str(photos.tiny_path(folder, number)) for number in numbers]
    fresh = processes.run(bench.classify(files, labels, *TINY, "--no-image-cache", cache=cache))
    if read_answers(fresh.output) != [answers[number] for number in numbers]:
        raise SystemExit("relabelling from the cache gave other labels than reading the images")


def _filled(bench: Workbench, count: int, *, again: bool) -> tuple[Path, Path, dict[str, float]]:
    """Many tiny images that the embedded model has seen, the cache that remembers it, and what the first pass cost."""
    folder = photos.small_and_distinct(bench.folder / f"tiny-{count}", count)
    cache = bench.folder / "caches" / f"tiny-{count}"
    done = cache / "first-pass.json"
    if again or not done.exists():
        bench.fresh_cache(cache.name)
        for _ in range(2):
            processes.run(bench.classify([str(photos.tiny_path(folder, 0))], LABELS, *TINY, cache=cache))
        print(f"  first pass over {count} tiny images ...", flush=True)
        run = processes.run(bench.classify([str(folder)], LABELS, *TINY, cache=cache))
        print(f"  first pass: {run.seconds:.1f} s", flush=True)
        done.write_text(json.dumps({"seconds": run.seconds, "megabytes": run.megabytes}))
    first: dict[str, float] = json.loads(done.read_text())
    return folder, cache, first


def limits(bench: Workbench) -> dict[str, Any]:
    """The machine's matrix peak, and the share of it that inference reaches."""
    seconds = float(bench.sizes["limit_seconds"])
    gemm = str(Path(__file__).with_name("gemm.py"))
    photo = bench.small_photos(1)[0]
    bench.used_before(photo, *_precisions())
    peaks: dict[str, float] = {}
    towers: dict[str, float] = {}
    for _ in range(bench.runs):
        for python in (sys.executable, bench.rivals_python):
            for name, value in json.loads(processes.run([python, gemm, str(seconds)]).output).items():
                peaks[name] = max(peaks.get(name, 0.0), value)
        for precision in _precisions():
            tower = ["-m", "benchmarks.tower", str(bench.weights), str(bench.warm_cache), precision, str(seconds / 2)]
            speed = float(processes.run([sys.executable, *tower]).output)
            towers[f"clipzs {precision}"] = max(towers.get(f"clipzs {precision}", 0.0), speed)
        speed = float(bench.ask_rival("open_clip_tower", bench.weights, seconds / 2))
        towers["open_clip fp32"] = max(towers.get("open_clip fp32", 0.0), speed)
        print(f"  limits: {peaks} GFLOP/s, {towers} images/s", flush=True)
    return {
        "title": "The machine's limit",
        "gflop_per_image": GFLOP_PER_IMAGE,
        "peak_gflops": peaks,
        "tower_images_per_s": towers,
    }


def growth(bench: Workbench) -> dict[str, Any]:
    """Cost an image by the number of images and of labels, with the embedded model."""
    most = bench.sizes["relabel_images"]
    folder, cache, _ = _filled(bench, most, again=False)
    counts = [n for n in (1, 100, 1_000, 10_000, 100_000) if n <= most]
    few = [n for n in counts if n <= bench.sizes["growth_encoded"]]
    some = min(most, 10_000)
    two = bench.labels_file(2)

    def timed(count: int, labels: str, *how: str) -> dict[str, Any]:
        listed = bench.folder / f"tiny-first-{count}.list"
        listed.write_text("".join(f"{photos.tiny_path(folder, number)}\n" for number in range(count)))
        command = bench.classify(["--files-from", str(listed)], labels, *TINY, *how, cache=cache)
        if not how:
            processes.run(command)  # labels are seen from now on
        runs = bench.slow_runs if how and count >= 10_000 else bench.runs
        seconds = [processes.run(command).seconds for _ in range(runs)]
        print(f"  growth: {count} images {how}, {Path(labels).stem}: {sorted(seconds)[0]:.2f} s", flush=True)
        return {"images": count, "labels": len(Path(labels).read_text().splitlines()), "seconds": seconds}

    return {
        "title": "Growth",
        "product": [_product_seconds(some, count) for count in (2, 10, 100, 1_000, 10_000)],
        "cached": [timed(count, two) for count in counts],
        "encoded": [timed(count, two, "--no-image-cache") for count in few],
        "labels": [timed(some, bench.labels_file(count)) for count in (2, 10, 100, 1_000, 10_000)],
        "labels_start": [timed(1, bench.labels_file(count)) for count in (2, 10, 100, 1_000, 10_000)],
    }


def _product_seconds(images: int, labels: int) -> dict[str, float]:
    """The matrix product of image and label vectors alone, in blocks of 1,000 images."""
    rng, width = np.random.default_rng(0), 256
    vectors, names = rng.standard_normal((1_000, width), np.float32), rng.standard_normal((width, labels), np.float32)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        _ = vectors @ names
        best = min(best, time.perf_counter() - start)
    return {"labels": labels, "seconds": best * images / len(vectors)}


CASES: dict[str, Callable[[Workbench], dict[str, Any]]] = {
    "start": start,
    "limits": limits,
    "one": one,
    "small": small,
    "large": large,
    "tools": tools,
    "text": text,
    "relabel": relabel,
    "growth": growth,
}


def _precisions() -> list[str]:
    return ["fp32", "bf16"] if machine.has_bf16() else ["fp32"]


def _named(precision: str) -> str:
    return "clipzs" if precision == "fp32" else f"clipzs {precision}"


def _open_clip(bench: Workbench, batch: str, files: Any, labels: str) -> list[str]:
    return bench.open_clip(files, labels, batch)


def _transformers(bench: Workbench, batch: int, files: Any, labels: str) -> list[str]:
    return bench.transformers(files, labels, batch)


def _empty(bench: Workbench) -> None:
    bench.fresh_cache("cold")
