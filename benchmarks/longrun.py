"""`python -m benchmarks.longrun`: one run over very many images, watched: memory, threads, descriptors, throughput.

The images are small, generated, all different, and spread over folders of 1,000. The command is the user's own
(`clipzs classify FOLDER -o FILE.jsonl`), a process of its own with an empty cache; its memory is read from `/proc`
while it runs, with that of the processes it starts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import machine
from benchmarks.report import filled, markdown

ROOT = Path(__file__).parent.parent
LABELS = ROOT / "examples" / "labels.txt"
MARKS = (1_000, 10_000, 50_000, 100_000, 150_000, 200_000)  # images after which the process is looked at
SIDE = 32  # pixels
HEADER = ["images", "seconds", "images/s since the line above", "resident memory, main process", "its peak", "workers",
          "threads", "open files"]  # fmt: skip


def main() -> None:
    """Make the images unless they are there, run, and print or write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.longrun", description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--work", type=Path, help="where the images are made and stay; a temporary folder unless given")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = (given.work or Path(folder)) / "images"
        made(images, given.images)
        rows = watched(images, Path(folder), given.images)
    moment = machine.moment()
    note = (
        f"{given.images:,} JPEGs of {SIDE} x {SIDE} pixels, the embedded model, an empty cache that keeps every "
        f"embedding; {moment['date'][:10]}, load average at the end {moment['load_before']:g}."
    )
    text = f"{markdown(HEADER, rows)}\n\n{note}"
    if given.write:
        given.write.write_text(filled(given.write.read_text(), {"longrun": text}))
    else:
        print(text)


def made(folder: Path, count: int) -> None:
    """Images of noise, each different, unless they are there."""
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = rng.integers(0, 256, (8, 8, 3), np.uint8)
        path = folder / f"{number // 1000:04}" / f"{number:07}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = BytesIO()
        Image.fromarray(noise).resize((SIDE, SIDE)).save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue())


def watched(images: Path, folder: Path, count: int) -> list[list[str]]:
    """A row for each mark that the run reaches."""
    output = folder / "scores.jsonl"
    command = [sys.executable, "-m", "clipzs", "classify", str(images), "--model", "tiny", "--labels-file", str(LABELS)]
    command += ["--cache-dir", str(folder / "cache"), "-o", str(output), "--quiet"]
    rows: list[list[str]] = []
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}) as process:
        records, read, before = 0, 0, (0, start)
        marks = [mark for mark in MARKS if mark <= count]
        while marks and process.poll() is None:
            time.sleep(0.05)
            if output.exists():
                with output.open("rb") as stream:
                    stream.seek(read)
                    new = stream.read()
                read, records = read + len(new), records + new.count(b"\n")
            if records >= marks[0]:
                now = time.perf_counter()
                speed = (records - before[0]) / (now - before[1])
                rows.append([f"{records:,}", f"{now - start:.0f}", f"{speed:.0f}", *looked_at(process.pid)])
                before = (records, now)
                marks = [mark for mark in marks if mark > records]
    if process.returncode != 0:
        raise SystemExit(f"failed with {process.returncode}")
    return rows


def looked_at(pid: int) -> list[str]:
    """Resident memory, its peak, that of the workers, threads and open descriptors."""
    facts = status(pid)
    workers = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    workers += [int(child) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid
                for child in (task / "children").read_text().split()]  # fmt: skip
    memory = sum(int(status(worker)["VmRSS"]) for worker in workers) / 1024
    return [
        f"{int(facts['VmRSS']) / 1024:.0f} MB",
        f"{int(facts['VmHWM']) / 1024:.0f} MB",
        f"{len(workers)}: {memory:.0f} MB",
        facts["Threads"],
        str(len(os.listdir(f"/proc/{pid}/fd"))),
    ]


def status(pid: int) -> dict[str, str]:
    """The first word of each line of `/proc/PID/status`."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): words[1] for words in lines if len(words) > 1}


if __name__ == "__main__":
    main()
