"""`clipzs eval`: labelled photos in; figures, predictions and pictures out."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score
from terminals import shown_on_terminal

from clipzs import Classifier
from clipzs.evaluation import OVERALL, evaluate
from clipzs.truth import from_folder

EXAMPLES = Path(__file__).parent.parent / "examples"
CLASSES = {"cat": "cat", "cup_of_coffee": "coffee", "man": "photographer", "rocket": "rocket"}


def turned(name: str, angle: int) -> Image.Image:
    return ImageOps.contain(Image.open(EXAMPLES / f"{name}.jpg"), (160, 160)).rotate(angle, fillcolor="white")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of three photos each, some so turned that the embedded model errs; not to be changed."""
    folder = tmp_path_factory.mktemp("labelled")
    for label, name in CLASSES.items():
        (folder / label).mkdir()
        for angle in (0, 90, 150):
            turned(name, angle).save(folder / label / f"{angle}.jpg")
    return folder


@pytest.fixture
def own(photos, tmp_path) -> Path:
    """A copy of them."""
    return shutil.copytree(photos, tmp_path / "own")


@pytest.fixture
def measured(run):
    """`measured(folder, ...)`: the JSON document."""

    def measure(*args: object, code: int = 0) -> dict:
        result = run("eval", *args, "--model", "tiny", "--json")
        assert result.exit_code == code, result.stderr
        return json.loads(result.stdout)

    return measure


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def values(document: dict, cell: int = 0) -> dict[str, float]:
    return {name: document["cells"][cell]["figures"][name]["value"] for name in OVERALL}


def test_the_figures_are_those_of_the_saved_predictions(measured, photos, tmp_path):
    document = measured(photos, "--save", tmp_path / "p.jsonl")
    saved = records(tmp_path / "p.jsonl")
    truth, answers = [one["truth"] for one in saved], [one["label"] for one in saved]
    assert truth == [name.replace("_", " ") for name in CLASSES for _ in range(3)]
    cell = document["cells"][0]
    found = values(document)
    assert 0.25 < found["top1"] < 1
    assert found["top1"] == pytest.approx(accuracy_score(truth, answers), abs=1e-5)
    losses = [-np.log(score["score"]) for one in saved for score in one["scores"] if score["label"] == one["truth"]]
    assert found["nll"] == pytest.approx(np.mean(losses), rel=0.01)
    labels = cell["confusion"]["labels"]
    assert cell["confusion"]["images"] == confusion_matrix(truth, answers, labels=labels).tolist()
    for name, theirs in (("precision", precision_score), ("recall", recall_score)):
        ours = [one[name]["value"] for one in cell["classes"]]
        reference = theirs(truth, answers, labels=labels, average=None, zero_division=np.nan)
        np.testing.assert_allclose(np.array(ours, float), reference, atol=1e-5)
    assert sum(one["images"] for one in cell["reliability"]) == document["images"] == 12


def test_saved_predictions_are_the_records_of_classify_with_truth_and_templates(run, measured, photos, tmp_path):
    measured(photos, "-t", "simple", "--save", tmp_path / "p.jsonl")
    labels = [label.replace("_", " ") for label in CLASSES]
    run("classify", photos, "--labels", ",".join(labels), "-t", "simple", "--model", "tiny", "-o", tmp_path / "c.jsonl")
    saved = records(tmp_path / "p.jsonl")
    assert all(one.pop("templates") == ["simple"] and one.pop("truth") in labels for one in saved)
    assert saved == records(tmp_path / "c.jsonl")


def test_every_figure_lies_in_its_interval(measured, photos):
    cell = measured(photos)["cells"][0]
    figures = [figure for name, figure in cell["figures"].items() if name in OVERALL]
    figures += [one[name] for one in cell["classes"] for name in ("precision", "recall", "f1")]
    figures += [one["share"] for one in cell["confused"]]
    known = [figure for figure in figures if figure["value"] is not None]
    assert len(known) > 10
    for figure in known:
        assert figure["low"] <= figure["value"] <= figure["high"]


def test_the_same_command_gives_the_same_figures_and_a_seed_other_intervals(run, photos):
    def said(*args: object) -> str:
        return run("eval", photos, "--model", "tiny", *args).stdout

    first = said()
    assert first == said()
    other = said("--seed", 1)
    assert other != first
    figures = [[line.split("\t")[2:5] for line in text.splitlines() if "chance" not in line] for text in (first, other)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_truth_file_measures_as_its_folders_do(measured, own, suffix):
    truth = from_folder(own)
    rows = [(os.path.relpath(path, own), truth.classes[answer]) for path, answer in zip(*pairs(truth), strict=True)]
    lines = ["path,label", *map(",".join, rows)] if suffix == ".csv" else [
        json.dumps({"path": path, "label": label}) for path, label in rows
    ]  # fmt: skip
    (own / f"truth{suffix}").write_text("\n".join(lines))
    assert measured("--truth", own / f"truth{suffix}") == measured(own)


def pairs(truth):
    return truth.paths, truth.answers


def test_a_map_file_says_which_label_a_folder_means(measured, own):
    before = measured(own)
    for label, code in zip(CLASSES, ("n02121620", "n03063599", "n10287213", "n04099429"), strict=True):
        (own / label).rename(own / code)
    (own / "map.yaml").write_text("n02121620: cat\nn03063599: cup of coffee\nn10287213: man\nn04099429: rocket\n")
    assert values(measured(own, "--map", own / "map.yaml")) == values(before)


def test_classes_that_share_a_label_are_one(measured, own):
    (own / "map.csv").write_text("cat,animal or drink\ncup of coffee,animal or drink\n")
    document = measured(own, "--map", own / "map.csv")
    assert document["classes"] == ["animal or drink", "man", "rocket"]
    assert document["cells"][0]["classes"][0]["images"] == 6


def test_a_grid_measures_each_combination_as_it_is_measured_alone(measured, photos):
    grid = measured(photos, "--templates", "simple,imagenet7", "-t", "name")
    assert [cell["templates"] for cell in grid["cells"]] == [["simple", "name"], ["imagenet7", "name"]]
    alone = measured(photos, "--templates", "imagenet7", "--templates", "name")["cells"][0]
    assert grid["cells"][1]["difference"] is not None
    assert {**grid["cells"][1], "difference": None} == alone


def test_a_grid_passes_the_images_through_each_model_once(folder, photos):
    truth = from_folder(photos)

    def classifiers(model: str):
        embedder = None
        for templates in ("simple", "name", "default"):
            one = Classifier(truth.classes, model=model, templates=templates, engine="torch", embedder=embedder)
            embedder = one.embedder
            yield one

    seen: list[int] = []
    found = evaluate(
        truth, ([*classifiers(model)] for model in ("tiny", f"local-dir:{folder('vit')}")), done=seen.append
    )
    assert sum(seen) == 2 * len(truth.paths)
    assert [cell.model for cell in found.cells] == ["tiny"] * 3 + [f"local-dir:{folder('vit')}"] * 3


def test_several_models_are_named_with_commas(run, folder, photos):
    other = f"local-dir:{folder('siglip')}"
    result = run("eval", photos, "--model", f"tiny,{other}", "--json", "--engine", "torch")
    assert [cell["model"] for cell in json.loads(result.stdout)["cells"]] == ["tiny", other]


def test_the_difference_of_equal_cells_is_0_and_of_others_that_of_their_figures(measured, photos):
    document = measured(photos, "-t", "simple,simple,imagenet80")
    assert document["cells"][0]["difference"] is None
    assert document["cells"][1]["difference"]["top1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    gap = document["cells"][2]["difference"]["nll"]
    assert gap["value"] == pytest.approx(values(document, 2)["nll"] - values(document)["nll"], abs=2e-6)
    assert gap["low"] < gap["value"] < gap["high"]


def test_images_that_cannot_be_read_are_named_and_in_no_figure(run, measured, own, tmp_path):
    before = measured(own)
    (own / "man" / "broken.jpg").write_bytes(b"no image")
    after = measured(own, "--save", tmp_path / "p.jsonl", code=3)
    (unreadable,) = after["unreadable"]
    assert (unreadable["path"], unreadable["truth"]) == (str(own / "man" / "broken.jpg"), "man")
    assert after["cells"] == before["cells"]
    assert after["images"] == 12
    broken = [one for one in records(tmp_path / "p.jsonl") if one["error"]]
    assert [(one["truth"], one["label"]) for one in broken] == [("man", None)]
    result = run("eval", own, "--model", "tiny")
    assert result.stderr.splitlines()[-1] == "error: 1 of 13 images could not be read; they are in no figure"
    assert f"error: {own / 'man' / 'broken.jpg'}: {unreadable['error']}\n" in result.stderr


def test_images_that_a_truth_file_names_and_that_do_not_exist_are_told(run, own):
    (own / "t.csv").write_text("path,label\ncat/0.jpg,cat\nrocket/0.jpg,rocket\ngone.jpg,cat\n")
    result = run("eval", "--truth", own / "t.csv", "--model", "tiny", "--json")
    assert result.exit_code == 3
    assert f"warning: {own / 't.csv'}: 1 of 3 images do not exist: {own / 'gone.jpg'}\n" in result.stderr
    assert json.loads(result.stdout)["images"] == 2


def test_a_folder_without_images_and_a_label_without_images_are_told(run, own):
    (own / "temple").mkdir()
    result = run("eval", own, "--model", "tiny", "--labels", "cat,cup of coffee,man,rocket,flower")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"warning: {own}: no images of temple: left out",
        "warning: no images of 'flower': as an answer always wrong",
    ]


def test_a_label_without_images_has_precision_alone_if_it_is_ever_the_answer(measured, own):
    labels = "cat,cup of coffee,man,rocket,wall"
    cell = measured(own, "--labels", labels, "--label", "sideways picture")["cells"][0]
    assert cell["labels"] == 6
    assert cell["figures"]["top5"]["value"] is not None
    strangers = [one for one in cell["classes"] if one["images"] == 0]
    assert all(one["recall"]["value"] is None and one["precision"]["value"] == 0 for one in strangers)
    assert {one["label"] for one in strangers} == {"wall", "sideways picture"} & {
        one["answer"] for one in cell["confused"]
    }


def test_that_a_label_is_among_the_best_five_of_four_says_nothing(measured, photos):
    assert measured(photos)["cells"][0]["figures"]["top5"] == {"value": None, "low": None, "high": None}


@pytest.fixture
def results(run, own, tmp_path) -> Path:
    """What classify says of the photos, and of one that nobody labelled."""
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path / "other.jpg")
    labels = ",".join(name.replace("_", " ") for name in CLASSES)
    run("classify", tmp_path / "other.jpg", own, "--labels", labels, "--model", "tiny", "-o", tmp_path / "r.jsonl")
    return tmp_path / "r.jsonl"


def test_results_that_are_there_are_measured_as_their_images_are(run, measured, own, results, monkeypatch):
    before = measured(own)
    found = json.loads(run("eval", own, "--results", results, "--json").stdout)
    assert found["cells"][0]["confusion"] == before["cells"][0]["confusion"]
    for name, value in values(before).items():
        assert values(found)[name] == (value and pytest.approx(value, abs=1e-4))
    # as a table, by paths that start elsewhere, against a list of what was never unpacked here
    target = results.with_suffix(".parquet")
    run("export", results, "--to", "parquet", "-o", target)
    truth = from_folder(own)
    rows = [
        f"{os.path.relpath(path, own.parent)},{truth.classes[answer]}\n"
        for path, answer in zip(*pairs(truth), strict=True)
    ]
    (own.parent / "truth.csv").write_text("".join(["path,label\n", *rows]))
    shutil.rmtree(own)
    monkeypatch.chdir(own.parent.parent)
    done = run("eval", "--truth", own.parent / "truth.csv", "--results", target, "--json")
    assert json.loads(done.stdout)["cells"] == found["cells"]


def test_labelled_images_without_a_result_and_unreadable_ones_are_told(run, own, results):
    lines = results.read_text().splitlines()
    broken = json.dumps({"path": str(own / "man" / "0.jpg"), "label": None, "error": "torn", "model": "tiny"})
    results.write_text("\n".join([*(line for line in lines if "/man/" not in line), broken]))
    done = run("eval", own, "--results", results, "--json")
    assert done.exit_code == 3
    document = json.loads(done.stdout)
    assert document["images"] == 9
    assert document["unreadable"] == [{"path": str(own / "man" / "0.jpg"), "truth": "man", "error": "torn"}]
    missing = f"{own / 'man' / '150.jpg'}, {own / 'man' / '90.jpg'}"
    assert f"warning: 2 of 12 labelled images have no result: {missing}\n" in done.stderr


def test_results_that_cannot_be_measured_are_one_clear_line(run, own, results, monkeypatch):
    monkeypatch.chdir(own.parent)
    for label in "ab":
        Path("elsewhere", label).mkdir(parents=True)
        shutil.copy(EXAMPLES / "cat.jpg", f"elsewhere/{label}/0.jpg")
    few = [{**one, "scores": one["scores"][:1]} for one in records(results)]
    Path("few.jsonl").write_text("\n".join(map(json.dumps, few)))
    Path("map.csv").write_text("cat,kitty\n")
    for arguments, file, words in (
        (["elsewhere"], results, "none of the 2 labelled images is among the results, e.g. elsewhere/a/0.jpg"),
        ([], results, "the results do not say what is right"),
        (["own", "--labels", "a,b"], results, "--results has images with their answers: --labels would change nothing"),
        (["own", "--save", "x.jsonl"], results, "--save and --report are for images that are classified now"),
        (["own"], "few.jsonl", "the results do not hold the probabilities of all labels"),
        (["own", "--map", "map.csv"], results, "the images are of classes that are no labels: 'kitty'"),
        (["--map", "map.csv"], results, "--map names classes of DIR or --truth, and neither is named"),
    ):
        done = run("eval", *arguments, "--results", file)
        assert (done.exit_code, done.stdout) == (2, "")
        assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing says which images there are and what is on them"),
        (("{}", "--truth", "t.csv"), "both DIR and --truth say which images there are"),
        (("{}", "--labels", "cat,man"), "the images are of classes that are no labels: 'cup of coffee', 'rocket'"),
        (("{}", "--labels", "cat"), "only one label given: cat"),
        (("{}/cat",), "no labelled images"),
        (("{}/nowhere",), "no such folder"),
        (("{}", "-t", "simple,,name"), "--templates simple,,name: a name is empty"),
        (("{}", "-t", "simple,nonsense"), "unknown template set 'nonsense'"),
        (("{}", "--model", "tiny,tinny"), "tinny"),
        (("{}", "--model", "tiny,fast", "--pretrained", "openai"), "--pretrained goes with one model"),
        (("{}", "--save", "p.csv"), "--save p.csv: the predictions are JSON Lines"),
        (("{}", "--plot", "p.pdf"), "--plot p.pdf: a picture ends in .png or .svg"),
        (("{}", "--plot", "p.png", "-t", "simple,name"), "--plot draws one model with one choice of templates"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(run, photos, arguments, words):
    result = run(
        "eval", *(one.format(photos) for one in arguments), *("--model", "tiny")[: 2 * ("--model" not in arguments)]
    )
    assert (result.exit_code, result.stdout) == (2, "")
    first = result.stderr.splitlines()[0]
    assert first.startswith("error: ")
    assert words in first


def test_one_class_alone_is_refused(run, own):
    for label in ("cat", "man", "rocket"):
        shutil.rmtree(own / label)
    result = run("eval", own, "--model", "tiny")
    assert result.exit_code == 2
    assert "all images are of one class, 'cup of coffee'" in result.stderr


def test_nothing_that_is_read_is_written_over(run, own):
    (own / "t.jsonl").write_text('{"path": "cat/0.jpg", "label": "cat"}\n{"path": "man/0.jpg", "label": "man"}\n')
    before = (own / "t.jsonl").read_text()
    result = run("eval", "--truth", own / "t.jsonl", "--save", own / "t.jsonl", "--model", "tiny")
    assert result.exit_code == 2
    assert f"--save {own / 't.jsonl'} would overwrite" in result.stderr
    assert (own / "t.jsonl").read_text() == before
    photo = turned("cat", 0)
    photo.save(own / "cat" / "0.png")
    result = run("eval", own, "--plot", own / "cat" / "0.png", "--model", "tiny")
    assert result.exit_code == 2
    assert f"--plot {own / 'cat' / '0.png'} would overwrite" in result.stderr


def test_no_image_that_can_be_read_is_a_failure_that_leaves_no_file(run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.jpg").write_bytes(b"no image")
    result = run("eval", tmp_path / "set", "--model", "tiny", "--plot", tmp_path / "p.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: none of the 2 images could be read, e.g. ")
    assert not (tmp_path / "p.png").exists()


def test_a_model_whose_numbers_are_not_finite_is_one_clear_line(run, folder, photos, tmp_path):
    from safetensors.numpy import load_file, save_file

    broken = shutil.copytree(folder("vit"), tmp_path / "broken")
    state = load_file(broken / "open_clip_model.safetensors")
    state["visual.proj"] = np.full_like(state["visual.proj"], np.nan)
    save_file(state, broken / "open_clip_model.safetensors")
    result = run("eval", photos, "--model", f"local-dir:{broken}", "--engine", "torch")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: local-dir:{broken} gives numbers that are not finite" in result.stderr.splitlines()


# Answers held back


def test_a_least_score_holds_answers_back_and_changes_no_other_figure(measured, photos, tmp_path):
    before = measured(photos)
    after = measured(photos, "--min-score", 0.8, "--save", tmp_path / "p.jsonl")
    saved = records(tmp_path / "p.jsonl")
    given = [one for one in saved if one["label"] != "unknown"]
    assert 0 < len(given) < len(saved)
    found = values(after)
    assert found["answered"] == pytest.approx(len(given) / len(saved), abs=1e-5)
    right = [one["label"] == one["truth"] for one in given]
    assert found["top1_answered"] == pytest.approx(np.mean(right), abs=1e-5)
    assert values(before)["answered"] == 1
    for name in ("top1", "ece", "nll", "mean_recall"):
        assert found[name] == values(before)[name]


def test_a_label_of_its_own_threshold_holds_its_answers_back(measured, own):
    (own / "labels.yaml").write_text("- {name: cat, threshold: 1.0}\n- cup of coffee\n- man\n- rocket\n")
    document = measured(own, "--labels-file", own / "labels.yaml")
    called_cat = sum(row[0] for row in document["cells"][0]["confusion"]["images"])
    assert document["cells"][0]["confusion"]["labels"][0] == "cat"
    assert called_cat > 0
    assert values(document)["answered"] == pytest.approx(1 - called_cat / 12, abs=1e-5)


def test_pictures_of_something_else_are_a_class_when_unknown_is_an_answer(measured, own, tmp_path):
    (own / "rocket").rename(own / "unknown")
    document = measured(own, "--unknown", "--min-margin", 0.2, "--save", tmp_path / "p.jsonl")
    cell = document["cells"][0]
    assert cell["labels"] == 4  # three, and none of them
    saved = records(tmp_path / "p.jsonl")
    refused = [one for one in saved if one["label"] == "unknown"]
    assert refused
    mine = next(one for one in cell["classes"] if one["label"] == "unknown")
    assert mine["images"] == 3
    assert mine["recall"]["value"] == pytest.approx(sum(one["truth"] == "unknown" for one in refused) / 3, abs=1e-5)
    truth, answers = [one["truth"] for one in saved], [one["label"] for one in saved]
    assert values(document)["top1"] == pytest.approx(accuracy_score(truth, answers), abs=1e-5)


def test_a_head_is_measured_with_the_labels_and_the_model_it_was_made_with(run, photos, tmp_path):
    head = tmp_path / "head.safetensors"
    assert run("fit", photos, "-o", head, "--model", "tiny").exit_code == 0
    result = run("eval", photos, "--head", head, "--json", "--save", tmp_path / "p.jsonl")
    (cell,) = json.loads(result.stdout)["cells"]
    assert (cell["model"], cell["templates"], cell["labels"]) == ("tiny", [str(head)], 4)
    run("classify", photos, "--head", head, "-o", tmp_path / "c.jsonl")
    assert [one["scores"] for one in records(tmp_path / "p.jsonl")] == [
        one["scores"] for one in records(tmp_path / "c.jsonl")
    ]


# What is shown and drawn


def test_a_pipe_gets_plain_rows_with_as_many_fields_each(run, photos):
    rows = [line.split("\t") for line in run("eval", photos, "--model", "tiny").stdout.splitlines()]
    assert {len(row) for row in rows} == {7}
    top1 = next(row for row in rows if row[2] == "top1")
    assert top1[:4] == ["tiny", "default", "top1", ""]
    assert all(re.fullmatch(r"[01]\.\d{4}", number) for number in top1[4:])
    assert [row[3] for row in rows if row[2] == "images"] == [label.replace("_", " ") for label in CLASSES]


def on_a_terminal(run, monkeypatch, *args: object) -> str:
    from clipzs.cli import app

    shown = shown_on_terminal(monkeypatch, lambda: app(list(map(str, args)), standalone_mode=False))
    return re.sub(r"\x1b\[\d*m| +(?=\n)", "", shown)


def test_a_person_sees_tables_with_intervals(run, monkeypatch, photos):
    shown = on_a_terminal(run, monkeypatch, "eval", photos, "--model", "tiny")
    assert shown.startswith("12 images of 4 classes, 4 labels: guessing is right on 25.0%\n")
    assert re.search(r"top-1 accuracy +\d+\.\d% +\d+\.\d to \d+\.\d%\n", shown)
    assert re.search(r"cup of coffee +3 +\d+\.\d%", shown)
    assert "top-5" not in shown


def test_a_person_sees_a_grid_as_one_table(run, monkeypatch, photos):
    monkeypatch.setenv("COLUMNS", "160")
    shown = on_a_terminal(run, monkeypatch, "eval", photos, "--model", "tiny", "-t", "simple,name")
    rows = [line.split()[:2] for line in shown.splitlines() if line.startswith("tiny")]
    assert rows == [["tiny", "simple"], ["tiny", "name"]]


def test_the_picture_names_the_classes_and_is_the_same_each_time(run, own, tmp_path):
    (own / "man").rename(own / "猫 $x^2$")
    pictures = []
    for name in ("a.svg", "b.svg"):
        assert run("eval", own, "--model", "tiny", "--plot", tmp_path / name).exit_code == 0
        pictures.append((tmp_path / name).read_text(encoding="utf-8"))
    assert pictures[0] == pictures[1]
    for words in ("cup of coffee", "猫 $x^2$", "calibration error", "true class"):
        assert words in pictures[0]


def test_a_picture_in_pixels_is_not_empty(run, photos, tmp_path):
    assert run("eval", photos, "--model", "tiny", "--plot", tmp_path / "p.PNG").exit_code == 0
    with Image.open(tmp_path / "p.PNG") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_without_matplotlib_one_line_says_what_to_install(run, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("eval", photos, "--model", "tiny", "--plot", tmp_path / "p.png")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: --plot needs matplotlib, which is not installed\nhint: pip install 'clipzs[plots]'\n"
    )
