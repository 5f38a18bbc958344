"""Results in the formats of other tools, each read back by the tool itself or by a reader of its format."""

import json
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import pytest
from conftest import EXAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from clipzs.exports import FORMATS
from clipzs.exports.common import Settings, xml_text
from clipzs.exports.keywords import Keywords
from clipzs.exports.sidecar import CLIPZS, Sidecar, SidecarError
from clipzs.results import Result, Score
from clipzs.writers import json_text

EXIFTOOL = shutil.which("exiftool")
with_exiftool = pytest.mark.skipif(EXIFTOOL is None, reason="the program exiftool is not installed")

HOSTILE = (
    "plain", "with space", "crème <brûlée> & \"quotes'\"", "]]>", "&amp;", "猫", "👩‍👩‍👧", "שלום\u202e", "a|b", "a, b",
    "-dash", "=1+1", "#[CSTR]$x\\n", "100%", "'; rm", "x" * 100, "true", "1.0",
)  # fmt: skip
TEXTS = st.text(min_size=1, max_size=12).filter(str.strip)  # control characters and lone surrogates among them
quickly = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(EXAMPLES / "cat.jpg", path)
    return path


def answered(path: object, *labels: str, several: bool = False, score: float | None = 0.75, **more: object) -> Result:
    scores = tuple(Score(label, score) for label in labels if score is not None)
    first = labels[0] if labels else "unknown"
    return Result(str(path), first, score if labels else None, scores, labels if several else None, **more)


@pytest.fixture
def export(run, tmp_path):
    """`export("hf", results, "-o", file)` runs the command on these results."""

    def invoke(to, results, *arguments):
        file = tmp_path / "results.jsonl"
        file.write_text("".join(json_text(result.as_json(9)) + "\n" for result in results), encoding="utf-8")
        return run("export", file, "--to", to, *arguments)

    return invoke


def gathered(to: str, results: list[Result], **chosen: object) -> None:
    """What the command does between its options and its closing words."""
    writing = FORMATS[to].make(Settings(**chosen))
    writing.write(results)
    writing.close({})


# Which answers count


RESULTS = [
    answered("a.jpg", "cat", score=0.9, model="m"),
    answered("b.jpg", "dog", score=0.4, model="m"),
    answered("c.jpg", "unknown", score=0.2, model="m"),
    Result("d.jpg", error="no such file", model="m"),
]


def test_the_unknown_label_and_answers_with_too_low_a_score_are_none(export, tmp_path):
    done = export("fiftyone", RESULTS, "-o", tmp_path / "labels.json", "--min-score", "0.5")
    assert done.exit_code == 3
    assert "d.jpg: no such file" in done.stderr
    assert "1 of 4 images could not be read" in done.stderr
    found = json.loads((tmp_path / "labels.json").read_text())
    assert [*found["labels"].values()] == [{"label": "cat", "confidence": 0.9}, None, None]
    assert found["classes"] == ["cat", "dog"]
    done = export("fiftyone", RESULTS, "-o", tmp_path / "labels.json", "--unknown-label", "dog", "-q")
    found = json.loads((tmp_path / "labels.json").read_text())
    assert [one and one["label"] for one in found["labels"].values()] == ["cat", None, "unknown"]


def test_a_correction_behind_the_results_takes_the_place_of_an_answer_whatever_the_least_score(run, tmp_path):
    lines = [*map(json_text, (result.as_json() for result in RESULTS[:2])), '{"path": "b.jpg", "label": "cat"}']
    done = run(
        "export", "-", "--to", "fiftyone", "-o", tmp_path / "labels.json", "--min-score", "0.5",
        input="".join(line + "\n" for line in lines),
    )  # fmt: skip
    assert done.exit_code == 0
    found = json.loads((tmp_path / "labels.json").read_text())["labels"]
    assert found[os.path.abspath("b.jpg")] == {"label": "cat"}


def test_relative_paths_start_at_the_root(export, tmp_path):
    photo(tmp_path / "data" / "a.jpg")
    done = export("hf", RESULTS[:1], "--root", tmp_path / "data", "-o", tmp_path / "data" / "metadata.jsonl")
    assert (done.exit_code, "1 images" in done.stderr) == (0, True)


def test_the_command_offers_every_format():
    from typing import get_args

    from clipzs.cli.export import To

    assert [*get_args(get_args(To)[0])] == [*FORMATS]


# Faults


@pytest.mark.parametrize(
    ("to", "arguments", "said"),
    [
        ("parquet", [], "--to parquet needs the file to write"),
        ("xmp", ["-o", "x"], "--to xmp writes beside the images, and -o names a file"),
        ("parquet", ["-o", "x", "--min-score", "0.5"], "--min-score means nothing to parquet"),
        ("hf", ["-o", "x", "--sidecar-name", "adobe"], "--sidecar-name means nothing to hf"),
        ("hf", ["-o", "meta.jsonl"], "datasets looks for metadata.jsonl"),
        ("cvat", ["-o", "photo.jpg"], "-o photo.jpg would overwrite an image"),
        ("cvat", ["-o", "x", "--label-config", "./x"], "-o and --label-config name one file"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(export, tmp_path, monkeypatch, to, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = export(to, RESULTS, *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert sorted(os.listdir()) == ["cache", "results.jsonl"]


def test_an_option_in_the_environment_is_no_fault_of_a_format_that_has_no_use_for_it(export, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPZS_MIN_SCORE", "0.5")
    assert export("parquet", RESULTS[:2], "-o", tmp_path / "out.parquet").exit_code == 0


@pytest.mark.parametrize("to", ["parquet", "fiftyone", "labelstudio", "cvat"])
def test_nothing_is_written_where_a_record_is_broken_or_the_results_themselves_are_named(run, tmp_path, to):
    file, target = tmp_path / "results.jsonl", tmp_path / "target"
    file.write_text(json_text(RESULTS[0].as_json()) + "\nnonsense\n" + json_text(RESULTS[0].as_json()) + "\n")
    target.write_text("as it was")
    done = run("export", file, "--to", to, "-o", target)
    assert done.exit_code == 2
    assert "results.jsonl:2: not valid JSON" in done.stderr
    assert target.read_text() == "as it was"
    done = run("export", file, "--to", to, "-o", file)
    assert (done.exit_code, "would overwrite" in done.stderr) == (2, True)
    assert sorted(os.listdir(tmp_path)) == ["cache", "results.jsonl", "target"]


def test_the_last_record_of_an_interrupted_run_is_left_out_and_named(run, tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text(json_text(RESULTS[0].as_json()) + "\n" + json_text(RESULTS[1].as_json())[:30])
    done = run("export", file, "--to", "fiftyone", "-o", tmp_path / "labels.json")
    assert (done.exit_code, "the last record is not whole: left out" in done.stderr) == (0, True)
    assert len(json.loads((tmp_path / "labels.json").read_text())["labels"]) == 1


@pytest.mark.parametrize("to", ["parquet", "fiftyone", "xmp"])
def test_results_without_a_record_are_one_line(export, tmp_path, to):
    done = export(to, [], *([] if to == "xmp" else ["-o", tmp_path / "target"]))
    assert done.exit_code == 2
    assert "there are no records in it" in done.stderr
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("to", ["parquet", "fiftyone"])
def test_a_target_that_cannot_be_written_is_one_line(export, tmp_path, to):
    done = export(to, RESULTS, "-o", tmp_path / "none" / "target")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {tmp_path}/none/target: cannot be written: No such file or directory")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("to", ["parquet", "labelstudio"])
def test_a_full_disk_leaves_the_target_as_it_was(process, tmp_path, to):
    import resource

    results = [answered(f"{number:05}.jpg", f"label {number}", config=str(number)) for number in range(3000)]
    (tmp_path / "results.jsonl").write_text("".join(json_text(one.as_json()) + "\n" for one in results))
    target = tmp_path / "target"
    target.write_text("as it was")
    done = process(
        "export", tmp_path / "results.jsonl", "--to", to, "-o", target,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == f"error: {target}: cannot be written: File too large"
    assert target.read_text() == "as it was"
    assert sorted(os.listdir(tmp_path)) == ["cache", "results.jsonl", "target"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stopped_export_writes_nothing(tmp_path):
    records = json_text(answered("a.jpg", "cat").as_json()) + "\n"
    command = [sys.executable, "-m", "clipzs", "export", "-", "--to", "parquet", "-o", str(tmp_path / "out.parquet")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdin
        assert running.stderr
        running.stdin.write(records)
        running.stdin.flush()
        wait_until_reading(running.pid)
        running.send_signal(signal.SIGINT)
        running.wait(60)
        said = running.stderr.read()
    assert running.returncode == 130
    assert "nothing was written" in said
    assert not (tmp_path / "out.parquet").exists()


def wait_until_reading(process: int) -> None:
    """Until the process has taken what is in its standard input, so that it handles signals by then."""
    import time

    for _ in range(600):
        waits = Path(f"/proc/{process}/wchan")
        handled = Path(f"/proc/{process}/status").read_text().split("SigCgt:")[1].split()[0]
        if int(handled, 16) & 1 << (signal.SIGTERM - 1) and waits.exists():  # Python alone handles SIGINT only
            return
        time.sleep(0.05)
    pytest.fail("the export did not begin")


@pytest.mark.parametrize("to", ["hf", "labelstudio", "fiftyone", "cvat", "xmp", "iptc"])
def test_a_path_that_no_file_can_have_is_left_out_and_named(export, tmp_path, to):
    if to == "iptc" and EXIFTOOL is None:
        pytest.skip("the program exiftool is not installed")
    target = [] if to in ("xmp", "iptc") else ["-o", tmp_path / "metadata.jsonl"]
    base = ["--base", tmp_path] if to in ("cvat", "labelstudio") else []
    paths = [photo(tmp_path / "a.jpg"), f"{tmp_path}/\ud800.jpg", f"{tmp_path}/\0.jpg"]
    done = export(to, [answered(path, "cat") for path in paths], *target, *base)
    assert done.exit_code == 3
    assert f"{tmp_path}/\\ud800.jpg: no file can have this name" in done.stderr
    assert f"{tmp_path}/\\x00.jpg: no file can have this name" in done.stderr


def test_an_empty_label_is_no_answer(export, tmp_path):
    done = export("labelstudio", [answered("a.jpg", " "), answered("b.jpg", "cat")], "-o", tmp_path / "tasks.json")
    assert [len(task.get("predictions", [])) for task in json.loads((tmp_path / "tasks.json").read_text())] == [0, 1]
    assert [one.get("value") for one in ElementTree.fromstring(done.stdout).iter("Choice")] == ["cat"]


# Parquet


def test_a_parquet_table_holds_every_record_as_pyarrow_pandas_and_datasets_read_it(export, tmp_path, monkeypatch):
    import datasets
    import pandas
    from pyarrow import parquet

    target = tmp_path / "out.parquet"
    several = answered("e.jpg", "cat", "dog", several=True, truth="dog")
    rolled = answered("f.jpg", "cat", groups=(Score("animal", 0.97), Score("thing", 0.99)))
    done = export("parquet", [*RESULTS, several, rolled], "-o", target)
    assert done.exit_code == 3
    assert "6 rows" in done.stderr
    rows = parquet.read_table(target).to_pylist()
    assert rows[0] == {
        "path": "a.jpg", "label": "cat", "score": 0.9, "labels": None, "groups": None,
        "scores": [{"label": "cat", "score": 0.9}], "error": None, "model": "m", "config": "", "truth": None,
        "templates": None,
    }  # fmt: skip
    assert (rows[3]["label"], rows[3]["error"]) == (None, "no such file")
    assert (rows[4]["labels"], rows[4]["truth"]) == (["cat", "dog"], "dog")
    assert [group["label"] for group in rows[5]["groups"]] == ["animal", "thing"]
    assert pandas.read_parquet(target).label.fillna("").tolist() == ["cat", "dog", "unknown", "", "cat", "cat"]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    loaded = datasets.Dataset.from_parquet(str(target), cache_dir=str(tmp_path / "hub"))
    assert loaded.to_list() == rows


@quickly
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_any_text_goes_through_parquet(tmp_path, texts):
    from pyarrow import parquet

    gathered("parquet", [answered(path, label) for path, label in texts], target=tmp_path / "out.parquet")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for row, (path, label) in zip(rows, texts, strict=True):
        assert row["path"] == path or any("\ud800" <= letter <= "\udfff" for letter in path)
        assert row["label"] == row["scores"][0]["label"]
        assert row["label"] == label or "\\" in row["label"]


def test_bytes_of_a_name_that_are_not_utf_8_are_escapes_in_a_parquet_table(export, tmp_path):
    from pyarrow import parquet

    export("parquet", [answered(os.fsdecode(b"caf\xe9.jpg"), "cat")], "-o", tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet")["path"].to_pylist() == ["caf\\xe9.jpg"]


def test_a_long_table_is_written_in_row_groups(tmp_path):
    from pyarrow import parquet

    writing = FORMATS["parquet"].make(Settings(target=tmp_path / "out.parquet"))
    for start in range(0, 70_000, 700):
        writing.write([answered(str(number), "cat") for number in range(start, start + 700)])
    assert writing.summary() == f"65,100 rows in {tmp_path / 'out.parquet'}"  # are out of memory before the end
    writing.close({})
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [65_100, 4_900]
    assert file.read()["path"].to_pylist() == [*map(str, range(70_000))]


def test_parquet_takes_the_place_of_no_device(export):
    done = export("parquet", RESULTS, "-o", os.devnull)
    assert (done.exit_code, "not an ordinary file" in done.stderr) == (1, True)
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(("to", "extra"), [("parquet", "pyarrow"), ("xmp", "lxml")])
def test_a_package_that_is_missing_is_named_with_its_extra(export, tmp_path, monkeypatch, to, extra):
    monkeypatch.setitem(sys.modules, extra, None)
    done = export(to, RESULTS, *(["-o", tmp_path / "x"] if to == "parquet" else []))
    assert done.exit_code == 2
    assert f"pip install 'clipzs[{to}]'" in done.stderr


# Hugging Face


@pytest.fixture
def imagefolder(tmp_path, monkeypatch):
    """Load a folder as users do, without a network or a cache of others."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    return lambda folder: datasets.load_dataset(
        "imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "datasets")
    )["train"]


def test_datasets_loads_a_folder_of_images_with_their_labels(export, imagefolder, tmp_path):
    folder = tmp_path / "data"
    names = ["a.jpg", "süß/Ä #1?.jpg", "100%25.jpg", "new\nline.jpg", "🐈.jpg", "[b]*{c}.jpg", "none.jpg"]
    results = [answered(photo(folder / name), label) for name, label in zip(names, HOSTILE, strict=False)]
    results[-1] = answered(folder / "none.jpg")
    photo(folder / "not classified.jpg")
    done = export("hf", results, "-o", folder / "metadata.jsonl")
    assert done.exit_code == 0
    loaded = imagefolder(folder)
    assert {os.path.relpath(row["image"].filename, folder): row["label"] for row in loaded} == {
        **dict(zip(names[:-1], HOSTILE, strict=False)),
        "none.jpg": None,
    }
    assert {row["score"] for row in loaded} == {0.75, None}


def test_datasets_loads_several_labels_of_an_image(export, imagefolder, tmp_path):
    folder = tmp_path / "data"
    results = [
        answered(photo(folder / "a.jpg"), "cat", "dog", several=True),
        answered(photo(folder / "b.jpg"), several=True),
    ]
    assert export("hf", results, "-o", folder / "metadata.jsonl").exit_code == 0
    assert sorted((row["labels"], row["label"]) for row in imagefolder(folder).remove_columns("image")) == [
        ([], None),
        (["cat", "dog"], "cat"),
    ]


def test_images_that_a_folder_has_not_are_left_out_and_named(export, tmp_path):
    inside, outside = photo(tmp_path / "data" / "a.jpg"), photo(tmp_path / "b.jpg")
    gone, strange = tmp_path / "data" / "gone.jpg", os.path.join(tmp_path, "data", os.fsdecode(b"\xff.jpg"))
    results = [answered(path, "cat") for path in (inside, outside, gone, strange)]
    target = tmp_path / "data" / "metadata.jsonl"
    done = export("hf", results, "-o", target)
    assert done.exit_code == 3
    assert f"{outside}: outside {tmp_path}/data" in done.stderr
    assert "gone.jpg: no such file" in done.stderr
    assert "\\xff.jpg: its name is not UTF-8" in done.stderr
    assert "3 of 4 images were left out" in done.stderr
    assert [json.loads(line)["file_name"] for line in target.read_text().splitlines()] == ["a.jpg"]
    before = target.read_bytes()
    done = export("hf", results[1:], "-o", target)
    assert (done.exit_code, "nothing to export" in done.stderr) == (1, True)
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    "content", ['{"file_name": "a.jpg", "text": "a cat"}\n', '{"file_name": "a.jpg", "label": "cat"}\n', "torn"]
)
def test_metadata_of_someone_else_are_not_overwritten(export, tmp_path, content):
    target = tmp_path / "data" / "metadata.jsonl"
    image = photo(tmp_path / "data" / "a.jpg")
    target.write_text(content)
    done = export("hf", [answered(image, "dog")], "-o", target)
    assert (done.exit_code, "holds metadata that an export did not write" in done.stderr) == (2, True)
    assert target.read_text() == content
    target.write_text("")
    assert export("hf", [answered(image, "dog")], "-o", target).exit_code == 0
    assert export("hf", [answered(image, "cat", "dog", several=True)], "-o", target).exit_code == 0
    assert export("hf", [answered(image, "cow")], "-o", target).exit_code == 0
    assert json.loads(target.read_text())["label"] == "cow"


# Label Studio


def test_label_studio_gets_tasks_with_predictions_and_the_configuration_for_them(export, tmp_path):
    target = tmp_path / "tasks.json"
    done = export(
        "labelstudio", [*RESULTS, answered("a.jpg", "dog", model="n", config="c")], "-o", target,
        "--from-name", "what", "--to-name", "photo", "--url-prefix", "https://host/", "--min-score", "0.5",
    )  # fmt: skip
    tasks = json.loads(target.read_text())
    assert [task["data"] for task in tasks] == [{"photo": f"https://host/{name}.jpg"} for name in "abc"]
    region = {"from_name": "what", "to_name": "photo", "type": "choices"}
    assert tasks[0]["predictions"] == [
        {"model_version": "m", "score": 0.9, "result": [region | {"value": {"choices": ["cat"]}}]},
        {"model_version": "n (c)", "score": 0.75, "result": [region | {"value": {"choices": ["dog"]}}]},
    ]
    assert ["predictions" in task for task in tasks] == [True, False, False]
    correction = Result("a.jpg", "cow")
    export("labelstudio", [*RESULTS, correction], "-o", target, "--label-config", tmp_path / "config.xml")
    assert [one["result"][0]["value"] for one in json.loads(target.read_text())[0]["predictions"]] == [
        {"choices": ["cow"]}
    ]
    config = ElementTree.fromstring(done.stdout)
    assert config.find("Image").attrib == {"name": "photo", "value": "$photo"}
    assert config.find("Choices").attrib == {"name": "what", "toName": "photo", "choice": "single"}
    assert [choice.get("value") for choice in config.iter("Choice")] == ["cat", "dog"]


def test_several_answers_are_one_prediction_and_a_configuration_that_allows_them(export, tmp_path):
    target, config = tmp_path / "tasks.json", tmp_path / "config.xml"
    results = [answered("a.jpg", "cat", "dog", several=True), answered("b.jpg", "cow", score=-0.2)]
    done = export("labelstudio", results, "-o", target, "--label-config", config)
    assert done.stdout == ""
    assert ElementTree.fromstring(config.read_text()).find("Choices").get("choice") == "multiple"
    first, cosine = (task["predictions"][0] for task in json.loads(target.read_text()))
    assert first["result"][0]["value"]["choices"] == ["cat", "dog"]
    assert "score" not in cosine


@quickly
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_any_text_goes_through_label_studio(tmp_path, texts):
    # no path: "..", "a/../b" and the like are other names of the same
    results = [
        answered(tmp_path / f"{name.encode('utf-8', 'surrogatepass').hex()}.jpg", label) for name, label in texts
    ]
    files = {"target": tmp_path / "tasks.json", "label_config": tmp_path / "config.xml"}
    gathered("labelstudio", results, **files, base=tmp_path, from_name="a", to_name="b")
    choices = {one.get("value") for one in ElementTree.parse(tmp_path / "config.xml").iter("Choice")}
    for task in json.loads((tmp_path / "tasks.json").read_text()):
        assert {*task["predictions"][0]["result"][0]["value"]["choices"]} <= choices


def test_the_url_of_an_image_is_its_name_byte_for_byte(tmp_path):
    names = [b"a b.jpg", b"100%25.jpg", b"q?x=1#y&z.jpg", "süß/猫.jpg".encode(), b"new\nline.jpg", b"caf\xe9.jpg"]
    results = [answered(os.path.join(tmp_path, os.fsdecode(name)), "cat") for name in names]
    files = {"target": tmp_path / "tasks.json", "label_config": tmp_path / "config.xml"}
    gathered("labelstudio", results, **files, base=tmp_path, from_name="a", to_name="b")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [unquote_to_bytes(task["data"]["b"]) for task in tasks] == names


# FiftyOne


def test_fiftyone_gets_lists_where_any_image_has_several_answers(export, tmp_path):
    results = [answered("a.jpg", "cat", "dog", several=True), answered("b.jpg", several=True), answered("c.jpg", "cow")]
    export("fiftyone", results, "-o", tmp_path / "labels.json")
    assert [*json.loads((tmp_path / "labels.json").read_text())["labels"].items()] == [
        (os.path.abspath("a.jpg"), [{"label": "cat", "confidence": 0.75}, {"label": "dog", "confidence": 0.75}]),
        (os.path.abspath("b.jpg"), None),
        (os.path.abspath("c.jpg"), [{"label": "cow", "confidence": 0.75}]),
    ]


@quickly
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_any_label_goes_through_fiftyone(tmp_path, labels):
    gathered("fiftyone", [answered(f"{n}.jpg", one) for n, one in enumerate(labels)], target=tmp_path / "labels.json")
    found = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    (tmp_path / "labels.json").read_text("utf-8").encode()
    assert {one["label"] for one in found["labels"].values() if one} <= {*found["classes"]}
    for one, label in zip(found["labels"].values(), labels, strict=True):
        assert one is None if label == "unknown" else one["label"] == label or "\\" in one["label"]


# CVAT


def test_cvat_gets_a_tag_for_each_answer_and_the_definition_of_the_labels(export, tmp_path):
    image = photo(tmp_path / "data" / "sub" / "a.jpg")
    results = [answered(image, "cat", "dog", several=True), answered(tmp_path / "data" / "none.jpg")]
    done = export("cvat", [*results, answered("/b.jpg", "x")], "-o", tmp_path / "a.xml", "--base", tmp_path / "data")
    assert done.exit_code == 3
    assert f"/b.jpg: outside {tmp_path}/data" in done.stderr
    document = ElementTree.parse(tmp_path / "a.xml")
    assert document.findtext("version") == "1.1"
    first, second = document.findall("image")
    assert first.attrib == {"id": "1000000000", "name": "sub/a.jpg", "width": "451", "height": "300"}
    assert [tag.attrib for tag in first] == [{"label": "cat", "source": "auto"}, {"label": "dog", "source": "auto"}]
    assert (second.attrib, [*second]) == ({"id": "1000000001", "name": "none.jpg"}, [])
    assert json.loads(done.stdout) == [{"name": name, "type": "tag", "attributes": []} for name in ("cat", "dog")]


@quickly
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_any_label_goes_through_cvat(tmp_path, labels):
    results = [answered(tmp_path / f"{number}.jpg", label) for number, label in enumerate(labels)]
    gathered("cvat", results, target=tmp_path / "a.xml", label_config=tmp_path / "l.json", base=tmp_path)
    document = ElementTree.parse(tmp_path / "a.xml")
    found = [[tag.get("label") for tag in image] for image in document.iter("image")]
    assert found == [[] if label == "unknown" else [xml_text(label)] for label in labels]
    assert {label for tags in found for label in tags} <= {name.text for name in document.iter("name")}


def test_a_name_that_xml_cannot_hold_is_left_out_of_cvat(export, tmp_path):
    done = export("cvat", [answered("a\x01.jpg", "cat"), answered("a\n<&>\"'.jpg", "cat")], "-o", tmp_path / "a.xml")
    assert done.exit_code == 3
    assert "a\\x01.jpg: XML cannot hold its name" in done.stderr
    assert [image.get("name") for image in ElementTree.parse(tmp_path / "a.xml").iter("image")] == ["a\n<&>\"'.jpg"]


# XMP

FOREIGN = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<!-- of another program -->
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"
    xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:darktable="http://darktable.sf.net/" darktable:import="-1">
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default"><![CDATA[a <b> & c]]></rdf:li></rdf:Alt></dc:title>
   <darktable:history><rdf:Seq>
     <rdf:li darktable:num="0" darktable:operation="colorin" darktable:params="gz09eJzj"/>
   </rdf:Seq></darktable:history>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>holiday</rdf:li>
     <rdf:li>dog</rdf:li>
    </rdf:Bag>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
SUBJECT = "{http://purl.org/dc/elements/1.1/}subject"
LEVELS = "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject"
ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
DESCRIPTION = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"


def items(content: bytes, name: str = SUBJECT) -> list[str]:
    root = etree.fromstring(content)
    return [item.text or "" for one in root.iter(name) for item in one.iter(ITEM)]


def foreign_part(content: bytes, ours: set[str]) -> bytes:
    """The canonical form of a document without what is ours, and without white space between elements."""
    tree = etree.fromstring(content, etree.XMLParser(remove_blank_text=True)).getroottree()
    for one in [*tree.iter(f"{{{CLIPZS}}}*")]:
        one.getparent().remove(one)
    for item in [item for item in tree.iter(ITEM) if item.getparent().getparent().tag in (SUBJECT, LEVELS)]:
        if item.text in ours:
            item.getparent().remove(item)
    for description in [*tree.iter(DESCRIPTION)]:
        if not len(description) and {*description.attrib.keys()} == {DESCRIPTION.replace("Description", "about")}:
            description.getparent().remove(description)
    etree.cleanup_namespaces(tree, keep_ns_prefixes=["xmp", "dc", "darktable"])
    return etree.tostring(tree, method="c14n")


def test_keywords_go_into_a_new_sidecar_and_exiftool_reads_them(export, tmp_path):
    results = [answered(photo(tmp_path / f"{number}.jpg"), label) for number, label in enumerate(HOSTILE)]
    done = export("xmp", [*results, answered(photo(tmp_path / "none.jpg"))])
    assert done.exit_code == 0
    assert f"{len(HOSTILE)} sidecars written, 1 need no change" in done.stderr
    assert not (tmp_path / "none.jpg.xmp").exists()
    assert [items((tmp_path / f"{number}.jpg.xmp").read_bytes()) for number in range(len(HOSTILE))] == [
        [label] for label in HOSTILE
    ]
    if EXIFTOOL:
        files = [tmp_path / f"{number}.jpg.xmp" for number in range(len(HOSTILE))]
        assert [entry["Subject"] for entry in read_by_exiftool("-XMP-dc:Subject", *files)] == [*HOSTILE]


def read_by_exiftool(*arguments: object) -> list[dict[str, object]]:
    command = [EXIFTOOL, "-config", "", "-j", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8", errors="replace")
    return [_texts(entry) for entry in json.loads(done.stdout, parse_float=str, parse_int=str)]


def _texts(value: object) -> object:
    """The keywords "true" and "false" as what they are."""
    if isinstance(value, dict):
        return {key: _texts(one) for key, one in value.items()}
    if isinstance(value, list):
        return [*map(_texts, value)]
    return str(value).lower() if isinstance(value, bool) else value


def test_groups_are_levels_of_a_hierarchy(export, tmp_path):
    groups = (Score("dog", 0.8), Score("animal | being", 0.9), Score("other", 0.3))
    labelled, rolled = photo(tmp_path / "a.jpg"), photo(tmp_path / "b.jpg")
    unsure = Result(str(rolled), "dog", 0.8, (Score("poodle", 0.4),), groups=groups)
    assert export("xmp", [answered(labelled, "poodle", groups=groups), unsure]).exit_code == 0
    content = (tmp_path / "a.jpg.xmp").read_bytes()
    assert items(content) == ["animal | being", "dog", "poodle"]
    assert items(content, LEVELS) == ["animal / being|dog|poodle"]
    assert items((tmp_path / "b.jpg.xmp").read_bytes(), LEVELS) == ["animal / being|dog"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_foreign_sidecar_keeps_all_that_it_says(export, tmp_path, encoding):
    image, sidecar = photo(tmp_path / "a.jpg"), tmp_path / "a.jpg.xmp"
    sidecar.write_bytes(FOREIGN.encode(encoding))
    assert export("xmp", [answered(image, "cat")]).exit_code == 0
    assert items(sidecar.read_bytes()) == ["holiday", "dog", "cat"]
    assert foreign_part(sidecar.read_bytes(), {"cat"}) == foreign_part(FOREIGN.encode(), set())
    assert b"<![CDATA[" in sidecar.read_bytes()
    # The next answer takes the place of ours; what is someone else's stays, also where we answer the same.
    export("xmp", [answered(image, "dog")])
    assert items(sidecar.read_bytes()) == ["holiday", "dog"]
    export("xmp", [answered(image)])
    assert items(sidecar.read_bytes()) == ["holiday", "dog"]
    assert foreign_part(sidecar.read_bytes(), set()) == foreign_part(FOREIGN.encode(), set())


def test_a_second_export_touches_nothing(export, tmp_path):
    image, sidecar = photo(tmp_path / "a.jpg"), tmp_path / "a.jpg.xmp"
    sidecar.write_text(FOREIGN)
    results = [answered(image, "cat", groups=(Score("animal", 0.9),))]
    export("xmp", results)
    before = sidecar.read_bytes(), sidecar.stat()
    done = export("xmp", results)
    assert "0 sidecars written, 1 need no change" in done.stderr
    assert (sidecar.read_bytes(), sidecar.stat()) == before


@with_exiftool
def test_what_another_program_made_of_our_sidecar_is_ours_nevertheless(export, tmp_path):
    image, sidecar = photo(tmp_path / "a.jpg"), tmp_path / "a.jpg.xmp"
    export("xmp", [answered(image, "cat", groups=(Score("animal", 0.9),))])
    change(sidecar, "-XMP:Rating=3", "-XMP-dc:Subject+=holiday")
    assert export("xmp", [answered(image, "dog")]).exit_code == 0
    assert items(sidecar.read_bytes()) == ["holiday", "dog"]
    assert items(sidecar.read_bytes(), LEVELS) == []
    assert read_by_exiftool("-Rating", sidecar)[0]["Rating"] == "3"


KEYWORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e f", "ü&<"]), unique=True, max_size=4)


@quickly
@given(KEYWORDS, KEYWORDS, KEYWORDS)
def test_after_any_two_exports_there_is_what_others_said_and_what_the_last_one_says(foreign, first, second):
    empty = FOREIGN.replace("<rdf:li>holiday</rdf:li>", "").replace("<rdf:li>dog</rdf:li>", "")
    bag = "".join(f"<rdf:li>{word.replace('&', '&amp;').replace('<', '&lt;')}</rdf:li>" for word in foreign)
    content = empty.replace("<rdf:Bag>", f"<rdf:Bag>{bag}").encode()
    for words in (first, second):
        sidecar = Sidecar(content)
        sidecar.update(Keywords((*words,)))
        content = sidecar.serialised()
    assert items(content)[: len(foreign)] == foreign
    assert sorted(items(content)) == sorted({*foreign, *second})
    assert Sidecar(content).update(Keywords((*second,))) == []


@quickly
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_any_label_goes_through_a_sidecar(labels):
    from clipzs.exports.keywords import keywords

    wanted = keywords(answered("a.jpg", *labels, several=True), Settings(unknown="\0"))
    sidecar = Sidecar(None)
    sidecar.update(wanted)
    assert items(sidecar.serialised()) == [*wanted.flat]
    assert {*wanted.flat} == {" ".join(xml_text(label).split()) for label in labels} - {""}


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>'
ODD = {
    "torn": FOREIGN[:500],
    "empty": "",
    "something else": "<html><body/></html>",
    "binary": "\x00\x01\xff",
    "a document type": FOREIGN.replace("<!-- of another program -->", BOMB).replace("holiday", "&b;"),
    "a keyword that is no list": FOREIGN.replace("<rdf:Bag>", "").replace("</rdf:Bag>", ""),
    "an attribute": FOREIGN.replace('xmp:Rating="4"', 'dc:subject="x"'),
    "two lists": FOREIGN.replace("<dc:title>", "<dc:subject><rdf:Bag/></dc:subject><dc:title>"),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_a_foreign_sidecar_that_is_not_as_it_should_be_is_left_alone_and_named(export, tmp_path, content):
    odd, image = photo(tmp_path / "odd.jpg"), photo(tmp_path / "a.jpg")
    (tmp_path / "odd.jpg.xmp").write_text(content, encoding="utf-8")
    done = export("xmp", [answered(odd, "cat"), answered(image, "cat")])
    assert done.exit_code == 3
    assert "odd.jpg.xmp: left alone: " in done.stderr
    assert len(done.stderr.splitlines()) == 3
    assert (tmp_path / "odd.jpg.xmp").read_text(encoding="utf-8") == content
    assert (tmp_path / "a.jpg.xmp").exists()


def test_a_document_type_that_points_elsewhere_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    document = FOREIGN.replace("<!-- of another program -->", f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]>')
    with pytest.raises(SidecarError, match="document type"):
        Sidecar(document.replace("holiday", "&e;").encode())


def test_a_dry_run_says_what_would_be_changed_and_changes_nothing(export, tmp_path):
    image, sidecar = photo(tmp_path / "a.jpg"), tmp_path / "a.jpg.xmp"
    sidecar.write_text(FOREIGN)
    export("xmp", [answered(image, "cat")])
    before = sidecar.read_bytes()
    done = export("xmp", [answered(image, "cow"), answered(photo(tmp_path / "b.jpg"), "a\tb")], "--dry-run")
    assert done.stdout.splitlines() == [f"{sidecar}\t-\tcat", f"{sidecar}\t+\tcow", f"{tmp_path}/b.jpg.xmp\t+\ta b"]
    assert "2 sidecars would be written" in done.stderr
    assert sidecar.read_bytes() == before
    assert not (tmp_path / "b.jpg.xmp").exists()


def test_images_that_share_a_sidecar_share_its_keywords(export, tmp_path):
    results = [answered(photo(tmp_path / "a.jpg"), "cat"), answered(photo(tmp_path / "a.png"), "dog")]
    assert export("xmp", results, "--sidecar-name", "adobe").exit_code == 0
    assert items((tmp_path / "a.xmp").read_bytes()) == ["cat", "dog"]
    assert not (tmp_path / "a.jpg.xmp").exists()


def test_a_sidecar_that_cannot_be_is_named_and_the_others_are_written(export, tmp_path):
    first, second, gone = photo(tmp_path / "a.jpg"), photo(tmp_path / "b.jpg"), tmp_path / "gone.jpg"
    (tmp_path / "a.jpg.xmp").mkdir()
    done = export("xmp", [answered(path, "cat") for path in (first, second, gone)])
    assert done.exit_code == 3
    assert "a.jpg.xmp: left alone: not an ordinary file" in done.stderr
    assert "gone.jpg: no such file" in done.stderr
    assert items((tmp_path / "b.jpg.xmp").read_bytes()) == ["cat"]


# IPTC


def iptc(path: Path, *arguments: str) -> dict[str, object]:
    return read_by_exiftool("-IPTC:all", *arguments, path)[0]


def words(path: Path) -> list[str]:
    found = iptc(path).get("Keywords", [])
    return found if isinstance(found, list) else [found]


def change(path: Path, *arguments: str) -> None:
    command = [EXIFTOOL, "-config", "", "-q", "-overwrite_original", *arguments, str(path)]
    subprocess.run(command, check=True, capture_output=True)


@with_exiftool
def test_image_files_are_changed_only_when_that_is_wished_and_are_kept_beside(export, tmp_path):
    image = photo(tmp_path / "a.jpg")
    before = image.read_bytes()
    for arguments in ([], ["--yes", "--dry-run"]):
        done = export("iptc", [answered(image, "cat")], *arguments)
        assert (done.exit_code, done.stdout) == (0, f"{image}\t+\tcat\n")
        assert "1 images would be changed" in done.stderr
    assert image.read_bytes() == before
    assert export("iptc", [answered(image, "cat")], "--yes").exit_code == 0
    assert words(image) == ["cat"]
    assert (tmp_path / "a.jpg_original").read_bytes() == before
    other = photo(tmp_path / "b.jpg")
    assert export("iptc", [answered(other, "cat")], "--yes", "--no-backup").exit_code == 0
    assert words(other) == ["cat"]
    assert not (tmp_path / "b.jpg_original").exists()


@with_exiftool
def test_a_second_export_changes_no_image(export, tmp_path):
    image = photo(tmp_path / "a.jpg")
    change(image, "-IPTC:Keywords+=Dog", "-IPTC:Keywords+=1.0", "-IPTC:Keywords+=True")
    results = [answered(image, "cat", "dog", "1.0", "true", several=True)]
    export("iptc", results, "--yes")
    before = image.read_bytes(), image.stat().st_mtime_ns
    done = export("iptc", results, "--yes")
    assert "0 images changed, 1 need no change" in done.stderr
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before
    assert len(words(image)) == 4


@with_exiftool
def test_hostile_names_and_keywords_go_through_exiftool(export, tmp_path):
    names = ["-dash.jpg", "new\nline.jpg", "@at $(touch x).jpg", " space .jpg", "#[CSTR].jpg", "süß/猫.jpg"]
    names += [os.fsdecode(b"\xff.jpg"), "pipe.jpg|"]
    images = [photo(Path(os.path.join(tmp_path, "data", name))) for name in names]
    wanted = [*(word for word in HOSTILE if len(word) <= 64), "two\nlines", "control\x01"]
    results = [answered(image, *wanted, several=True) for image in images]
    results.append(answered(photo(tmp_path / "data" / "long.jpg"), "ü" * 33))
    done = export("iptc", results, "--yes")
    assert done.exit_code == 3
    assert "long.jpg: IPTC keywords have 64 bytes at most" in done.stderr
    assert "pipe.jpg|: old versions of exiftool run" in done.stderr
    assert "7 images changed" in done.stderr
    expected = [" ".join(xml_text(word).split()) for word in wanted]
    assert [[*map(str.lower, words(image))] for image in images[:-1]] == [[*map(str.lower, expected)]] * 7
    assert words(images[-1]) == []


@with_exiftool
@pytest.mark.parametrize(
    ("words_there", "label", "charset"),
    [(["Käse"], "cat", None), (["Käse"], "Öl", None), (["Käse"], "猫", "UTF8"), ([], "猫", "UTF8")],
)
def test_what_iptc_says_already_stays_whatever_letters_it_is_in(export, tmp_path, words_there, label, charset):
    image = photo(tmp_path / "a.jpg")
    change(image, "-EXIF:Artist=someone", "-XMP-dc:Title=a title")
    if words_there:
        change(image, "-IPTC:Caption-Abstract=Größe", *(f"-IPTC:Keywords+={word}" for word in words_there))
    assert export("iptc", [answered(image, label)], "--yes").exit_code == 0
    found = iptc(image, "-Artist", "-Title")
    assert words(image) == [*words_there, label]
    assert found.get("Caption-Abstract") == ("Größe" if words_there else None)
    assert (found["Artist"], found["Title"], found.get("CodedCharacterSet")) == ("someone", "a title", charset)


@with_exiftool
def test_files_that_cannot_hold_keywords_are_named_and_stay_as_they_are(export, tmp_path):
    from PIL import Image

    good, webp, junk, gone = photo(tmp_path / "a.jpg"), tmp_path / "b.webp", tmp_path / "c.jpg", tmp_path / "gone.jpg"
    Image.open(good).save(webp)
    junk.write_text("junk")
    before = webp.read_bytes()
    done = export("iptc", [answered(path, "cat") for path in (junk, webp, good, gone)], "--yes")
    assert done.exit_code == 3
    assert "b.webp: exiftool cannot write IPTC keywords into such a file" in done.stderr
    assert "c.jpg: " in done.stderr
    assert "gone.jpg: no such file" in done.stderr
    assert (webp.read_bytes(), junk.read_text(), words(good)) == (before, "junk", ["cat"])


@with_exiftool
def test_a_link_stays_a_link_and_what_it_leads_to_is_changed(export, tmp_path):
    image, link = photo(tmp_path / "data" / "a.jpg"), tmp_path / "link.jpg"
    link.symlink_to(image)
    assert export("iptc", [answered(link, "cat")], "--yes").exit_code == 0
    assert link.is_symlink()
    assert words(image) == ["cat"]


def test_where_exiftool_is_missing_one_line_says_so(export, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = export("iptc", [answered(photo(tmp_path / "a.jpg"), "cat")])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: IPTC keywords need the program exiftool, which is not on the PATH\nhint: ")


# From the command that makes results


@pytest.mark.parametrize("to", ["parquet", "fiftyone", "cvat", "labelstudio", "hf"])
def test_what_classify_writes_is_exported(run, tmp_path, to):
    image = photo(tmp_path / "a.jpg")
    run("classify", image, "--labels", "cat,coffee", "--model", "tiny", "-o", tmp_path / "r.jsonl")
    target = tmp_path / ("metadata.jsonl" if to == "hf" else "target")
    base = ["--base", tmp_path] if to in ("cvat", "labelstudio") else []
    done = run("export", tmp_path / "r.jsonl", "--to", to, "-o", target, *base)
    assert done.exit_code == 0
    assert b"cat" in target.read_bytes()


def test_names_that_differ_only_in_how_letters_are_composed_are_two_images(export, tmp_path):
    names = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    export("fiftyone", [answered(name, "cat") for name in names], "-o", tmp_path / "labels.json")
    assert len(json.loads((tmp_path / "labels.json").read_text())["labels"]) == 2
