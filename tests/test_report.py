"""The page of a report as commands make it: what is in it, its thumbnails, and the corrections that it gives back.

What the page does in a browser is tested in test_report_page.py.
"""

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipzs import thumbnails
from clipzs.report import Report
from clipzs.results import Result
from clipzs.run import Replay
from clipzs.thumbnails import Thumbnails

TINY = ("--model", "tiny")
LABELS = ("--labels", "cat,cup of coffee,rocket", *TINY)


def data(page: Path) -> dict:
    """What the script of a page reads."""
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text("utf-8"), re.S)
    return json.loads(found[1])


def told(page: Path) -> dict:
    """The same without what no two pages share."""
    return {key: value for key, value in data(page).items() if key not in ("made", "facts", "title")}


def inline(page: Path) -> list[Image.Image | None]:
    thumbs = data(page)["thumbs"]
    assert thumbs["mode"] == "inline"
    return [one and Image.open(io.BytesIO(base64.b64decode(one))) for one in thumbs["data"]]


def records(file: Path, results: list[dict]) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in results), "utf-8")
    return file


@pytest.fixture
def photos(cat, coffee, tmp_path) -> Path:
    """A folder for each of two classes, with four photos in each."""
    folder = tmp_path / "photos"
    for label, photo in (("cat", cat), ("cup_of_coffee", coffee)):
        (folder / label).mkdir(parents=True)
        with Image.open(photo) as opened:
            for angle in (0, 20, 40, 60):
                opened.rotate(angle).save(folder / label / f"{angle}.jpg", quality=85)
    return folder


# What is in it


def test_classify_writes_it_beside_its_results(run, cat, coffee, tmp_path):
    page = tmp_path / "out.html"
    done = run("classify", cat, coffee, *LABELS, "--json", "--report", page)
    assert (done.exit_code, done.stderr) == (0, "")
    written = [json.loads(line) for line in done.stdout.splitlines()]
    shown = data(page)
    assert [shown["root"] + path for path in shown["images"]["path"]] == [str(cat), str(coffee)]
    (answers,) = shown["runs"]
    assert [shown["labels"][label] for label in answers["label"]] == [one["label"] for one in written]
    assert answers["score"] == pytest.approx([one["score"] for one in written], abs=1e-6)
    assert len(inline(page)) == 2


def test_unknown_is_a_label_only_where_it_is_said_of_an_image(run, cat, tmp_path):
    for label, known in (("cat", ["cat"]), ("unknown", ["unknown"])):
        file = records(tmp_path / "r.jsonl", [{"path": str(cat), "label": label}])
        run("report", file, "-o", tmp_path / "out.html")
        shown = data(tmp_path / "out.html")
        assert shown["labels"] == known
        assert shown["unknown"] == (0 if label == "unknown" else None)


@pytest.mark.parametrize("more", [(), ("-f", "label"), ("--json", "-k", "1"), ("--min-margin", "0.999")])
def test_it_has_the_scores_behind_the_best_and_the_output_is_as_without_it(run, cat, coffee, tmp_path, more):
    alone = run("classify", cat, coffee, *LABELS, *more)
    done = run("classify", cat, coffee, *LABELS, *more, "--report", tmp_path / "out.html")
    assert (done.exit_code, done.stdout) == (0, alone.stdout)
    assert [len(scores) for scores in data(tmp_path / "out.html")["runs"][0]["scores"]] == [6, 6]


def test_records_make_the_same_page(run, cat, coffee, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    done = run("classify", cat, text, coffee, *LABELS, "--json", "--decimals", "9", "--report", tmp_path / "a.html")
    (tmp_path / "results.jsonl").write_text(done.stdout)
    assert run("report", tmp_path / "results.jsonl", "-o", tmp_path / "b.html").exit_code == 0
    at_once, later = told(tmp_path / "a.html"), told(tmp_path / "b.html")
    assert later["thumbs"] == at_once["thumbs"]
    assert later["images"] == at_once["images"]
    assert later["runs"][0]["error"] == at_once["runs"][0]["error"] != {}
    assert later["runs"][0]["score"] == pytest.approx(at_once["runs"][0]["score"])


def test_records_come_through_a_pipe_and_start_elsewhere(process, tmp_path, cat):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(cat, tmp_path / "elsewhere" / "1.jpg")
    done = process(
        *("report", "-", "-o", tmp_path / "out.html", "--root", tmp_path / "elsewhere"),
        input=json.dumps({"path": "1.jpg", "label": "cat", "score": 0.9}) + "\n",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert inline(tmp_path / "out.html")[0] is not None


def test_a_resumed_run_shows_the_earlier_results_too(run, cat, coffee, tmp_path):
    page, out = tmp_path / "out.html", tmp_path / "out.jsonl"
    run("classify", cat, *LABELS, "-o", out)
    assert run("classify", cat, coffee, *LABELS, "-o", out, "--resume", "--report", page).exit_code == 0
    assert len(data(page)["images"]["path"]) == len(inline(page)) == 2
    page.unlink()
    assert run("classify", cat, coffee, *LABELS, "-o", out, "--resume", "--report", page).exit_code == 0
    assert len(data(page)["images"]["path"]) == 2, "nothing was left to do, but a page was asked for"


def test_images_tried_again_are_shown_as_they_are_now(run, cat, tmp_path):
    page, out, late = tmp_path / "out.html", tmp_path / "out.jsonl", tmp_path / "late.jpg"
    assert run("classify", late, *LABELS, "-o", out).exit_code == 3
    shutil.copy(cat, late)
    assert run("classify", late, *LABELS, "-o", out, "--retry-errors", "--report", page).exit_code == 0
    assert data(page)["runs"][0]["error"] == {}
    assert [one is not None for one in inline(page)] == [True]


def test_what_is_done_when_it_is_stopped_is_in_the_page(cat, tmp_path):
    command = [sys.executable, "-m", "clipzs", "classify", "-", *LABELS, "--json", "--report", tmp_path / "out.html"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(f"{cat}\n".encode())
    process.stdin.flush()
    assert b'"label": "cat"' in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    for pipe in (process.stdin, process.stdout):
        pipe.close()
    shown = data(tmp_path / "out.html")
    assert shown["facts"]["interrupted"] is True
    assert [one is not None for one in inline(tmp_path / "out.html")] == [True]


def test_ctrl_c_while_a_page_is_written_does_not_cost_it(cat, tmp_path):
    page = Report(tmp_path / "out.html", Thumbnails(tmp_path / "out.html"))

    class Interrupted:
        """A sink that is closed just before the page, and is interrupted then."""

        again = None

        def write(self, batch):
            pass

        def close(self, run):
            os.kill(os.getpid(), signal.SIGINT)

    told: list[str] = []
    replay = Replay([Result(str(cat), "cat")], [Interrupted(), page])
    replay(lambda images: None, lambda: told.append("wait"))
    assert (replay.interrupted, told) == (signal.SIGINT, ["wait"])
    assert [one is not None for one in inline(tmp_path / "out.html")] == [True]


# Measured


def figures(cell: dict) -> list[float]:
    return [value for figure in cell["figures"].values() if isinstance(figure, dict) for value in figure.values()]


def test_eval_writes_its_figures_and_saved_records_have_the_same(run, photos, tmp_path):
    at_once, later, saved = tmp_path / "a.html", tmp_path / "b.html", tmp_path / "saved.jsonl"
    done = run("eval", photos, *TINY, "--json", "--save", saved, "--report", at_once)
    assert done.exit_code == 0
    assert data(at_once)["evaluation"] == json.loads(done.stdout)["cells"]
    assert run("report", saved, "-o", later).exit_code == 0
    assert data(later)["images"] == data(at_once)["images"]
    (theirs,), (ours,) = data(at_once)["evaluation"], data(later)["evaluation"]
    assert ours["confusion"] == theirs["confusion"]
    assert ours["classes"] == theirs["classes"]
    assert [one["images"] for one in ours["reliability"]] == [one["images"] for one in theirs["reliability"]]
    # Intervals of bins with few images may end at other values for a score that was rounded, but not far away.
    assert figures(ours) == pytest.approx(figures(theirs), abs=1e-3, nan_ok=True)


def test_answers_that_were_held_back_are_counted_so_in_records_too(run, photos, tmp_path):
    (photos / "unknown").mkdir()
    for number, photo in enumerate((photos / "cat").iterdir()):
        with Image.open(photo) as opened:
            ImageOps.invert(opened).resize((8, 8)).save(photos / "unknown" / f"{number}.png")
    for options in (("--min-score", "0.99", "--exclude", "*.png"), ("--unknown",)):
        at_once, later, saved = tmp_path / "a.html", tmp_path / "b.html", tmp_path / "saved.jsonl"
        done = run("eval", photos, *TINY, "--save", saved, "--report", at_once, *options)
        assert done.exit_code == 0, done.output
        run("report", saved, "-o", later)
        (theirs,), (ours,) = data(at_once)["evaluation"], data(later)["evaluation"]
        assert theirs["figures"]["answered"]["value"] < 1
        assert figures(ours) == pytest.approx(figures(theirs), abs=1e-3, nan_ok=True)
        assert ours["confusion"] == theirs["confusion"]


def test_of_several_choices_of_prompts_it_has_all(run, photos, tmp_path):
    page, saved = tmp_path / "out.html", tmp_path / "saved.jsonl"
    done = run("eval", photos, *TINY, "-t", "simple,name", "--report", page, "--save", saved)
    assert done.exit_code == 0
    shown = data(page)
    assert [cell["templates"] for cell in shown["evaluation"]] == [["simple"], ["name"]]
    assert [one["config"] for one in shown["runs"]] == [cell["config"] for cell in shown["evaluation"]]
    assert len(shown["images"]["path"]) == len(inline(page)) == 8
    run("report", saved, "-o", page)
    again = data(page)["evaluation"]
    assert [cell["config"] for cell in again] == [cell["config"] for cell in shown["evaluation"]]
    assert [cell["templates"] for cell in again] == [["simple"], ["name"]]
    assert figures(again[1]) == pytest.approx(figures(shown["evaluation"][1]), abs=1e-3, nan_ok=True)
    assert again[1]["difference"].keys() == shown["evaluation"][1]["difference"].keys()


def test_records_without_all_scores_have_no_figures_and_it_says_so(run, cat, tmp_path):
    file = records(tmp_path / "r.jsonl", [{"path": str(cat), "label": "cat", "score": 0.9, "truth": "dog"}])
    done = run("report", file, "-o", tmp_path / "out.html")
    assert done.exit_code == 0
    assert "no figures" in done.stderr
    shown = data(tmp_path / "out.html")
    assert shown["evaluation"] is None
    assert [shown["labels"][truth] for truth in shown["images"]["truth"]] == ["dog"]


def test_eval_that_is_stopped_has_a_page_of_what_was_measured(photos, tmp_path):
    images = [photo for folder in photos.iterdir() for photo in folder.iterdir()]
    os.mkfifo(tmp_path / "never.jpg")  # nobody writes to it: here it waits
    rows = [(photo, photo.parent.name.replace("_", " ")) for photo in images] + [(tmp_path / "never.jpg", "cat")]
    (tmp_path / "truth.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    saved, page = tmp_path / "saved.jsonl", tmp_path / "out.html"
    command = [sys.executable, "-m", "clipzs", "eval", "--truth", tmp_path / "truth.csv", *TINY, "--batch-size", "4"]
    process = subprocess.Popen([*command, "--save", saved, "--report", page], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (saved.exists() and saved.read_text().count("\n") == 8):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said) == (130, "note: stopped; what was written is complete\n")
    shown = data(page)
    assert shown["facts"]["interrupted"] is True
    assert len(shown["images"]["path"]) == sum(map(sum, shown["evaluation"][0]["confusion"]["images"])) == 8


# Thumbnails


def test_thumbnails_are_whole_upright_small_and_hold_nothing_else(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # what was left is to be above
    exif[0x010E] = "where I live"
    lying = Image.new("RGB", (1200, 300), "blue")
    lying.paste("red", (0, 0, 300, 300))
    lying.save(tmp_path / "lying.jpg", exif=exif, comment=b"where I live", xmp=b"where I live")
    lying.save(tmp_path / "lying.png", exif=exif)
    Image.new("L", (30, 20), 200).save(tmp_path / "small.png")
    paths = [tmp_path / name for name in ("lying.jpg", "lying.png", "small.png")]
    file = records(tmp_path / "r.jsonl", [{"path": str(path), "label": "x"} for path in paths])
    assert run("report", file, "-o", tmp_path / "out.html").exit_code == 0
    *both, small = inline(tmp_path / "out.html")
    for one in both:
        assert one.size == (40, thumbnails.LONGEST)
        red, _, blue = one.convert("RGB").getpixel((20, 10))
        assert red > 200 > 100 > blue
        red, _, blue = one.convert("RGB").getpixel((20, 150))
        assert blue > 200 > 100 > red
    assert small.size == (30, 20)
    for one in (*both, small):
        assert not one.getexif()
        assert not {"exif", "xmp", "icc_profile"} & set(one.info)
    assert b"where I live" not in b"".join(map(base64.b64decode, data(tmp_path / "out.html")["thumbs"]["data"]))


def test_a_thumbnail_looks_like_its_photo(run, coffee, tmp_path):
    file = records(tmp_path / "r.jsonl", [{"path": str(coffee), "label": "x"}])
    run("report", file, "-o", tmp_path / "out.html")
    (made,) = inline(tmp_path / "out.html")
    with Image.open(coffee) as photo:
        assert max(photo.size) > 2 * thumbnails.LONGEST  # decoded at a part of its size
        whole = ImageOps.contain(photo.convert("RGB"), (thumbnails.LONGEST, thumbnails.LONGEST))
    assert made.size == whole.size
    assert np.abs(np.asarray(made.convert("RGB"), float) - np.asarray(whole, float)).mean() < 5


def test_what_cannot_be_read_has_none_and_costs_no_other_its_own(run, cat, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    os.mkfifo(tmp_path / "pipe.jpg")
    names = (tmp_path / "text.jpg", cat, tmp_path / "pipe.jpg", tmp_path / "gone.jpg", cat.parent / "coffee.jpg")
    file = records(tmp_path / "r.jsonl", [{"path": str(name), "label": "x"} for name in names])
    done = run("report", file, "-o", tmp_path / "out.html")
    assert done.exit_code == 0
    assert f"1 of 5 images are not there: {tmp_path / 'gone.jpg'}" in done.stderr
    assert [one is not None for one in inline(tmp_path / "out.html")] == [False, True, False, False, True]


def test_limits_of_the_run_hold_for_thumbnails(run, cat, tmp_path):
    file = records(tmp_path / "r.jsonl", [{"path": str(cat), "label": "x"}])
    assert run("report", file, "-o", tmp_path / "out.html", "--max-megapixels", "0.001").exit_code == 0
    assert data(tmp_path / "out.html")["thumbs"] == {"mode": "none"}


@pytest.fixture
def many(tmp_path) -> Path:
    """Records of one image more than a page holds, the first of which cannot be read."""
    folder = tmp_path / "many"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "1.png")
    paths = [folder / f"{number}.png" for number in range(1, thumbnails.INLINE_MOST + 1)]
    for path in paths[1:]:
        path.symlink_to(paths[0])
    some = [{"path": str(path), "label": "x"} for path in paths]
    return records(tmp_path / "many.jsonl", [{"path": "none.png", "label": None, "error": "no such file"}, *some])


def test_thumbnails_of_more_images_are_files_beside_the_page(run, many, cat, tmp_path):
    page, beside = tmp_path / "a page.html", tmp_path / "a page.files"
    assert run("report", many, "-o", page).exit_code == 0
    thumbs = data(page)["thumbs"]
    assert thumbs["mode"] == "files"
    made = tmp_path / thumbs["folder"]
    assert made.parent == beside
    names = sorted(str(file.relative_to(made)) for file in made.rglob("*.webp"))
    assert names == [f"{row // 1000:03}/{row:06}.webp" for row in range(1, thumbnails.INLINE_MOST + 1)]
    with Image.open(made / "002" / "002000.webp") as last:
        assert last.size == (16, 16)

    # A new page takes the place of the old one with its pictures; what others put there stays.
    (beside / "notes.txt").write_text("mine")
    (made / "000" / "notes.txt").write_text("mine")
    assert run("report", many, "-o", page).exit_code == 0
    again = tmp_path / data(page)["thumbs"]["folder"]
    assert again != made
    assert [file.name for file in made.rglob("*") if file.is_file()] == ["notes.txt"]
    assert len([*again.rglob("*.webp")]) == thumbnails.INLINE_MOST
    shutil.rmtree(made)

    few = records(tmp_path / "few.jsonl", [{"path": str(cat), "label": "x"}])
    (beside / "notes.txt").unlink()
    assert run("report", few, "-o", page).exit_code == 0
    assert data(page)["thumbs"]["mode"] == "inline"
    assert not beside.exists()


def test_a_page_that_cannot_be_made_leaves_the_one_before_with_its_pictures(run, many, tmp_path):
    page = tmp_path / "out.html"
    run("report", many, "-o", page)
    before, folder = page.read_bytes(), tmp_path / data(page)["thumbs"]["folder"]
    with many.open("a") as file:
        file.write("[]\n[]\n")
    done = run("report", many, "-o", page)
    assert done.exit_code == 2
    assert f"{many}:{thumbnails.INLINE_MOST + 2}: not a record" in done.stderr
    assert page.read_bytes() == before
    assert len([*folder.rglob("*.webp")]) == thumbnails.INLINE_MOST
    assert [one.name for one in folder.parent.iterdir() if one.is_dir()] == [folder.name]


def test_what_a_killed_run_has_left_goes_with_the_next_page(run, cat, tmp_path):
    beside = tmp_path / "out.files"
    (beside / "0123abcd" / "000").mkdir(parents=True)
    (beside / "0123abcd" / "000" / "000001.webp").touch()
    (beside / thumbnails.MARKER).touch()
    file = records(tmp_path / "r.jsonl", [{"path": str(cat), "label": "x"}])
    assert run("report", file, "-o", tmp_path / "out.html").exit_code == 0
    assert not beside.exists()


def test_a_folder_that_is_not_ours_is_left_alone(run, cat, tmp_path):
    (tmp_path / "out.files").mkdir()
    (tmp_path / "out.files" / "0123abcd").mkdir()
    file = records(tmp_path / "r.jsonl", [{"path": str(cat), "label": "x"}])
    done = run("report", file, "-o", tmp_path / "out.html")
    assert done.exit_code == 1
    assert done.stderr == (
        f"error: {tmp_path}/out.files: thumbnails would go there, and it is not clipzs' own\n"
        "hint: give the page another name\n"
    )
    assert (tmp_path / "out.files" / "0123abcd").is_dir()
    assert not (tmp_path / "out.html").exists()


# What cannot be


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("report", "{}/empty.jsonl", "-o", "{}/out.html"), 1, "{}/empty.jsonl: no results in it"),
        (("report", "{}/gone.jsonl", "-o", "{}/out.html"), 2, "none of its 2 images is there, e.g. {}/gone/0.jpg"),
        (("report", "{}/none.jsonl", "-o", "{}/out.html"), 2, "{}/none.jsonl: cannot be read: No such file"),
        (("report", "{}/gone.jsonl", "-o", "{}/out.jpg"), 2, "-o {}/out.jpg: a page ends in .html"),
        (("report", "{}/r.html", "-o", "{}/r.html"), 2, "-o {}/r.html would overwrite {}/r.html"),
        (("report", "{}/gone.jsonl", "-o", "{}/none/out.html"), 1, "{}/none/out.html: cannot be written: No such file"),
        (("classify", "{}", *LABELS, "--report", "{}/out"), 2, "--report {}/out: a page ends in .html"),
        (
            ("classify", "{}", *TINY, "--labels-file", "{}/r.html", "--report", "{}/r.html"),
            2,
            "{}/r.html: a labels file ends in",
        ),
        (("eval", "{}/truth", *TINY, "--report", "{}/out.png"), 2, "--report {}/out.png: a page ends in .html"),
        (
            ("eval", "{}/truth", *TINY, "--shots", "1", "--report", "{}/out.html"),
            2,
            "--shots compares heads with zero-shot, without --report",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(run, tmp_path, cat, arguments, code, said):
    (tmp_path / "empty.jsonl").touch()
    records(tmp_path / "gone.jsonl", [{"path": f"{tmp_path}/gone/{number}.jpg", "label": "x"} for number in range(2)])
    (tmp_path / "r.html").write_text('{"path": "a", "label": "x"}\n')
    for label in ("cat", "dog"):
        (tmp_path / "truth" / label).mkdir(parents=True)
        shutil.copy(cat, tmp_path / "truth" / label)
    before = sorted(tmp_path.rglob("*"))
    done = run(*(text.replace("{}", str(tmp_path)) for text in arguments))
    assert done.exit_code == code
    assert done.stderr.startswith("error: " + said.replace("{}", str(tmp_path)))
    assert len(done.stderr.splitlines()) <= 2
    cache = tmp_path / "cache"
    assert [path for path in sorted(tmp_path.rglob("*")) if cache not in path.parents] == [
        path for path in before if cache not in path.parents
    ]


# Corrections


@pytest.fixture(params=["jsonl", "csv"])
def corrections(request, photos, tmp_path) -> Path:
    """As the page gives them to be saved: some accepted, some with another label."""
    rows = [
        {
            "path": str(photo),
            "label": "cup of coffee" if "coffee" in str(photo) else "cat",
            "was": "cat",
            "review": "relabelled" if "coffee" in str(photo) else "accepted",
        }
        for photo in sorted(photos.rglob("*.jpg"), reverse=True)
    ]
    file = tmp_path / f"corrections.{request.param}"
    if request.param == "jsonl":
        return records(file, rows)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_corrections_name_labels(run, corrections, cat):
    done = run("classify", cat, "--labels-file", corrections, *TINY, "-f", "json")
    assert (done.exit_code, done.stderr) == (0, "")
    result = json.loads(done.stdout)["results"][0]
    assert sorted(one["label"] for one in result["scores"]) == ["cat", "cup of coffee"]
    listed = run("labels", "check", "--labels-file", corrections, *TINY)
    assert listed.exit_code == 0, listed.output


def test_labels_of_corrections_come_in_the_order_in_which_they_first_appear(corrections):
    from clipzs.labelfiles import read

    assert [label.name for label in read(corrections)] == ["cup of coffee", "cat"]


def test_corrections_are_the_truth(run, corrections):
    done = run("eval", "--truth", corrections, *TINY, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["images"], found["classes"]) == (8, ["cup of coffee", "cat"])


def test_corrections_are_what_a_head_is_fitted_to(run, corrections, tmp_path, cat):
    done = run("fit", "--truth", corrections, *TINY, "--method", "prototypes", "-o", tmp_path / "head.safetensors")
    assert done.exit_code == 0, done.output
    done = run("classify", cat, "--head", tmp_path / "head.safetensors", "-f", "label")
    assert done.stdout == "cat\n"


def test_corrections_tune_labels(run, corrections, tmp_path):
    done = run("tune", "--truth", corrections, *TINY, "-t", "simple", "-o", tmp_path / "tuned.yaml")
    assert done.exit_code == 0, done.output
    assert "cup of coffee" in (tmp_path / "tuned.yaml").read_text()


def test_corrections_are_results(run, corrections, tmp_path):
    assert run("report", corrections, "-o", tmp_path / "out.html").exit_code == 0
    shown = data(tmp_path / "out.html")
    assert [shown["labels"][label] for label in shown["runs"][0]["label"]] == ["cup of coffee"] * 4 + ["cat"] * 4


def test_corrections_sort_images(run, corrections, tmp_path):
    done = run("sort", "--results", corrections, "--to", tmp_path / "sorted")
    assert done.exit_code == 0, done.output
    sorted_ = {str(path.relative_to(tmp_path / "sorted").parent) for path in (tmp_path / "sorted").rglob("*.jpg")}
    assert sorted_ == {"cat", "cup of coffee"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.jsonl", '{"path": "a"}\n', "{}:1: it has neither a label nor an error"),
        ("c.jsonl", '{"path": "a", "label": "x"}\nhello\n', "{}:2: not valid JSON"),
        ("c.csv", "path,label\na,\n", "{}:2: it has neither a label nor an error"),
        ("c.jsonl", "", "{}: no labels in it"),
    ],
)
def test_what_is_wrong_in_them_is_named_by_file_and_line(run, cat, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    done = run("classify", cat, "--labels-file", tmp_path / name, *TINY)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: " + said.format(tmp_path / name))
