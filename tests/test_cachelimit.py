"""The limit of the cache: what is pruned, what is left, and that pruning costs nobody a result."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipzs import Classifier, cachefolder
from clipzs.errors import UsageProblem
from clipzs.filehashes import FileHashes
from clipzs.sizes import in_words, parsed
from clipzs.store import ImageStore

EXAMPLES = Path(__file__).parent.parent / "examples"
CAT, COFFEE = EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"
MODEL = ("--model", "tiny", "--engine", "torch", "--json")


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).random(512, np.float32)


def fill(folder: Path, model: str, numbers: range, *, used: float | None = None) -> ImageStore:
    """A store of images, last used so many seconds ago."""
    kept = ImageStore(folder, model, "0" * 12)
    for start in range(numbers.start, numbers.stop, 100):
        kept.put({key(number): vector(number) for number in range(start, min(start + 100, numbers.stop))})
    if used is not None:
        moment = time.time() - used
        os.utime(file_of(folder, model), (moment, moment))
    return kept


def file_of(folder: Path, model: str) -> Path:
    return folder / "images" / f"{model}-{'0' * 12}.sqlite"


def left(folder: Path, model: str, numbers: range) -> list[int]:
    """Which of the images are in the store, each with the right vector."""
    found = ImageStore(folder, model, "0" * 12).get([key(number) for number in numbers])
    assert all(one.tobytes() == vector(int.from_bytes(k, "big")).tobytes() for k, one in found.items())
    return sorted(int.from_bytes(k, "big") for k in found)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of the test's own, without the compiled models that tests share."""
    monkeypatch.setenv("CLIPZS_CACHE_DIR", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def photos(tmp_path) -> Path:
    """100 small photos that all differ."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(100):
        with Image.open((CAT, COFFEE)[number % 2]) as image:
            small = image.resize((40, 40))
            small.putpixel((0, 0), (number, 0, 0))
            small.save(folder / f"{number:03}.png")
    return folder


# Sizes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5GB", 5 * 10**9),
        ("500 mb", 5 * 10**8),
        ("1.5G", 15 * 10**8),
        ("20k", 20_000),
        ("2TB", 2 * 10**12),
        ("77", 77),
        (77, 77),
        ("0", 0),
        ("8B", 8),
    ],
)
def test_sizes_are_read_as_people_write_them(text, expected):
    assert parsed(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1", "5 GiB", "1e9", "5,5GB", "٥GB", "inf", "9" * 40, "5GB\nx"])
def test_what_is_no_size_is_one_line_with_a_hint(run, text):
    with pytest.raises(UsageProblem):
        parsed(text)
    done = run("classify", CAT, "--labels", "a,b", *MODEL, "--cache-limit", text)
    assert (done.exit_code, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert error.endswith(" is no size")
    assert hint == "hint: sizes are 5GB, 500MB or a number of bytes"


@pytest.mark.parametrize(("size", "expected"), [(0, "0.0 kB"), (999_999, "1000.0 kB"), (10**6, "1.0 MB"),
                                                (15 * 10**8, "1.5 GB"), (3 * 10**12, "3000.0 GB")])  # fmt: skip
def test_sizes_are_shown_in_the_largest_unit_of_which_there_is_one(size, expected):
    assert in_words(size) == expected


# What goes


def test_a_cache_within_its_limit_is_not_touched(tmp_path):
    fill(tmp_path, "old", range(100), used=10**6)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*.sqlite")}
    assert cachefolder.prune(tmp_path, size(tmp_path)) == 0
    assert cachefolder.prune(tmp_path, 0) == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*.sqlite")} == before


def test_what_was_used_least_recently_goes_first_and_of_it_the_oldest_rows(tmp_path):
    for model, used in (("b", 500), ("a", 900), ("c", 100)):
        fill(tmp_path, model, range(300), used=used)
    before = size(tmp_path)
    limit = before * 3 // 4  # pruned to four fifths of this: "a" goes, and some of "b"
    freed = cachefolder.prune(tmp_path, limit)
    assert 0.75 * limit < size(tmp_path) <= 0.8 * limit
    assert freed == before - size(tmp_path)
    kept = {model: left(tmp_path, model, range(300)) for model in "abc"}
    assert kept["a"] == []
    assert 0 < len(kept["b"]) < 300
    assert kept["c"] == [*range(300)]
    for numbers in kept.values():
        assert numbers == [*range(300)][300 - len(numbers) :]


def test_reading_is_using(tmp_path):
    for model in "ab":
        fill(tmp_path, model, range(300), used=1000)
    assert left(tmp_path, "a", range(300)) == [*range(300)]
    cachefolder.prune(tmp_path, size(tmp_path) * 9 // 10)
    assert left(tmp_path, "a", range(300)) == [*range(300)]
    assert len(left(tmp_path, "b", range(300))) < 300


def test_of_what_is_in_use_images_go_before_all_else(tmp_path):
    since = time.time() - 1
    (tmp_path / "compiled" / "model-0").mkdir(parents=True)
    (tmp_path / "compiled" / "model-0" / "image.blob").write_bytes(bytes(300_000))
    hashes = FileHashes(tmp_path)
    hashes.remember([("a", b"1 2 3 4", bytes(32))])
    fill(tmp_path, "model", range(300))
    moment = time.time() + 100  # the images last of all
    os.utime(file_of(tmp_path, "model"), (moment, moment))
    cachefolder.prune(tmp_path, 600_000, since=since)
    assert size(tmp_path) <= 480_000
    assert (tmp_path / "compiled" / "model-0" / "image.blob").exists()
    assert {file.kind: file.entries for file in cachefolder.contents(tmp_path)}["files"] == 1


def test_a_compiled_model_goes_as_a_whole_when_it_is_the_oldest(tmp_path):
    for name, used in (("old", 900), ("new", 100)):
        folder = tmp_path / "compiled" / f"{name}-fp32-0"
        folder.mkdir(parents=True)
        (folder / "image.blob").write_bytes(bytes(300_000))
        os.utime(folder, (time.time() - used,) * 2)
    fill(tmp_path, "model", range(20), used=500)
    cachefolder.prune(tmp_path, 600_000)
    assert [path.name for path in (tmp_path / "compiled").iterdir()] == ["new-fp32-0"]
    assert left(tmp_path, "model", range(20)) == [*range(20)]


def _newer(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _folder(file: Path) -> None:
    for part in file.parent.glob(file.name + "*"):
        part.unlink()
    file.mkdir()
    (file / "something").write_bytes(bytes(300_000))


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"garbage" * 99_999), _newer, _folder])
def test_what_cannot_be_read_does_not_stay_when_there_is_too_much(tmp_path, damage):
    fill(tmp_path, "broken", range(100), used=1000)
    damage(file_of(tmp_path, "broken"))
    os.utime(file_of(tmp_path, "broken"), (0, 0))
    fill(tmp_path, "sound", range(50), used=10)
    cachefolder.prune(tmp_path, 350_000)
    assert not file_of(tmp_path, "broken").exists()
    assert left(tmp_path, "sound", range(50)) == [*range(50)]


def test_a_file_that_never_could_shrink_goes_as_a_whole(tmp_path):
    fill(tmp_path, "before", range(200))
    with contextlib.closing(sqlite3.connect(file_of(tmp_path, "before"))) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
    cachefolder.prune(tmp_path, size(tmp_path) - 1)
    assert not file_of(tmp_path, "before").exists()
    fill(tmp_path, "before", range(200))
    assert left(tmp_path, "before", range(200)) == [*range(200)]


# Runs


def classified(run, photos: Path, *options: object) -> list[dict[str, object]]:
    done = run("classify", photos, "--labels", "cat,a cup of coffee", *MODEL, *options)
    assert (done.exit_code, done.stderr) == (0, ""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_ends_within_the_limit_and_the_next_gives_the_same(run, photos, cache):
    first = classified(run, photos, "--cache-limit", "150kB")
    assert 50_000 < size(cache) <= 150_000
    assert classified(run, photos, "--cache-limit", "150kB") == first
    assert size(cache) <= 150_000
    assert classified(run, photos, "--no-cache") == first


def test_a_long_run_keeps_within_the_limit_on_its_way(photos, cache, monkeypatch):
    from clipzs import imagecache

    monkeypatch.setattr(imagecache, "_ROWS_AT_ONCE", 20)
    classifier = Classifier(["cat", "a cup of coffee"], model="tiny", engine="torch", batch_size=8, cache_limit=200_000)
    seen = []
    for result in classifier.classify(sorted(photos.iterdir())):
        assert result.error is None
        seen.append(size(cache))
    assert max(seen) < 200_000 + 20 * 4096 * 10  # what is under way, with its journals
    assert size(cache) <= 200_000


def test_the_environment_sets_the_limit(run, photos, cache, monkeypatch):
    monkeypatch.setenv("CLIPZS_CACHE_LIMIT", "200kB")
    classified(run, photos)
    assert size(cache) <= 200_000


def test_ctrl_c_leaves_a_cache_within_the_limit(photos, cache):
    command = [sys.executable, "-m", "clipzs", "classify", *[photos] * 20, "--labels", "cat,a cup of coffee", *MODEL]
    command += ["--cache-limit", "200kB", "--batch-size", "4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(150):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "warning" not in errors
    assert 0 < size(cache) <= 200_000


def test_nothing_is_compiled_that_would_be_pruned_at_once(run, cache):
    done = run("classify", CAT, "--labels", "cat,dog", "--model", "tiny", "--cache-limit", "5MB", "--verbose")
    assert done.exit_code == 0
    assert "--cache-limit leaves no room for a compiled tiny" in done.stderr
    assert list((cache / "compiled").glob("*")) == []


def test_the_commands_show_the_limit_and_prune(run, tmp_path):
    fill(tmp_path, "old", range(300), used=1000)
    fill(tmp_path, "new", range(300))
    here = ("--cache-dir", tmp_path)
    assert run("cache", "prune", *here).stdout == f"{tmp_path}: 0.0 MB freed\n"
    assert run("cache", "info", *here).stdout.splitlines()[0].endswith(" MB of 10.0 GB")
    assert run("cache", "info", *here, "--cache-limit", 0).stdout.splitlines()[0].endswith(" MB, without limit")
    done = run("cache", "prune", *here, "--cache-limit", "2MB")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{tmp_path}: ")
    assert not done.stdout.endswith(" 0.0 MB freed\n")
    assert size(tmp_path) <= 2_000_000
    assert left(tmp_path, "new", range(300)) == [*range(300)]


def test_a_file_in_place_of_a_folder_is_pruned_around_without_a_word(run, tmp_path):
    fill(tmp_path, "old", range(300), used=1000)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "images").write_text("a file in its place")
    done = run("cache", "prune", "--cache-dir", tmp_path, "--cache-limit", "1kB")
    assert (done.exit_code, done.stderr) == (0, "")


# Several processes

READER = """
import sys, time
from pathlib import Path
import numpy as np
from clipzs.store import ImageStore
end, found = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    keys = [number.to_bytes(32, "big") for number in range(0, 3000, 7)]
    for k, one in ImageStore(Path(sys.argv[1]), "model", "0" * 12).get(keys).items():
        number = int.from_bytes(k, "big")
        assert one.tobytes() == np.random.default_rng(number).random(512, np.float32).tobytes()
        found += 1
assert found
"""
WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from clipzs.store import ImageStore
end, number = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    some = {n % 3000: np.random.default_rng(n % 3000).random(512, np.float32) for n in range(number, number + 50)}
    ImageStore(Path(sys.argv[1]), "model", "0" * 12).put({n.to_bytes(32, "big"): one for n, one in some.items()})
    number += 50
"""
PRUNER = """
import random, sys, time
from pathlib import Path
from clipzs.cachefolder import prune
end, number = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    prune(Path(sys.argv[1]), random.choice([500_000, 1_000_000, 2_000_000]))
    print("pruned", flush=True)
"""


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_reading_writing_and_pruning_at_once_gives_right_vectors_and_no_warning(tmp_path):
    fill(tmp_path, "model", range(1000))
    running = [start(code, tmp_path, 6) for code in (READER, READER, WRITER, WRITER, PRUNER, PRUNER)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    with contextlib.closing(sqlite3.connect(file_of(tmp_path, "model"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_pruning_process_that_is_killed_leaves_a_sound_store(tmp_path):
    draw = random.Random(3)
    for attempt in range(6):
        fill(tmp_path, "model", range(attempt * 400, attempt * 400 + 400))
        process = start(PRUNER, tmp_path, 60)
        assert process.stdout is not None
        if attempt % 2:
            assert process.stdout.readline() == "pruned\n"
        else:
            time.sleep(0.3 + draw.random() * 0.2)
        process.kill()
        process.communicate()
        with contextlib.closing(sqlite3.connect(file_of(tmp_path, "model"))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        numbers = left(tmp_path, "model", range(attempt * 400 + 400))
        assert numbers == [*range(numbers[0], attempt * 400 + 400)]


def test_a_compiled_model_pruned_under_a_running_process_costs_it_nothing(cat, shared_compiled, cache):
    """Before its tokenizer and its towers were read, and after."""
    shutil.copytree(shared_compiled, cache / "compiled")
    expected = {}
    for pruned in ("not", "before", "between"):
        classifier = Classifier(["cat", "rocket"], model="tiny", engine="auto", image_cache=False, cache_dir=cache)
        if pruned != "not":
            for file in (cache / "labels").glob("*"):
                file.unlink()
        assert classifier.encoder._now.engine == "openvino"
        if pruned == "between":
            _ = classifier.label_vectors
        if pruned != "not":
            shutil.rmtree(cache / "compiled")
        (result,) = classifier.classify(cat)
        expected[pruned] = {score.label: score.score for score in result.scores}
        if pruned != "not":
            shutil.copytree(shared_compiled, cache / "compiled", dirs_exist_ok=True)
    assert expected["before"] == pytest.approx(expected["not"], abs=1e-5)
    assert expected["between"] == pytest.approx(expected["not"], abs=1e-5)


# Nothing for others


def test_nothing_in_the_cache_is_for_others_whatever_the_umask(cat, tmp_path):
    command = [sys.executable, "-m", "clipzs", "classify", cat, "--labels", "cat,dog", "--model", "tiny"]
    where = tmp_path / "new" / "cache"
    subprocess.run([*command, "--cache-dir", where], check=True, capture_output=True, umask=0, timeout=240)
    found = [where, *where.rglob("*")]
    assert {"files.sqlite", "manifest.json", "image.blob"} <= {path.name for path in found}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [where.parent, *found]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
