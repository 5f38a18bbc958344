"""Results of an earlier run, read back."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipzs import records
from clipzs.errors import RecordsError
from clipzs.results import Result, Score
from clipzs.writers import json_text

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1)
SCORES = st.lists(st.builds(Score, TEXTS, st.floats(0, 1).map(lambda x: float(f"{x:.9f}"))), max_size=4).map(tuple)
RESULTS = st.builds(
    Result,
    path=TEXTS,
    label=TEXTS,
    score=st.none() | st.floats(0.01, 1).map(lambda x: float(f"{x:.4f}")),
    scores=SCORES,
    labels=st.none() | st.lists(TEXTS, max_size=3).map(tuple),
    groups=st.none() | SCORES,
    model=TEXTS,
    config=TEXTS,
    truth=st.none() | TEXTS,
    templates=st.none() | st.lists(TEXTS, max_size=2).map(tuple),
)


@given(st.lists(RESULTS | st.builds(Result, path=TEXTS, error=TEXTS), min_size=1, max_size=5))
def test_what_is_written_is_what_is_read(tmp_path_factory, results):
    file = tmp_path_factory.mktemp("records") / "results.jsonl"
    file.write_text("".join(json_text(one.as_json(9)) + "\n" for one in results), "utf-8")
    assert [one.as_json(9) for one in records.read(file)] == [one.as_json(9) for one in results]


@pytest.mark.parametrize("format_", ["jsonl", "json", "csv", "tsv"])
def test_what_classify_writes_is_read_in_every_format_that_has_a_header(run, cat, coffee, tmp_path, format_):
    target = tmp_path / f"out.{format_}"
    run("classify", cat, coffee, "--labels", "cat,cup", "--model", "tiny", "-o", target)
    if format_ == "tsv":
        target.write_text("path\tlabel\tscore\n" + target.read_text())  # TSV for pipes has none
    found = [(one.path, one.label) for one in records.read(target)]
    assert found == [(str(cat), "cat"), (str(coffee), "cup")]


def test_saved_predictions_bring_their_truth(run, cat, coffee, tmp_path):
    for label, photo in (("cat", cat), ("cup", coffee)):
        (tmp_path / "truth" / label).mkdir(parents=True)
        os.link(photo, tmp_path / "truth" / label / "1.jpg")
    run("eval", tmp_path / "truth", "--model", "tiny", "--save", tmp_path / "saved.jsonl")
    found = [*records.read(tmp_path / "saved.jsonl")]
    assert [one.truth for one in found] == ["cat", "cup"]
    assert [one.templates for one in found] == [("default",)] * 2


def test_a_torn_last_record_is_left_out_and_said(tmp_path, caplog):
    file = tmp_path / "results.jsonl"
    file.write_text('{"path": "a", "label": "x"}\n{"path": "b", "lab')
    assert [one.path for one in records.read(file)] == ["a"]
    assert "the last record is not whole" in caplog.text


def test_paths_may_start_elsewhere(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"path": "a.jpg", "label": "x"}\n{"path": "/b.jpg", "label": "x"}\n')
    assert [one.path for one in records.read(file, root=tmp_path)] == [str(tmp_path / "a.jpg"), "/b.jpg"]


def test_a_table_gives_formulas_back_as_they_were(tmp_path):
    file = tmp_path / "corrections.csv"
    file.write_text("path,label\n'=a.jpg,'@home\n'plain',x\n")
    assert [(one.path, one.label) for one in records.read(file)] == [("=a.jpg", "@home"), ("'plain'", "x")]


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("x.jsonl", "hello\n", ":1: not valid JSON"),
        ("x.jsonl", "[" * 100_000 + "\n", ":1: not valid JSON"),
        ("x.jsonl", '{"path": "a", "label": "x"}\n[]\n', ":2: not a record"),
        ("x.jsonl", '{"path": "a"}\n', ":1: it has neither a label nor an error"),
        ("x.jsonl", '{"path": "a", "label": 3}\n', ":1: `label` is not text"),
        ("x.jsonl", '{"path": "a", "label": "x", "score": NaN}\n', ":1: `score` is not a number"),
        ("x.jsonl", '{"path": "a", "label": "x", "scores": [1]}\n', ":1: `scores` and `groups`"),
        ("x.jsonl", '{"path": "a", "label": "x", "labels": "x"}\n', ":1: `labels`"),
        ("x.json", '{"run": {}}\n', ": it has no list of `results`"),
        ("x.csv", "a,b\n", ":1: no columns"),
        ("x.csv", "path,label\na,\n", ":2: it has neither"),
        ("x.csv", "path,label,score\na,b,c\n", ":2: `score` is not a number"),
        ("x.csv", 'path,label\n"a,b\n', "not valid CSV"),
    ],
)
def test_what_is_no_record_is_named_by_file_and_line(tmp_path, name, text, where):
    (tmp_path / name).write_text(text)
    with pytest.raises(RecordsError, match="^" + str(tmp_path / name)) as error:
        list(records.read(tmp_path / name))
    assert where in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(RecordsError, match=r"none\.jsonl: cannot be read: No such file"):
        list(records.read(tmp_path / "none.jsonl"))


def test_records_come_through_a_pipe(process, tmp_path):
    code = "from clipzs import records; print([one.label for one in records.read('-')])"
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({"path": "a", "label": "x"}) + "\n",
        text=True,
        capture_output=True,
    )
    assert done.stdout == "['x']\n"
