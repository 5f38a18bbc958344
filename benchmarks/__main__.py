"""`python -m benchmarks PHOTOS`: whole processes, side by side in one run, medians and ratios.

PHOTOS is a folder of pictures. Both sides use the same random ViT-B-32 checkpoint, made here.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL, LABELS = "ViT-B-32", "cat,dog"


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of pictures")
    parser.add_argument("--images", type=int, default=200, help="pictures of the folder cases (default 200)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side (default 5)")
    options = parser.parse_args()
    files = sorted(str(path) for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    files = files[: options.images]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        make_checkpoint(weights)
        cache = str(Path(folder) / "cache")
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions()}\n")
        print("| case | open_clip s | clipzs s | times faster | open_clip MB | clipzs MB |\n|---|---|---|---|---|---|")
        one, many = files[:1], files
        clipzs = [sys.executable, "-m", "clipzs", "classify", "--model", MODEL, "--pretrained", str(weights)]
        clipzs += ["--labels", LABELS, "--template", "a photo of a <>.", "--cache-dir", cache, "-f", "label", "-q"]
        theirs = [sys.executable, "-m", "benchmarks.open_clip_way", MODEL, str(weights), LABELS]
        cases = [
            ("one image, labels new", [*theirs, "0", *one], [*clipzs, "--no-cache", *one]),
            ("one image, labels seen", [*theirs, "0", *one], [*clipzs, *one]),
            (f"{len(many)} images, their loop of single images", [*theirs, "0", *many], [*clipzs, *many]),
            (f"{len(many)} images, their batches of 32", [*theirs, "32", *many], [*clipzs, *many]),
        ]
        for name, their_command, our_command in cases:
            compare(name, their_command, our_command, options.runs)


def make_checkpoint(path: Path) -> None:
    """A full-size model with random weights: speed does not depend on what it has learned."""
    code = (
        "import torch, open_clip; from safetensors.torch import save_file; torch.manual_seed(0);"
        f"model = open_clip.create_model({MODEL!r});"
        "save_file({k: v.contiguous() for k, v in model.state_dict().items()}, " + repr(str(path)) + ")"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, stderr=subprocess.DEVNULL)


def compare(name: str, theirs: list[str], ours: list[str], runs: int) -> None:
    """Time both in turn, so that a busy moment of the machine meets both alike; one run of each is not counted."""
    answers = [run(theirs)[2], run(ours)[2]]
    assert answers[0] == answers[1], f"{name}: the two disagree"
    times: tuple[list[float], list[float]] = ([], [])
    memory: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for side, command in enumerate((theirs, ours)):
            seconds, megabytes, _ = run(command)
            times[side].append(seconds)
            memory[side].append(megabytes)
    their_s, our_s = map(statistics.median, times)
    their_mb, our_mb = map(statistics.median, memory)
    row = [name, f"{their_s:.2f}", f"{our_s:.2f}", f"{their_s / our_s:.2f}", f"{their_mb:.0f}", f"{our_mb:.0f}"]
    print("| " + " | ".join(row) + " |", flush=True)


def run(command: list[str]) -> tuple[float, float, str]:
    """Seconds, peak megabytes of the process itself, and what it printed."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        printed = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed with {process.returncode}: {' '.join(command[:8])} …")
    return time.perf_counter() - start, usage.ru_maxrss / 1024, printed


def versions() -> str:
    """What was measured with."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("clipzs", "open_clip_torch", "torch", "pillow"))


if __name__ == "__main__":
    main()
