"""Results in every format, read back by parsers that are not ours, on standard output and in files."""

import csv
import hashlib
import io
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from terminals import shown_on_terminal

import clipzs
from clipzs.output import Output
from clipzs.results import Result, Score
from clipzs.table import TableWriter
from clipzs.writers import WRITERS

KEYS = ["path", "label", "score", "scores", "error", "model", "config"]
LABELS = ("--labels", "cat,a cup of coffee,rocket", "--model", "tiny")


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    (tmp_path / "text.jpg").write_text("no picture")
    return tmp_path / "text.jpg"


def table_rows(text: str, dialect: dict[str, Any]) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), **dialect))


# Formats


def test_a_json_line_has_exactly_the_promised_keys(run, cat, text_file):
    result = run("classify", cat, text_file, *LABELS, "--json")
    good, bad = map(json.loads, result.stdout.splitlines())
    assert list(good) == list(bad) == KEYS
    assert (good["path"], good["label"], good["error"], good["model"]) == (str(cat), "cat", None, "tiny")
    assert good["scores"][0] == {"label": good["label"], "score": good["score"]}
    assert [list(one) for one in good["scores"]] == [["label", "score"]] * 3
    assert {one["label"] for one in good["scores"]} == {"cat", "a cup of coffee", "rocket"}
    numbers = [one["score"] for one in good["scores"]]
    assert numbers == sorted(numbers, reverse=True)
    assert sum(numbers) == pytest.approx(1, abs=2e-6)
    assert re.fullmatch(r"[0-9a-f]{12}", good["config"])
    assert bad | {"config": ""} == {
        "path": str(text_file), "label": None, "score": None, "scores": [], "error": "a text file, not an image",
        "model": "tiny", "config": "",
    }  # fmt: skip


def test_json_is_short_for_json_lines(run, cat, coffee):
    short = run("classify", cat, coffee, *LABELS, "--json").stdout
    assert short == run("classify", cat, coffee, *LABELS, "--format", "jsonl").stdout
    assert len(short.splitlines()) == 2


def test_format_json_is_one_document_of_the_run_and_its_results(run, cat, text_file):
    result = run("classify", cat, text_file, *LABELS, "--format", "json")
    document = json.loads(result.stdout)
    lines = run("classify", cat, text_file, *LABELS, "--json").stdout.splitlines()
    assert list(document) == ["run", "results"]
    assert document["results"] == [json.loads(line) for line in lines]
    facts = document["run"]
    assert (facts["clipzs"], facts["model"], facts["score"]) == (clipzs.__version__, "tiny", "softmax")
    assert (facts["images"], facts["errors"], facts["interrupted"], facts["failure"]) == (2, 1, False, None)
    assert facts["config"] == document["results"][0]["config"]


def test_csv_has_a_header_and_one_row_an_image(run, cat, coffee, text_file):
    result = run("classify", cat, text_file, coffee, *LABELS, "-f", "csv")
    header, *rows = table_rows(result.stdout, {"strict": True})
    assert header == ["path", "label", "score", "error"]
    assert [row[:2] for row in rows] == [[str(cat), "cat"], [str(text_file), ""], [str(coffee), "a cup of coffee"]]
    assert rows[1] == [str(text_file), "", "", "a text file, not an image"]
    assert 0.5 < float(rows[0][2]) <= 1


def test_tsv_is_path_label_score_without_a_header_and_the_default_in_a_pipe(run, cat, text_file):
    result = run("classify", cat, text_file, *LABELS)
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows] == [[str(cat), "cat"], [str(text_file), ""]]
    assert rows[1] == [str(text_file), "", ""]
    assert re.fullmatch(r"0\.\d{6}", rows[0][2])
    assert result.stdout == run("classify", cat, text_file, *LABELS, "-f", "tsv").stdout


def test_label_is_the_label_and_nothing_else(run, cat, coffee, text_file):
    assert run("classify", cat, text_file, coffee, *LABELS, "-f", "label").stdout == "cat\n\na cup of coffee\n"


@pytest.mark.parametrize("format_", ["csv", "tsv"])
def test_with_top_k_there_is_one_row_per_kept_label(run, cat, format_):
    result = run("classify", cat, *LABELS, "-f", format_, "-k", 2)
    rows = table_rows(result.stdout, {"delimiter": "," if format_ == "csv" else "\t"})
    kept = [row for row in rows if row[0] == str(cat)]
    assert len(kept) == 2
    assert kept[0][1] == "cat"
    assert float(kept[0][2]) > float(kept[1][2])


def test_top_k_bounds_the_scores_of_a_json_record(run, cat):
    record = json.loads(run("classify", cat, *LABELS, "--json", "-k", 1).stdout)
    assert [one["label"] for one in record["scores"]] == ["cat"]


def test_labels_with_separators_quotes_and_newlines_come_back_from_every_format(run, cat):
    nasty = ['cat, "the"\tpet', "=HYPERLINK(1)", "back\\slash"]
    options = [part for label in nasty for part in ("--label", label)]
    records = json.loads(run("classify", cat, *options, "--model", "tiny", "--json").stdout)
    assert {one["label"] for one in records["scores"]} == set(nasty)
    best = records["label"]
    rows = table_rows(run("classify", cat, *options, "--model", "tiny", "-f", "csv", "-k", 3).stdout, {"strict": True})
    assert {row[1] for row in rows[1:]} == {nasty[0], "'" + nasty[1], nasty[2]}
    tsv = run("classify", cat, *options, "--model", "tiny", "-f", "tsv").stdout
    assert tsv.split("\t")[1] == best.replace("\\", "\\\\").replace("\t", "\\t")
    assert run("classify", cat, *options, "--model", "tiny", "-f", "label").stdout == best + "\n"


def answered(path: str, *scores: Score, **more: Any) -> Result:
    """A result whose answer is the first of its scores."""
    return Result(path, scores[0].label, scores[0].score, scores, **more)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_is_given_no_formula(start):
    stream = io.BytesIO()
    writer = WRITERS["csv"](stream)
    evil = f"{start}cmd|' /C calc'!A0"
    writer.write([answered(evil, Score(evil, 0.5))])
    rows = table_rows(stream.getvalue().decode(), {"strict": True})
    assert rows[1] == ["'" + evil, "'" + evil, "0.5000", ""]


@pytest.mark.parametrize(
    "text",
    [" =1+1", "\u00a0=1", "\u3000@x", "\n=1", "\ufeff=1", "\u200b-1", "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20x",
     "'=1", "''=1", "a;=1", "a\t=1", 'a"\n=1', "'quoted'", "plain", "'"],
)  # fmt: skip
def test_formulas_in_disguise_are_none_either_and_every_text_can_be_had_back(text):
    stream = io.BytesIO()
    WRITERS["csv"](stream).write([answered(text, Score("cat", 0.5))])
    written = stream.getvalue().decode()
    cell = table_rows(written, {"strict": True})[1][0]
    assert not re.match(r"[\s\ufeff\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20]", cell)
    assert (
        re.sub(r"^'(?='*[\s\ufeff\u200b]*[=+\-@\uff1d\uff0b\uff0d\uff20])", "", cell) if cell != text else text
    ) == text
    semicolons = table_rows(written, {"delimiter": ";"})[1]
    assert not any(part.startswith("=") for part in semicolons)


def test_a_label_is_one_line_whatever_is_in_it():
    stream = io.BytesIO()
    ends = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
    WRITERS["label"](stream).write([answered("x", Score(f"a{end}b", 0.5)) for end in ends])
    assert stream.getvalue().decode().splitlines() == ["a b"] * len(ends)


@pytest.mark.parametrize("format_", [*WRITERS, "table"])
def test_a_terminal_is_sent_nothing_that_it_would_obey_in_any_format(monkeypatch, format_):
    evil = "\x1b]0;title\x07\x1b[31m\x9b1m\x7f\u202e\u061c\x08\r\udc9b\n\t"

    def show():
        output = Output(format_, None)
        output.write([answered(f"a{evil}b", Score(f"c{evil}d", 0.9), model=evil), Result(f"e{evil}f", error=evil)])
        output.close({"model": evil})

    shown = shown_on_terminal(monkeypatch, show)  # no broken UTF-8 either
    assert {one for one in shown if not one.isprintable()} <= {"\n", "\t"}
    assert ("d" if format_ == "label" else "b") in shown


def test_a_pipe_is_given_names_as_they_are(run, tmp_path, cat):
    name = os.fsencode(tmp_path) + b"/a\x1b[31m\xff.jpg"
    os.link(cat, name) if os.stat(cat).st_dev == os.stat(tmp_path).st_dev else Path(os.fsdecode(name)).symlink_to(cat)
    result = run("classify", os.fsdecode(name), *LABELS, "-f", "csv")
    assert result.stdout_bytes.splitlines()[1].startswith(name + b",cat,")


def test_json_holds_nothing_raw_that_a_terminal_would_obey():
    name = "a\x1b[31m\x9b1m\x7f\u2028é😀\udcff"
    stream = io.BytesIO()
    WRITERS["jsonl"](stream).write([Result(name, error="x")])
    line = stream.getvalue().decode("utf-8")
    assert line.rstrip("\n").isprintable()
    assert "é😀" in line
    assert json.loads(line)["path"] == name


# The table


def table(*results: Result, **how: Any) -> str:
    stream = io.BytesIO()
    writer = TableWriter(stream, **how)
    writer.write(results)
    writer.close({})
    return stream.getvalue().decode("utf-8")


def test_the_table_shows_a_block_per_image_with_bars_in_proportion(run, cat):
    lines = run("classify", cat, *LABELS, "-f", "table").stdout.splitlines()
    assert lines[0] == str(cat)
    assert len(lines) == 4
    shares = [re.fullmatch(r"  (.{15})  ([█▏▎▍▌▋▊▉ ]{24}) +([\d.]+)%", line) for line in lines[1:]]
    assert lines[1].startswith("  cat  ")
    for match in shares:
        assert match is not None
        assert match[2].count("█") == pytest.approx(24 * float(match[3]) / 100, abs=1)


def test_a_table_of_several_images_ends_in_counts_per_label(run, cat, coffee, text_file):
    result = run("classify", cat, cat, coffee, text_file, *LABELS, "-f", "table")
    summary = result.stdout.rpartition("\n\n")[2].splitlines()
    assert summary[0].split() == ["label", "images", "share", "mean", "score"]
    assert summary[1].split()[:3] == ["cat", "2", "66.7%"]
    assert summary[2].split()[:6] == ["a", "cup", "of", "coffee", "1", "33.3%"]
    assert summary[3].split() == ["(not", "read)", "1"]
    assert f"{text_file}\n  a text file, not an image\n" in result.stdout


def test_the_table_shows_markup_and_emoji_codes_as_they_are():
    text = table(answered("[red]x[/red].jpg", Score("[bold]:cat:[/bold]", 0.9), Score("\x1b[31m", 0.1)))
    assert "[red]x[/red].jpg\n" in text
    assert "  [bold]:cat:[/bold]  " in text
    assert r"\x1b[31m" in text


def test_the_table_is_never_wrapped_or_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    path, label = "folder/" + "x" * 300 + ".jpg", "a label of very many words " * 8
    lines = table(answered(path, Score(label, 1.0)), Result(path, error="long " * 50)).splitlines()
    assert lines[0] == path
    assert lines[1] == f"  {label}  {'█' * 24} 100.0%"
    assert lines[3] == "  " + "long " * 50
    assert label in lines[-2]


def test_wide_letters_keep_the_columns_straight():
    lines = table(answered("x", Score("猫", 0.75), Score("cat", 0.25))).splitlines()
    assert lines[1:] == ["  猫   " + "█" * 18 + " " * 6 + "  75.0%", "  cat  " + "█" * 6 + " " * 18 + "  25.0%"]


def test_cosine_scores_are_no_percentages():
    text = table(answered("x", Score("a", 0.2), Score("b", -0.1)), answered("y", Score("a", 0.3)), cosine=True)
    assert "%" not in text.partition("\n\n")[0]
    assert " 0.200\n" in text
    assert " -0.100\n" in text
    assert "mean cosine" in text
    assert " 0.250\n" in text


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_on_a_terminal_the_table_has_colours_unless_asked_not_to(monkeypatch, variables, coloured):
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def show():
        output = Output("table", None)
        assert output.to_terminal
        output.write([answered("x.jpg", Score("cat", 0.9))])

    shown = shown_on_terminal(monkeypatch, show)
    assert ("\x1b[" in shown) is coloured
    assert "cat" in shown


# Files


@pytest.mark.parametrize(
    ("name", "format_"),
    [("x.json", "json"), ("x.jsonl", "jsonl"), ("x.NDJSON", "jsonl"), ("x.csv", "csv"), ("x.tsv", "tsv"),
     ("x.txt", "tsv"), ("x", "tsv")],
)  # fmt: skip
def test_the_suffix_of_the_output_file_says_the_format(run, cat, tmp_path, name, format_):
    result = run("classify", cat, *LABELS, "-o", tmp_path / name)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    written = (tmp_path / name).read_text()
    expected = run("classify", cat, *LABELS, "-f", format_).stdout
    if format_ == "json":
        assert json.loads(written)["results"] == json.loads(expected)["results"]
    else:
        assert written == expected


def test_a_named_format_outweighs_the_suffix(run, cat, tmp_path):
    run("classify", cat, *LABELS, "-o", tmp_path / "x.json", "-f", "label")
    assert (tmp_path / "x.json").read_text() == "cat\n"


def test_output_dash_is_standard_output(run, cat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("classify", cat, *LABELS, "-o", "-", "-f", "label").stdout == "cat\n"
    assert not Path("-").exists()


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_a_file_is_replaced_and_keeps_its_permissions(run, cat, tmp_path, name):
    (tmp_path / name).write_text("old\n" * 10_000)
    (tmp_path / name).chmod(0o640)
    (tmp_path / "link").symlink_to(name)
    assert run("classify", cat, *LABELS, "-f", name[2:], "-o", tmp_path / "link").exit_code == 0
    assert "old" not in (tmp_path / name).read_text()
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"cache", name, "link"}


def test_the_table_can_go_to_a_file_without_colours(run, cat, tmp_path):
    run("classify", cat, *LABELS, "-f", "table", "-o", tmp_path / "t")
    assert (tmp_path / "t").read_text() == run("classify", cat, *LABELS, "-f", "table").stdout


@pytest.mark.parametrize("format_", ["jsonl", "json", "table"])
def test_the_output_can_be_a_pipe_of_the_shell(run, cat, format_):
    reading, writing = os.pipe()
    result = run("classify", cat, *LABELS, "-f", format_, "-o", f"/dev/fd/{writing}")
    os.close(writing)
    with open(reading, "rb") as pipe:
        received = pipe.read()
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert b"cat" in received
    assert received.endswith(b"\n")


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_results_are_on_the_disk_when_the_command_ends(run, cat, tmp_path, monkeypatch, name):
    """Or a power failure could leave a file without its content."""
    synced: list[bytes] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}").encode())
    )
    run("classify", cat, *LABELS, "-o", tmp_path / name)
    files = [Path(os.fsdecode(path)).name for path in synced if os.fsdecode(path) != str(tmp_path)]
    assert [file.startswith((name, f".{name}.")) for file in files] == [True]
    assert (tmp_path / name).read_text()


# The log


def test_the_log_holds_what_made_the_results(run, cat, text_file, tmp_path):
    weights = Path(clipzs.__file__).parent / "tiny"
    result = run("classify", cat, text_file, *LABELS, "--log", tmp_path / "log.json", "--json", "--template", "a <>")
    log = json.loads((tmp_path / "log.json").read_text())
    assert result.exit_code == 3
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in weights.glob("*.safetensors")}
    assert log["weights"]["sha256"] in hashes
    assert (log["model"], log["device"], log["precision"], log["score"]) == ("tiny", "cpu", "fp32", "softmax")
    assert log["labels"] == [
        {"label": label, "group": None, "prompts": [f"a {label}"]} for label in ("cat", "a cup of coffee", "rocket")
    ]
    assert (log["images"], log["errors"], log["interrupted"]) == (2, 1, False)
    assert log["config"] == json.loads(result.stdout.splitlines()[0])["config"]
    assert log["versions"]["torch"].partition("+")[0] == str(torch.__version__).partition("+")[0]
    assert (log["versions"]["numpy"], log["versions"]["pillow"]) == (np.__version__, PIL.__version__)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", log["started"])
    assert log["seconds"] > 0
    assert log["logit_scale"] > 1


def test_the_log_tells_that_the_second_run_encoded_no_prompt(run, cat, tmp_path):
    def encoded(*labels: str) -> int:
        log = tmp_path / "log.json"
        run("classify", cat, "--labels", ",".join(labels), "--model", "tiny", "--template", "a <>", "--log", log)
        return int(json.loads(log.read_text())["prompts_encoded"])

    assert encoded("cat", "rocket") == 2
    assert encoded("cat", "rocket") == 0
    assert encoded("cat", "rocket", "temple") == 1
