"""Whatever is wrong costs one clear line and an exit code, and nothing of what is right."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

TINY = ("--model", "tiny")
LABELS = ("--labels", "cat,rocket", *TINY)


@pytest.mark.parametrize(
    ("options", "code", "error", "hint"),
    [
        (TINY, 2, "no labels given", "name at least two: --labels cat,dog or --labels-file FILE"),
        (("--labels", "cat", *TINY), 2, "only one label given: cat",
         "a softmax over one class is always 1: add what else it could be (--labels cat,other), "
         "ask whether it is one with --unknown, or for the raw similarity with --score cosine"),
        ((*LABELS, "--templates", "nope"), 2, "unknown template set 'nope'",
         "`clipzs prompts list` shows all sets; a file of your own needs .yaml at its end"),
        ((*LABELS, "--device", "tpu"), 2, "unknown device 'tpu'", "--device takes auto, cpu, cuda, cuda:N or mps"),
        (("--labels", "cat,rocket", "--model", "nope"), 2, "unknown model 'nope'",
         "`clipzs models list` shows the recommended ones, `clipzs models list PART` those with PART in their name"),
        ((*LABELS, "--score", "sigmoid"), 2, "tiny was not trained for sigmoid scores (it has no logit bias)",
         "use --score softmax, or a SigLIP-type model such as --model multilingual"),
        ((*LABELS, "--json", "--format", "csv"), 2, "--json is --format jsonl, and --format csv is named too",
         "name one"),
        ((*LABELS, "--files-from", "none.txt"), 2, "none.txt: cannot be read: No such file or directory",
         "--files-from takes a file"),
        ((*LABELS, "--compile", "--device", "cpu"), 2, "--compile is for GPUs: here it takes minutes and gains nothing",
         "leave it out; on a CPU the model is compiled with OpenVINO by itself"),
    ],
    ids=["no labels", "one label", "templates", "device", "model", "sigmoid", "two formats", "list", "compile"],
)  # fmt: skip
def test_a_request_that_cannot_be_served_is_one_line_and_a_hint_and_leaves_the_old_file(
    run, cat, tmp_path, monkeypatch, options, code, error, hint
):
    monkeypatch.chdir(tmp_path)
    Path("old.jsonl").write_text("kept\n")
    Path("prompts").mkdir()
    images = () if "--files-from" in options else (cat,)
    result = run("classify", *images, *options, "-o", "old.jsonl")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"error: {error}\nhint: {hint}\n")
    assert Path("old.jsonl").read_text() == "kept\n"
    result = run("classify", *images, *options, "-o", "new.jsonl")
    assert result.exit_code == code
    assert set(os.listdir()) - {"cache"} == {"old.jsonl", "prompts"}


def test_no_images_named_is_a_usage_error(run):
    result = run("classify", *LABELS)
    assert (result.exit_code, result.stdout, result.stderr) == (
        2, "", "error: no images named\nhint: name files or folders, or - to read a list of paths from a pipe\n",
    )  # fmt: skip


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv", "tsv", "label"])
def test_a_folder_without_images_is_a_failure_and_writes_nothing(run, tmp_path, format_):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "notes.txt").write_text("no picture")
    for more in ((), ("-o", tmp_path / "out"), ("--log", tmp_path / "log")):
        result = run("classify", tmp_path / "docs", *LABELS, "-f", format_, *more)
        assert (result.exit_code, result.stdout, result.stderr) == (
            1, "", "error: nothing to classify: no images found\n"
            "hint: folders are searched for the usual image suffixes; a file named directly is always tried\n",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "log").exists()


def test_a_missing_path_is_a_record_and_a_line(run):
    result = run("classify", "missing.jpg", *LABELS)
    assert (result.exit_code, result.stdout) == (3, "missing.jpg\t\t\n")
    assert result.stderr == "error: missing.jpg: no such file\nerror: 1 of 1 images could not be read\n"


@pytest.fixture
def mixed(tmp_path: Path, cat: Path) -> Path:
    """Good photos among all kinds of bad files."""
    folder = tmp_path / "mixed"
    (folder / "d folder.jpg").mkdir(parents=True)
    shutil.copy(cat, folder / "a good.jpg")
    (folder / "b empty.png").touch()
    (folder / "c text.jpg").write_text("To do: buy a camera\n")
    shutil.copy(cat, folder / "d folder.jpg" / "inside.jpg")
    (folder / "e cut.jpg").write_bytes(cat.read_bytes()[:9000])
    Image.new("1", (20_000, 15_000)).save(folder / "f bomb.png")
    (folder / "g loop.jpg").symlink_to("g loop.jpg")
    (folder / "g round").symlink_to(folder)
    shutil.copy(cat, os.fsencode(folder) + b"/h caf\xe9.jpg")
    shutil.copy(cat, folder / "i good.jpg")
    return folder


BAD = {
    "b empty.png": "the file is empty",
    "c text.jpg": "a text file, not an image",
    "e cut.jpg": "damaged or truncated: image file is truncated",
    "f bomb.png": "300 megapixels, over the limit of 178; allow it with --max-megapixels",
}


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_bad_files_have_their_records_and_cost_the_good_ones_nothing(run, mixed, batch):
    result = run("classify", mixed, *LABELS, "--json", "-b", batch)
    records = {Path(record["path"]).name: record for record in map(json.loads, result.stdout.splitlines())}
    assert list(records) == [
        "a good.jpg", "b empty.png", "c text.jpg", "inside.jpg", "e cut.jpg", "f bomb.png", "h caf\udce9.jpg",
        "i good.jpg",
    ]  # fmt: skip
    for name, record in records.items():
        if name in BAD:
            assert record["error"].startswith(BAD[name])
            assert (record["label"], record["score"], record["scores"]) == (None, None, [])
        else:
            assert (record["error"], record["label"]) == (None, "cat")
    assert (result.exit_code, result.stderr) == (3, "error: 4 of 8 images could not be read\n")


def test_formats_without_room_for_reasons_have_them_on_standard_error(run, mixed):
    result = run("classify", mixed, *LABELS, "-f", "label")
    assert (result.exit_code, result.stdout) == (3, "cat\n\n\ncat\n\n\ncat\ncat\n")
    *reasons, count = result.stderr.splitlines()
    assert count == "error: 4 of 8 images could not be read"
    assert len(reasons) == len(BAD)
    for line, (name, reason) in zip(reasons, BAD.items(), strict=True):
        assert line.startswith(f"error: {mixed / name}: {reason}")


def test_quiet_leaves_the_exit_code_to_tell(run, mixed):
    result = run("classify", mixed, *LABELS, "--quiet")
    assert (result.exit_code, result.stderr) == (3, "")
    assert len(result.stdout.splitlines()) == 8


@pytest.mark.parametrize("format_", ["jsonl", "json", "table"])
@pytest.mark.parametrize(
    ("place", "why"),
    [("none/out", "No such file or directory"), ("folder", "Is a directory"), ("file/out", "Not a directory"),
     ("/dev/full", "No space left on device")],
)  # fmt: skip
@pytest.mark.parametrize("option", ["-o", "--log"])
def test_a_place_that_cannot_be_written_is_one_line(run, cat, tmp_path, monkeypatch, option, place, why, format_):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    result = run("classify", cat, *LABELS, "-f", format_, option, place)
    assert result.exit_code == 1
    assert result.stderr == f"error: {place}: cannot be written: {why}\nhint: choose another place for it\n"
    if option == "-o" or place != "/dev/full":  # a full disk shows only when written to, after the results
        assert result.stdout == ""
    assert set(os.listdir()) - {"cache"} == {"file", "folder"}


def test_an_output_that_is_a_device_is_written_as_it_is(run, cat):
    result = run("classify", cat, *LABELS, "-o", "/dev/null", "--log", "/dev/null")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
