"""Relabelling: what was embedded once is not read again, and the numbers are the same."""

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from clipzs import Classifier, filehashes
from clipzs.engine import Engine

EXAMPLES = Path(__file__).parent.parent / "examples"
MODEL = ("--model", "tiny", "--engine", "torch", "--json")
CAT, COFFEE, ROCKET = (EXAMPLES / name for name in ("cat.jpg", "coffee.jpg", "rocket.jpg"))


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The number of images in each pass through the image tower."""
    seen: list[int] = []
    encode_images = Engine.encode_images

    def counted(self, pixels):
        seen.append(len(pixels))
        return encode_images(self, pixels)

    monkeypatch.setattr(Engine, "encode_images", counted)
    return seen


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder of photos that count as unchanged for long."""
    monkeypatch.setattr(filehashes, "_SETTLED_NS", 0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in (CAT, COFFEE, ROCKET):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def classify(run):
    def once(*arguments: object, labels: str = "cat,a cup of coffee,rocket", code: int = 0) -> list[dict[str, object]]:
        result = run("classify", *arguments, "--labels", labels, *MODEL)
        assert (result.exit_code, result.stderr) == (code, ""), result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    return once


class Opened:
    """How often files of a folder are opened, by any process, as the kernel counts it."""

    IN_OPEN, NONBLOCK, FOLDER = 0x20, os.O_NONBLOCK, 0x40000000

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(self.NONBLOCK)
        assert libc.inotify_add_watch(self._events, bytes(folder), self.IN_OPEN) >= 0

    def since_asked(self) -> int:
        content, number = b"", 0
        with suppress(BlockingIOError):
            while True:
                content += os.read(self._events, 1 << 16)
        while content:
            _, mask, _, length = struct.unpack_from("iIII", content)
            content, number = content[16 + length :], number + (not mask & self.FOLDER)
        return number


def test_with_other_labels_a_real_process_opens_no_image(tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(EXAMPLES, folder)
    count = len(list(folder.glob("*.jpg")))
    time.sleep(2.1)  # a file changed just now is not trusted to stay as it is
    opened = Opened(folder)

    def opens(labels: str) -> int:
        command = [sys.executable, "-m", "clipzs", "classify", folder, "--labels", labels, *MODEL]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
        assert (len(done.stdout.splitlines()), done.stderr) == (count, "")
        return opened.since_asked()

    assert opens("cat,rocket") == count
    assert opens("a photo,a drawing,something else") == 0


def test_relabelling_makes_no_image_pass_and_gives_the_numbers_of_a_fresh_run(classify, photos, passes):
    first = classify(photos)
    assert passes == [3]
    assert classify(photos) == first
    other = classify(photos, labels="animal,drink")
    assert passes == [3]
    assert other == classify(photos, "--no-image-cache", labels="animal,drink")
    assert passes == [3, 3]


@pytest.mark.parametrize("option", ["--no-image-cache", "--no-cache"])
def test_without_the_image_cache_all_are_encoded_and_none_is_kept(classify, photos, passes, tmp_path, option):
    for _ in range(2):
        classify(photos, option)
    assert passes == [3, 3]
    assert not (tmp_path / "cache" / "images").exists()


def test_the_environment_turns_it_off_too(classify, photos, passes, monkeypatch):
    monkeypatch.setenv("CLIPZS_IMAGE_CACHE", "no")
    classify(photos)
    classify(photos)
    assert passes == [3, 3]


@pytest.mark.parametrize("options", [("--precision", "bf16"), ("--exact-decode",)], ids=" ".join)
def test_precision_and_exact_decoding_have_entries_of_their_own(classify, photos, passes, options):
    plain = classify(photos)
    other = classify(photos, *options)
    assert passes == [3, 3]
    assert classify(photos) == plain
    assert classify(photos, *options) == other
    assert passes == [3, 3]


def test_a_photo_changed_in_place_is_encoded_anew_even_with_its_old_size_and_time(classify, photos, passes):
    classify(photos)
    target = photos / "coffee.jpg"
    status = target.stat()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    target.write_bytes(CAT.read_bytes().ljust(status.st_size, b"\0"))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (target.stat().st_size, target.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    records = classify(photos)
    assert passes == [3, 1]
    assert [record["label"] for record in records] == ["cat", "cat", "rocket"]


def test_a_renamed_photo_is_known_by_what_is_in_it(classify, photos, passes):
    before = classify(photos / "cat.jpg")
    (photos / "cat.jpg").rename(photos / "renamed")
    after = classify(photos / "renamed")
    assert passes == [1]
    assert {**after[0], "path": before[0]["path"]} == before[0]


def test_a_broken_photo_stays_an_error(run, photos, passes):
    (photos / "cat.jpg").write_bytes(CAT.read_bytes()[:3000])
    for _ in range(2):
        result = run("classify", photos, "--labels", "cat,rocket", *MODEL)
        errors = [json.loads(line)["error"] for line in result.stdout.splitlines()]
        assert result.exit_code == 3
        assert errors[0].startswith("damaged or truncated")
        assert errors[1:] == [None, None]
    assert passes == [2]


def test_images_in_memory_are_not_kept(photos, passes, tmp_path):
    with Image.open(CAT) as image:
        for _ in range(2):
            list(Classifier(["cat", "dog"], model="tiny", engine="torch").classify([image]))
    assert passes == [1, 1]
    assert not (tmp_path / "cache" / "images").exists()


def test_a_damaged_image_cache_warns_once_and_costs_no_number(run, classify, photos, passes, tmp_path):
    first = classify(photos)
    for file in (*(tmp_path / "cache" / "images").glob("*.sqlite"), tmp_path / "cache" / "files.sqlite"):
        file.write_bytes(b"no database" * 1000)
    result = run("classify", photos, "--labels", "cat,a cup of coffee,rocket", *MODEL)
    assert [json.loads(line) for line in result.stdout.splitlines()] == first
    assert passes == [3, 3]
    (warning,) = result.stderr.splitlines()
    assert warning.startswith("warning: the cache ")
    assert run("cache", "info").stdout.count("unreadable") == 2
    assert run("cache", "clear").exit_code == 0
    classify(photos)
    classify(photos)
    assert passes == [3, 3, 3]


def test_a_process_killed_on_the_way_keeps_what_was_written_and_nothing_wrong(tmp_path):
    for number in range(700):
        with Image.open((CAT, COFFEE, ROCKET)[number % 3]) as image:
            small = image.resize((48, 48))
            small.putpixel((0, 0), (number % 256, number // 256, 0))
            small.save(tmp_path / f"{number:04}.png")
    command = [sys.executable, "-m", "clipzs", "classify", tmp_path, "--labels", "cat,a cup of coffee,rocket", *MODEL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(600):  # the first 512 are written before
        assert process.stdout.readline()
    process.kill()
    process.communicate()

    def records(*more: str) -> "list[dict[str, float]]":
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=True, timeout=240)
        assert done.stderr == ""
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert (tmp_path / "cache" / "images").exists()
    for one, fresh in zip(records(), records("--no-image-cache"), strict=True):
        assert one["path"] == fresh["path"]
        assert one["score"] == pytest.approx(fresh["score"], abs=1e-5)
