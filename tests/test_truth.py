"""Labelled images: folders and files into paths, answers and classes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipzs.errors import TruthError
from clipzs.truth import Truth, from_file, from_folder, renamed


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.jpg", "polar_bear/3.png", "empty/notes.txt", ".hidden/4.png"):
        path = tmp_path / "photos" / name
        if path.suffix == ".txt":
            path.parent.mkdir(parents=True)
            path.write_text("")
        else:
            image(path)
    return tmp_path / "photos"


def test_each_folder_is_a_class_with_the_images_inside_and_below(folders, caplog):
    truth = from_folder(folders)
    assert truth.classes == ("cat", "polar bear")
    assert [path.removeprefix(f"{folders}/") for path in truth.paths] == [
        "cat/1.png",
        "cat/deep/2.jpg",
        "polar_bear/3.png",
    ]
    assert (truth.answers, truth.support) == ((0, 0, 1), (2, 1))
    assert caplog.messages == [f"{folders}: no images of empty: left out"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no labelled images"),
        (("a.png",), "no labelled images"),
        (("cat/a.png",), "all images are of one class, 'cat'"),
        (("a_b/1.png", "a b/2.png"), "two folders of the class 'a b'"),
    ],
)
def test_a_folder_that_is_no_labelled_set_is_one_line(tmp_path, names, words):
    for name in names:
        image(tmp_path / name)
    with pytest.raises(TruthError, match=words) as caught:
        from_folder(tmp_path)
    assert caught.value.hint


def test_a_folder_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(TruthError, match="no such folder"):
        from_folder(tmp_path / "none")


NAMES = st.text(st.characters(exclude_categories=["C"], exclude_characters="/\\"), min_size=1, max_size=8).map(
    str.strip
)


@given(
    st.dictionaries(NAMES.filter(bool), NAMES.filter(bool), min_size=2, max_size=6), st.sampled_from([",", "\t", ""])
)
def test_csv_tsv_and_jsonl_say_the_same(tmp_path_factory, labels, separator):
    folder = tmp_path_factory.mktemp("truth")
    named = {f"a{name}.png": label for name, label in labels.items()}
    image(folder / next(iter(named)))
    if separator:
        import csv

        file = folder / ("truth.csv" if separator == "," else "truth.tsv")
        with file.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, delimiter=separator).writerows([("label", "path"), *((v, k) for k, v in named.items())])
    else:
        file = folder / "truth.jsonl"
        file.write_text("".join(json.dumps({"path": k, "label": v}) + "\n" for k, v in named.items()), "utf-8")
    if len(set(named.values())) == 1:
        with pytest.raises(TruthError, match="one class"):
            from_file(file)
        return
    truth = from_file(file)
    assert {
        path.removeprefix(f"{folder}/"): truth.classes[answer]
        for path, answer in zip(truth.paths, truth.answers, strict=True)
    } == named


def test_images_that_do_not_exist_are_named_and_kept_to_be_counted(tmp_path, caplog):
    image(tmp_path / "a.png")
    file = tmp_path / "truth.csv"
    file.write_text("path,label\na.png,cat\ngone.png,dog\n")
    assert len(from_file(file).paths) == 2
    assert caplog.messages == [f"{file}: 1 of 2 images do not exist: {tmp_path / 'gone.png'}"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("truth.csv", "file,class\na.png,cat\n", ":1: no columns `path` and `label`"),
        ("truth.csv", "path,label\na.png\n", ":2: no label in this row"),
        ("truth.csv", 'path,label\n"a.png,cat\n', "not valid CSV"),
        ("truth.csv", "path,label\na.png,cat\na.png,dog\n", ":3: a.png has two labels: 'cat' and 'dog'"),
        ("truth.csv", "path,label\nno.png,cat\nnot.png,dog\n", "none of its 2 images exists"),
        ("truth.csv", "path,label\na.png,cat\n", "all images are of one class"),
        ("truth.csv", "", "no labelled images"),
        ("truth.jsonl", '{"path": "a.png", "label": "cat"}\n{"path": ', ":2: not valid JSON"),
        ("truth.jsonl", '{"path": "a.png", "label": 3}', ":1: no label in this row"),
        ("truth.jsonl", "[1]", ":1: not an object"),
        ("truth.xlsx", "", "ends in .csv, .tsv or .jsonl"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_its_place(tmp_path, name, text, words):
    image(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(TruthError) as caught:
        from_file(tmp_path / name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


TRUTH = Truth(("1", "2", "3"), (0, 1, 2), ("n01", "n02", "n03"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.yaml", "n01: cat\nn03: cat"),
        ("map.json", '{"n01": "cat",\n\t"n03": "cat"}'),
        ("map.csv", "n01,cat\nn03, cat\n"),
    ],
)
def test_a_map_renames_classes_and_joins_those_of_one_name(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert renamed(TRUTH, tmp_path / name) == Truth(("1", "2", "3"), (0, 1, 0), ("cat", "n02"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("map.yaml", "n09: cat", "no class is called 'n09'"),
        ("map.yaml", "[n01]", "not a mapping"),
        ("map.yaml", "n01: [cat]", "not a mapping"),
        ("map.yaml", "n01: x\nn02: x\nn03: x", "all images are of one class, 'x'"),
        ("map.csv", "n01,a,b\n", "a row has two cells, not 3"),
        ("map.txt", "", "ends in .yaml, .json or .csv"),
    ],
)
def test_a_map_that_cannot_be_used_is_one_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(TruthError) as caught:
        renamed(TRUTH, tmp_path / name)
    assert words in str(caught.value)
