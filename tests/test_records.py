"""Results of an earlier run, read back."""

import json
import os
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipzs import columns, embeddings, records
from clipzs.columns import RecordTable
from clipzs.errors import EmbeddingsError, RecordsError
from clipzs.results import Result, Score
from clipzs.writers import json_text

NAMES = st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode)
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


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RESULTS | st.builds(Result, path=NAMES, error=TEXTS), min_size=1, max_size=5))
def test_what_is_written_to_parquet_is_what_is_read_whatever_the_names(tmp_path, results):
    file = tmp_path / "results.parquet"
    file.write_bytes(table(results))
    assert [*records.read(file)] == results


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


# Parquet, and the folders of batches


def table(results, vectors=None, **more):
    """A Parquet file, as bytes."""
    file = BytesIO()
    written = RecordTable(lambda: file, **more)
    written.write(results, vectors)
    written.close()
    return file.getvalue()


def answered(*numbers):
    return [Result(f"{number}.jpg", "cat", 0.5, (Score("cat", 0.5), Score("dog", 0.5))) for number in numbers]


@pytest.fixture
def out(tmp_path) -> Path:
    """A folder as a batch leaves it: two parts of three, one that failed, and what else is there."""
    folder = tmp_path / "out"
    (folder / "failed").mkdir(parents=True)
    (folder / "job.json").write_text("{}")
    (folder / "plan.jsonl").write_text('{"id": 0}\n{"id": 1}\n{"id": 2}\n')
    (folder / "part-000002.parquet").write_bytes(table(answered(4)))
    (folder / "part-000000.parquet").write_bytes(table([*answered(0), Result("1.jpg", error="text"), *answered(2, 3)]))
    (folder / ".part-000001.parquet.x.part").write_bytes(b"PAR1")
    (folder / "failed" / "000001.json").write_text("{}")
    (folder / "summary.json").write_text("{}")
    return folder


def test_the_parts_of_a_batch_are_read_in_order_and_missing_ones_are_told(out, caplog):
    found = [*records.read(out)]
    assert [one.path for one in found] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert found[1].error == "text"
    assert "1 of 3 parts are missing: 000001; the same `clipzs batch` again" in caplog.text
    caplog.clear()
    (out / "part-000001.jsonl").write_text('{"path": "here.jpg", "label": "dog"}\n')
    assert [one.path for one in records.read(out)][4:] == ["here.jpg", "4.jpg"]
    assert caplog.text == ""


def test_parts_are_read_one_at_a_time(out):
    """What lies in later ones does not matter, nor take memory, before its turn."""
    (out / "part-000002.parquet").write_bytes(b"PAR1, but nothing else")
    found = records.read(out)
    assert [next(found).path for _ in range(4)] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    with pytest.raises(RecordsError, match=r"out/part-000002\.parquet: not a Parquet table, or damaged: "):
        next(found)


def test_a_folder_of_something_else_is_one_line(run, tmp_path):
    done = run("filter", "--is", "cat", "--results", tmp_path)
    assert done.exit_code == 2
    assert f"{tmp_path}: a folder without job.json" in done.stderr


def test_a_table_without_answers_is_refused_by_row(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": ["a"], "width": [3]}), tmp_path / "x.parquet")
    with pytest.raises(RecordsError, match=r"x\.parquet:1: it has neither a label nor an error"):
        list(records.read(tmp_path / "x.parquet"))


def test_scores_in_a_table_are_those_that_are_printed_elsewhere():
    result = Result("a.jpg", "cat", 0.123456, (Score("cat", 0.123456), Score("dog", 0.00031234)))
    (row,) = columns.rows(BytesIO(table([result], decimals=4)))
    assert (row["score"], row["scores"]) == (0.1235, result.as_json(4)["scores"])


def test_a_table_packs_all_but_embeddings():
    from pyarrow import parquet

    file = parquet.ParquetFile(BytesIO(table(answered(*range(9)), np.eye(9, dtype=np.float32), embeddings="float16")))
    group = file.metadata.row_group(0)
    leaves = [group.column(number) for number in range(group.num_columns)]
    packed = {leaf.path_in_schema: leaf.compression for leaf in leaves}
    assert packed.pop("embedding.list.element") == "UNCOMPRESSED"
    assert set(packed.values()) == {"ZSTD"}
    assert {"path", "scores.list.element.label", "labels.list.element"} <= set(packed)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_embeddings_of_a_batch_are_those_of_the_images_that_could_be_read(out, dtype):
    vectors = np.eye(4, dtype=np.float32)
    facts = {embeddings.KEY: '{"model": "m", "digest": "d", "of": "images", "clipzs": "1", "format": 1}'}
    first = [*answered(0), Result("1.jpg", error="text"), *answered(2)]
    names = [Result(os.fsdecode(b"caf\xe9.jpg"), "cat"), *answered(4)]
    (out / "part-000000.parquet").write_bytes(table(first, vectors[:2], embeddings=dtype, metadata=facts))
    (out / "part-000002.parquet").write_bytes(table(names, vectors[2:], embeddings=dtype, metadata=facts))
    found = embeddings.read(out)
    assert found.ids == ["0.jpg", "2.jpg", os.fsdecode(b"caf\xe9.jpg"), "4.jpg"]
    assert found.vectors.tolist() == vectors.tolist()
    assert found.facts.model == "m"
    (out / "part-000002.parquet").write_bytes(table(names))
    with pytest.raises(EmbeddingsError, match=r"part-000002\.parquet: no embeddings in it"):
        embeddings.read(out)


def test_what_takes_results_takes_the_folder_of_a_batch(run, cat, coffee, tmp_path, monkeypatch):
    """Every command says the same of it as of the records of classify, and search and dupes find what is in it."""
    monkeypatch.chdir(tmp_path)
    for label, photo in (("cat", cat), ("cup", coffee), ("photographer", coffee.with_name("photographer.jpg"))):
        Path("in", label).mkdir(parents=True)
        os.link(photo, Path("in", label, "1.jpg"))
    Path("in", "cup", "2.jpg").write_text("no image")
    shutil.copy(cat, "in/cat/2.jpg")
    asked = ("in", "--labels", "cat,cup,photographer", "--model", "tiny")
    assert run("classify", *asked, "-o", "one.jsonl").exit_code == 3
    assert run("batch", *asked, "--out", "out", "--part-size", 2, "--embeddings").exit_code == 3
    for command, words in (
        (("filter", "--is", "cup", "--results"), "in/cup/1.jpg"),
        (("sort", "--to", "sorted", "-n", "--results"), "in/cat/1.jpg\tsorted/"),
        (("eval", "in", "--json", "--results"), '"images": 4,'),
    ):
        said = [run(*command, results) for results in ("one.jsonl", "out")]
        assert said[0].exit_code == said[1].exit_code == 3, said[1].stderr
        assert said[0].stdout == said[1].stdout
        assert words in said[1].stdout
    assert run("export", "out", "--to", "parquet", "-o", "all.parquet").exit_code == 3
    assert [*records.read("all.parquet")] == [*records.read("one.jsonl")]
    assert run("report", "out/", "-o", "page.html").exit_code == 0
    assert (
        '"path": ["cat/1.jpg", "cat/2.jpg", "cup/1.jpg", "cup/2.jpg", "photographer/1.jpg"]'
        in Path("page.html").read_text()
    )
    found = run("search", "--like", coffee, "--embeddings", "out", "--model", "tiny", "-k", 1).stdout.split("\t")
    assert (found[0], float(found[1])) == ("in/cup/1.jpg", pytest.approx(1, abs=1e-4))
    assert run("dupes", "--embeddings", "out", "-f", "paths").stdout == "in/cat/2.jpg\n"
