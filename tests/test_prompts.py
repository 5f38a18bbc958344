"""Labels × templates → the exact texts; and the commands that show them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipzs import templates
from clipzs.labels import Label
from clipzs.prompts import expand

TEMPLATES = ["a <>", "the <>"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (Label("cat"), ("a cat", "the cat")),
        (Label("cat", aliases=("kitten", "cat")), ("a cat", "the cat", "a kitten", "the kitten")),
        (Label("crane", prompts=("a construction crane", "a <>")), ("a construction crane", "a crane")),
        (Label("boxer", aliases=("dog",), prompts=("a boxer dog",)), ("a boxer dog", "a dog", "the dog")),
        (Label("X", prompts=("a <> beside a <>",)), ("a X beside a X",)),
    ],
    ids=["name", "alias", "own-prompts", "own-prompts-and-alias", "filled-everywhere"],
)
def test_each_label_has_its_prompts_once_and_in_order(label, expected):
    assert expand(label, TEMPLATES) == expected


@given(name=st.text(min_size=1), alias=st.text(min_size=1))
def test_any_name_appears_as_it_is(name, alias):
    prompts = expand(Label(name, aliases=(alias,)), TEMPLATES)
    assert set(prompts) == {f"a {name}", f"the {name}", f"a {alias}", f"the {alias}"}
    assert prompts[:2] == (f"a {name}", f"the {name}")


def test_list_shows_every_set_as_tsv_in_a_pipe(run):
    result = run("prompts", "list")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == sorted(templates.known_sets())
    assert all(len(row) == 3 and row[2] for row in rows)
    assert {row[0]: row[1] for row in rows}["imagenet80"] == "80"


def test_list_shows_the_users_own_sets_under_the_name_they_are_called_by(run, tmp_path):
    mine = tmp_path / "own" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text("name: Something else\ndescription: My own.\ntemplates: [my <>]\n", encoding="utf-8")
    result = run("prompts", "list", "--prompts-dir", mine.parent)
    assert result.exit_code == 0
    assert "mine\t1\tMy own.\n" in result.stdout
    assert "default\t" in result.stdout


def test_list_names_a_malformed_set_of_the_user(run, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("templates: []\n", encoding="utf-8")
    result = run("prompts", "list", "--prompts-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: {bad}:1: `templates` must be a list with at least one template\n"
        "hint: a set has: name, description, source, context, templates\n"
    )


def test_show_prints_a_set_with_its_source_as_comments(run):
    result = run("prompts", "show", "flowers")
    found = templates.find("flowers")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"# name: flowers\n# description: {found.description}\n# source: {found.source}\n"
        f"# context: a type of flower\n# file: {found.path}\na photo of a <>, a type of flower.\n"
    )


def test_show_takes_a_file_too(run, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("templates: ['my {}', 'the {c}']\n", encoding="utf-8")
    result = run("prompts", "show", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"# name: mine\n# file: {path}\nmy <>\nthe <>\n"


def test_show_answers_an_unknown_name_with_the_nearest(run):
    result = run("prompts", "show", "imagenet-80")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: unknown template set 'imagenet-80'; did you mean imagenet80, imagenet7?",
        "hint: `clipzs prompts list` shows all sets; a file of your own needs .yaml at its end",
    ]


def test_expand_prints_exactly_what_the_model_reads(run, tmp_path):
    path = tmp_path / "labels.yaml"
    path.write_text("- name: boxer\n  aliases: [boxer dog]\n  prompts: ['a boxer, a type of dog']\n- cat\n", "utf-8")
    result = run("prompts", "expand", "--labels-file", path, "--template", "a <>.", "--context", "outdoors")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == ("boxer\ta boxer, a type of dog\nboxer\ta boxer dog, outdoors.\ncat\ta cat, outdoors.\n")


def test_expand_and_classify_mean_the_same_prompts(run, cat, tmp_path):
    import json

    options = ["--labels", "cat,dog", "--templates", "pets", "--template", "my <>", "--context", "indoors"]
    shown = run("prompts", "expand", *options)
    log = tmp_path / "log.json"
    result = run("classify", cat, *options, "--model", "tiny", "--log", log)
    assert result.exit_code == 0, result.stderr
    used = json.loads(log.read_text(encoding="utf-8"))["labels"]
    assert shown.stdout == "".join(f"{one['label']}\t{text}\n" for one in used for text in one["prompts"])


def test_expand_without_labels_is_an_error(run):
    result = run("prompts", "expand")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: no labels given\nhint: name at least two: --labels cat,dog or --labels-file FILE\n"
