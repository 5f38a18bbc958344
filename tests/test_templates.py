"""Template sets: placeholders, context, where sets are found, and what a malformed one is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipzs import templates
from clipzs.errors import TemplatesError

A_SET_HAS = "hint: a set has: name, description, source, context, templates\n"
SHIPPED = sorted(templates.known_sets())


def prompts_of(run, *args, **more):
    """The prompts of the label `X`, in order."""
    result = run("prompts", "expand", "--labels", "X", *args, **more)
    assert result.exit_code == 0, result.stderr
    return [line.split("\t")[1] for line in result.stdout.splitlines()]


def refused(run, *args, **more):
    """What is said on standard error about templates that cannot be used."""
    result = run("prompts", "expand", "--labels", "X", *args, **more)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


def a_set(folder: Path, name: str, *lines: str, head: str = "") -> Path:
    """A file with a set of templates."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text(head + "templates:\n" + "".join(f"- {line}\n" for line in lines), encoding="utf-8")
    return path


# One template


@pytest.mark.parametrize("template", ["a photo of a <>.", "a photo of a {}.", "a photo of a {c}."])
def test_three_placeholders_mean_the_same(run, template):
    assert prompts_of(run, "--template", template) == ["a photo of a X."]


def test_other_braces_are_text(run):
    assert prompts_of(run, "--template", "{x} <> {0}") == ["{x} X {0}"]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a photo", "has no placeholder"),
        ("<> and <>", "has 2 placeholders"),
        ("<> and {c}, {}", "has 3 placeholders"),
    ],
)
def test_a_template_has_exactly_one_placeholder(run, template, problem):
    assert refused(run, "--template", template) == (
        f"error: template '{template}' {problem}: write <> once, where the label goes\n"
    )


@given(label=st.text(), before=st.text("ab <"), after=st.text("ab >"))
def test_a_label_goes_in_as_it_is(label, before, after):
    template = templates.normalise(f"{before}{{}}{after}") if "<>" not in before + after else "<>"
    assert templates.fill(template, label) == template.partition("<>")[0] + label + template.partition("<>")[2]


@pytest.mark.parametrize(
    ("template", "with_context"),
    [
        ("a photo of a <>.", "a photo of a X, a type of flower."),
        ("a photo of a <>", "a photo of a X, a type of flower"),
        ("<>的照片。", "X的照片，a type of flower。"),
        ("<> की तस्वीर।", "X की तस्वीर, a type of flower।"),
    ],
)
def test_the_context_goes_before_a_final_full_stop(run, template, with_context):
    assert prompts_of(run, "--template", template, "--context", "a type of flower") == [with_context]


# Which templates


def test_the_default_set_is_used_unless_templates_are_named(run):
    shipped = templates.find("default").templates
    assert 5 <= len(shipped) <= 9
    assert prompts_of(run) == [template.replace("<>", "X") for template in shipped]
    assert prompts_of(run, "--template", "<>") == ["X"]


def test_sets_files_and_templates_are_joined_each_once_in_order(run, tmp_path):
    mine = a_set(tmp_path, "mine.yaml", '"my <>"', '"the <>"')
    args = ["--template", "a <>", "--templates", mine, "--templates", "name", "--template", "the {}"]
    assert prompts_of(run, *args) == ["my X", "the X", "X", "a X"]


def test_the_context_of_the_options_follows_that_of_the_set(run, tmp_path):
    mine = a_set(tmp_path, "mine.yaml", "a <>.", head="context: a type of bird\n")
    assert prompts_of(run, "--templates", mine) == ["a X, a type of bird."]
    assert prompts_of(run, "--templates", mine, "--context", "in a tree") == ["a X, a type of bird, in a tree."]


def test_sets_of_the_users_own_folder_are_found_by_name(run, tmp_path):
    a_set(tmp_path / "prompts", "mine.yaml", "my <>")  # the folder that CLIPZS_PROMPTS_DIR names in tests
    a_set(tmp_path / "other", "mine.yml", "other <>")
    assert prompts_of(run, "--templates", "mine") == ["my X"]
    assert prompts_of(run, "--templates", "mine", "--prompts-dir", tmp_path / "other") == ["other X"]
    assert prompts_of(run, "--templates", "mine", env={"CLIPZS_PROMPTS_DIR": str(tmp_path / "other")}) == ["other X"]


def test_a_set_of_the_user_wins_over_a_shipped_one(run, tmp_path):
    a_set(tmp_path / "prompts", "default.yaml", "my <>")
    assert prompts_of(run) == ["my X"]


def test_a_set_has_the_name_of_its_file_where_it_gives_none(tmp_path):
    assert templates.read(a_set(tmp_path, "mine.yaml", "<>")).name == "mine"
    assert templates.read(a_set(tmp_path, "mine.yaml", "<>", head="name: other\n")).name == "other"


def test_a_file_with_a_byte_order_mark_is_read(run, tmp_path):
    path = a_set(tmp_path, "bom.yaml", "my <>", head="\ufeff")
    assert prompts_of(run, "--templates", path) == ["my X"]


# What is refused


def test_an_unknown_set_is_answered_with_the_nearest_names(run):
    assert refused(run, "--templates", "trafic-sign") == (
        "error: unknown template set 'trafic-sign'; did you mean traffic-signs?\n"
        "hint: `clipzs prompts list` shows all sets; a file of your own needs .yaml at its end\n"
    )


def test_a_folder_of_sets_that_is_not_there_is_pointed_out(run, tmp_path):
    assert refused(run, "--templates", "zzz", "--prompts-dir", tmp_path / "no") == (
        f"error: unknown template set 'zzz'\nhint: no such folder: {tmp_path / 'no'}\n"
    )


@pytest.mark.parametrize("name", ["absent.yaml", "folder/absent"])
def test_a_template_file_that_is_not_there_is_an_error(run, name):
    assert refused(run, "--templates", name) == (
        f"error: no such template file: {name}\nhint: see `clipzs prompts list`\n"
    )


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("templates:\n- a <>\n- cat\n", 3, "template 'cat' has no placeholder: write <> once, where the label goes"),
        ("templates:\n- <> {}\n", 2, "template '<> {}' has 2 placeholders: write <> once, where the label goes"),
        ("templates:\n- a <>\n- b <>\n- a {}\n", 4, "template 'a {}' occurs twice"),
        ("templates:\n- a <>\n- {}\n", 3, "a template must be text (put it in quotes)"),
        ("templates:\n- a <>\n-\n", 3, "a template must be text (put it in quotes)"),
        ("name: x\ntemplate:\n- <>\n", 2, "unknown key 'template'"),
        ("name: x\ntemplates: []\n", 2, "`templates` must be a list with at least one template"),
        ("templates: a <>\n", 1, "`templates` must be a list with at least one template"),
        ("name: x\n", 1, "`templates` must be a list with at least one template"),
        ("name: x\ncontext: [a]\ntemplates:\n- <>\n", 2, "`context` must be text"),
        ("description: []\ntemplates:\n- <>\n", 1, "`description` must be text"),
        ("name: x\nname: y\n", 2, "the key 'name' occurs twice"),
        ("- a <>\n", 1, "a template set is a mapping with the key `templates`"),
        ("", 1, "a template set is a mapping with the key `templates`"),
        ("templates: [a <>\n", 1, "not valid YAML: did not find expected ',' or ']'"),
        ("templates:\n- &a <>\n- *a\n", 3, "anchors and aliases (& and *) are not supported"),
    ],
)  # fmt: skip
def test_a_malformed_set_is_refused_with_its_line(run, tmp_path, content, line, problem):
    path = tmp_path / "set.yaml"
    path.write_text(content, encoding="utf-8")
    assert refused(run, "--templates", path) == f"error: {path}:{line}: {problem}\n{A_SET_HAS}"


def test_a_set_that_is_not_text_is_refused(run, tmp_path):
    path = tmp_path / "set.yaml"
    path.write_bytes(b"templates:\n- caf\xe9 <>\n")
    assert refused(run, "--templates", path) == f"error: {path}:2: not UTF-8 text\nhint: save it as UTF-8\n"


@given(st.text(max_size=80).map(lambda text: "templates:\n- <>\n" + text) | st.text(max_size=80))
def test_no_text_breaks_the_reading_of_a_set(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode())
    try:
        result: object = templates.read(path)
    except TemplatesError as error:
        result = error
    assert isinstance(result, templates.TemplateSet) or str(result).startswith(f"{path}:")


# The sets that are shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_set_is_valid_and_described(name):
    found = templates.find(name)
    assert found.name == name
    assert found.description
    assert found.source
    for template in found.templates:
        assert template.count("<>") == 1
        prompt = templates.fill(template, "X")
        assert prompt == " ".join(prompt.split())
        assert "<" not in prompt
        assert "{" not in prompt


def test_the_kinds_of_data_that_users_meet_have_a_set():
    assert {
        "default", "name", "imagenet7", "imagenet80", "flowers", "pets", "food", "aircraft", "cars", "birds",
        "textures", "scenes", "satellite", "digits", "actions", "sketches", "art", "products", "screenshots",
        "zh", "de", "fr", "es", "ja",
    } <= set(SHIPPED)  # fmt: skip


def test_the_imagenet_sets_are_those_of_open_clip():
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    for name, theirs in (("imagenet80", OPENAI_IMAGENET_TEMPLATES), ("imagenet7", SIMPLE_IMAGENET_TEMPLATES)):
        found = templates.find(name).templates
        assert [templates.fill(template, "red {panda}") for template in found] == [
            each("red {panda}") for each in theirs
        ]
    assert len(templates.find("imagenet80").templates) == 80
