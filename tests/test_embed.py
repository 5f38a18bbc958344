"""`clipzs embed`: embeddings in files that numpy, safetensors and pyarrow read, and that say what made them."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from clipzs import Classifier, embeddings, filehashes
from clipzs.embedder import Embedder
from clipzs.embeddings import Facts, beside
from clipzs.engine import Engine
from clipzs.errors import EmbeddingsError, UsageProblem
from clipzs.gathering import Gathering
from clipzs.options import Options
from clipzs.paths import Selection

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = [str(EXAMPLES / name) for name in ("cat.jpg", "coffee.jpg", "rocket.jpg")]
TINY = ("--model", "tiny")
SUFFIXES = (".npy", ".safetensors", ".parquet")
FACTS = Facts("a model", "0" * 64, "images", "0.1.0")


def unit(count: int, d: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def opened(path: Path) -> tuple[list[str], np.ndarray]:
    """Ids and rows as others read them."""
    if path.suffix == ".npy":
        return json.loads(Path(f"{path}.json").read_text())["ids"], np.load(path)
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return tensors["ids"].tobytes().decode()[:-1].split("\0"), tensors["embeddings"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    assert table.column_names == ["id", "embedding"]
    return table["id"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float32)


# Through the command


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_programs_read_the_embeddings_of_images_with_their_paths(run, tmp_path, suffix, dtype):
    out = tmp_path / f"photos{suffix}"
    result = run("embed", *PHOTOS, "-o", out, "--dtype", dtype, *TINY)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"note: {out}: 3 images by tiny\n"
    ids, rows = opened(out)
    expected = np.concatenate(
        [batch.vectors for batch in Classifier(["a", "b"], model="tiny").embedder.batches(PHOTOS)]
    )
    assert ids == PHOTOS
    assert rows.dtype == dtype or suffix == ".parquet"
    np.testing.assert_allclose(rows, expected, atol=1e-6 if dtype == "float32" else 1e-3)
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {out.name} | (
        {f"{out.name}.json"} if suffix == ".npy" else set()
    )


def test_datasets_reads_the_parquet_file(run, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    run("embed", *PHOTOS, "-o", tmp_path / "photos.parquet", *TINY)
    found = datasets.Dataset.from_parquet(str(tmp_path / "photos.parquet"), cache_dir=str(tmp_path / "datasets"))
    assert found["id"][:] == PHOTOS
    np.testing.assert_allclose(np.linalg.norm(found.with_format("numpy")["embedding"][:], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_says_which_model_made_it(run, tmp_path, suffix):
    out = tmp_path / f"photos{suffix}"
    run("embed", *PHOTOS, "-o", out, *TINY)
    model = Embedder(Options(model="tiny")).model
    facts = embeddings.read(out).facts
    assert (facts.model, facts.digest, facts.of) == ("tiny", model.digest, "images")


def test_texts_are_embedded_as_they_are_and_with_templates_if_some_are_named(run, tmp_path):
    (tmp_path / "texts").write_text("a rocket\n\n# a dog, or a cat\r\n", encoding="utf-8")
    result = run("embed", "--text", "a cat", "--texts", tmp_path / "texts", "-o", tmp_path / "t.npy", *TINY)
    assert (result.exit_code, result.stderr) == (0, f"note: {tmp_path / 't.npy'}: 3 texts by tiny\n")
    ids, rows = opened(tmp_path / "t.npy")
    embedder = Embedder(Options(model="tiny"))
    assert ids == ["a cat", "a rocket", "# a dog, or a cat"]
    np.testing.assert_allclose(rows, embedder.texts(ids), atol=1e-6)
    assert embeddings.read(tmp_path / "t.npy").facts.of == "texts"

    averaged = ("--template", "a photo of a <>", "--template", "a drawing of a <>")
    run("embed", "--text", "cat", *averaged, "-o", tmp_path / "t.npy", *TINY)
    mean = embedder.texts(["a photo of a cat", "a drawing of a cat"]).mean(axis=0)
    np.testing.assert_allclose(opened(tmp_path / "t.npy")[1][0], mean / np.linalg.norm(mean), atol=1e-6)


def test_texts_come_from_standard_input_too(run, tmp_path):
    result = run("embed", "--texts", "-", "-o", tmp_path / "t.npy", *TINY, input="猫\na dog")
    assert result.exit_code == 0
    assert opened(tmp_path / "t.npy")[0] == ["猫", "a dog"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_images_that_cannot_be_read_are_named_and_left_out(run, tmp_path, suffix):
    (tmp_path / "broken.jpg").write_text("no image")
    out = tmp_path / f"photos{suffix}"
    result = run("embed", PHOTOS[0], tmp_path / "broken.jpg", PHOTOS[1], "-o", out, *TINY)
    assert result.exit_code == 3
    first, second, third = result.stderr.splitlines()
    assert first.startswith(f"error: {tmp_path / 'broken.jpg'}: ")
    assert (second, third) == ("error: 1 of 3 images could not be read", f"note: {out}: 2 images by tiny")
    assert opened(out)[0] == PHOTOS[:2]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only there")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_with_line_ends_and_bytes_that_are_no_text_come_back(run, tmp_path, suffix):
    names = [os.fsdecode(name) for name in (b"two\nlines.jpg", b"caf\xe9.jpg", "猫 \u2028.jpg".encode(), b"a\\xe9.jpg")]
    for name in names:
        shutil.copy(PHOTOS[0], tmp_path / name)
    out = tmp_path / f"photos{suffix}"
    assert run("embed", *(str(tmp_path / name) for name in names), "-o", out, *TINY).exit_code == 0
    assert [*embeddings.read(out).ids] == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_replaced_only_by_a_whole_one(run, tmp_path, suffix):
    out = tmp_path / f"photos{suffix}"
    run("embed", *PHOTOS, "-o", out, *TINY)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    (tmp_path / "broken.jpg").write_text("no image")
    result = run("embed", tmp_path / "broken.jpg", "-o", out, *TINY)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: none of the 1 images could be read, e.g. ")
    (tmp_path / "broken.jpg").unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, suffix):
    """A limit on the size of files stands for it."""
    out = tmp_path / f"texts{suffix}"
    with embeddings.written(out, FACTS) as put:
        put(["old"], unit(1))
    code = (
        "import resource, sys, numpy as np; from pathlib import Path; from clipzs import embeddings\n"
        "from clipzs.errors import OutputError\n"
        "rows = np.eye(64, dtype=np.float32)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with embeddings.written(Path(sys.argv[1]), embeddings.Facts('m', 'd', 'texts', '0')) as put:\n"
        "        for _ in range(500): put(['x'] * 64, rows)\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=True)
    assert done.stdout == f"{out}: cannot be written: File too large\n"
    assert [*embeddings.read(out).ids] == ["old"]
    assert not [*tmp_path.glob(".*")]


def test_ctrl_c_writes_nothing_and_leaves_what_was_embedded_in_the_cache(tmp_path):
    for number in range(3):
        shutil.copy(PHOTOS[number], tmp_path / f"{number}.jpg")
    os.mkfifo(tmp_path / "stuck.jpg")
    images = [*(tmp_path / f"{number}.jpg" for number in range(3)), tmp_path / "stuck.jpg"]
    command = [sys.executable, "-m", "clipzs", "embed", *images, "-o", tmp_path / "x.npy", *TINY, "-b", "1"]
    process = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = os.open(tmp_path / "stuck.jpg", os.O_WRONLY)  # waits until it is being read
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    os.close(end)
    assert (process.returncode, output) == (130, b"")
    assert errors.endswith(b" images; their embeddings are in the cache\n")
    assert not [*tmp_path.glob("*x.npy*")]


def test_what_was_embedded_before_a_signal_is_not_embedded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(filehashes, "_SETTLED_NS", 0)
    for number in range(3):
        shutil.copy(PHOTOS[number], tmp_path / f"{number}.jpg")
    selection = Selection([str(tmp_path / f"{number}.jpg") for number in range(3)])
    options = Options(model="tiny", batch_size=1)
    first = Gathering(Embedder(options), selection, lambda ids, rows: None)
    first(lambda images: os.kill(os.getpid(), signal.SIGINT), lambda: None)
    assert (first.interrupted, first.images) == (signal.SIGINT, 1)
    passes: list[int] = []
    encode_images = Engine.encode_images

    def counted(self, pixels):
        passes.append(len(pixels))
        return encode_images(self, pixels)

    monkeypatch.setattr(Engine, "encode_images", counted)
    found: list[str] = []
    second = Gathering(Embedder(options), selection, lambda ids, rows: found.extend(ids))
    second(lambda images: None, lambda: None)
    assert (found, sum(passes)) == ([*selection.paths], 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*PHOTOS,), "nothing says where the embeddings are to be written"),
        ((*PHOTOS, "-o", "x.txt"), "x.txt: embeddings are in .npy, .safetensors, .parquet"),
        ((*PHOTOS, "--text", "a", "-o", "x.npy"), "a file holds images or texts, and both are named"),
        (("-o", "x.npy"), "no images named"),
        (("--texts", "missing", "-o", "x.npy"), "missing: cannot be read: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("embed", *arguments, *TINY)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"error: {message}")
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


@pytest.mark.parametrize(
    ("content", "message"), [(b"a\n\xff\n", "2: not UTF-8 text"), (b"a\0b", "1: a NUL byte is in it")]
)
def test_what_is_no_text_is_named_by_its_line(run, tmp_path, content, message):
    (tmp_path / "texts").write_bytes(content)
    result = run("embed", "--texts", tmp_path / "texts", "-o", tmp_path / "x.npy", *TINY)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"error: {tmp_path / 'texts'}:{message}")


def test_a_list_that_is_read_is_not_overwritten(run, tmp_path):
    texts = tmp_path / "texts.npy"
    texts.write_text("a cat\n")
    result = run("embed", "--texts", texts, "-o", texts, *TINY)
    assert (result.exit_code, texts.read_text()) == (2, "a cat\n")


def test_parquet_without_pyarrow_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("embed", *PHOTOS, "-o", tmp_path / "x.parquet", *TINY)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1] == "hint: pip install 'clipzs[parquet]'"


# The files

IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=0, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(SUFFIXES), dtype=st.sampled_from(["float32", "float16"]))
def test_whatever_is_written_is_read_back(tmp_path, data, suffix, dtype):
    some = st.lists(st.one_of(IDS, st.sampled_from(["a\udcff", "\\udcff"])), max_size=5)
    batches = [*data.draw(st.lists(some, max_size=5)), ["last"]]
    ids = [one for batch in batches for one in batch]
    rows, path, start = unit(len(ids), d=data.draw(st.integers(1, 20))), tmp_path / f"x{suffix}", 0
    with embeddings.written(path, FACTS, dtype) as put:
        for batch in batches:
            put(batch, rows[start : start + len(batch)])
            start += len(batch)
    found = embeddings.read(path)
    assert ([*found.ids], found.facts) == (ids, FACTS)
    np.testing.assert_array_equal(np.asarray(found.vectors), rows.astype(dtype))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("count", [1024, 1025, 40_000])
def test_many_rows_in_uneven_batches_are_read_back(tmp_path, suffix, count):
    rows, path, draw = unit(count), tmp_path / f"x{suffix}", np.random.default_rng(1)
    with embeddings.written(path, FACTS) as put:
        start = 0
        while start < count:
            end = min(count, start + int(draw.integers(1, 3000)))
            put([f"{row}" for row in range(start, end)], rows[start:end])
            start = end
    found = embeddings.read(path)
    assert [*found.ids] == [f"{row}" for row in range(count)]
    np.testing.assert_array_equal(np.asarray(found.vectors), rows)


def made(path: Path, rows: np.ndarray | None = None, *, count: int = 5) -> Path:
    rows = unit(count) if rows is None else rows
    with embeddings.written(path, FACTS) as put:
        put([f"{row}.jpg" for row in range(len(rows))], rows)
    return path


def problem(path: Path) -> str:
    with pytest.raises(EmbeddingsError) as caught:
        embeddings.read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_anywhere_or_with_something_behind_it_is_refused(tmp_path, suffix):
    path = made(tmp_path / f"x{suffix}")
    whole = path.read_bytes()
    for size in (*range(0, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:size])
        assert problem(path).startswith(str(path))
    path.write_bytes(whole + b"\0")
    assert problem(path).startswith(str(path))
    path.write_bytes(whole)
    assert len(embeddings.read(path).ids) == 5


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_rows_is_not_made(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    with pytest.raises(UsageProblem, match="there is nothing to write"), embeddings.written(path, FACTS):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("number", "words"), [(np.nan, "row 3 has numbers that are not finite"), (np.inf, "row 3 has numbers that are not"),
                          (2.0, "row 3 is not of length 1")],
)  # fmt: skip
def test_numbers_that_are_no_embeddings_are_refused_by_row(tmp_path, suffix, number, words):
    rows = unit(5)
    rows[3, 2] = number
    assert words in problem(made(tmp_path / f"x{suffix}", rows))


def test_an_npy_file_and_the_ids_of_another_are_refused(tmp_path):
    """As a kill between the two replacements leaves them, or a copy of one of the two."""
    path = made(tmp_path / "x.npy")
    other = made(tmp_path / "y.npy", unit(5, seed=1))
    shutil.copy(other, path)
    assert "x.npy.json belongs to other numbers" in problem(path)
    beside(path).unlink()
    assert "x.npy.json, which says what its rows are of, is missing" in problem(path)


def test_what_others_wrote_is_refused_in_words(tmp_path):
    np.save(tmp_path / "x.npy", unit(3))
    save_file({"embeddings": unit(3)}, tmp_path / "x.safetensors")
    assert "x.npy.json, which says what its rows are of, is missing" in problem(tmp_path / "x.npy")
    assert "these are weights, but no embeddings" in problem(tmp_path / "x.safetensors")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": ["a"], "embedding": [[1.0]]}), tmp_path / "x.parquet")
    assert "a table, but no embeddings" in problem(tmp_path / "x.parquet")
    assert "no such file" in problem(tmp_path / "missing.npy")
    (tmp_path / "folder.npy").mkdir()
    assert "not a file" in problem(tmp_path / "folder.npy")
    assert "embeddings are in .npy" in problem(tmp_path / "x.txt")


def test_objects_in_npy_files_are_never_unpacked(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    path = made(tmp_path / "x.npy")
    np.save(path, np.array([[Trap()]], object), allow_pickle=True)
    assert "its numbers are |O" in problem(path)
    assert not (tmp_path / "trapped").exists()


def test_a_newer_format_names_the_version_that_made_it(tmp_path):
    path = made(tmp_path / "x.npy")
    said = json.loads(beside(path).read_text())
    beside(path).write_text(json.dumps(said | {"format": 2, "clipzs": "9.9"}))
    assert "made by clipzs 9.9, in a format that this version cannot read" in problem(path)


@pytest.mark.parametrize("change", [{"model": ""}, {"of": "sounds"}, {"digest": 7}, {"ids": ["a"]}, {"ids": [1] * 5}])
def test_facts_that_make_no_sense_are_refused(tmp_path, change):
    path = made(tmp_path / "x.npy")
    said = json.loads(beside(path).read_text())
    beside(path).write_text(json.dumps(said | change))
    assert "no embeddings, or damaged" in problem(path)


def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    path = made(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 1 << 40) + whole[8:])
    assert "its header is too long" in problem(path)
    path.write_bytes(whole.replace(b'"shape": [5, 8]', b'"shape": [9999999999, 8]'.ljust(15)[:24]))
    assert problem(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whatever_bytes_are_changed_it_is_read_or_refused_in_one_line(tmp_path, suffix):
    path = made(tmp_path / f"x{suffix}", count=20)
    files, draw = [path, *([beside(path)] if suffix == ".npy" else [])], np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        file = files[draw.integers(len(files))]
        whole = file.read_bytes()
        changed, place = bytearray(whole), int(draw.integers(min(len(whole), 600)))
        changed[place : place + int(draw.integers(3))] = draw.bytes(int(draw.integers(1, 4)))
        file.write_bytes(changed)
        try:
            embeddings.read(path)
        except EmbeddingsError as error:
            refused += "\n" not in str(error)
        file.write_bytes(whole)
    assert refused > 75
