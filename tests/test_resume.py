"""Results that survive whatever ends a run, and runs that go on where an earlier one stopped."""

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipzs import Classifier
from clipzs.configuration import Configuration
from clipzs.errors import SIGNALLED, OutputError, UsageProblem
from clipzs.interrupts import Interrupts
from clipzs.output import Output
from clipzs.paths import Found, Selection
from clipzs.results import Result, Score
from clipzs.resume import Earlier
from clipzs.run import Run
from clipzs.writers import JsonlWriter

LABELS = ("--labels", "cat,rocket,dog", "--model", "tiny", "--no-image-cache")
KILLS = int(os.environ.get("CLIPZS_TEST_KILLS", "6"))  # docs/reliability.md has a run with more


def pictures(folder: Path, number: int) -> Path:
    """Small photos, each of its own, some of them broken."""
    folder.mkdir()
    colours = random.Random(33)  # with which no score is near a rounding step
    for each in range(number):
        image = Image.new("RGB", (16, 16), tuple(colours.randrange(256) for _ in range(3)))
        image.putpixel((each % 16, each // 16 % 16), (255, 0, 255))
        image.save(folder / f"{each:04}.png")
    for each in range(7, number, 31):
        (folder / f"{each:04}.png").write_text("no picture")
    return folder


@pytest.fixture(autouse=True)
def usual_decimals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are compared byte by byte: digits that differ between batches and engines are not written."""
    monkeypatch.delenv("CLIPZS_DECIMALS")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("resume") / "photos", 12)


@pytest.fixture(scope="module")
def made() -> list[bytes]:
    """What was made once for all tests."""
    return []


@pytest.fixture
def whole(run, photos, tmp_path, made) -> bytes:
    """What an uninterrupted run writes: twelve records, one of them an error."""
    if not made:
        result = run("classify", photos, *LABELS, "--json", "-o", tmp_path / "whole")
        assert result.exit_code == 3
        made.append((tmp_path / "whole").read_bytes())
        (tmp_path / "whole").unlink()
        assert made[0].count(b"\n") == 12
    return made[0]


def records(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def same(content: bytes, whole: bytes) -> bool:
    """The same records in the same order; scores may differ as they do between batches."""
    ours, theirs = records(content), records(whole)
    plain = [[{**one, "score": None, "scores": len(one["scores"])} for one in some] for some in (ours, theirs)]
    scores = [[score for one in some for score in sorted(s["score"] for s in one["scores"])] for some in (ours, theirs)]
    return plain[0] == plain[1] and scores[0] == pytest.approx(scores[1], abs=2e-5) and content.endswith(b"\n")


# What is left of a run


@pytest.mark.parametrize(
    "leave",
    [
        lambda whole: b"",
        lambda whole: whole[:5],
        lambda whole: whole[: whole.index(b"\n") - 1],
        lambda whole: whole[: whole.index(b"\n")],
        lambda whole: whole[: whole.index(b"\n") + 1],
        lambda whole: whole[: whole.index(b"\n") + 1] + b"\0" * 5000,
        lambda whole: whole[:1000] + b"\0" * 5000,
        lambda whole: whole[:1000] + b"\0" * 24 + whole[1024:],
        lambda whole: b"\0" * 4096,
        lambda whole: whole,
    ],
    ids=["nothing", "five bytes", "all but a brace", "all but the line's end", "a line", "a line and a hole",
         "a torn line and a hole", "a hole in the middle", "a hole", "everything"],
)  # fmt: skip
def test_resume_repairs_what_is_left_and_does_the_rest(run, photos, whole, tmp_path, leave):
    out = tmp_path / "out.jsonl"
    out.write_bytes(leave(whole))
    result = run("classify", photos, *LABELS, "-o", out, "--resume")
    assert result.exit_code == 3
    assert result.stderr.endswith("error: 1 of 12 images could not be read\nhint: --retry-errors tries them again\n")
    assert same(out.read_bytes(), whole)


def test_resume_without_an_earlier_file_is_an_ordinary_run(run, photos, whole, tmp_path):
    assert run("classify", photos, *LABELS, "-o", tmp_path / "new.jsonl", "--resume").exit_code == 3
    assert (tmp_path / "new.jsonl").read_bytes() == whole


def test_resume_with_nothing_left_to_do_says_so_and_needs_no_image(run, photos, tmp_path):
    out = tmp_path / "out.jsonl"
    assert run("classify", photos / "0000.png", *LABELS, "-o", out).exit_code == 0
    before = out.read_bytes()
    result = run("classify", photos / "0000.png", *LABELS, "-o", out, "--resume")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"note: nothing left to do: {out} has a record of every image\n"
    assert out.read_bytes() == before
    out.write_bytes(before + before[:50])
    assert run("classify", photos / "0000.png", *LABELS, "-o", out, "--resume", "-q").exit_code == 0
    assert out.read_bytes() == before


def test_new_images_of_a_finished_run_are_added(run, photos, tmp_path):
    folder, out = tmp_path / "growing", tmp_path / "out.jsonl"
    shutil.copytree(photos, folder)
    run("classify", folder, *LABELS, "-o", out)
    (folder / "new.png").write_bytes((folder / "0000.png").read_bytes())
    assert run("classify", folder, *LABELS, "-o", out, "--resume").exit_code == 3
    assert [Path(one["path"]).name for one in records(out.read_bytes())][11:] == ["0011.png", "new.png"]


def test_the_same_place_written_in_another_way_is_not_done_again(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos.parent)
    out = tmp_path / "out.jsonl"
    run("classify", photos.name, *LABELS, "-o", out)
    before = out.read_bytes()
    result = run("classify", f"./{photos.name}//", *LABELS, "-o", out, "--resume")
    assert result.exit_code == 3
    assert out.read_bytes() == before


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(named=st.lists(st.integers(0, 11), min_size=1, max_size=12), kept=st.integers(0, 12), cut=st.integers(0, 200))
def test_an_image_named_several_times_has_as_many_records_whenever_the_run_was_interrupted(
    run, photos, whole, tmp_path, named, kept, cut
):
    paths = [f"{photos}/{number:04}.png" for number in named]
    lines = {record["path"]: line for record, line in zip(records(whole), whole.splitlines(keepends=True), strict=True)}
    uninterrupted = [lines[path] for path in paths]
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(uninterrupted[:kept]) + b"".join(uninterrupted[kept:])[:cut].rpartition(b"\n")[2])
    (tmp_path / "list").write_text("\n".join(paths))
    run("classify", "--files-from", tmp_path / "list", *LABELS, "-o", out, "--resume")
    assert same(out.read_bytes(), b"".join(uninterrupted))


# What it refuses


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("--score", "cosine"), "--score was softmax, now cosine"),
        (("--precision", "bf16", "--exact-decode"),
         "--precision was fp32, now bf16; --exact-decode was off, now on"),
        (("--template", "a <>"), "prompts differ (templates, context, aliases, groups), or the order of the labels"),
        (("-k", 2), "--top-k was 3, now 2"),
        (("--label", "temple"), "labels differ: it has no 'temple'"),
        (("--model", "small"), "model was tiny, now local-dir:{model}"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_file_made_with_other_settings_is_refused_by_the_name_of_the_setting(
    run, photos, whole, tmp_path, folder, settings, why
):
    out = tmp_path / "out.jsonl"
    out.write_bytes(whole)
    if "small" in settings:
        settings = ("--model", f"local-dir:{folder('vit')}")
    result = run("classify", photos, *LABELS, *settings, "-o", out, "--resume")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {out}:1: made with other settings: {why.format(model=folder('vit'))}\n"
        "hint: give the settings it was made with, or choose another file with -o\n"
    )
    assert out.read_bytes() == whole


def test_labels_and_weights_that_differ_are_told_apart_by_the_records_alone():
    prompts = ("a photo of a cat",)
    ours = Configuration("m", "weights", (("cat", "pet", prompts), ("car", None, ())), "fp32", False, "softmax", False)

    def told(other: Configuration) -> str | None:
        return ours.difference(model=other.model, config=other.hash, names=other.names)

    assert told(ours) is None
    assert told(replace(ours, digest="others")) == "the weights of m differ"
    assert told(replace(ours, model="n", digest="others")) == "model was n, now m"
    assert told(replace(ours, labels=ours.labels[:1])) == "labels differ: it has no 'car'"
    assert told(replace(ours, labels=(*ours.labels, ("bus", None, ())))) == (
        "labels differ: it has 'bus', which is none of yours now"
    )
    assert told(replace(ours, labels=ours.labels[::-1])) == (
        "prompts differ (templates, context, aliases, groups), or the order of the labels"
    )
    assert told(replace(ours, by_group=True)) == "--by-group was on, now off"


def test_records_of_two_configurations_in_one_file_are_refused_at_the_line_of_the_first_other_one(
    run, photos, whole, tmp_path
):
    out = tmp_path / "out.jsonl"
    first = whole.splitlines(keepends=True)[0]
    out.write_bytes(whole + first.replace(b'"config": "', b'"config": "f')[: len(first)] + b"\n")
    result = run("classify", photos, *LABELS, "-o", out, "--resume")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {out}:13: ")


@pytest.mark.parametrize(
    "content",
    [b"notes of mine", b"notes of mine\n", b"{}\n", b"[]\n", b"1\n", b'{"path": 1}\n', b"\xff\xd8\xff\xe0\0\x10JFIF\0",
     b'{"path": "a", "label": null, "score": null, "scores": [1], "error": null, "model": "", "config": ""}\n',
     b"[" * 100_000 + b"\n"],
    ids=["text", "a line", "an object", "a list", "a number", "a wrong path", "a photo", "wrong scores", "deep"],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_and_left_alone(run, photos, tmp_path, content):
    out = tmp_path / "out.jsonl"
    out.write_bytes(content)
    result = run("classify", photos, *LABELS, "-o", out, "--resume")
    assert (result.exit_code, result.stderr) == (
        2, f"error: {out}:1: not a record of clipzs\nhint: choose another file with -o to start anew\n",
    )  # fmt: skip
    assert out.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--resume",), "--resume needs the file of the earlier run"),
        (("--resume", "--json", "-o", "/dev/null"), "--resume needs the file of the earlier run"),
        (("--resume", "-o", "x.csv"), "--resume goes on with JSON Lines only: csv does not say what made its scores"),
        (("--retry-errors", "-o", "x"), "--resume goes on with JSON Lines only: tsv does not say what made its scores"),
        (("--retry-errors", "-o", "x.jsonl", "-"),
         "--retry-errors reads the list of paths twice, which a pipe cannot"),
        (("-o", "x.PNG"), "-o x.PNG would overwrite an image"),
        (("-o", "list", "--files-from", "list"), "-o list would overwrite list"),
        (("-o", "list", "--log", "./list"), "-o list would overwrite list"),
    ],
)  # fmt: skip
def test_what_cannot_be_gone_on_with_or_would_be_overwritten_is_a_usage_error(
    run, photos, tmp_path, monkeypatch, options, why
):
    monkeypatch.chdir(tmp_path)
    Path("list").write_text(f"{photos}/0000.png\n")
    result = run("classify", photos / "0000.png", *LABELS, *options)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"error: {why}")
    assert Path("list").read_text() == f"{photos}/0000.png\n"
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "list"}


# Errors


def test_errors_are_done_unless_they_are_to_be_tried_again(run, photos, whole, tmp_path):
    mended, out = tmp_path / "mended", tmp_path / "out.jsonl"
    shutil.copytree(photos, mended)
    run("classify", mended, "missing.png", *LABELS, "-o", out)
    shutil.copy(photos / "0000.png", mended / "0007.png")
    assert run("classify", mended, *LABELS, "-o", out, "--resume").exit_code == 3
    assert [one["error"] for one in records(out.read_bytes())].count(None) == 11
    out.chmod(0o640)
    result = run("classify", mended, *LABELS, "-o", out, "--retry-errors")
    assert (result.exit_code, result.stderr) == (
        3, "error: 1 of 13 images could not be read\nhint: --retry-errors tries them again\n",
    )  # fmt: skip
    after = records(out.read_bytes())
    assert [Path(one["path"]).name for one in after][-2:] == ["missing.png", "0007.png"]
    assert [one["error"] for one in after[-2:]] == ["no such file", None]
    assert len(after) == len({one["path"] for one in after}) == 13
    assert out.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "mended", "out.jsonl"}


def test_a_folder_that_could_not_be_looked_into_makes_room_for_its_images(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("classify", "later", photos / "0000.png", *LABELS, "-o", "out.jsonl")
    assert records(Path("out.jsonl").read_bytes())[0]["error"] == "no such file"
    shutil.copytree(photos, "later")
    run("classify", photos / "0000.png", *LABELS, "-o", "out.jsonl", "--retry-errors")
    assert [one["path"] for one in records(Path("out.jsonl").read_bytes())] == ["later", f"{photos}/0000.png"]
    run("classify", "later", photos / "0000.png", *LABELS, "-o", "out.jsonl", "--retry-errors")
    after = records(Path("out.jsonl").read_bytes())
    assert [one["path"] for one in after] == [f"{photos}/0000.png", *(f"later/{n:04}.png" for n in range(12))]


# What ends a run


def start(photos: Path, out: Path, *more: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "clipzs", "classify", photos, *LABELS, "-b", 2, "-o", out, "--resume", *more]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_again_and_again_a_run_ends_in_the_same_file_as_an_uninterrupted_one(run, tmp_path):
    """At random lengths of the file, which are never twice the same."""
    photos, out, seed = pictures(tmp_path / "many", 20 * KILLS + 20), tmp_path / "out.jsonl", random.randrange(1 << 32)
    run("classify", photos, *LABELS, "-b", 2, "-o", tmp_path / "whole.jsonl")
    whole, chance, lengths = (tmp_path / "whole.jsonl").read_bytes(), random.Random(seed), []
    out.touch()
    for _ in range(KILLS):
        goal = out.stat().st_size + chance.randrange(len(whole) // KILLS)
        process = start(photos, out)
        while process.poll() is None and out.stat().st_size <= goal:
            time.sleep(chance.random() / 500)
        process.kill()
        process.communicate()
        lengths.append(out.stat().st_size)
        found = out.read_bytes()
        assert same(found[: found.rfind(b"\n") + 1], b"".join(whole.splitlines(keepends=True)[: found.count(b"\n")]))
    process = start(photos, out)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 3, (seed, errors)
    assert same(out.read_bytes(), whole), (seed, lengths)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "many", "out.jsonl", "whole.jsonl"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_of_batch_systems_and_closed_terminals_stop_it_like_ctrl_c(photos, tmp_path, number):
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "clipzs", "classify", "-", *LABELS, "-o", str(out)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL), **pipes)
    assert process.stdin is not None
    process.stdin.write(f"{photos}/0000.png\n".encode())
    process.stdin.flush()
    while not (out.exists() and out.stat().st_size) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == SIGNALLED + number
    assert errors == (
        b"note: stopped after 1 images; what was written is complete\n"
        b"hint: the same command with --resume goes on from there\n"
    )
    assert [one["path"] for one in records(out.read_bytes())] == [f"{photos}/0000.png"]


def test_a_signal_waits_for_what_is_under_way_and_the_next_one_does_not():
    told: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts(lambda: told.append("wait")) as interrupts:
        interrupts.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (told, interrupts.signal) == (["wait"], signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            interrupts.end()
    assert signal.getsignal(signal.SIGTERM) == before
    with Interrupts(lambda: told.append("wait")) as interrupts:
        interrupts.begin()
        interrupts.end()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert told == ["wait"]


def test_ctrl_c_while_a_batch_is_under_way_finishes_and_writes_it(photos, tmp_path):
    classifier = Classifier(["cat", "rocket"], model="tiny", batch_size=2, image_cache=False)
    output = Output("jsonl", tmp_path / "out.jsonl")
    run = Run(classifier, Selection([str(photos)]), [output])
    told: list[str] = []
    run(lambda _: os.kill(os.getpid(), signal.SIGINT) if run.images == 4 else None, lambda: told.append("wait"))
    assert (run.interrupted, run.images, told) == (signal.SIGINT, 6, ["wait"])
    assert len(records((tmp_path / "out.jsonl").read_bytes())) == 6


def test_it_is_known_when_a_batch_goes_into_the_model(photos):
    classifier = Classifier(["cat", "rocket"], model="tiny", batch_size=4, image_cache=False)
    seen: list[int] = []
    for batch in classifier.batches([f"{photos}/{n:04}.png" for n in range(6)], begun=lambda: seen.append(-1)):
        seen.append(len(batch))
    assert seen == [-1, 4, -1, 2]


def test_a_signal_that_the_caller_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts(lambda: None) as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds four pages."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", place], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", place], check=True)


def stopped_halfway(run: Callable[..., Any], photos: Path, out: Path, why: str) -> bytes:
    result = run("classify", photos, *LABELS, "-b", 1, "-o", out, "--template", "a <>")
    assert (result.exit_code, result.stderr) == (
        1, f"error: {out}: cannot be written: {why}\n"
        "hint: when that is mended, the same command with --resume goes on from there\n",
    )  # fmt: skip
    return out.read_bytes()


def test_a_full_disk_leaves_whole_records_to_go_on_from(run, photos, small_disk, tmp_path):
    (small_disk / "ballast").write_bytes(bytes(12288))
    out = small_disk / "out.jsonl"
    for copy in range(8):
        shutil.copytree(photos, tmp_path / "more" / str(copy))
    left = stopped_halfway(run, tmp_path / "more", out, "No space left on device")
    assert 0 < len(records(left)) < 96
    assert left.endswith(b"\n")
    (small_disk / "ballast").unlink()
    left = run("classify", tmp_path / "more", *LABELS, "-o", out, "--template", "a <>", "--resume")
    assert left.exit_code == 1  # full again, and again without harm
    assert out.read_bytes().endswith(b"\n")
    shutil.copy(out, tmp_path / "out.jsonl")
    run("classify", tmp_path / "more", *LABELS, "-o", tmp_path / "out.jsonl", "--template", "a <>", "--resume")
    found = [one["path"] for one in records((tmp_path / "out.jsonl").read_bytes())]
    assert found == sorted(map(str, (tmp_path / "more").rglob("*.png")))


def test_a_limit_on_file_sizes_leaves_whole_records_to_go_on_from(run, photos, tmp_path):
    long = tmp_path / ("x" * 200)
    for copy in range(30):
        shutil.copytree(photos, long / f"{copy:02}")
    run("classify", photos / "0000.png", *LABELS, "--template", "a <>")  # what it caches is written
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # more than what is in the cache
    try:
        left = stopped_halfway(run, long, tmp_path / "out.jsonl", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 0 < len(records(left)) < 360
    assert left.endswith(b"\n")
    run("classify", long, *LABELS, "-o", tmp_path / "out.jsonl", "--template", "a <>", "--resume")
    found = [one["path"] for one in records((tmp_path / "out.jsonl").read_bytes())]
    assert found == sorted(map(str, long.rglob("*.png")))


# Two at once


def test_a_second_process_is_kept_from_the_file_of_the_first(run, photos, whole, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_bytes(whole)
    first = Output("jsonl", out)
    for more in ((), ("--resume",), ("--retry-errors",), ("-f", "tsv")):
        result = run("classify", photos, *LABELS, "-o", out, *more)
        assert (result.exit_code, result.stderr) == (
            1, f"error: {out}: another clipzs is writing it\nhint: wait for it, or name another file\n",
        )  # fmt: skip
        assert out.read_bytes() == whole
    first.abandon()
    assert run("classify", photos, *LABELS, "-o", out, "--resume").exit_code == 3


def test_the_file_stays_taken_when_error_records_were_taken_out_of_it(photos, tmp_path):
    out = tmp_path / "out.jsonl"
    configuration = Configuration("m", "d", (("cat", None, ()),), "fp32", False, "cosine", False)
    bad = Result("bad.png", error="x", model="m", config=configuration.hash)
    with out.open("wb") as file:
        JsonlWriter(file).write([bad])
    first = Output("jsonl", out)
    first.go_on_after(Earlier(out, configuration, scores=1, retry=[Found("bad.png")]))
    first.write([bad])
    with pytest.raises(OutputError, match="another clipzs is writing it"):
        Output("jsonl", out)
    first.close({})
    assert len(records(out.read_bytes())) == 1


# Size


def test_a_million_records_would_be_held_in_a_few_megabytes(tmp_path):
    configuration = Configuration("m", "d", (("cat", None, ()),), "fp32", False, "cosine", False)
    number = 20_000
    made = [
        Result(f"{n}.png", "cat", 0.5, (Score("cat", 0.5),), model="m", config=configuration.hash)
        for n in range(number)
    ]
    stream = io.BytesIO()
    JsonlWriter(stream).write(made)
    (tmp_path / "out.jsonl").write_bytes(stream.getvalue())
    del made, stream
    tracemalloc.start()
    earlier = Earlier(tmp_path / "out.jsonl", configuration, scores=1)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (earlier.records, earlier.errors) == (number, 0)
    assert held < 20 * number + 100_000
    assert peak < 60 * number + 1_000_000
    left = list(earlier.left(Found(f"{n}.png") for n in range(-1, number + 1)))
    assert (left, earlier.skipped) == ([Found("-1.png"), Found(f"{number}.png")], number)


def test_a_line_without_an_end_is_not_read_as_a_whole(tmp_path):
    out = tmp_path / "out.jsonl"
    with out.open("wb") as file:
        file.truncate(1 << 32)  # a hole, as power failures leave them
    configuration = Configuration("m", "d", (("cat", None, ()),), "fp32", False, "cosine", False)
    earlier = Earlier(out, configuration, scores=1)
    assert (earlier.records, earlier.end, earlier.torn) == (0, 0, 1 << 32)
    with out.open("r+b") as file:
        file.write(b"x" * 100)
    with pytest.raises(UsageProblem, match=r"out\.jsonl:1: not a record of clipzs"):
        Earlier(out, configuration, scores=1)
