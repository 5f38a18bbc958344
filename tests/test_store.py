"""The text cache: what it saves, when it must not be used, and that no fault of it ever costs a result."""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.torch import load_file, save_file

from clipzs import Classifier, cachefolder, database, defaults
from clipzs.embed import label_embeddings
from clipzs.encoder import Tokens
from clipzs.filehashes import FileHashes
from clipzs.store import ImageStore, LabelEmbedding, LabelStore, key

LABELS = ("cat", "dog", "rocket")
CAT = Path(__file__).parent.parent / "examples" / "cat.jpg"


@pytest.fixture
def classify(run, folder, cat, tmp_path):
    """Classify one photo with a small model; gives (scores by label, prompts encoded, standard error)."""

    def once(*options: object, labels: tuple[str, ...] = LABELS, model: str | None = None):
        name = model or f"local-dir:{folder('vit')}"
        log = tmp_path / "log.json"
        words = [part for label in labels for part in ("--label", label)]
        options = ("--engine", "torch", *options)  # another engine may differ in the last digit
        result = run("classify", cat, *words, "--model", name, "--json", "--log", log, *options)
        assert result.exit_code == 0, result.stderr
        (record,) = map(json.loads, result.stdout.splitlines())
        scores = {one["label"]: one["score"] for one in record["scores"]}
        return scores, json.loads(log.read_text())["prompts_encoded"], result.stderr

    return once


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The cache folder that `isolated` has named."""
    return tmp_path / "cache"


def only_file(cache: Path) -> Path:
    (file,) = (cache / "labels").glob("*.sqlite")
    return file


# What it saves


def test_the_second_run_makes_no_text_pass_and_scores_the_same(classify):
    cold, encoded, _ = classify()
    warm, encoded_again, stderr = classify()
    assert encoded == 3 * 7
    assert encoded_again == 0
    assert warm == cold
    assert stderr == ""


def test_a_warm_cache_builds_no_tower(folder, cat):
    def classified() -> tuple[Classifier, np.ndarray]:
        classifier = Classifier(LABELS, model=f"local-dir:{folder('vit')}", engine="torch")
        (result,) = classifier.classify([cat])
        return classifier, np.array([score.score for score in result.scores])

    cold, cold_scores = classified()
    warm, warm_scores = classified()
    built = [{"_text", "_visual", "tokenizer"} & set(vars(one.encoder._now)) for one in (cold, warm)]
    assert built == [{"_text", "_visual", "tokenizer"}, set()]
    np.testing.assert_array_equal(warm_scores, cold_scores)
    np.testing.assert_array_equal(warm.label_vectors, cold.label_vectors)


def test_one_more_label_encodes_that_label_only(classify):
    classify()
    scores, encoded, _ = classify(labels=(*LABELS, "a cup of coffee"))
    assert encoded == 7
    assert scores == pytest.approx(classify("--no-cache", labels=(*LABELS, "a cup of coffee"))[0], abs=2e-6)


def test_the_order_of_labels_does_not_matter(classify):
    first, _, _ = classify()
    second, encoded, _ = classify(labels=LABELS[::-1])
    assert encoded == 0
    assert second == first


def test_warnings_about_labels_are_given_from_the_cache_too(classify):
    labels = ("cat", "Cat", "word " * 80)
    first, second = classify(labels=labels), classify(labels=labels)
    assert second[1] == 0
    assert first[2] == second[2]
    assert "same text: cat, Cat" in first[2]
    assert "the end was cut" in first[2]


# When it must not be used


@pytest.mark.parametrize(
    "options",
    [
        ["--template", "a drawing of a <>"],
        ["--templates", "imagenet7"],
        ["--context", "a type of animal"],
        ["--precision", "bf16"],
        ["--no-cache"],
    ],
    ids=" ".join,
)
def test_whatever_changes_an_embedding_is_encoded_anew(classify, options):
    classify()
    _, encoded, _ = classify(*options)
    assert encoded > 0


def test_other_weights_or_another_architecture_are_encoded_anew(classify, folder, tmp_path):
    classify()
    other = tmp_path / "other"
    other.mkdir()
    state = load_file(folder("vit") / "open_clip_model.safetensors")
    state["text_projection"] *= 2
    save_file(state, other / "open_clip_model.safetensors")
    models.write_config(other, models.CONFIGS["vit"])
    assert classify(model=f"local-dir:{other}")[1] == 21
    models.write_config(other, {**models.CONFIGS["vit"], "quick_gelu": True})
    assert classify(model=f"local-dir:{other}")[1] == 21
    assert classify(model=f"local-dir:{folder('quickgelu')}")[1] == 21
    assert classify()[1] == 0


def test_no_cache_leaves_nothing_behind(classify, tmp_path):
    classify("--no-cache", "--cache-dir", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_the_cache_lies_where_it_is_told_to(classify, cache, tmp_path):
    classify("--cache-dir", tmp_path / "elsewhere")
    assert only_file(tmp_path / "elsewhere").stat().st_size > 0
    assert [path.name for path in cache.iterdir()] == ["compiled"]  # put there for all tests


# The commands


def test_info_counts_and_clear_deletes(run, classify, tmp_path):
    here = ("--cache-dir", tmp_path / "own")
    classify(*here, "--engine", "torch")
    title, *rows = run("cache", "info", *here).stdout.splitlines()
    assert title.startswith(f"{tmp_path / 'own'}: ")
    counts = {row.split("\t")[0]: row.split("\t")[2] for row in rows}
    assert int(counts["labels"]) >= 3
    assert counts["images"] == "1"
    assert int(counts["files"]) >= 1
    cleared = run("cache", "clear", *here)
    assert cleared.exit_code == 0
    assert cleared.stdout.startswith(f"{tmp_path / 'own'}: ")
    assert [path for path in (tmp_path / "own").rglob("*") if path.is_file()] == []
    assert run("cache", "info", *here).stdout == f"{tmp_path / 'own'}: 0.0 MB of 10.0 GB\n"
    assert classify(*here, "--engine", "torch")[1] == 21


def test_the_commands_take_a_folder_and_mind_no_absence(run, tmp_path):
    assert run("cache", "info", "--cache-dir", tmp_path / "none").stdout == f"{tmp_path / 'none'}: 0.0 MB of 10.0 GB\n"
    assert run("cache", "clear", "--cache-dir", tmp_path / "none").exit_code == 0
    assert not (tmp_path / "none").exists()


def test_clear_touches_nothing_but_the_stores(run, cache):
    (cache / "labels").mkdir(parents=True)
    (cache / "notes.txt").write_text("mine")
    (cache / "labels" / "notes.txt").write_text("mine")
    (cache / "labels" / "a.sqlite").write_text("x")
    assert run("cache", "clear").exit_code == 0
    assert sorted(path.name for path in cache.rglob("*.*")) == ["notes.txt", "notes.txt"]


# Faults


def _edit(*statements: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return change


def _replaced_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


FAULTS = {
    "garbage": lambda file: file.write_bytes(b"no database" * 1000),
    "truncated": _truncated,
    "a folder": _replaced_by_folder,
    "a newer version": _edit("PRAGMA user_version = 99"),
    "no table": _edit("DROP TABLE label"),
    "other columns": _edit("DROP TABLE label", "CREATE TABLE label (key BLOB PRIMARY KEY, x)"),
    "short vectors": _edit("UPDATE label SET vector = substr(vector, 1, 7)"),
    "shorter vectors": _edit("UPDATE label SET vector = substr(vector, 1, 64)"),
    "no vectors": _edit("UPDATE label SET vector = x''"),
    "a changed number": _edit("UPDATE label SET vector = x'0000803f' || substr(vector, 5) WHERE rowid = 2"),
    "text for vectors": _edit("UPDATE label SET vector = 'text'"),
    "text for tokens": _edit("UPDATE label SET tokens = 'text'"),
    "text for lengths": _edit("UPDATE label SET longest = 'text'"),
    "a word more": _edit("UPDATE label SET unknown = 'text'"),
    "rows exchanged": _edit(
        "CREATE TABLE t AS SELECT * FROM label",
        "UPDATE label SET vector = (SELECT vector FROM t WHERE t.rowid = 4 - label.rowid) WHERE rowid < 4",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_cache_warns_once_and_costs_no_score(classify, cache, run, fault):
    expected, _, _ = classify()
    file = only_file(cache)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # all of it in the one file
    FAULTS[fault](file)
    scores, encoded, stderr = classify()
    assert scores == expected
    assert encoded == 21
    (warning,) = stderr.splitlines()
    assert warning.startswith(f"warning: the cache {file} cannot be used (")
    assert "clipzs cache clear" in warning
    assert run("cache", "info").exit_code == 0
    assert run("cache", "clear").exit_code == 0
    assert [classify()[1:] for _ in range(2)] == [(21, ""), (0, "")]


@pytest.mark.parametrize("place", ["/dev/null/cache", "/proc/cache", "a file"])
def test_a_cache_folder_that_cannot_be_made_warns_once(classify, tmp_path, place):
    (tmp_path / "a file").touch()
    scores, encoded, stderr = classify("--cache-dir", tmp_path / place)
    assert encoded == 21
    assert [line.split()[:3] for line in stderr.splitlines()] == [["warning:", "the", "cache"]]
    assert scores == classify("--no-cache")[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_only_be_read_warns_once(classify, cache):
    expected, _, _ = classify()
    only_file(cache).chmod(0o400)
    (cache / "labels").chmod(0o500)
    try:
        scores, _, stderr = classify(labels=(*LABELS, "fox"))
    finally:
        (cache / "labels").chmod(0o700)
    assert len(stderr.splitlines()) == 1
    assert set(expected) < set(scores)


def test_an_empty_file_in_place_of_the_cache_becomes_one(classify, cache):
    classify()
    file = only_file(cache)
    for part in (cache / "labels").iterdir():
        part.unlink()
    file.touch()
    assert [classify()[1:] for _ in range(2)] == [(21, ""), (0, "")]


def test_a_cache_of_an_older_version_is_made_anew_without_a_word(classify, cache):
    expected, _, _ = classify()
    _edit(
        "DROP TABLE label",
        "CREATE TABLE label (key BLOB PRIMARY KEY, vector BLOB NOT NULL)",
        "PRAGMA user_version = 1",
    )(only_file(cache))
    assert [classify() for _ in range(2)] == [(expected, 21, ""), (expected, 0, "")]


# The store itself


def embedding(number: int) -> LabelEmbedding:
    vector, words = np.random.default_rng(number).random(512, np.float32), ("猫", "qwx")[: number % 3]
    return LabelEmbedding(vector, bytes([number % 256]) * 32, number, words)


def same(one: LabelEmbedding, other: LabelEmbedding) -> bool:
    facts = [(each.vector.tobytes(), each.tokens, each.longest, each.unknown) for each in (one, other)]
    return facts[0] == facts[1]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.binary(min_size=32, max_size=32),
        st.builds(
            LabelEmbedding,
            arrays.arrays(np.float32, st.integers(1, 40)),
            st.binary(max_size=40),
            st.integers(0, 10**6),
        ),
        max_size=6,
    ),
    st.binary(min_size=32, max_size=32),
)
def test_what_is_put_is_what_is_got(tmp_path_factory, given_ones, another):
    kept = LabelStore(tmp_path_factory.mktemp("store"), "any/model:name", "0123456789abcdef")
    kept.put(given_ones)
    found = kept.get([*given_ones, another])
    assert found.keys() == given_ones.keys()
    assert all(same(found[one], given_ones[one]) for one in found)
    assert all(found[one].vector.dtype == np.float32 for one in found)


def test_a_key_differs_for_every_difference_in_what_it_is_made_of():
    several = [("a", "b"), ("ab", ""), ("a", ["b"]), (["a", "b"],), ("a", "b", ""), ("a", 'b"'), ("\udcff", "b")]
    assert len({key(*one) for one in several}) == len(several)
    assert all(len(key(*one)) == 32 for one in several)


def test_a_store_without_a_folder_keeps_nothing():
    nothing = LabelStore(None, "model", "digest")
    nothing.put({bytes(32): embedding(1)})
    assert nothing.get([bytes(32)]) == {}


def test_the_name_of_a_model_cannot_lead_out_of_the_folder(tmp_path):
    kept = LabelStore(tmp_path, "local-dir:../../../etc/" + "x" * 300, "0" * 64)
    kept.put({bytes(32): embedding(1)})
    assert only_file(tmp_path).parent == tmp_path / "labels"


def at_once(count: int, work, folder: Path) -> None:
    """Processes that all do `work(folder, number, barrier)`, and all end well."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    workers = [context.Process(target=work, args=(str(folder), number, barrier)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * count


def _fill(folder: str, worker: int, barrier: "multiprocessing.synchronize.Barrier") -> None:
    barrier.wait()
    for number in range(worker * 30, worker * 30 + 40):  # a quarter of them is also written by the next worker
        LabelStore(Path(folder), "model", "digest").put({number.to_bytes(32, "big"): embedding(number)})


def test_several_processes_may_write_at_once(tmp_path, capfd):
    at_once(4, _fill, tmp_path)
    keys = [number.to_bytes(32, "big") for number in range(130)]
    found = LabelStore(tmp_path, "model", "digest").get(keys)
    assert all(same(found[one], embedding(number)) for number, one in enumerate(keys))
    assert "cannot be used" not in capfd.readouterr().err


WRITER = """
import sys, numpy as np
from pathlib import Path
from clipzs.store import LabelEmbedding, LabelStore
kept = LabelStore(Path(sys.argv[1]), "model", "digest")
for number in range(10**9):
    one = LabelEmbedding(np.full(64, number, np.float32), b"t", 3)
    kept.put({(number * 50 + n).to_bytes(32, "big"): one for n in range(50)})
    if number == 0:
        print("ready", flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_batches_only(tmp_path):
    for attempt in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.02 + 0.03 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    with contextlib.closing(sqlite3.connect(only_file(tmp_path))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count = connection.execute("SELECT count(*) FROM label").fetchone()[0]
    assert count > 0
    assert count % 50 == 0
    kept = LabelStore(tmp_path, "model", "digest")
    found = kept.get([number.to_bytes(32, "big") for number in range(count)])
    assert len(found) == count
    assert all(set(one.vector) == {int.from_bytes(k, "big") // 50} for k, one in found.items())


def test_contents_tells_of_a_store_that_cannot_be_read(tmp_path):
    LabelStore(tmp_path, "fine", "0" * 64).put({bytes(32): embedding(1)})
    ImageStore(tmp_path, "fine", "0" * 64).put({bytes(32): np.ones(4, np.float32), b"2": np.ones(4, np.float32)})
    (tmp_path / "labels" / "broken.sqlite").write_bytes(b"no database" * 1000)
    assert {(file.kind, file.path.stem): file.entries for file in cachefolder.contents(tmp_path)} == {
        ("labels", "broken"): None,
        ("labels", "fine-000000000000"): 1,
        ("images", "fine-000000000000"): 2,
    }


# The store of images


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).random(512, np.float32)


def image_key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def images(tmp_path) -> ImageStore:
    """A store of a thousand images, all of it in one file."""
    ImageStore(tmp_path, "model", "digest").put({image_key(number): image(number) for number in range(1000)})
    with contextlib.closing(sqlite3.connect(image_file(tmp_path))) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    return ImageStore(tmp_path, "model", "digest")


def image_file(folder: Path) -> Path:
    (file,) = (folder / "images").glob("*.sqlite")
    return file


def test_the_vectors_that_are_put_are_got_to_the_bit(images):
    found = images.get([image_key(number) for number in range(0, 2000, 2)])
    assert found.keys() == {image_key(number) for number in range(0, 1000, 2)}
    assert all(found[image_key(number)].tobytes() == image(number).tobytes() for number in range(0, 1000, 2))
    assert {(one.dtype, one.shape) for one in found.values()} == {(np.dtype(np.float32), (512,))}


def test_models_of_one_name_do_not_share_images(images, tmp_path):
    assert ImageStore(tmp_path, "model", "another").get([image_key(1)]) == {}
    assert not ImageStore(tmp_path, "model", "another").exists


@pytest.fixture
def warnings(caplog, monkeypatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(logging.getLogger("clipzs"), "handlers", [caplog.handler])
    monkeypatch.setattr(logging.getLogger("clipzs"), "propagate", False)
    caplog.set_level(logging.WARNING, "clipzs")
    return lambda: caplog.messages


@pytest.mark.parametrize(
    "fault",
    [
        FAULTS["garbage"],
        FAULTS["truncated"],
        FAULTS["a folder"],
        FAULTS["a newer version"],
        _edit("DROP TABLE image"),
        _edit("UPDATE image SET vector = substr(vector, 1, 64)"),
        _edit("UPDATE image SET vector = 'text' WHERE rowid = 500"),
        _edit("UPDATE image SET vector = x'0000803f' || substr(vector, 5) WHERE rowid = 2"),
        _edit("CREATE TABLE t AS SELECT * FROM image",
              "UPDATE image SET vector = (SELECT vector FROM t WHERE t.rowid = 1001 - image.rowid)"),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_damaged_store_of_images_gives_no_wrong_vector_and_one_warning(images, tmp_path, warnings, fault):
    fault(image_file(tmp_path))
    keys = [image_key(number) for number in range(1000)]
    for some in (keys[:300], keys):
        assert all(found.tobytes() == image(keys.index(k)).tobytes() for k, found in images.get(some).items())
    images.put({image_key(5000): image(5000)})
    assert images.get([image_key(5000)]) == {}
    (warning,) = warnings()
    assert warning.startswith(f"the cache {image_file(tmp_path)} cannot be used (")


def _fill_images(folder: str, worker: int, barrier: "multiprocessing.synchronize.Barrier") -> None:
    barrier.wait()
    for start in range(worker * 500, worker * 500 + 1000, 100):  # half of them is also written by the next worker
        some = {image_key(number): image(number) for number in range(start, start + 100)}
        ImageStore(Path(folder), "model", "digest").put(some)


def test_three_processes_may_write_images_at_once(tmp_path, capfd):
    at_once(3, _fill_images, tmp_path)
    found = ImageStore(tmp_path, "model", "digest").get([image_key(number) for number in range(2000)])
    assert len(found) == 2000
    assert all(found[image_key(number)].tobytes() == image(number).tobytes() for number in range(2000))
    assert "cannot be used" not in capfd.readouterr().err


FILLER = """
import os, resource, signal, sys
import numpy as np
from pathlib import Path
from clipzs.store import ImageStore
if sys.argv[4]:
    os.setuid(int(sys.argv[4]))
if sys.argv[2]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
kept = ImageStore(Path(sys.argv[1]), "model", "digest")
for number in range(int(sys.argv[3])):
    kept.put({(number * 50 + n).to_bytes(32, "big"): np.full(512, number, np.float32) for n in range(50)})
    print(number, flush=True)
"""


def filler(folder: Path, *, limit: str = "", batches: int = 10**9, user: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", FILLER, folder, limit, str(batches), user]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def whole_batches(folder: Path) -> int:
    """Images in a sound store that holds nothing but whole batches with the right vectors."""
    with contextlib.closing(sqlite3.connect(image_file(folder))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count = connection.execute("SELECT count(*) FROM image").fetchone()[0]
    found = ImageStore(folder, "model", "digest").get([image_key(number) for number in range(count)])
    assert len(found) == count
    assert count % 50 == 0
    assert all(set(one) == {int.from_bytes(k, "big") // 50} for k, one in found.items())
    return count


def test_a_writer_of_images_that_is_killed_leaves_whole_batches_only(tmp_path):
    for attempt in range(4):
        writer = filler(tmp_path)
        assert writer.stdout.readline() == "0\n"
        time.sleep(0.02 + 0.05 * attempt)
        writer.kill()
        writer.communicate()
    assert whole_batches(tmp_path) > 0


def test_a_full_disk_ends_the_cache_and_not_the_work(tmp_path):
    """A limit on the size of files, which the system enforces as it does the end of a disk."""
    writer = filler(tmp_path, limit="1000000", batches=40)
    output, errors = writer.communicate(timeout=120)
    assert writer.returncode == 0
    assert output.split() == [str(number) for number in range(40)]
    (warning,) = errors.splitlines()
    assert warning.startswith(f"the cache {image_file(tmp_path)} cannot be used (")
    assert whole_batches(tmp_path) < 40 * 50


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not write")
def test_a_cache_of_another_user_is_read_only_and_costs_one_warning():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        ImageStore(folder, "model", "digest").put({image_key(0): image(0)})
        for place in (folder / "images", *(folder / "images").iterdir()):
            place.chmod(0o755)
        output, errors = filler(folder, user="65534", batches=3).communicate(timeout=120)
    assert output.split() == ["0", "1", "2"]
    (warning,) = errors.splitlines()
    assert "cannot be used (attempt to write a readonly database)" in warning


# Damage of every kind


def _flipped(content: bytes, draw: random.Random) -> bytes:
    """With some bytes changed anywhere or in the first page, which says where all else is; or cut short."""
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 20])):
        damaged[draw.randrange(len(damaged) if draw.random() < 0.7 else 4096)] = draw.randrange(256)
    return bytes(damaged[: draw.randrange(len(damaged))] if draw.random() < 0.15 else damaged)


def test_whatever_bytes_are_changed_nothing_wrong_is_found_and_nothing_is_raised(
    tmp_path, warnings, caplog, monkeypatch
):
    """Of each file of the cache; what is left can be shown, written to and pruned."""
    photos = [tmp_path / f"photo{number}" for number in range(100)]
    for number, photo in enumerate(photos):
        photo.write_bytes(b"%d" % number)
    digests = [hashlib.sha256(photo.read_bytes()).digest() for photo in photos]
    stamps = [b"%d %d %d %d" % (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in map(os.stat, photos)]
    remembered = [*zip(map(str, photos), stamps, digests, strict=True)]
    labels = {image_key(number): embedding(number) for number in range(100)}
    images = {image_key(number): image(number)[:64] for number in range(100)}
    LabelStore(tmp_path, "model", "0" * 12).put(labels)
    ImageStore(tmp_path, "model", "0" * 12).put(images)
    FileHashes(tmp_path).remember(remembered)
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*.sqlite")}
    assert len(whole) == 3
    draw, unusable = random.Random(5), 0
    for _ in range(120):
        for path, content in whole.items():
            for part in path.parent.glob(path.name + "*"):
                part.unlink()
            path.write_bytes(_flipped(content, draw))
        monkeypatch.setattr(database, "_reported", set())
        caplog.clear()
        for k, found in LabelStore(tmp_path, "model", "0" * 12).get([*labels]).items():
            assert same(found, labels[k])
        for k, vector in ImageStore(tmp_path, "model", "0" * 12).get([*images]).items():
            assert vector.tobytes() == images[k].tobytes()
        for known, digest in zip(FileHashes(tmp_path).known([*map(str, photos)]), digests, strict=True):
            assert known in (None, digest)
        LabelStore(tmp_path, "model", "0" * 12).put({b"new": embedding(1)})
        ImageStore(tmp_path, "model", "0" * 12).put({b"new": image(1)})
        FileHashes(tmp_path).remember(remembered[:2])
        assert len(warnings()) <= 1
        unusable += len(warnings())
        cachefolder.contents(tmp_path)
        cachefolder.prune(tmp_path, 1000)
    assert unusable > 60


# Places of every kind, in real processes


def answer(process, *arguments: object, **more: object) -> tuple[dict[str, float], list[str]]:
    """Scores of a photo by a real process, and the lines on standard error."""
    done = process(
        "classify", CAT, "--labels", "cat,rocket", "--model", "tiny", "--engine", "torch", "--json", *arguments, **more
    )
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, done.stdout.splitlines())
    return {one["label"]: one["score"] for one in record["scores"]}, done.stderr.splitlines()


@pytest.fixture
def expected(process) -> dict[str, float]:
    """The scores without a cache; the same real process for all tests that ask."""
    if not _EXPECTED:
        scores, lines = answer(process, "--no-cache")
        assert lines == []
        _EXPECTED.update(scores)
    return dict(_EXPECTED)


_EXPECTED: dict[str, float] = {}


def one_warning(lines: list[str]) -> None:
    (warning,) = lines
    assert warning.startswith("warning: the cache ")
    assert "going on without it" in warning


@pytest.fixture
def mounted(tmp_path):
    """Mount a file system of its own of some size; may be made read-only."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options: str) -> Path:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", place], capture_output=True)
        if made.returncode:
            pytest.skip("needs the right to mount")
        return place

    yield mount
    while subprocess.run(["umount", place], capture_output=True).returncode == 0:
        continue


@pytest.mark.parametrize("filled", [True, False])
def test_a_cache_on_a_read_only_file_system_costs_one_warning(process, mounted, filled):
    place = mounted("size=50m")
    expected, lines = answer(process, *(("--cache-dir", place / "cache") if filled else ("--no-cache",)))
    assert lines == []
    mounted("remount", "ro")
    for options in ((), ("--label", "temple")):
        scores, lines = answer(process, "--cache-dir", place / "cache", *options)
        one_warning(lines)
        if not options:
            assert scores == expected


def test_a_cache_on_a_full_disk_costs_one_warning_and_is_used_when_there_is_room(process, expected, mounted):
    place = mounted("size=200k")
    (place / "ballast").write_bytes(bytes(190_000))
    scores, lines = answer(process, "--cache-dir", place / "cache")
    one_warning(lines)
    assert scores == expected
    (place / "ballast").unlink()
    for _ in range(2):
        assert answer(process, "--cache-dir", place / "cache") == (expected, [])
    assert {file.kind: file.entries for file in cachefolder.contents(place / "cache")}["labels"] >= 2


def test_a_disk_that_fills_up_on_the_way_costs_one_warning(process, mounted, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(60):
        with Image.open(CAT) as photo:
            small = photo.resize((40, 40))
            small.putpixel((0, 0), (number, 0, 0))
            small.save(photos / f"{number:02}.png")
    command = ("classify", photos, "--labels", "cat,rocket", "--model", "tiny", "--engine", "torch", "--json")
    full = process(*command, "--cache-dir", mounted("size=100k") / "cache")
    assert full.returncode == 0
    one_warning(full.stderr.splitlines())
    assert full.stdout == process(*command, "--no-cache").stdout


def test_a_home_that_cannot_be_written_costs_one_warning(process, expected, tmp_path, monkeypatch):
    for name in ("CLIPZS_CACHE_DIR", "CLIPZS_PROMPTS_DIR", "HF_HUB_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", Path("/proc/none")):
        monkeypatch.setenv("HOME", str(home))
        scores, lines = answer(process)
        one_warning(lines)
        assert scores == expected


def test_processes_that_start_on_an_empty_cache_at_once_all_answer_right(process, expected, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        answers = [*pool.map(lambda _: answer(process, "--cache-dir", tmp_path / "new" / "cache"), range(3))]
    assert answers == [(expected, [])] * 3
    assert {file.kind: file.entries for file in cachefolder.contents(tmp_path / "new" / "cache")}["labels"] >= 2


def test_processes_killed_at_any_moment_leave_a_cache_that_is_used(process, expected, tmp_path):
    where = ("--cache-dir", tmp_path / "new" / "cache")
    command = [sys.executable, "-m", "clipzs", "classify", CAT, "--labels", "cat,rocket", "--model", "tiny", "--json"]
    command += ["--engine", "torch", *where]
    draw, folder = random.Random(7), tmp_path / "new" / "cache"
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not folder.exists() and running.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.3)
        running.kill()
        running.wait()
        assert answer(process, *where) == (expected, [])
    assert answer(process, *where) == (expected, [])


# Encoding


class Alphabet:
    """An encoder a reader can predict: a text's embedding counts its letters a, b and c; its tokens are its letters."""

    device, precision, logit_scale, logit_bias = "cpu", "fp32", 1.0, None

    def __init__(self) -> None:
        self.passes: list[int] = []

    def tokenize(self, texts) -> Tokens:
        ids = np.zeros((len(texts), 1200), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = [ord(letter) for letter in text]
        return Tokens(ids, tuple(len(text) for text in texts))

    def encode_texts(self, tokens: Tokens) -> np.ndarray:
        self.passes.append(len(tokens.ids))
        counts = np.stack([(tokens.ids == ord(letter)).sum(axis=1) for letter in "abc"], axis=1)
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)

    def encode_images(self, pixels):
        raise NotImplementedError


def test_many_prompts_go_through_in_batches_and_come_back_to_their_labels(tmp_path):
    prompts = [("a" * (number % 500 + 1) + "b" * (number + 1), "c") for number in range(600)]
    encoder, seen = Alphabet(), []
    kept = LabelStore(tmp_path, "alphabet", "1")
    labels, encoded = label_embeddings(
        prompts, encoder, kept, digest="1", progress=lambda done, total: seen.append((done, total))
    )
    assert encoded == sum(encoder.passes) == 601  # "c" is shared
    assert max(encoder.passes) <= defaults.TEXT_BATCH_SIZE
    assert seen[-1] == (601, 601)
    for number, label in enumerate(labels):
        first = np.array([number % 500 + 1, number + 1, 0.0])
        mean = first / np.linalg.norm(first) + np.array([0, 0, 1.0])
        np.testing.assert_allclose(label.vector, mean / np.linalg.norm(mean), atol=1e-6)
        assert label.longest == len(prompts[number][0])
    again = Alphabet()
    assert label_embeddings(prompts, again, kept, digest="1")[1] == 0
    assert again.passes == []
    assert label_embeddings(prompts, again, kept, digest="2")[1] == 601
