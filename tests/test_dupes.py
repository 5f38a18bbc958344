"""`clipzs dupes`: near-duplicates, around the largest file of each group."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipzs import duplicates

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = ("--model", "tiny")


@pytest.fixture
def photos(tmp_path) -> Path:
    """All examples; a smaller copy and a re-encoded one of the cat, and a copy of the rocket to the byte."""
    folder = tmp_path / "photos"
    shutil.copytree(EXAMPLES, folder)
    with Image.open(EXAMPLES / "cat.jpg") as cat:
        cat.resize((cat.width * 3 // 4, cat.height * 3 // 4)).save(folder / "small.jpg", quality=90)
        cat.save(folder / "large.png")
    shutil.copy(EXAMPLES / "rocket.jpg", folder / "z.jpg")
    return folder


def groups(result) -> list[list[str]]:
    """File names by group."""
    assert result.exit_code == 0, result.stderr
    found: dict[int, list[str]] = {}
    for record in map(json.loads, result.stdout.splitlines()):
        found.setdefault(record["group"], []).append(Path(record["path"]).name)
        assert record["rank"] == len(found[record["group"]])
    return [*found.values()]


# Through the command


def test_other_sizes_and_formats_are_found_the_largest_file_first_and_other_photos_are_not(run, photos):
    result = run("dupes", photos, "--json", *TINY)
    assert groups(result) == [["large.png", "cat.jpg", "small.jpg"], ["rocket.jpg", "z.jpg"]]
    records = {Path(record["path"]).name: record for record in map(json.loads, result.stdout.splitlines())}
    assert records["large.png"]["score"] == 1
    assert 0.97 <= records["small.jpg"]["score"] < 1
    assert records["z.jpg"]["copy_of"] == str(photos / "rocket.jpg")
    assert [name for name, record in records.items() if record["copy_of"]] == ["z.jpg"]
    assert records["cat.jpg"]["bytes"] == (photos / "cat.jpg").stat().st_size
    assert {record["model"] for record in records.values()} == {"tiny"}


def test_a_copy_of_one_that_is_not_the_first_is_known_as_one(run, photos):
    shutil.copy(photos / "small.jpg", photos / "y.jpg")
    shutil.copy(photos / "small.jpg", photos / "z2.jpg")
    records = map(json.loads, run("dupes", photos, "--json", *TINY).stdout.splitlines())
    copies = {Path(record["path"]).name: record["copy_of"] for record in records if record["copy_of"]}
    assert copies == {
        "z.jpg": str(photos / "rocket.jpg"),
        "y.jpg": str(photos / "small.jpg"),
        "z2.jpg": str(photos / "small.jpg"),
    }


def test_formats(run, photos):
    result = run("dupes", photos, *TINY)
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [(Path(row[0]).name, row[2], row[3]) for row in rows] == [
        ("large.png", "1", "1"), ("cat.jpg", "1", "2"), ("small.jpg", "1", "3"), ("rocket.jpg", "2", "1"),
        ("z.jpg", "2", "2"),
    ]  # fmt: skip
    assert rows[4][5] == str(photos / "rocket.jpg")
    lost = [str(photos / name) for name in ("cat.jpg", "small.jpg", "z.jpg")]
    assert run("dupes", photos, "-f", "paths", *TINY).stdout.splitlines() == lost
    assert run("dupes", photos, "-f", "paths", "-0", *TINY).stdout.split("\0") == [*lost, ""]
    table = run("dupes", photos, "-f", "table", *TINY).stdout.splitlines()
    assert [line.split()[0] for line in table if line] == ["group", "first", rows[1][1][:5], rows[2][1][:5], "group",
                                                           "first", "copy", "3"]  # fmt: skip
    assert table[-1].startswith("3 of 10 images resemble another one; they take ")


def test_what_xargs_removes_leaves_one_of_each_group_and_nothing_more_to_find(process, photos):
    command = f"python -m clipzs dupes '{photos}' -m tiny -f paths -0 | xargs -0 rm"
    subprocess.run(["bash", "-c", command], check=True, timeout=120)
    assert {path.name for path in photos.glob("*g")} == {path.name for path in EXAMPLES.glob("*.jpg")} - {"cat.jpg"} | {
        "large.png"
    }
    again = process("dupes", photos, *TINY)
    assert (again.returncode, again.stdout) == (1, "")


def test_a_file_under_two_names_is_not_its_own_duplicate(run, tmp_path):
    """Or the list of what can go would name the only file there is."""
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path / "cat.jpg")
    (tmp_path / "symbolic.jpg").symlink_to(tmp_path / "cat.jpg")
    os.link(tmp_path / "cat.jpg", tmp_path / "hard.jpg")
    result = run("dupes", tmp_path, tmp_path / "cat.jpg", tmp_path / "." / "cat.jpg", *TINY)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "note: no two of 1 images are so similar\n")


def test_the_similarity_that_counts_can_be_chosen(run, photos):
    assert groups(run("dupes", photos, "--json", "-s", "1", *TINY)) == [
        ["large.png", "cat.jpg"],
        ["rocket.jpg", "z.jpg"],
    ]
    every = groups(run("dupes", photos, "--json", "-s", "0", *TINY))
    assert len(every[0]) > 5
    assert run("dupes", photos, "-s", "1.5", *TINY).exit_code == 2


def test_images_that_cannot_be_read_are_named_and_the_others_compared(run, photos):
    (photos / "broken.jpg").write_text("no image")
    result = run("dupes", photos, "-f", "paths", *TINY)
    assert result.exit_code == 3
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr.splitlines()[-1] == "error: 1 of 11 images could not be read"


@pytest.fixture
def index(run, photos, tmp_path) -> Path:
    run("embed", photos, "-o", tmp_path / "index.safetensors", "-q", *TINY)
    later = time.time() + 1  # as if it had been written a while after the photos
    os.utime(tmp_path / "index.safetensors", (later, later))
    return tmp_path / "index.safetensors"


def test_a_file_of_embeddings_has_the_same_groups(run, photos, index):
    expected = run("dupes", photos, *TINY)
    found = run("dupes", "--embeddings", index)
    assert (found.exit_code, found.stdout, found.stderr) == (0, expected.stdout, "")


def test_of_a_file_of_embeddings_what_is_gone_or_was_changed_counts_no_more(run, photos, index):
    """An image that is gone must not stand for those that are left, nor one that shows something else by now."""
    (photos / "large.png").unlink()
    shutil.copy(EXAMPLES / "coffee.jpg", photos / "rocket.jpg")
    later = time.time() + 60
    os.utime(photos / "rocket.jpg", (later, later))
    result = run("dupes", "--embeddings", index, "--json")
    assert groups(result) == [["cat.jpg", "small.jpg"]]
    assert result.stderr.splitlines() == [
        f"warning: 1 images are not there and left out, e.g. {photos / 'large.png'}",
        f"warning: 1 images are newer than {index} and left out, e.g. {photos / 'rocket.jpg'}",
    ]
    shutil.rmtree(photos)
    nothing = run("dupes", "--embeddings", index)
    assert nothing.exit_code == 1
    assert nothing.stderr.startswith(f"error: {index}: none of its images can be compared, e.g. ")


def test_relative_paths_of_a_file_start_at_root(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    run("embed", "cat.jpg", "small.jpg", "-o", tmp_path / "i.npy", *TINY)
    os.utime(tmp_path / "i.npy", (time.time() + 9,) * 2)
    monkeypatch.chdir(tmp_path)
    assert run("dupes", "--embeddings", "i.npy").exit_code == 1
    found = run("dupes", "--embeddings", "i.npy", "--root", photos, "-f", "paths")
    assert found.stdout == f"{photos / 'small.jpg'}\n"


def test_texts_and_other_models_are_refused(run, folder, tmp_path, index):
    run("embed", "--text", "a cat", "-o", tmp_path / "t.npy", *TINY)
    texts = run("dupes", "--embeddings", tmp_path / "t.npy")
    assert (texts.exit_code, texts.stderr.splitlines()[0]) == (
        2,
        f"error: {tmp_path / 't.npy'} holds embeddings of texts",
    )
    other = run("dupes", "--embeddings", index, "--model", f"local-dir:{folder('vit')}")
    assert (other.exit_code, other.stdout) == (2, "")
    assert other.stderr.startswith(f"error: {index} was made with tiny, and this is local-dir:")


# The groups


def brute_force(rows: np.ndarray, order: list[int], least: float) -> list[tuple[int, list[int]]]:
    similar = rows.astype(np.float64) @ rows.astype(np.float64).T
    left, found = list(order), []
    while left:
        first, *rest = left
        members = [row for row in rest if similar[first, row] >= least - 1e-6]
        if members:
            found.append((first, members))
        left = [row for row in rest if row not in members]
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.integers(2, 5), st.floats(-0.5, 0.999), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_groups_are_those_of_comparing_each_with_each(n, d, least, seed, at_once):
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(n, d)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similar = rows.astype(np.float64) @ rows.astype(np.float64).T
    if np.any(np.abs(similar - least) < 1e-5):
        return  # rounding decides
    order = draw.permutation(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_ROWS", at_once)
        patch.setattr(duplicates, "_COLUMNS", at_once + 1)
        told: list[tuple[int, int]] = []
        found = [*duplicates.stars(rows, order, least, done=lambda *numbers: told.append(numbers))]
    assert [(first, others.tolist()) for first, others, _ in found] == brute_force(rows, order.tolist(), least)
    assert told[-1] == (n, n)
    for first, others, scores in found:
        np.testing.assert_allclose(scores, similar[first, others], atol=1e-5)


def test_a_chain_is_not_one_group():
    """Each resembles the next; the last does not resemble the first."""
    angles = np.radians([0, 10, 20, 30])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = [*duplicates.stars(rows, np.arange(4), float(np.cos(np.radians(11))))]
    assert [(first, others.tolist()) for first, others, _ in found] == [(0, [1]), (2, [3])]


def test_memory_bounds_how_many_rows_are_compared_at_once(monkeypatch):
    monkeypatch.setattr(duplicates, "_CELLS", 50)
    rows = np.tile(np.eye(3, dtype=np.float32), (40, 1))
    found = [*duplicates.stars(rows, np.arange(120), 0.99)]
    assert [(first, len(others)) for first, others, _ in found] == [(0, 39), (1, 39), (2, 39)]
