"""Pictures into folders and back: nothing is overwritten, nothing is lost, whatever happens on the way."""

import errno
import json
import os
import random
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_process import Screen

from clipzs.foldernames import UNLABELED, FolderNames
from clipzs.journal import FILE

HOWS = ("copy", "move", "link", "symlink")
PATIENCE_S = 120


def write_results(file: Path, answers: Iterable[tuple[Path | str, str | None]], **more: Any) -> Path:
    """A file of results: path and label of each."""
    lines = [{"path": os.fspath(path), "label": label, "error": None if label else "broken"} | more
             for path, label in answers]  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def pictures(folder: Path, count: int, *, size: int = 300) -> list[Path]:
    """Files of different bytes, in folders below, some with one name."""
    made = []
    for number in range(count):
        path = folder / f"roll{number % 3}" / f"{number // 3}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d:" % number + random.Random(number).randbytes(size))
        os.utime(path, (1_600_000_000 + number, 1_600_000_000.5 + number))
        made.append(path)
    return made


def labelled(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    return [(path, ("cat", "dog", "AC/DC")[number % 3]) for number, path in enumerate(paths)]


def tree(folder: Path) -> dict[str, bytes | str]:
    """What every file below a folder holds, the journal left out; of links, where they lead."""
    return {
        os.fsdecode(os.path.relpath(path, os.fsencode(folder))): found
        for path, found in _files(os.fsencode(folder))
        if not path.endswith(FILE.encode())
    }


def _files(folder: bytes) -> Iterator[tuple[bytes, bytes | str]]:
    for entry in os.scandir(folder):
        if entry.is_symlink():
            yield entry.path, os.readlink(os.fsdecode(entry.path))
        elif entry.is_dir():
            yield from _files(entry.path)
        else:
            with open(entry.path, "rb") as file:
                yield entry.path, file.read()


def folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def pairs(result: Any) -> dict[str, str]:
    """What is printed: destination by source."""
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert all(len(line) == 2 for line in lines)
    return dict(lines)


# Names of folders

TROUBLE = ["CON", "con", "nul.txt", "COM1", "lpt9 ", "..", ".", ".git", "-rf", "a/b", "a\\b", "a:b", "a_b", "x.", "x ",
           "x", "", " ", "é", "e\u0301", "É", "straße", "STRASSE", "K", "\u212a", "ﬁ", "fi", "a\u200db", "ab", "\udcff",
           "_unlabeled", "_UNLABELED", "x" * 300, "x" * 301, "日" * 100, "cat", "Cat", "\x1b[31m", "a\u202eb", "\0",
           "İ", "i", "ı", "I", "µ", "μ"]  # fmt: skip
LABELS = st.lists(st.one_of(st.sampled_from(TROUBLE), st.text(max_size=40)), unique=True, max_size=30)


def same_to_some_system(one: str, other: str) -> bool:
    forms: list[Callable[[str], str]] = [str, str.lower, str.upper, str.casefold, lambda name: name.rstrip(". ")]
    compositions = ("NFC", "NFD", "NFKC", "NFKD")
    return any(
        form(unicodedata.normalize(how, one)) == form(unicodedata.normalize(how, other))
        for form in forms
        for how in compositions
    )


@given(LABELS)
def test_every_system_takes_the_folder_of_a_label_and_no_two_labels_share_one(labels):
    names = FolderNames()
    made = [names.of(label) for label in labels]
    for name in made:
        assert 0 < len(name.encode()) <= 143
        assert not set(name) & set('/\\:*?"<>|')
        assert not any(unicodedata.category(mark) in ("Cc", "Cs") for mark in name)
        assert name[0] not in ".-"
        assert name[-1] not in ". "
        stem = name.split(".")[0].rstrip().upper()
        assert stem not in {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *(f"{port}{number}" for port in
                            ("COM", "LPT") for number in "0123456789¹²³")}  # fmt: skip
    for place, one in enumerate([*made, UNLABELED]):
        assert not any(same_to_some_system(one, other) for other in made[:place])
    assert [names.of(label) for label in labels] == made
    again = FolderNames()
    again.reserve(labels)
    assert [again.of(label) for label in reversed(labels)] == made[::-1]


@pytest.mark.parametrize(
    ("label", "folder"),
    [("a cup of coffee", "a cup of coffee"), ("AC/DC", "AC_DC"), ("CON", "CON_"), ("nul.txt", "nul_.txt"),
     ("..", "__"), ("Mr.", "Mr_"), ("猫", "猫"), ("e\u0301", "é"), ("CONsole", "CONsole")],
)  # fmt: skip
def test_a_folder_is_called_like_its_label_as_far_as_that_can_be(label, folder):
    assert FolderNames().of(label) == folder


def test_labels_keep_their_folders_from_run_to_run_whichever_comes_first(run, tmp_path):
    one, two, three = pictures(tmp_path / "in", 3)
    run("sort", "--results", write_results(tmp_path / "1", [(one, "Cat"), (two, "cat")]), "--to", tmp_path / "out")
    before = {path.parent.name for path in (tmp_path / "out").rglob("*.jpg")}
    run("sort", "--results", write_results(tmp_path / "2", [(three, "cat")]), "--to", tmp_path / "out")
    assert len(before) == 2
    (found,) = (path.parent.name for path in (tmp_path / "out").rglob("*.jpg") if path.samefile(path) and
                path.read_bytes() == three.read_bytes())  # fmt: skip
    assert found.startswith("cat-")
    assert found in before


# What is done


@pytest.mark.parametrize("how", HOWS)
def test_each_picture_is_in_the_folder_of_its_label_and_undo_leaves_no_trace(run, tmp_path, how):
    made = pictures(tmp_path / "in", 9)
    made[4].chmod(0o640)
    before, stamps = tree(tmp_path / "in"), {path: path.stat() for path in made}
    results = write_results(tmp_path / "r.jsonl", labelled(made))
    out = tmp_path / "deep" / "out"
    done = run("sort", "--results", results, "--to", out, f"--{how}")
    assert (done.exit_code, done.stderr) == (0, "")
    assert set(pairs(done)) == {str(path) for path in made}
    assert folders(out) == {"cat", "dog", "AC_DC"}
    for source, label in labelled(made):
        target = Path(pairs(done)[str(source)])
        assert target.parent == out / label.replace("/", "_")
        assert target.read_bytes() == before[str(source.relative_to(tmp_path / "in"))]
        assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(stamps[source].st_mode)
        assert target.stat().st_mtime_ns == stamps[source].st_mtime_ns
        assert source.exists() == (how != "move")
        assert target.is_symlink() == (how == "symlink")
        assert (how in ("link", "symlink")) == (source.exists() and target.samefile(source))
    undone = run("undo", out)
    assert undone.exit_code == 0
    assert undone.stderr == f"note: 9 {'moved back' if how == 'move' else 'removed'}\n"
    assert tree(tmp_path / "in") == before
    assert {path: path.stat().st_mtime_ns for path in made} == {path: one.st_mtime_ns for path, one in stamps.items()}
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("how", HOWS)
def test_a_dry_run_says_what_would_be_done_and_touches_nothing(run, tmp_path, how):
    made = pictures(tmp_path / "in", 7)
    (tmp_path / "out" / "cat").mkdir(parents=True)
    (tmp_path / "out" / "cat" / "0.jpg").write_bytes(b"of another")
    results = write_results(tmp_path / "r.jsonl", [*labelled(made), (made[0], "cat"), (tmp_path / "none", "cat")])
    before = tree(tmp_path)
    dry = run("sort", "--results", results, "--to", tmp_path / "out", f"--{how}", "--dry-run")
    assert tree(tmp_path) == before
    assert not (tmp_path / "out" / FILE).exists()
    real = run("sort", "--results", results, "--to", tmp_path / "out", f"--{how}")
    assert dry.stdout == real.stdout
    assert dry.exit_code == real.exit_code == 3
    word = {"copy": "copied", "move": "moved"}.get(how, "linked")
    assert dry.stderr.splitlines()[0] == f"note: nothing was touched: 7 would be {word}"
    assert "/none: no such file" in dry.stderr
    dry = run("undo", tmp_path / "out", "--dry-run")
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 8
    assert sorted(dry.stdout.splitlines()) == sorted(run("undo", tmp_path / "out").stdout.splitlines())
    assert tree(tmp_path) == before


def test_files_that_are_there_already_are_never_overwritten(run, tmp_path):
    made = pictures(tmp_path / "in", 6)  # 0.jpg and 1.jpg in three folders
    long = tmp_path / "in" / ("y" * 251 + ".jpg")
    long.write_bytes(b"long")
    mine = tmp_path / "out" / "cat"
    (mine / "0-2.jpg").mkdir(parents=True)
    (mine / "0.jpg").write_bytes(b"mine")
    (mine / long.name).write_bytes(b"mine, too")
    (mine / "1.jpg").symlink_to("nowhere")
    results = write_results(tmp_path / "r.jsonl", [(path, "cat") for path in [*made, long]])
    done = run("sort", "--results", results, "--to", tmp_path / "out", "--move")
    names = [Path(target).name for target in pairs(done).values()]
    assert names == ["0-3.jpg", "0-4.jpg", "0-5.jpg", "1-2.jpg", "1-3.jpg", "1-4.jpg", "y" * 249 + "-2.jpg"]
    assert (mine / "0.jpg").read_bytes() == b"mine"
    assert (mine / long.name).read_bytes() == b"mine, too"
    assert os.readlink(mine / "1.jpg") == "nowhere"
    run("undo", tmp_path / "out")
    assert sorted(path.name for path in mine.iterdir()) == ["0-2.jpg", "0.jpg", "1.jpg", long.name]


@pytest.mark.parametrize("how", HOWS)
def test_a_file_that_another_program_puts_there_at_the_last_moment_is_not_overwritten(run, tmp_path, monkeypatch, how):
    (picture,) = pictures(tmp_path / "in", 1)
    link, symlink = os.link, os.symlink

    def raced(make: Callable[..., None]) -> Callable[..., None]:
        def do(source: str, target: str, **more: Any) -> None:
            if target.endswith("/cat/0.jpg"):
                Path(target).write_bytes(b"faster")
            make(source, target, **more)

        return do

    monkeypatch.setattr(os, "link", raced(link))
    monkeypatch.setattr(os, "symlink", raced(symlink))
    results = write_results(tmp_path / "r.jsonl", [(picture, "cat")])
    content = picture.read_bytes()
    done = run("sort", "--results", results, "--to", tmp_path / "out", f"--{how}")
    assert [Path(target).name for target in pairs(done).values()] == ["0-2.jpg"]
    assert (tmp_path / "out" / "cat" / "0.jpg").read_bytes() == b"faster"
    assert (tmp_path / "out" / "cat" / "0-2.jpg").read_bytes() == content
    run("undo", tmp_path / "out")
    assert tree(tmp_path / "out") == {"cat/0.jpg": b"faster"}
    assert picture.read_bytes() == content


@pytest.mark.parametrize("how", HOWS)
def test_sorted_once_is_sorted(run, tmp_path, how):
    made = pictures(tmp_path / "in", 5)
    results = write_results(tmp_path / "r.jsonl", [*labelled(made), *labelled(made)])
    first = run("sort", "--results", results, "--to", tmp_path / "out", f"--{how}")
    assert len(pairs(first)) == 5
    assert first.stderr == "note: 5 had been sorted already\n"
    before = tree(tmp_path)
    again = run("sort", "--results", results, "--to", tmp_path / "out", f"--{how}")
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr == "note: 10 had been sorted already\n"
    assert tree(tmp_path) == before


def test_a_copy_that_is_gone_is_made_again_and_a_picture_that_has_changed_is_another(run, tmp_path):
    one, two, three = pictures(tmp_path / "in", 3)
    results = write_results(tmp_path / "r.jsonl", [(path, "cat") for path in (one, two, three)])
    run("sort", "--results", results, "--to", tmp_path / "out")
    (tmp_path / "out" / "cat" / "0.jpg").unlink()
    two.write_bytes(b"painted over")
    again = run("sort", "--results", results, "--to", tmp_path / "out")
    assert pairs(again) == {
        str(one): str(tmp_path / "out" / "cat" / "0.jpg"), str(two): str(tmp_path / "out" / "cat" / "0-4.jpg")
    }  # fmt: skip
    run("undo", "--all", tmp_path / "out")
    assert tree(tmp_path / "out") == {"cat/0-2.jpg": two_before(2)}


def two_before(number: int) -> bytes:
    """What the second picture held: its original is gone, so undo keeps the copy."""
    return b"%d:" % (number - 1) + random.Random(number - 1).randbytes(300)


def test_without_its_journal_a_folder_is_still_not_filled_twice(run, tmp_path):
    one, two, three = pictures(tmp_path / "in", 3)
    two.write_bytes(one.read_bytes())  # two pictures, though they hold the same
    for how in ("copy", "link", "symlink"):
        out = tmp_path / how
        results = write_results(tmp_path / "r.jsonl", [(path, "cat") for path in (one, two, three)])
        run("sort", "--results", results, "--to", out, f"--{how}")
        assert len(tree(out)) == 3
        (out / FILE).unlink()
        again = run("sort", "--results", results, "--to", out, f"--{how}")
        assert (again.stdout, again.stderr) == ("", "note: 3 had been sorted already\n")
        assert len(tree(out)) == 3


def test_images_that_are_none_of_the_labels_have_a_folder_of_their_own(run, tmp_path):
    made = pictures(tmp_path / "in", 6)
    lines: list[dict[str, Any]] = [
        {"label": "cat", "score": 0.9, "scores": [{"label": "cat", "score": 0.9}]},
        {"label": "cat", "score": 0.4, "scores": [{"label": "cat", "score": 0.4}]},
        {"label": "none", "score": 0.7, "scores": [{"label": "none", "score": 0.7}]},
        {"label": "other name", "score": None, "scores": [{"label": "cat", "score": 0.2}]},
        {"label": "_unlabeled"},
        {"label": "cat", "labels": ["cat", "dog"], "score": 0.9,
         "scores": [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.3}]},
    ]  # fmt: skip
    results = tmp_path / "r.jsonl"
    results.write_text("".join(json.dumps({"path": str(path)} | line) + "\n" for path, line in
                               zip(made, lines, strict=True)))  # fmt: skip
    done = run("sort", "--results", results, "--to", tmp_path / "o", "--min-score", 0.5, "--unknown-label", "none")
    assert done.exit_code == 0
    found = [Path(target).parent.name for target in pairs(done).values()]
    assert found[:4] == ["cat", UNLABELED, UNLABELED, UNLABELED]
    assert found[4].startswith("_unlabeled-")
    assert found[5] == "cat"


def test_a_picture_with_several_answers_goes_to_each_and_is_not_moved(run, tmp_path):
    one, two = pictures(tmp_path / "in", 2)
    results = tmp_path / "r.jsonl"
    results.write_text(
        json.dumps({"path": str(one), "label": "cat", "labels": ["cat", "sofa"]}) + "\n"
        + json.dumps({"path": str(two), "label": "cat", "labels": ["cat"]}) + "\n"
    )  # fmt: skip
    moved = run("sort", "--results", results, "--to", tmp_path / "out", "--move")
    assert (moved.exit_code, list(pairs(moved))) == (3, [str(two)])
    assert f"error: {one}: it has several answers, and can be moved to one only\n" in moved.stderr
    assert one.exists()
    copied = run("sort", "--results", results, "--to", tmp_path / "copies")
    assert set(tree(tmp_path / "copies")) == {"cat/0.jpg", "sofa/0.jpg"}
    assert copied.exit_code == 3  # the second one is where it was moved to
    refused = run("sort", tmp_path / "in", "--labels", "a,b", "--multi", "--move", "--to", tmp_path / "x")
    assert (refused.exit_code, "--multi" in refused.stderr) == (2, True)
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_sorted_costs_a_line_and_the_others_nothing(run, tmp_path):
    (good,) = pictures(tmp_path / "in", 1)
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "in" / "dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dog").write_text("a file")
    answers: list[tuple[Path | str, str | None]] = [
        (tmp_path / "in" / "loop.jpg", "cat"), (tmp_path / "in" / "dangling.jpg", "cat"),
        (tmp_path / "in" / "pipe.jpg", "cat"), (tmp_path / "in", "cat"), (tmp_path / "none.jpg", "cat"),
        ("nul\0byte", "cat"), (good, "dog"), (tmp_path / "unread.jpg", None), (good, "cat"),
    ]  # fmt: skip
    done = run("sort", "--results", write_results(tmp_path / "r", answers), "--to", tmp_path / "out")
    assert done.exit_code == 3
    assert pairs(done) == {str(good): str(tmp_path / "out" / "cat" / "0.jpg")}
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}/in/loop.jpg: too many levels of symbolic links",
        f"error: {tmp_path}/in/dangling.jpg: no such file",
        f"error: {tmp_path}/in/pipe.jpg: not an ordinary file: left where it is",
        f"error: {tmp_path}/in: not an ordinary file: left where it is",
        f"error: {tmp_path}/none.jpg: no such file",
        "error: nul\\x00byte: embedded null byte",
        f"error: {good}: {tmp_path}/out/dog is in the way: it is no folder",
        "error: 7 of 9 images were not sorted",
        f"error: {tmp_path}/unread.jpg: broken",
        "error: 1 of 9 images could not be read",
    ]
    assert (tmp_path / "out" / "dog").read_text() == "a file"


def test_names_that_are_not_utf_8_are_kept_byte_for_byte(process, tmp_path):
    folder = os.fsencode(tmp_path) + b"/in"
    os.mkdir(folder)
    source = folder + b"/\xff\xfe.jpg"
    with open(source, "wb") as file:
        file.write(b"x")
    write_results(tmp_path / "r", [(os.fsdecode(source), "cat")])
    for how in ("copy", "move"):
        out = tmp_path / how
        done = process("sort", "--results", tmp_path / "r", "--to", out, f"--{how}")
        target = os.fsencode(out) + b"/cat/\xff\xfe.jpg"
        assert os.fsencode(done.stdout) == source + b"\t" + target + b"\n"
        assert os.path.exists(target)
        process("undo", out)
        assert os.listdir(folder) == [b"\xff\xfe.jpg"]
        assert not out.exists()


def test_links_are_copied_as_pictures_and_moved_as_links(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "real").write_bytes(b"picture")
    (tmp_path / "in" / "near.jpg").symlink_to("real")
    (tmp_path / "in" / "far.jpg").symlink_to(tmp_path / "in" / "real")
    before = tree(tmp_path / "in")
    links = [(tmp_path / "in" / name, "cat") for name in ("near.jpg", "far.jpg")]
    results = write_results(tmp_path / "r", links)
    for how in HOWS:
        out = tmp_path / how
        done = run("sort", "--results", results, "--to", out, f"--{how}")
        assert done.exit_code == 0
        assert (out / "cat" / "near.jpg").read_bytes() == b"picture"
        assert (out / "cat" / "near.jpg").is_symlink() == (how in ("move", "symlink"))
        assert (tmp_path / "in" / "near.jpg").is_symlink() == (how != "move")
        assert (tmp_path / "in" / "real").read_bytes() == b"picture"
        run("undo", out)
        assert tree(tmp_path / "in") == before


# Folders in folders, with a model


def test_a_model_sorts_and_what_it_has_sorted_is_passed_over_later(run, cat, coffee, tmp_path):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for place in ("a.jpg", "more/b.jpg"):
        (tmp_path / "photos" / place).write_bytes(cat.read_bytes())
    (tmp_path / "photos" / "c.jpg").write_bytes(coffee.read_bytes())
    (tmp_path / "photos" / "d.jpg").write_bytes(b"no picture")
    out = tmp_path / "photos" / "sorted"
    command = ("sort", tmp_path / "photos", "--to", out, "--model", "tiny", "--move", "--labels")
    first = run(*command, "cat,cup", "--min-score", 0.999999)
    assert first.exit_code == 3
    assert set(tree(out)) == {f"{UNLABELED}/{name}.jpg" for name in "abc"}
    assert "d.jpg: a text file, not an image" in first.stderr
    assert (tmp_path / "photos" / "d.jpg").exists()
    (tmp_path / "photos" / "d.jpg").unlink()

    second = run(*command, "cat,cup")
    assert (second.exit_code, second.stdout) == (0, "")
    assert "note: 3 were put there by an earlier sort: left as they are\n" in second.stderr

    named = run("sort", out / UNLABELED, "--to", out, "--model", "tiny", "--move", "--labels", "cat,cup")
    assert named.exit_code == 0
    assert set(tree(out)) == {"cat/a.jpg", "cat/b.jpg", "cup/c.jpg"}
    once_more = run("sort", out / "cat", "--to", out, "--model", "tiny", "--move", "--labels", "cat,cup")
    assert (once_more.stdout, once_more.stderr) == ("", "note: 2 had been sorted already\n")
    run("undo", out, "--all")
    assert set(tree(tmp_path / "photos")) == {"a.jpg", "more/b.jpg", "c.jpg"}


def test_a_picture_that_changes_after_it_was_classified_stays(tmp_path, cat):
    from clipzs.paths import Selection
    from clipzs.results import Result
    from clipzs.sorting import Sorting

    picture = tmp_path / "a.jpg"
    picture.write_bytes(cat.read_bytes())
    sorting = Sorting(tmp_path / "out", "move", told=lambda pairs: None)
    (found,) = sorting.selection(Selection([str(picture)])).find()
    picture.write_bytes(b"something else")
    sorting.write([Result(found.path, "cat")])
    sorting.close({})
    assert sorting.problems == [(str(picture), "changed since it was classified: left where it is")]
    assert picture.read_bytes() == b"something else"


def test_corrections_move_pictures_on_and_each_undo_takes_one_step_back(run, tmp_path):
    made = pictures(tmp_path / "in", 3)
    before = tree(tmp_path / "in")
    first = write_results(tmp_path / "r", [(path, "dog") for path in made])
    out = tmp_path / "out"
    run("sort", "--results", first, "--to", out, "--move")
    run("sort", "--results", write_results(tmp_path / "c", [(out / "dog" / "0.jpg", "cat")]), "--to", out, "--move")
    sorted_ = {"cat/0.jpg", "dog/0-2.jpg", "dog/0-3.jpg"}
    assert set(tree(out)) == sorted_
    again = run("sort", "--results", first, "--to", out, "--move")
    assert (again.stdout, set(tree(out))) == ("", sorted_)
    run("undo", out)
    assert set(tree(out)) == {"dog/0.jpg", "dog/0-2.jpg", "dog/0-3.jpg"}
    run("undo", out)
    assert tree(tmp_path / "in") == before
    assert not out.exists()


# Undo


def test_undo_keeps_what_was_changed_and_what_is_the_last_of_its_kind(run, tmp_path):
    made = pictures(tmp_path / "in", 12)
    results = write_results(tmp_path / "r", [(path, f"{number}") for number, path in enumerate(made)])
    out = tmp_path / "out"
    for how in ("copy", "link", "symlink"):
        run("sort", "--results", results, "--to", out / how, f"--{how}")
    targets = {how: sorted((out / how).glob("*/*.jpg"), key=lambda path: int(path.parent.name)) for how in
               ("copy", "link", "symlink")}  # fmt: skip
    targets["copy"][0].write_bytes(b"edited")
    os.utime(targets["copy"][1])
    made[2].unlink()  # of which a hard link and a copy are left
    made[3].unlink()
    targets["copy"][3].unlink()
    made[6].unlink()  # its place taken by a link to the copy
    made[6].symlink_to(targets["copy"][6])
    targets["link"][4].unlink()
    targets["link"][4].write_bytes(b"another")
    targets["symlink"][5].unlink()
    targets["symlink"][5].symlink_to("elsewhere")
    (out / "copy" / "9" / "mine.txt").write_text("mine")
    undone = {how: run("undo", out / how) for how in targets}
    assert [one.exit_code for one in undone.values()] == [3, 3, 3]
    assert set(tree(out / "copy")) == {"0/0.jpg", "1/0.jpg", "2/0.jpg", "6/2.jpg", "9/mine.txt"}
    assert set(tree(out / "link")) == {"2/0.jpg", "3/1.jpg", "4/1.jpg", "6/2.jpg"}
    assert set(tree(out / "symlink")) == {"5/1.jpg"}
    assert f"error: {targets['copy'][0]}: stays: changed since\n" in undone["copy"].stderr
    assert f"{targets['copy'][2]}: stays: its original is gone: this is the only one left\n" in undone["copy"].stderr
    assert "note: 8 removed, 4 stay\n" in undone["copy"].stderr
    nothing = run("undo", out / "copy")
    assert (nothing.exit_code, nothing.stderr.splitlines()[0]) == (1, f"error: {out / 'copy'}: nothing was sorted here")


def test_pictures_go_back_without_overwriting_and_into_folders_that_are_gone(run, tmp_path):
    made = pictures(tmp_path / "in", 4)
    content = [path.read_bytes() for path in made]
    out = tmp_path / "out"
    run("sort", "--results", write_results(tmp_path / "r", [(path, "cat") for path in made]), "--to", out, "--move")
    made[0].write_bytes(b"a new picture of that name")
    made[1].parent.rmdir()
    (out / "cat" / "0-3.jpg").write_bytes(b"edited since")
    undone = run("undo", out)
    assert undone.exit_code == 3
    assert f"error: {out}/cat/0.jpg: stays: another file is at {made[0]}\n" in undone.stderr
    assert tree(out) == {"cat/0.jpg": content[0]}
    assert made[0].read_bytes() == b"a new picture of that name"
    assert [path.read_bytes() for path in made[1:]] == [content[1], b"edited since", content[3]]
    made[0].unlink()
    assert run("undo", out).exit_code == 0
    assert made[0].read_bytes() == content[0]
    assert not out.exists()


def test_a_journal_that_is_damaged_or_leads_elsewhere_is_refused(run, tmp_path):
    made = pictures(tmp_path / "in", 2)
    results, out = write_results(tmp_path / "r", labelled(made)), tmp_path / "out"
    run("sort", "--results", results, "--to", out)
    whole = (out / FILE).read_bytes()
    for damaged in (b"hello\n" + whole, whole.replace(b'"to": "cat/', b'"to": "../'), b"[1]\n", b'{"end": 1}\n',
                    whole.replace(b'"how": "copy"', b'"how": "eat"'), whole.replace(b"[[0, ", b"[[7, ")):  # fmt: skip
        assert damaged != whole
        (out / FILE).write_bytes(damaged)
        before = tree(tmp_path)
        for command in (("undo", out), ("sort", "--results", results, "--to", out)):
            refused = run(*command)
            assert refused.exit_code == 1
            assert "damaged: it is not known what was sorted here" in refused.stderr
        assert tree(tmp_path) == before
        assert (out / FILE).read_bytes() == damaged


# Ends of all kinds


def in_child(action: Callable[[], object], *, events: int) -> int:
    """Do it in a process that is killed when it has done so many things to files: the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        left = events

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in ("open", "os.link", "os.symlink", "os.remove", "os.rename", "os.mkdir", "os.rmdir"):
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        code = 1
        try:
            sys.addaudithook(hook)
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: nothing waits for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("how", "where"),
    [
        *((how, "here") for how in HOWS),
        ("move", "on another disk"),
        ("move", "no hard links"),
    ],
)
def test_killed_at_any_step_nothing_is_lost_the_same_command_goes_on_and_so_does_undo(
    tmp_path, fast, monkeypatch, how, where
):
    from clipzs import sorting
    from clipzs.results import Result

    pictured, place = fast / "in", fast / "out"
    if where == "on another disk":
        place = tmp_path / "out"
        if fast.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one file system only")
    if where == "no hard links":

        def link(source: str, target: str) -> None:
            raise OSError(errno.EPERM, "Operation not permitted", target)

        monkeypatch.setattr(os, "link", link)
    made = pictures(pictured, 3)
    (pictured / "ln.jpg").symlink_to("roll0/0.jpg")
    answers = [Result(str(path), label) for path, label in labelled([*made, pictured / "ln.jpg"])]
    before = tree(pictured)
    contents = set(before.values()) - {"roll0/0.jpg"}

    def sort() -> None:
        sink = sorting.Sorting(place, how, told=lambda pairs: None)
        sink.write(answers[:2])
        sink.write(answers[2:])
        sink.close({})
        assert not sink.problems

    def undo() -> None:
        undoing = sorting.Undo(place, everything=True)
        assert not [one for batch in undoing.batches() for one in batch if one.stays]
        undoing.close()

    def nothing_is_lost() -> bool:
        there = tree(place) if place.exists() else {}
        return contents <= {*tree(pictured).values(), *there.values()}

    sort()
    whole = tree(place)
    undo()
    assert tree(pictured) == before
    step = 0
    while in_child(sort, events=step) == signal.SIGKILL:
        assert nothing_is_lost()
        if step % 2:  # gone on with
            sort()
            assert tree(place) == whole
        if (place / FILE).exists():
            in_child(undo, events=step // 2)
            assert nothing_is_lost()
            if (place / FILE).exists():
                undo()
        assert tree(pictured) == before
        assert not place.exists() or not os.listdir(place)
        step += 1
    assert step > 10
    assert tree(place) == whole


def start(*args: object, **more: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "clipzs", *map(str, args)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell starts background jobs deaf to Ctrl-C, and what they start inherits that.
    return subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **(pipes | more))


@pytest.mark.parametrize("how", ["copy", "move"])
def test_killed_at_random_again_and_again_hundreds_of_pictures_arrive_and_return(run, tmp_path, how):
    made = pictures(tmp_path / "in", 300, size=20_000)
    before = tree(tmp_path / "in")
    out = tmp_path / "out"
    results = write_results(tmp_path / "r.jsonl", labelled(made))
    chance = random.Random(how)

    def killed(*command: object, done: Callable[[], int]) -> bool:
        """Start it and kill it when it has done some more; whether it was not faster."""
        process = start(*command)
        first, more = done(), chance.randrange(1, 90)
        while process.poll() is None and done() < first + more:
            time.sleep(0.001)
        time.sleep(chance.random() / 200)
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        return process.returncode == -signal.SIGKILL

    def there() -> int:
        return sum(1 for _ in out.rglob("*.jpg"))

    def accounted() -> Counter[bytes | str]:
        found = Counter(tree(tmp_path / "in").values())
        found.update(tree(out).values() if out.exists() else ())
        return found

    sort, undo = ("sort", "--results", results, "--to", out, f"--{how}"), ("undo", out)
    kills = 0
    while kills < 3 and killed(*sort, done=there):
        kills += 1
        assert set(before.values()) <= set(accounted())
    assert kills > 1
    assert run(*sort).exit_code == 0
    assert accounted() == Counter({content: 2 if how == "copy" else 1 for content in before.values()})
    assert killed(*undo, done=lambda: -there())
    assert set(before.values()) <= set(accounted())
    assert run(*undo).exit_code == 0
    assert tree(tmp_path / "in") == before
    assert not out.exists()


def test_ctrl_c_leaves_whole_pictures_and_the_same_command_goes_on(run, tmp_path):
    made = pictures(tmp_path / "in", 100)
    out = tmp_path / "out"
    lines = [json.dumps({"path": str(path), "label": label}) + "\n" for path, label in labelled(made)]
    process = start("sort", "--results", "-", "--to", out, "--move")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(lines[:70]).encode())
    process.stdin.flush()
    said = [process.stdout.readline() for _ in range(64)]  # a batch
    second = run("sort", "--results", write_results(tmp_path / "r", []), "--to", out)
    assert second.exit_code == 1
    assert second.stderr == f"error: {out}: another clipzs is sorting here\nhint: wait for it\n"
    undone = run("undo", out)
    assert (undone.exit_code, undone.stderr) == (1, second.stderr)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, rest) == (130, b"")
    assert errors == (
        b"note: stopped after 64 images; what was written is complete\nhint: the same command goes on from there\n"
    )
    assert len(tree(out)) == len(said) == 64
    assert len(tree(tmp_path / "in")) == 36
    (tmp_path / "all").write_text("".join(lines))
    assert len(pairs(run("sort", "--results", tmp_path / "all", "--to", out, "--move"))) == 36
    assert run("undo", out).stderr == "note: 100 moved back\n"  # an interrupted run and what goes on with it are one
    assert not out.exists()


def test_a_reader_that_has_seen_enough_does_not_stop_the_work(tmp_path):
    made = pictures(tmp_path / "in", 200)
    write_results(tmp_path / "r", labelled(made))
    command = f"{shlex.quote(sys.executable)} -m clipzs sort --results r --to out --move"
    script = f'{command} | {{ head -n 1; exec <&-; }}; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE_S)
    assert done.stdout.splitlines() == [f"{made[0]}\tout/cat/0.jpg", "0"]
    assert done.stderr == ""
    assert len(tree(tmp_path / "out")) == 200


def test_on_a_terminal_there_are_tables_and_counts_and_nothing_that_it_would_obey(tmp_path):
    bad = tmp_path / "in" / "a\x1b[31m.jpg"
    bad.parent.mkdir()
    bad.write_bytes(b"x")
    results = write_results(tmp_path / "r", [(bad, "\x1b]0;cat")])
    shown = []
    environment = dict(os.environ, TERM="dumb", COLUMNS="400")
    for options in (["--dry-run"], ["--move"]):
        screen = Screen()
        process = start(
            "sort", "--results", results, "--to", tmp_path / "out", *options,
            stdin=subprocess.DEVNULL, stdout=screen.terminal, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        assert process.wait(PATIENCE_S) == 0
        shown.append([line.split() for line in screen.shown().splitlines()])
    assert shown[0] == [
        [f"{tmp_path}/in/a\\x1b[31m.jpg", "→", f"{tmp_path}/out/_]0;cat/a\\x1b[31m.jpg"],
        ["folder", "images"],
        ["_]0;cat", "1"],
    ]
    assert shown[1] == shown[0][1:]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("how", ["copy", "move"])
def test_a_full_disk_stops_it_with_a_line_and_with_room_it_goes_on(run, tmp_path, small_disk, how):
    made = pictures(tmp_path / "in", 12, size=30_000)
    before = tree(tmp_path / "in")
    out = small_disk / "out"
    results = write_results(tmp_path / "r.jsonl", labelled(made))
    sort = ("sort", "--results", results, "--to", out, f"--{how}")
    full = run(*sort)
    assert full.exit_code == 1
    assert full.stderr.splitlines()[-2:] == [
        f"error: {out}: cannot be written: No space left on device",
        "hint: nothing is lost: when that is mended, the same command goes on from there",
    ]
    some = len(pairs(full))
    assert 0 < some < 12
    assert len(tree(out)) == some  # and nothing half
    assert len(tree(tmp_path / "in")) == (12 - some if how == "move" else 12)
    assert run("undo", out).exit_code == 0  # which makes room
    assert (tree(tmp_path / "in"), out.exists()) == (before, False)
    assert len(pairs(run(*sort))) == some
    subprocess.run(["mount", "-o", "remount,size=2M", str(small_disk)], check=True)
    assert len(pairs(run(*sort))) == 12 - some
    assert sorted(tree(out).values()) == sorted(before.values())
    assert run("undo", out).exit_code == 0
    assert tree(tmp_path / "in") == before


def test_a_folder_that_cannot_be_written_is_one_line_and_costs_no_picture(run, tmp_path, small_disk):
    made = pictures(tmp_path / "in", 3)
    results = write_results(tmp_path / "r.jsonl", labelled(made))
    os.link(made[0], tmp_path / "file")
    nowhere = run("sort", "--results", results, "--to", tmp_path / "file")
    assert nowhere.exit_code == 1
    assert nowhere.stderr.startswith(f"error: {tmp_path}/file/{FILE}: cannot be written: ")
    other = pictures(small_disk / "in", 3)
    moved = write_results(tmp_path / "m", [(path, "cat") for path in other])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = run("sort", "--results", results, "--to", small_disk / "out")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[0].endswith("cannot be written: Read-only file system")
    stay = run("sort", "--results", moved, "--to", tmp_path / "out", "--move")
    assert stay.exit_code == 3
    assert stay.stderr.count("cannot be moved: read-only file system") == 3
    assert tree(tmp_path / "out") == {}
    copies = run("sort", "--results", moved, "--to", tmp_path / "out")
    assert (copies.exit_code, len(tree(tmp_path / "out"))) == (0, 3)


def test_a_picture_that_is_too_large_for_the_file_system_stays_and_leaves_no_part(tmp_path):
    small, large = pictures(tmp_path / "in", 2)
    large.write_bytes(bytes(100_000))
    results = write_results(tmp_path / "r.jsonl", [(large, "cat"), (small, "cat")])
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
    code = limit + "from clipzs.cli import main; main()"
    command = [sys.executable, "-c", code, "sort", "--results", results, "--to", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert f"{large}: {tmp_path}/out/cat/0.jpg: file too large" in done.stderr
    assert set(tree(tmp_path / "out")) == {"cat/0-2.jpg"}


# What is asked for


def test_the_command_line_silences_the_environment(run, tmp_path, monkeypatch):
    (picture,) = pictures(tmp_path / "in", 1)
    monkeypatch.setenv("CLIPZS_MOVE", "1")
    results = write_results(tmp_path / "r", [(picture, "cat")])
    assert run("sort", "--results", results, "--to", tmp_path / "out", "--copy").exit_code == 0
    assert picture.exists()
    assert run("sort", "--results", results, "--to", tmp_path / "moved").exit_code == 0
    assert not picture.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing says where to sort to"),
        (["--to", "out", "--move", "--link"], "--move and --link are asked for"),
        (["--to", "out"], "no images named"),
        (["--to", "out", "--results", "r", "--labels", "a,b"], "--labels would change nothing"),
        (["--to", "out", "--results", "r", "photos"], "PATHS would change nothing"),
        (["--to", "out", "--results", "none"], "none: cannot be read"),
        (["--to", "out", "photos"], "no labels given"),
    ],
)
def test_wrong_usage_is_one_line_and_makes_no_folder(run, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "r", [])
    refused = run("sort", *options)
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert said in refused.stderr.splitlines()[0]
    assert not (tmp_path / "out").exists()


def test_nothing_to_sort_is_said_and_leaves_nothing(run, tmp_path):
    done = run("sort", "--results", write_results(tmp_path / "r", []), "--to", tmp_path / "a" / "b")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (1, "error: nothing to sort: no images found")
    assert not (tmp_path / "a").exists()
