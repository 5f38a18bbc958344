"""`python -m benchmarks.serving [SECTION ...]`: `clipzs serve` under load, and commands that let it compute.

`load` sends photos with `wrk` (https://github.com/wg/wrk, from the package of that name), each in a request of its own,
from 1, 8 and 64 connections on this machine: requests a second and how long they take, with images of all clients in
batches and, in another server, each by itself. `client` measures whole commands with and without `--server`. `soak`
keeps 8 connections busy for `--minutes`, with broken images and ever new labels among them, and looks at the server's
memory: it is for when it is asked for. Load and server share the processor. With the usual settings, `load` takes four
minutes and `client` one.
"""

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import machine
from benchmarks.longrun import looked_at, made, status
from benchmarks.report import filled, markdown
from clipzs import servernotes

ROOT = Path(__file__).parent.parent
PHOTOS = sorted((ROOT / "examples").glob("*.jpg"))
LABELS = ["cat", "dog", "rocket", "a cup of coffee", "temple", "flower", "person", "car", "bird", "tree"]
CLIENTS = (1, 8, 64)
WARM_S = 3
START_S = 300
SAMPLE_S = 5.0
MANY = 1_000  # images of a folder
# What wrk runs on each of its threads: bodies in turn, new numbers where some are wanted; at the end, a line of JSON.
_SCRIPT = """
local bodies, turn = {}, 0
function init(args)
  math.randomseed(os.time() + tonumber(tostring({}):sub(8)))
  for _, path in ipairs(args) do
    local file = io.open(path, "rb"); bodies[#bodies + 1] = file:read("*a"); file:close()
  end
  turn = math.random(#bodies)
end
function request()
  turn = turn % #bodies + 1
  local body = bodies[turn]
  if body:sub(1, 400):find("@@", 1, true) then body = body:gsub("@@", math.random(1e9)) end
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
end
function done(summary, latency)
  local e = summary.errors
  local form = '{"requests": %d, "seconds": %f, "status": %d, "broken": %d, "p50": %f, "p95": %f, "p99": %f}\\n'
  io.write(string.format(form,
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Serving:
    """A server that runs for a measurement."""

    url: str
    pid: int
    folder: Path


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help="load, client, soak; load and client unless given"
    )
    parser.add_argument("--model", default="tiny", help="(default %(default)s)")
    parser.add_argument("--seconds", type=int, default=30, help="of each load (default %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each command of `client` (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="of `soak` (default %(default)s)")
    parser.add_argument("--write", type=Path, metavar="MARKDOWN", help="replace what stands between its marks")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(unknown)}")
    parts = {}
    for name in options.sections or ["load", "client"]:
        before = machine.moment()
        parts[name] = SECTIONS[name](options) + "\n\n" + _when(before)
        print(f"{parts[name]}\n", flush=True)
    if options.write:
        options.write.write_text(filled(options.write.read_text(), {f"serving {k}": v for k, v in parts.items()}))


def _when(before: dict[str, object]) -> str:
    facts = machine.facts(None)
    day, busy = str(before["date"])[:10], before["load_before"]
    return f"{facts['cores']} cores of {facts['cpu']}; {day}, load average before {busy:g}."


@contextmanager
def serving(options: argparse.Namespace, *more: str) -> Iterator[Serving]:
    """A server whose model was compiled before, and that keeps no embeddings of images."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):  # the first one compiles the model, and has torch in memory
            with _started(options, Path(folder), *more) as server:
                if number:
                    yield server


@contextmanager
def _started(options: argparse.Namespace, folder: Path, *more: str) -> Iterator[Serving]:
    command = [sys.executable, "-m", "clipzs", "serve", "--model", options.model, "--port", "0", "--quiet"]
    command += ["--cache-dir", str(folder), "--no-image-cache", "--labels", ",".join(LABELS), *more]
    log = (folder / "log").open("w")
    with log, subprocess.Popen(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=log) as process:
        end = time.monotonic() + START_S
        while not (notes := servernotes.running(servernotes.folder(folder))):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server did not start: {(folder / 'log').read_text()}")
            time.sleep(0.1)
        try:
            yield Serving(notes[0].url, process.pid, folder)
        finally:
            process.terminate()


def body(image: bytes, labels: list[str] | None = None) -> bytes:
    """A request about one image; the server's labels unless there are some."""
    named = {"labels": labels} if labels else {}
    return json.dumps({**named, "images": [{"name": "photo.jpg", "data": base64.b64encode(image).decode()}]}).encode()


@contextmanager
def sending(server: Serving, bodies: list[bytes], *, clients: int, seconds: float) -> Iterator["subprocess.Popen[str]"]:
    """wrk at work."""
    folder = server.folder / f"bodies-{len(bodies)}"
    if not folder.exists():
        folder.mkdir()
        for number, content in enumerate(bodies):
            (folder / f"{number:04}").write_bytes(content)
    script = server.folder / "load.lua"
    script.write_text(_SCRIPT)
    command = ["wrk", "-t", str(min(2, clients)), "-c", str(clients), "-d", f"{seconds:g}s", "--timeout", "60s", "-s"]
    command += [str(script), f"{server.url}/v1/classify", "--", *map(str, sorted(folder.iterdir()))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def loaded(server: Serving, bodies: list[bytes], *, clients: int, seconds: float) -> dict[str, float]:
    """What wrk found."""
    with sending(server, bodies, clients=clients, seconds=seconds) as process:
        said = process.communicate()[0]
    found: dict[str, float] = json.loads(said.strip().splitlines()[-1])
    return found


def load(options: argparse.Namespace) -> str:
    """Requests of 1, 8 and 64 clients."""
    bodies, rows = [body(photo.read_bytes()) for photo in PHOTOS], []
    for how, more in (("batches of all clients", ()), ("each image by itself", ("--batch-size", "1"))):
        with serving(options, *more) as server:
            loaded(server, bodies, clients=8, seconds=WARM_S)
            for clients in CLIENTS:
                before = _batches(server)
                found = loaded(server, bodies, clients=clients, seconds=options.seconds)
                batch = (_batches(server) - before) or float("nan")
                refused = found["status"] + found["broken"]
                cells = [
                    f"{found['requests'] / found['seconds']:.0f}",
                    *(f"{found[p]:.0f} ms" for p in ("p50", "p95", "p99")),
                ]
                rows.append([how, str(clients), *cells, f"{found['requests'] / batch:.1f}", f"{refused:.0f}"])
    header = ["through the model", "clients", "requests/s", "p50", "p95", "p99", "images in a batch", "failed"]
    size = sum(photo.stat().st_size for photo in PHOTOS) / len(PHOTOS) / 1e3
    return (
        f"{markdown(header, rows)}\n\nPOST /v1/classify, one of {len(PHOTOS)} photos of {size:.0f} kB on average and "
        f"{len(LABELS)} labels, model `{options.model}`, no cache of images, {options.seconds} s each, wrk on the "
        f"same machine."
    )


def _batches(server: Serving) -> float:
    """How often the model has run."""
    import urllib.request

    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        said = answer.read().decode()
    return sum(float(number) for number in re.findall(r"^clipzs_batch_images_count\S* (\S+)$", said, re.MULTILINE))


def client(options: argparse.Namespace) -> str:
    """Whole commands, with the model in their own process and in a server."""
    rows = []
    with serving(options) as server, tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        made(images, MANY)
        common = [sys.executable, "-m", "clipzs", "classify", "--model", options.model, "--labels", ",".join(LABELS)]
        common += ["--no-image-cache", "-o", os.devnull, "-f", "jsonl", "--quiet"]
        for what, named, runs in (
            ("1 photo", [str(PHOTOS[0])], options.runs),
            (f"{len(PHOTOS)} photos", [*map(str, PHOTOS)], options.runs),
            (f"{MANY:,} small images", [str(images)], max(1, options.runs // 2)),
        ):
            for where, more in (
                ("in its own process", ["--cache-dir", str(Path(folder) / "cache")]),
                ("`--server`", ["--cache-dir", str(Path(folder) / "cache"), "--server", server.url]),
            ):
                _timed([*common, *named, *more])  # compiles, and fills the cache of labels
                measured = [_timed([*common, *named, *more]) for _ in range(runs)]
                seconds, megabytes = zip(*measured, strict=True)
                rows.append([what, where, f"{median(seconds):.2f} s", f"{max(megabytes):.0f} MB"])
    return markdown(["`clipzs classify` of", "the model", "median", "peak memory"], rows, words=2)


def _timed(command: list[str]) -> tuple[float, float]:
    """Seconds of a whole command, and the megabytes that it had at most, without its workers."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"failed with {process.returncode}: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def soak(options: argparse.Namespace) -> str:
    """Memory of a server that is kept busy."""
    photos = [photo.read_bytes() for photo in PHOTOS]
    new = [f"{label} @@" for label in LABELS[:5]]
    bodies = [body(photo, labels) for photo in photos for labels in (None, None, None, None, None, new)]
    bodies += [body(photos[0][: len(photos[0]) // 2]), body(b"no image"), b'{"images": [']
    seconds = 60 * options.minutes
    marks = [seconds * share for share in (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)]
    samples: list[tuple[float, float]] = []
    rows = []
    with serving(options) as server, sending(server, bodies, clients=8, seconds=seconds + SAMPLE_S) as process:
        start = time.monotonic()
        while marks:
            time.sleep(min(SAMPLE_S, max(0.1, marks[0] - (time.monotonic() - start))))
            now = time.monotonic() - start
            if process.poll() is not None:
                raise SystemExit("wrk has ended before its time")
            samples.append((now, int(status(server.pid)["VmRSS"]) / 1024))
            if now >= marks[0]:
                marks.pop(0)
                rows.append([f"{now / 60:.1f} min", *looked_at(server.pid)])
        found = json.loads(process.communicate()[0].strip().splitlines()[-1])
    late = [megabytes for after, megabytes in samples if after >= seconds / 2]
    header = ["after", "resident memory, main process", "its peak", "workers", "threads", "open files"]
    asked, every = found["requests"], len(bodies)
    told = (
        f"{asked:,} requests of 8 clients in {options.minutes:g} minutes; one in {every / len(photos):.0f} has labels "
        f"that no other has, one in {every} is malformed (refused: {found['status']:,}), two in {every} have images "
        f"that cannot be read. In the second half, memory went from {late[0]:.0f} to {late[-1]:.0f} MB."
    )
    return f"{markdown(header, rows)}\n\n{told}"


SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {"load": load, "client": client, "soak": soak}

if __name__ == "__main__":
    main()
