"""`clipzs search`: words and images to the images that fit best, exactly."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipzs import embeddings, filehashes, searching
from clipzs.embedder import Embedder
from clipzs.engine import Engine
from clipzs.errors import UsageProblem
from clipzs.options import Options

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = ("--model", "tiny")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def hits(result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def names(result) -> list[str]:
    return [Path(str(hit["path"])).name for hit in hits(result)]


@pytest.fixture
def index(run, tmp_path) -> Path:
    """Embeddings of all examples."""
    assert run("embed", EXAMPLES, "-o", tmp_path / "index.npy", "-q", *TINY).exit_code == 0
    return tmp_path / "index.npy"


def rows_of(index: Path) -> tuple[list[str], np.ndarray]:
    return [Path(one).name for one in json.loads(Path(f"{index}.json").read_text())["ids"]], np.load(index)


# Through the command


@pytest.mark.parametrize(
    ("query", "photo"), [("a cup of coffee", "coffee.jpg"), ("a cat", "cat.jpg"), ("a rocket", "rocket.jpg")]
)
def test_words_find_the_photo_that_fits(run, query, photo):
    assert names(run("search", query, EXAMPLES, "--json", *TINY))[0] == photo


def test_a_score_is_the_cosine_of_the_image_and_the_text_as_it_is(run, index):
    found = hits(run("search", "a cat", EXAMPLES, "--json", *TINY))
    ids, rows = rows_of(index)
    expected = dict(zip(ids, rows @ Embedder(Options(model="tiny")).texts(["a cat"])[0], strict=True))
    assert [Path(str(hit["path"])).name for hit in found] == sorted(expected, key=lambda name: -expected[name])
    for rank, hit in enumerate(found, 1):
        assert hit["score"] == pytest.approx(expected[Path(str(hit["path"])).name], abs=1e-5)
        assert (hit["rank"], hit["query"], hit["error"], hit["model"]) == (rank, "a cat", None, "tiny")


def test_templates_are_averaged_if_they_are_asked_for(run, index):
    found = hits(run("search", "cat", EXAMPLES, "--json", "--template", "a photo of a <>", "-k", "1", *TINY))
    _, rows = rows_of(index)
    query = Embedder(Options(model="tiny")).texts(["a photo of a cat"])[0]
    assert found[0]["score"] == pytest.approx((rows @ query).max(), abs=1e-5)


def test_an_image_is_a_query_and_finds_itself_first(run, tmp_path):
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path / "query.jpg")
    first = hits(run("search", "--like", tmp_path / "query.jpg", EXAMPLES, "--json", "-k", "1", *TINY))[0]
    assert (Path(str(first["path"])).name, first["query"]) == ("cat.jpg", f"like {tmp_path / 'query.jpg'}")
    assert first["score"] == pytest.approx(1, abs=1e-4)


def test_what_is_wanted_and_what_is_not_make_one_query(run, index):
    """Mean of the wanted less half the mean of the unwanted."""
    cat, coffee = EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"
    asked = ("a rocket", EXAMPLES, "--text", "a temple", "--like", cat, "--not", "a dog", "--not-like", coffee)
    found = hits(run("search", *asked, "--json", *TINY))
    ids, rows = rows_of(index)
    rocket, temple, dog = Embedder(Options(model="tiny")).texts(["a rocket", "a temple", "a dog"])
    image = dict(zip(ids, rows, strict=True))
    query = unit((rocket + temple + image["cat.jpg"]) / 3 - (dog + image["coffee.jpg"]) / 4)
    assert [hit["score"] for hit in found] == pytest.approx(sorted(rows @ query, reverse=True), abs=1e-5)
    assert found[0]["query"] == f"a rocket, a temple, like {cat}, not a dog, not like {coffee}"


def test_what_is_not_wanted_sinks(run):
    before = hits(run("search", "a cat", EXAMPLES, "--json", *TINY))
    after = hits(run("search", "a cat", EXAMPLES, "--not-like", EXAMPLES / "cat.jpg", "--json", *TINY))
    scores = {hit["path"]: hit["score"] for hit in after}
    fallen = [float(hit["score"]) - float(scores[hit["path"]]) for hit in before]
    assert Path(str(before[0]["path"])).name == "cat.jpg"
    assert "cat.jpg" in [Path(str(hit["path"])).name for hit in after[len(after) // 2 :]]
    assert fallen[0] == max(fallen) > 0


def test_words_may_be_a_name_that_is_there_and_with_like_a_name_that_is_there_is_a_path(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cat").mkdir()
    shutil.copy(EXAMPLES / "cat.jpg", "cat/1.jpg")
    shutil.copy(EXAMPLES / "rocket.jpg", "cat/2.jpg")
    assert [hit["query"] for hit in hits(run("search", "cat", "cat", "--json", *TINY))] == ["cat"] * 2
    assert [hit["query"] for hit in hits(run("search", "--like", "cat/2.jpg", "cat", "--json", *TINY))] == [
        "like cat/2.jpg"
    ] * 2
    assert hits(run("search", "cat", "cat", "--like", "cat/2.jpg", "--json", *TINY))[0]["query"] == "like cat/2.jpg"
    result = run("search", "cat", *TINY)
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        [
            "error: nothing says what to look for in cat",
            'hint: in words, before it: clipzs search "a dog on a beach" cat',
        ],
    )


def test_formats(run, tmp_path, monkeypatch):
    asked = ("search", "a cat", EXAMPLES / "cat.jpg", EXAMPLES / "rocket.jpg", "--decimals", "3", *TINY)
    first, second = [line.split("\t") for line in run(*asked).stdout.splitlines()]
    assert (first[0], first[2:]) == (str(EXAMPLES / "cat.jpg"), ["1", "a cat"])
    assert (second[0], second[2:]) == (str(EXAMPLES / "rocket.jpg"), ["2", "a cat"])
    paths = [str(EXAMPLES / "cat.jpg"), str(EXAMPLES / "rocket.jpg")]
    assert run(*asked, "-f", "paths").stdout.splitlines() == paths
    assert run(*asked, "-f", "paths", "-0").stdout.split("\0") == [*paths, ""]
    table = [line.split() for line in run(*asked, "-f", "table").stdout.splitlines()]
    assert table == [["1", first[1], paths[0]], ["2", second[1], paths[1]]]
    assert run(*asked, "-f", "paths", "--json").exit_code == 2


def test_only_so_many_and_only_what_reaches_a_score(run):
    every = hits(run("search", "a cat", EXAMPLES, "--json", *TINY))
    assert len(every) == 7
    assert hits(run("search", "a cat", EXAMPLES, "--json", "-k", "3", *TINY)) == every[:3]
    least = float(str(every[1]["score"])) - 1e-5
    assert hits(run("search", "a cat", EXAMPLES, "--json", "--min-score", least, *TINY)) == every[:2]
    nothing = run("search", "a cat", EXAMPLES, "--min-score", "0.99", *TINY)
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (1, "", "note: nothing was found\n")


def test_queries_are_read_one_a_line_and_each_is_answered(run):
    result = run("search", "-", EXAMPLES, "--json", "-k", "1", *TINY, input="a cat\n\n  a rocket\r\na cup of coffee")
    assert names(result) == ["cat.jpg", "rocket.jpg", "coffee.jpg"]
    assert [hit["query"] for hit in hits(result)] == ["a cat", "a rocket", "a cup of coffee"]
    table = run("search", "-", EXAMPLES, "-f", "table", "-k", "1", *TINY, input="a cat\n").stdout.splitlines()
    assert (table[0], table[1].split()[2]) == ("a cat", str(EXAMPLES / "cat.jpg"))
    assert run("search", "-", EXAMPLES, *TINY, input="").exit_code == 1
    broken = run("search", "-", EXAMPLES, *TINY, input=b"a cat\n\xff\n")
    assert (broken.exit_code, len(broken.stdout.splitlines())) == (2, 7)
    assert broken.stderr.splitlines()[0] == "error: standard input:2: not UTF-8 text"


def test_each_answer_is_there_before_the_next_question(tmp_path, index):
    command = [sys.executable, "-m", "clipzs", "search", "-", "--embeddings", index, "-f", "paths", "-k", "1"]
    process = subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    for query, photo in (("a cat", "cat.jpg"), ("a rocket", "rocket.jpg")):
        process.stdin.write(query + "\n")
        process.stdin.flush()
        assert Path(process.stdout.readline().strip()).name == photo
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_images_that_were_seen_are_not_encoded_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(filehashes, "_SETTLED_NS", 0)
    shutil.copytree(EXAMPLES, tmp_path / "photos")
    seen: list[int] = []
    encode_images = Engine.encode_images

    def counted(self, pixels):
        seen.append(len(pixels))
        return encode_images(self, pixels)

    monkeypatch.setattr(Engine, "encode_images", counted)
    first = run("search", "a cat", tmp_path / "photos", *TINY)
    assert sum(seen) == 7
    (tmp_path / "photos" / "cat.jpg").rename(tmp_path / "photos" / "moved.jpg")
    again = run("search", "a cat", tmp_path / "photos", *TINY)
    assert sum(seen) == 7
    assert again.stdout == first.stdout.replace("cat.jpg", "moved.jpg")


def test_images_that_cannot_be_read_are_named_and_the_others_found(run, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")
    result = run("search", "a cat", EXAMPLES / "cat.jpg", tmp_path / "broken.jpg", "-f", "paths", *TINY)
    assert (result.exit_code, result.stdout) == (3, f"{EXAMPLES / 'cat.jpg'}\n")
    assert result.stderr.splitlines()[-1] == "error: 1 of 2 images could not be read"
    alone = run("search", "a cat", tmp_path / "broken.jpg", *TINY)
    assert alone.exit_code == 1
    assert alone.stderr.startswith("error: none of the 1 images could be read, e.g. ")
    like = run("search", "--like", tmp_path / "broken.jpg", EXAMPLES, *TINY)
    assert (like.exit_code, like.stdout) == (1, "")
    assert like.stderr.startswith(f"error: {tmp_path / 'broken.jpg'}: ")


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_a_file_of_embeddings_is_searched_without_its_images_and_by_its_own_model(run, tmp_path, suffix):
    shutil.copytree(EXAMPLES, tmp_path / "photos")
    run("embed", tmp_path / "photos", "-o", tmp_path / f"i{suffix}", *TINY)
    before = run("search", "a cat", tmp_path / "photos", *TINY).stdout
    shutil.rmtree(tmp_path / "photos")
    result = run("search", "a cat", "--embeddings", tmp_path / f"i{suffix}")
    assert (result.exit_code, result.stdout, result.stderr) == (0, before, "")


def test_relative_paths_of_a_file_start_at_root(run, tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    run("embed", "cat.jpg", "-o", tmp_path / "i.npy", *TINY)
    result = run("search", "a cat", "--embeddings", tmp_path / "i.npy", "--root", EXAMPLES, "-f", "paths")
    assert result.stdout == f"{EXAMPLES / 'cat.jpg'}\n"


def test_embeddings_of_another_model_are_refused_in_one_line(run, folder, tmp_path, index):
    other = f"local-dir:{folder('vit')}"
    result = run("search", "a cat", "--embeddings", index, "--model", other)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: {index} was made with tiny, and this is {other}\nhint: use --model tiny, or embed again\n"
    )
    run("embed", EXAMPLES / "cat.jpg", "-o", tmp_path / "o.npy", "--model", other)
    unnamed = run("search", "a cat", "--embeddings", tmp_path / "o.npy")
    assert (unnamed.exit_code, unnamed.stderr.splitlines()[0]) == (
        2,
        f"error: {tmp_path / 'o.npy'} was made with {other}",
    )
    assert run("search", "a cat", "--embeddings", tmp_path / "o.npy", "--model", other).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing says what to look for"),
        (("  ", EXAMPLES), "the query is empty"),
        (("a cat",), "no images named"),
        (("a cat", EXAMPLES, "--embeddings", "i.npy"), "--embeddings is in place of images, and images are named too"),
        (("a cat", "--embeddings", "i.npy"), "i.npy: no such file"),
        (("-", "-"), "queries and paths are both read from standard input"),
        (("a cat", EXAMPLES, "--min-score", "2"), "Invalid value for '--min-score'"),
    ],
)
def test_wrong_usage_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("search", *arguments, *TINY)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")


def test_a_full_disk_behind_standard_output_is_one_line_and_a_reader_that_is_gone_none(index, process):
    with open("/dev/full", "wb") as full:
        done = process("search", "a cat", "--embeddings", index, capture_output=False, stdout=full, stderr=-1)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "error: standard output: cannot be written: No space left on device",
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = process("search", "a cat", "--embeddings", index, capture_output=False, stdout=writer, stderr=-1)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# The product


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 12), st.integers(1, 320), st.integers(0, 2**32 - 1), st.booleans()
)  # fmt: skip
def test_the_nearest_are_those_of_a_full_sort(n, d, top_k, seed, coarse):
    """Also with many equal similarities, where the rows' order decides."""
    draw = np.random.default_rng(seed)
    rows = unit(draw.integers(0, 2, (n, d)) * 2 - 1 if coarse else draw.normal(size=(n, d)))
    query = unit(draw.normal(size=d))
    similar = rows @ query
    expected = sorted(range(n), key=lambda row: (-similar[row], row))[:top_k]
    found = [*searching.nearest(rows, query, top_k=top_k)]
    assert [row for row, _ in found] == expected
    assert [score for _, score in found] == similar[expected].tolist()
    least = float(np.median(similar))
    assert [row for row, _ in searching.nearest(rows, query, top_k=top_k, least=least)] == [
        row for row in expected if similar[row] >= least
    ]


def test_many_rows_are_searched_in_blocks(monkeypatch):
    monkeypatch.setattr(embeddings.blocks, "__defaults__", (7,))
    rows, query = unit(np.random.default_rng(0).normal(size=(100, 5))), unit(np.ones(5))
    found = [row for row, _ in searching.nearest(rows, query, top_k=100)]
    assert found == np.argsort(-(rows.astype(np.float64) @ query)).tolist()


def test_nothing_is_left_of_a_query_that_is_not_wanted():
    one = unit(np.ones(4))
    with pytest.raises(UsageProblem, match="are the same"):
        searching.combined([one, -one], [])
    np.testing.assert_allclose(searching.combined([one], [one]), one, atol=1e-6)
