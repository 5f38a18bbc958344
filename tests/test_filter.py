"""Grep for pictures: which are printed, how, and what the exit code says."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES
from test_process import PATIENCE_S, Screen, give, next_line

from clipzs.filtering import Filter
from clipzs.labels import Label
from clipzs.results import Result, Score

PHOTOS = [EXAMPLES / f"{name}.jpg" for name in ("cat", "coffee", "rocket")]
CAT, COFFEE, ROCKET = map(str, PHOTOS)
WORDS = ("--labels", "cat,a cup of coffee,rocket", "--model", "tiny")


def lines(result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def write_records(file: Path, *records: dict) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


# Which match


def test_images_whose_answer_it_is_are_printed_and_inverted_all_others(run):
    assert lines(run("filter", "--is", "cat", *PHOTOS, *WORDS)) == [CAT]
    assert lines(run("filter", "--is", "cat", "--is", "rocket", *PHOTOS, *WORDS)) == [CAT, ROCKET]
    assert lines(run("filter", "--is", "cat", "--invert", *PHOTOS, *WORDS)) == [COFFEE, ROCKET]


def test_without_labels_images_are_compared_with_everyday_words(run):
    sought = ("filter", "--is", "a cup of coffee", "--model", "tiny")
    classified = run("classify", *PHOTOS, "--label", "a cup of coffee", "--unknown", "--model", "tiny", "--json")
    scores = {one["path"]: next(score["score"] for score in one["scores"] if score["label"] != "unknown")
              for one in map(json.loads, classified.stdout.splitlines())}  # fmt: skip
    assert scores[COFFEE] > max(scores[CAT], scores[ROCKET])
    middle = (scores[COFFEE] + max(scores[CAT], scores[ROCKET])) / 2
    assert lines(run(*sought, "--min-score", middle, *PHOTOS)) == [COFFEE]
    answers = [one["path"] for one in map(json.loads, classified.stdout.splitlines()) if one["label"] != "unknown"]
    assert run(*sought, *PHOTOS).stdout.splitlines() == answers


def test_a_score_that_is_asked_for_decides_whatever_the_answer_is(run):
    record = json.loads(run("classify", CAT, *WORDS, "--json").stdout)
    second = record["scores"][1]
    below, above = second["score"] * 0.9, second["score"] * 1.1
    assert lines(run("filter", "--is", second["label"], "--min-score", below, CAT, *WORDS)) == [CAT]
    nothing = run("filter", "--is", second["label"], "--min-score", above, CAT, *WORDS)
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (1, "", "")


def test_a_group_stands_for_what_is_in_it(run, tmp_path):
    labels = tmp_path / "labels.yaml"
    labels.write_text("- {name: cat, group: animal}\n- {name: dog, group: animal}\n- cup\n- rocket\n")
    given = ("--labels-file", labels, "--model", "tiny", *PHOTOS)
    assert lines(run("filter", "--is", "animal", *given)) == [CAT]
    wrong = run("filter", "--is", "animals", *given)
    assert (wrong.exit_code, wrong.stderr.splitlines()) == (
        2, ["error: --is 'animals' is none of the labels", "hint: they are 'animal', 'cat', 'dog' and 2 more"],
    )  # fmt: skip


def sums(shared: bool) -> list[str]:
    found: list[str] = []
    sought = Filter(["animal"], found.extend, min_score=0.6)
    labels = [Label("cat", groups=("animal", "pet")), Label("wolf", groups=("animal",)), Label("cup")]
    sought.expect(labels, unknown=None, shared=shared)
    scores = (Score("cup", 0.38), Score("cat", 0.31), Score("wolf", 0.31))
    sought.write([Result("x", "cup", 0.38, scores), Result("y", error="broken")])
    return found


def test_the_scores_in_a_group_add_up_where_labels_share_one_probability():
    assert sums(shared=True) == ["x"]
    assert sums(shared=False) == []


def test_with_multi_every_answer_counts(run):
    several = run("classify", CAT, *WORDS, "--multi", "--threshold", 0, "--json")
    assert len(json.loads(several.stdout)["labels"]) == 3
    for label in ("cat", "rocket"):
        assert lines(run("filter", "--is", label, CAT, *WORDS, "--multi", "--threshold", 0)) == [CAT]


def test_results_of_an_earlier_run_are_looked_through_without_a_model(run, tmp_path):
    cat = {"label": "cat", "score": 0.7}
    dog = {"label": "dog", "score": 0.3}
    records = write_records(
        tmp_path / "r.jsonl",
        {"path": "a", **cat, "scores": [cat, dog]},
        {"path": "b", "label": "dog", "score": 0.9, "scores": [{"label": "dog", "score": 0.9}]},
        {"path": "c", "label": "animal", "score": 1, "scores": [dog], "groups": [{"label": "animal", "score": 1}]},
        {"path": "d", "label": "cat"},
        {"path": "e", "label": "dog", "labels": ["dog", "cat"]},
        {"path": "f", "error": "broken"},
    )
    for options, found in (
        (["--is", "cat"], ["a", "d", "e"]),
        (["--is", "dog", "--min-score", 0.3], ["a", "b", "c"]),
        (["--is", "animal"], ["c"]),
        (["--is", "cat", "--invert"], ["b", "c"]),
        (["--is", "cat", "--root", "/x"], ["/x/a", "/x/d", "/x/e"]),
    ):
        done = run("filter", "--results", records, *options)
        assert (done.exit_code, done.stdout.splitlines()) == (3, found)
        assert "broken" in done.stderr
    typo = run("filter", "--results", records, "--is", "catt")
    assert (typo.stdout, typo.stderr.splitlines()[0]) == ("", "warning: no result has the label 'catt'")


# How they are printed


def test_names_come_as_they_are_in_pipes_and_a_nul_ends_each_if_asked(process, tmp_path):
    names = [b"\xff.jpg", b"two\nlines", b"back\\slash\ttab"]
    records = write_records(tmp_path / "r", *({"path": os.fsdecode(name), "label": "cat"} for name in names))
    done = process("filter", "--is", "cat", "--results", records, "-0")
    assert os.fsencode(done.stdout) == b"".join(name + b"\0" for name in names)
    done = process("filter", "--is", "cat", "--results", records)
    assert os.fsencode(done.stdout) == b"".join(name + b"\n" for name in names)


def test_on_a_terminal_nothing_is_printed_that_it_would_obey(tmp_path):
    records = write_records(tmp_path / "r", {"path": "a\x1b[31m\nb", "label": "cat"})
    screen = Screen()
    command = [sys.executable, "-m", "clipzs", "filter", "--is", "cat", "--results", records]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=screen.terminal, check=True)
    assert screen.shown() == "a\\x1b[31m\\nb\n"


def test_a_live_list_is_answered_as_it_comes_and_may_be_separated_by_nul_bytes(cat, coffee):
    command = [sys.executable, "-m", "clipzs", "filter", "-", "--is", "cat", *WORDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        give(process, coffee)
        give(process, cat)
        assert next_line(process.stdout) == bytes(cat) + b"\n"
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, rest) == (0, b"")
    listed = bytes(coffee) + b"\0" + bytes(cat) + b"\0"
    command = [sys.executable, "-m", "clipzs", "filter", "--null", "--is", "cat", *WORDS]
    done = subprocess.run(command, input=listed, capture_output=True)
    assert (done.returncode, done.stdout) == (0, bytes(cat) + b"\n")


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    write_records(tmp_path / "r", *({"path": f"{number}" * 50, "label": "cat"} for number in range(20_000)))
    command = f"{shlex.quote(sys.executable)} -m clipzs filter --is cat --results r"
    script = f'{command} | head -n 1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("0" * 50 + "\n0\n", "")


def test_a_full_disk_behind_it_is_one_line(tmp_path):
    records = write_records(tmp_path / "r", {"path": "a", "label": "cat"})
    command = [sys.executable, "-m", "clipzs", "filter", "--is", "cat", "--results", records]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: standard output: cannot be written: No space left on device\n")


# What the exit code says


def test_some_images_that_cannot_be_read_are_named_and_in_neither_half(run, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for invert, found in (([], [CAT]), (["--invert"], [COFFEE])):
        done = run("filter", "--is", "cat", CAT, tmp_path / "bad.jpg", COFFEE, *WORDS, *invert)
        assert (done.exit_code, done.stdout.splitlines()) == (3, found)
        assert done.stderr.splitlines() == [
            f"error: {tmp_path}/bad.jpg: a text file, not an image",
            "error: 1 of 3 images could not be read",
        ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([CAT], "nothing says what to look for"),
        (["--is", " ", CAT], "nothing says what to look for"),
        (["--is", "cat"], "no images named"),
        (["--is", "cat", "-0"], "no images named"),
        (["--is", "cat", "--min-score", "2", CAT], "--min-score must be from 0 to 1"),
        (["--is", "bird", CAT, *WORDS], "--is 'bird' is none of the labels"),
        (["--is", "cat", "--results", "r", "--model", "tiny"], "--model would change nothing"),
        (["--is", "cat", "--results", "none"], "none: cannot be read"),
    ],
)
def test_wrong_usage_is_one_line(run, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    wrong = run("filter", *options)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert said in wrong.stderr.splitlines()[0]


def test_no_images_at_all_is_said(run, tmp_path):
    done = run("filter", "--is", "cat", tmp_path, *WORDS)
    assert (done.exit_code, done.stderr.splitlines()[0]) == (1, "error: nothing to look through: no images found")
