"""Files that are damaged, forged, endless, slow or crash their decoder cost one record; the others are as they were."""

import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hostile
import numpy as np
import pytest
from conftest import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from clipzs import decoders, decodeworker, images
from clipzs.decoders import DECODERS, Decoders, Decoding
from clipzs.errors import ImageError
from clipzs.paths import Found
from clipzs.preprocess import Preprocess

SMALL = Preprocess((32, 32))
COMMAND = ("--labels", "cat,a cup of coffee,rocket", "--model", "tiny", "--json")
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def samples() -> list[hostile.Sample]:
    """Every kind of file; what libtiff says while they are written goes nowhere."""
    with unheard():
        return list(hostile.samples())


@pytest.fixture
def pool() -> Iterator[Decoders]:
    """Workers of the test's own."""
    made = Decoders()
    yield made
    made.close()


def how(
    preprocess: Preprocess = SMALL, *, timeout: float = 60.0, limit: float = 178.0, exact: bool = False
) -> Decoding:
    return Decoding(preprocess, limit, exact, timeout)


def refusal(pool: Decoders, path: object, **more: float) -> str:
    with pytest.raises(ImageError) as caught:
        pool.decode(str(path), how(**more))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(pool: Decoders, path: Path, **more: bool) -> tuple[str, bytes]:
    """The reason why not, or pixels."""
    try:
        return "", pool.decode(str(path), how(**more))
    except ImageError as error:
        return str(error), b""


@contextmanager
def unheard() -> Iterator[None]:
    """Without what C libraries write to standard error."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    os.dup2(kept, 2)
    os.close(kept)
    os.close(null)


def children(parent: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            found += map(int, (task / "children").read_text().split())
    return found


def wait_for(happened: Callable[[], object]) -> object:
    end = time.monotonic() + PATIENCE_S
    while not (found := happened()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def holding(parent: int, path: Path) -> list[int]:
    """Worker processes that have the file open."""
    found = []
    for child in children(parent):
        with suppress(OSError):
            if any(os.readlink(link) == str(path) for link in Path(f"/proc/{child}/fd").iterdir()):
                found.append(child)
    return found


# What is well


def as_pillow_says(content: bytes) -> "np.ndarray":
    """The picture as a person sees it, by Pillow's own functions alone. uint8 [height, width, 3]."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        values = np.asarray(upright).astype(np.float64)
        return np.stack([np.floor(values / 257 + 0.5)] * 3, -1).astype(np.uint8)
    if upright.mode in ("I", "F"):
        values = np.asarray(upright).astype(np.float64)
        tops = (1, 255, 65535) if upright.mode == "F" else (255, 65535)
        top = next((top for top in tops if values.max() <= top), values.max())
        return np.stack([np.clip(np.rint(values * (255 / top)), 0, 255)] * 3, -1).astype(np.uint8)
    if upright.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(upright, *profiles, outputMode="RGB"))
    if upright.has_transparency_data:
        seen = Image.new("RGBA", upright.size, "white")
        seen.alpha_composite(upright.convert("RGBA"))
        return np.asarray(seen.convert("RGB"))
    return np.asarray(upright.convert("RGB"))


def test_the_corpus_holds_every_format_that_pillow_reads_and_writes(samples):
    Image.init()
    neither = {"PDF", "EPS", "PALM", "GRIB", "HDF5", "BUFR", "WMF", "HEIF", "WAL"}  # documents, or without a decoder
    both = set(Image.SAVE) & set(Image.OPEN) - neither
    held = set()
    with unheard():
        for sample in samples:
            with Image.open(io.BytesIO(sample.content)) as image:
                held.add(image.format)
                held.add((image.format, image.mode))
    assert both <= held
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B"):
        assert mode in {pair[1] for pair in held if isinstance(pair, tuple)}, mode


def test_every_image_that_is_well_is_decoded_to_the_very_pixels_of_pillow(samples, tmp_path):
    """Through a worker process, at the size that it has."""
    path = tmp_path / "image"
    with unheard():
        for sample in samples:
            expected = as_pillow_says(sample.content)
            height, width, _ = expected.shape
            if max(height, width) > 1000 * min(height, width):
                continue  # of threads only the middle is looked at
            path.write_bytes(sample.content)
            found = DECODERS.decode(str(path), how(Preprocess((height, width), resize_mode="squash"), exact=True))
            np.testing.assert_array_equal(
                np.frombuffer(found, np.uint8).reshape(height, width, 3), expected, err_msg=sample.name
            )


def test_threads_and_single_pixels_are_images_too(samples, tmp_path):
    thin = [sample for sample in samples if sample.name.startswith(("1x", "20000x"))]
    assert len(thin) > 40
    for sample in thin:
        (tmp_path / "image").write_bytes(sample.content)
        for mode in ("shortest", "longest", "squash"):
            assert len(DECODERS.decode(str(tmp_path / "image"), how(Preprocess((24, 24), resize_mode=mode)))) == 1728


# What is damaged


def test_a_damaged_image_is_a_record_or_pixels_and_nothing_else(samples, tmp_path):
    """A few of the many thousands that `python -m tests.hostile` tries, others in each part of the corpus."""
    path, refused, decoded = tmp_path / "image", 0, 0
    random = np.random.default_rng(11)
    for sample in (one for one in samples if len(one.content) < 40_000):
        damaged = list(hostile.damaged(sample, 4))
        for place in random.choice(len(damaged), 2, replace=False):
            path.write_bytes(damaged[place].content)
            said, pixels = outcome(DECODERS, path)
            assert (len(pixels) == 32 * 32 * 3) != bool(said), damaged[place].name
            assert said.isprintable(), damaged[place].name
            assert "crashed" not in said, damaged[place].name
            refused, decoded = refused + bool(said), decoded + bool(pixels)
    assert refused > 250
    assert decoded > 150


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_bytes_are_changed_it_is_a_record_or_pixels(samples, data):
    sample = data.draw(st.sampled_from([one for one in samples if len(one.content) < 4000]))
    content = bytearray(sample.content)
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    request = {"preprocess": vars(SMALL), "max_megapixels": 4.0, "exact": False, "hash": True, "path": None}
    with unheard():
        answer, pixels = decodeworker.decode(request, bytes(content), lambda question: True)
    assert ("error" in answer) != (len(pixels) == 32 * 32 * 3)
    assert str(answer.get("error", "-")).isprintable()


def test_damaged_files_change_nothing_for_the_others_and_each_has_its_record(run: Run, samples, tmp_path, cat, coffee):
    """Through the command, all together."""
    chosen = [one for sample in samples[::19] for one in list(hostile.damaged(sample, 1))[::9]]
    names = []
    for number, one in enumerate(chosen):
        (tmp_path / f"{number:04}").write_bytes(one.content)
        names += [tmp_path / f"{number:04}", (cat, coffee)[number % 2]]
    listed = tmp_path / "list"
    listed.write_bytes(b"\n".join(map(bytes, names)))
    alone = {path: json.loads(run("classify", path, *COMMAND).stdout)["scores"] for path in (cat, coffee)}
    result = run("classify", "--files-from", listed, *COMMAND, "--no-image-cache", "--max-megapixels", "4")
    assert (result.exit_code, result.exception) == (3, None) or isinstance(result.exception, SystemExit)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["path"] for record in records] == [*map(str, names)]
    assert sum(record["error"] is not None for record in records) > len(chosen) / 2
    for record in records:
        if Path(record["path"]) in alone:
            found = {one["label"]: one["score"] for one in record["scores"]}
            assert found == pytest.approx({one["label"]: one["score"] for one in alone[Path(record["path"])]}, abs=2e-5)


# What is too large


def test_a_file_that_is_mostly_a_hole_takes_no_memory(tmp_path, pool):
    """Forty gigabytes that Pillow would read whole."""
    path = tmp_path / "huge.webp"
    path.write_bytes(hostile.written(hostile.picture("RGB"), "WEBP") or b"")
    os.truncate(path, 40_000_000_000)
    assert refusal(pool, path) == images.NO_MEMORY


def test_a_worker_takes_no_more_memory_than_pixels_need_and_some_to_spare(tmp_path, pool):
    header = struct.pack(">IIBBBBB", 8000, 8000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(8001 * 8000))
    content = b"\x89PNG\r\n\x1a\n" + hostile._chunk(b"IHDR", header) + hostile._chunk(b"IDAT", rows)
    (tmp_path / "large.png").write_bytes(content + hostile._chunk(b"IEND", b""))
    assert pool.decode(str(tmp_path / "large.png"), how()) == bytes(32 * 32 * 3)
    (worker,) = (one._process.pid for one in pool._workers)
    limit = next(line for line in Path(f"/proc/{worker}/limits").read_text().splitlines() if "address space" in line)
    assert 64e6 < int(limit.split()[3]) < 1.5e9
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; from clipzs import decodeworker; decodeworker._allow(50_000_000)\n"
        "bytes(10_000_000)\ntry: bytes(1_000_000_000); print('taken')\nexcept MemoryError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(decoders.__file__).parent.parent)], capture_output=True, check=True
    )
    assert done.stdout == b"refused\n"


@pytest.mark.parametrize(
    ("mode", "size", "format", "more"),
    [
        ("RGB", (9000, 7000), "PNG", {"compress_level": 1, "exif": True}),
        ("RGBA", (6000, 5000), "PNG", {"compress_level": 1}),
        ("RGB", (7000, 6000), "WEBP", {"method": 0}),
        ("F", (4000, 3000), "TIFF", {}),
        ("RGB", (6000, 4000), "JPEG", {"progressive": True, "exif": True}),
    ],
    ids=lambda value: str(value).replace(" ", "") if isinstance(value, tuple | str) else "",
)
def test_large_images_that_are_what_they_say_have_the_memory_they_need(tmp_path, pool, mode, size, format, more):
    if more.pop("exif", False):
        exif = Image.Exif()
        exif[0x0112] = 6
        more["exif"] = exif
    Image.new(mode, size).save(tmp_path / "image", format, **more)
    for exact in (False, True) if mode == "RGB" and format != "WEBP" else (False,):
        assert outcome(pool, tmp_path / "image", exact=exact)[0] == ""


# What is no file


def test_devices_sockets_and_folders_are_errors_of_one_line(tmp_path, pool):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket.jpg"))
        assert refusal(pool, tmp_path / "socket.jpg") == "a socket, not a file"
    for device in ("/dev/zero", "/dev/null", "/dev/tty", "/dev/urandom"):
        assert refusal(pool, device) == "a device, not a file"
    assert refusal(pool, tmp_path) == "Is a directory"
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(pool, tmp_path / "loop") == "Too many levels of symbolic links"
    assert refusal(pool, "/proc/self/status") == "a text file, not an image"


def test_a_pipe_is_read_no_further_than_to_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "PIPE_BYTES", 3_000_000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    taken = 0

    def give() -> None:
        nonlocal taken
        with suppress(BrokenPipeError), open(pipe, "wb", buffering=0) as file:
            while True:
                taken += file.write(bytes(1 << 16))

    writer = threading.Thread(target=give, daemon=True)
    writer.start()
    with pytest.raises(ImageError, match="more than 3 MB from a pipe"), images.opened(str(pipe)):
        pass
    writer.join(20)
    assert 3_000_000 <= taken < 6_000_000


def test_what_the_caller_has_open_keeps_its_name_in_a_worker(cat, coffee):
    """`/dev/stdin`, and what the shell makes of <(command)."""
    command = [sys.executable, "-m", "clipzs", "classify", "/dev/stdin", "/dev/fd/{}", *COMMAND]
    read, write = os.pipe()
    threading.Thread(
        target=lambda: os.write(write, b"") or Path(f"/dev/fd/{write}").write_bytes(coffee.read_bytes())
    ).start()
    command[5] = command[5].format(read)
    with cat.open("rb") as file:
        process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, pass_fds=[read])
        time.sleep(0.2)
        os.close(write)
        output, _ = process.communicate(timeout=PATIENCE_S)
    os.close(read)
    assert [json.loads(line)["label"] for line in output.splitlines()] == ["cat", "a cup of coffee"]


# Slow ones, and crashes


def test_a_file_that_takes_too_long_is_given_up_and_the_others_go_on(tmp_path, cat, pool):
    os.mkfifo(tmp_path / "never.jpg")
    begun = time.monotonic()
    said = refusal(pool, tmp_path / "never.jpg", timeout=1.0)
    assert said == "decoding took longer than 1 seconds; --image-timeout allows more"
    assert time.monotonic() - begun >= 0.9
    assert len(pool.decode(str(cat), how())) == 32 * 32 * 3


def test_the_command_gives_up_on_a_pipe_that_never_delivers(run: Run, tmp_path, cat):
    os.mkfifo(tmp_path / "never.jpg")
    result = run("classify", cat, tmp_path / "never.jpg", cat, *COMMAND, "--image-timeout", "1.5")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 3
    assert [record["label"] for record in records] == ["cat", None, "cat"]
    assert records[1]["error"] == "decoding took longer than 1.5 seconds; --image-timeout allows more"


class Slow:
    """A pipe called .jpg, half of which has been read by a worker of this process."""

    def __init__(self, pool: Decoders, folder: Path, content: bytes) -> None:
        self.path, self.content = folder / "slow.jpg", content
        os.mkfifo(self.path)
        self.said: list[str] = []
        self._thread = threading.Thread(target=self._decode, args=(pool,))
        self._thread.start()
        self.end = os.open(self.path, os.O_WRONLY)
        os.write(self.end, content[: len(content) // 2])

    def _decode(self, pool: Decoders) -> None:
        self.said.append(outcome(pool, self.path)[0])

    def worker(self) -> int:
        (found,) = wait_for(lambda: holding(os.getpid(), self.path))  # type: ignore[misc]
        return found

    def answer(self) -> str:
        self._thread.join(PATIENCE_S)
        os.close(self.end)
        return self.said[0]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSEGV, "its decoder crashed (SIGSEGV)"),
        (signal.SIGABRT, "its decoder crashed (SIGABRT)"),
        (signal.SIGKILL, "its decoder was killed, probably for want of memory"),
    ],
)
def test_a_worker_that_dies_costs_the_file_it_was_at(tmp_path, cat, pool, number, reason):
    """Of a pipe, what was read is gone, so it is not tried again."""
    slow = Slow(pool, tmp_path, cat.read_bytes())
    before = slow.worker()
    os.kill(before, number)
    assert slow.answer() == reason
    assert not Path(f"/proc/{before}").exists()  # no zombie
    assert len(pool.decode(str(cat), how())) == 32 * 32 * 3


def test_a_file_is_tried_once_more_in_a_new_worker_and_then_given_up(tmp_path, pool):
    """A photo that takes long; its worker is killed once, which costs nothing, and then again and again."""
    path = tmp_path / "large.jpg"
    Image.effect_noise((5000, 5000), 90).save(path, quality=95, progressive=True)
    for times, expected in ((1, ""), (2, "its decoder crashed (SIGSEGV)")):
        said: list[str] = []
        thread = threading.Thread(target=lambda said=said: said.append(outcome(pool, path, exact=True)[0]))
        thread.start()
        killed: set[int] = set()
        while len(killed) < times:
            (worker,) = wait_for(lambda killed=killed: set(holding(os.getpid(), path)) - killed)  # type: ignore[misc, attr-defined]
            os.kill(worker, signal.SIGSEGV)
            killed.add(worker)
        thread.join(PATIENCE_S)
        assert said == [expected]


def test_all_workers_killed_again_and_again_lose_no_image_of_the_command(tmp_path, cat, coffee):
    for number in range(150):
        (tmp_path / f"{number:03}.jpg").symlink_to((cat, coffee)[number % 2])
    process = subprocess.Popen(
        [sys.executable, "-m", "clipzs", "classify", tmp_path, *COMMAND, "--no-image-cache", "-b", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.3):
            for worker in children(process.pid):
                with suppress(OSError):
                    os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    output, _ = process.communicate(timeout=4 * PATIENCE_S)
    stop.set()
    killer.join()
    records = [json.loads(line) for line in output.splitlines()]
    assert [record["path"] for record in records] == [str(tmp_path / f"{number:03}.jpg") for number in range(150)]
    for number, record in enumerate(records):
        assert record["label"] == ("cat", "a cup of coffee")[number % 2] or "decoder" in record["error"]
    assert sum(record["error"] is None for record in records) > 100


def test_workers_end_with_the_process_that_started_them(tmp_path, cat):
    """Also when it is killed while one of them waits for a pipe."""
    os.mkfifo(tmp_path / "never.jpg")
    command = [sys.executable, "-m", "clipzs", "classify", tmp_path / "never.jpg", *COMMAND]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    end = os.open(tmp_path / "never.jpg", os.O_WRONLY)
    (worker,) = wait_for(lambda: holding(process.pid, tmp_path / "never.jpg"))  # type: ignore[misc]
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split()[2])
    os.close(end)


def test_a_worker_is_deaf_to_what_a_terminal_or_a_batch_system_sends_to_all(cat, pool):
    assert pool.decode(str(cat), how())
    (worker,) = (one._process for one in pool._workers)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        worker.send_signal(number)
    time.sleep(0.2)
    assert pool.decode(str(cat), how())
    assert [one._process.pid for one in pool._workers] == [worker.pid]


def test_a_forked_process_starts_workers_of_its_own(cat, pool):
    expected = pool.decode(str(cat), how())
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            code = 0 if pool.decode(str(cat), how()) == expected else 2
            pool.close()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.decode(str(cat), how()) == expected


def test_where_no_process_can_be_started_files_are_decoded_in_this_one(cat, pool, monkeypatch, caplog):
    expected = DECODERS.decode(str(cat), how())
    monkeypatch.setattr(sys, "executable", "/usr/bin/something-else")
    for _ in range(3):
        assert pool.decode(str(cat), how()) == expected
    (warning,) = caplog.messages
    assert warning.startswith("no process can be started to decode in (there is no Python to start)")


def test_where_no_more_processes_can_be_started_files_wait_for_those_there_are(tmp_path, cat):
    """One reads a pipe, the other cannot be started for want of descriptors."""
    os.mkfifo(tmp_path / "slow.jpg")
    code = """
import ctypes, os, resource, sys, threading
if sys.platform == "linux":
    ctypes.CDLL("libgcc_s.so.1")  # a thread that ends would want to open it
sys.path[:0] = sys.argv[3:]
from clipzs.decoders import DECODERS, Decoding
from clipzs.preprocess import Preprocess
slow, photo = sys.argv[1:3]
content, found = open(photo, "rb").read(), []
how = Decoding(Preprocess((32, 32)), 178.0, False, 60.0)
decode = lambda path: found.append(len(DECODERS.decode(path, how)))
threads = [threading.Thread(target=decode, args=[path]) for path in (slow, photo)]
threads[0].start()
pipe = open(slow, "wb", buffering=0)  # waits until a worker reads
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
threads[1].start()
threads[1].join(0.5)
pipe.write(content)
pipe.close()
for thread in threads:
    thread.join()
print(found, len(DECODERS._workers))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "slow.jpg"), str(cat)]
    path = str(Path(decoders.__file__).parent.parent)
    done = subprocess.run([*command, path], capture_output=True, check=False, timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == (b"[3072, 3072] 1\n", b"")


def test_threads_that_cannot_be_started_are_one_line(cat):
    """Their stacks would be larger than all memory there can be."""
    code = "import threading; threading.stack_size(1 << 47); from clipzs.cli import main; main()"
    command = [sys.executable, "-c", code, "classify", cat, *COMMAND]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: the system lets no more threads be started",
        "hint: raise the limit on processes (ulimit -u, or the container's) or on memory (ulimit -v)",
    ]


def test_a_relative_name_is_one_in_the_folder_of_the_moment(tmp_path, pool, monkeypatch, cat):
    for name, colour in (("one", "red"), ("other", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), colour).save(tmp_path / name / "x.png")
    found = []
    for name in ("one", "other", "one"):
        monkeypatch.chdir(tmp_path / name)
        found.append(tuple(pool.decode("x.png", how())[:3]))
    assert found == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]


def test_a_worker_leaves_a_folder_that_was_deleted_and_reads_no_other_file_of_that_name(tmp_path, pool, monkeypatch):
    for name, colour in (("gone", "red"), ("here", "blue"), ("later", "lime")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), colour).save(tmp_path / name / "x.png")
    monkeypatch.chdir(tmp_path / "gone")
    assert tuple(pool.decode("x.png", how())[:3]) == (255, 0, 0)
    shutil.rmtree(tmp_path / "gone")
    assert refusal(pool, "x.png") == "no such file"
    monkeypatch.chdir(tmp_path / "here")
    assert tuple(pool.decode("x.png", how())[:3]) == (0, 0, 255)
    os.chdir(tmp_path / "later")
    shutil.rmtree(tmp_path / "later")
    assert refusal(pool, "x.png") == "the working folder cannot be entered: No such file or directory"
    assert tuple(pool.decode(str(tmp_path / "here" / "x.png"), how())[:3]) == (0, 0, 255)
    assert len(pool._workers) == 1


def test_names_that_are_not_text_reach_the_worker(tmp_path, pool, cat):
    for raw in (b"\xff\xfe.jpg", b"a\nb\t\"'.jpg", "ü\u202e.jpg".encode(), b"\x1b[31m.jpg"):
        path = os.path.join(bytes(tmp_path), raw)
        Path(os.fsdecode(path)).write_bytes(cat.read_bytes())
        assert len(pool.decode(os.fsdecode(path), how())) == 32 * 32 * 3


def test_nothing_is_imported_from_the_folder_of_the_images(tmp_path, cat):
    """A file called numpy.py among them is data."""
    for name in ("numpy", "PIL", "json", "clipzs", "pillow_heif", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    Image.new("I;16", (9, 9), 7).save(tmp_path / "deep.png")  # numpy is needed for it
    code = "from clipzs.cli import main; main()"
    path = [str(Path(decoders.__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "classify", "deep.png", *COMMAND],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        check=False,
    )
    assert json.loads(done.stdout)["error"] is None
    assert not (tmp_path / "ran").exists()


def test_folders_of_files_and_images_in_memory_mix_in_order(cat, tmp_path, run: Run):
    from clipzs import Classifier

    os.mkfifo(tmp_path / "never.jpg")
    given_ones = [cat, Image.open(cat), tmp_path / "never.jpg", Found("x", "gone"), np.zeros((9, 9, 3), np.uint8)]
    classifier = Classifier(["cat", "rocket"], model="tiny", image_timeout=1.0)
    found = list(classifier.classify(given_ones))
    assert [one.error is None for one in found] == [True, True, False, False, True]
    assert found[0].score == pytest.approx(found[1].score, abs=1e-5)
