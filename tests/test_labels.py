"""Labels from options and files: what is understood, what is refused, and in which words."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipzs import labelfiles, labels, yamlfile
from clipzs.errors import ClipzsError, LabelsError
from clipzs.labels import Label

A_LABEL_HAS = "hint: a label is text, or has: name, aliases, prompts, group, threshold, weights\n"
TWO_OF_THEM = "hint: the file is a list of labels, or has the one key `labels`\n"
SEVERAL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def named(run, *args, **more):
    """The labels that a command line means, in order, as `prompts expand` shows them."""
    result = run("prompts", "expand", "--template", "<>", *args, **more)
    assert result.exit_code == 0, result.stderr
    return [line.split("\t")[0] for line in result.stdout.splitlines()]


def refused(run, *args, **more):
    """What a command line that cannot be served says on standard error."""
    result = run("prompts", "expand", "--template", "<>", *args, **more)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat,dog", ["cat", "dog"]),
        (" cat , dog ", ["cat", "dog"]),
        ('"salt, pepper",x', ["salt, pepper", "x"]),
        ('x, "salt, pepper"', ["x", "salt, pepper"]),
        ('"say ""hi""",x', ['say "hi"', "x"]),
        ("it's,5\" disk", ["it's", '5" disk']),
        ("猫,狗", ["猫", "狗"]),
    ],
)
def test_labels_are_split_like_csv(run, text, expected):
    assert named(run, "--labels", text) == expected


def test_label_options_add_up_in_a_fixed_order(run, tmp_path):
    path = written(tmp_path, "more.txt", "fox\n")
    given_labels = ["--labels-file", path, "--label", "salt, pepper", "--labels", "cat,dog", "--labels", "cow"]
    assert named(run, *given_labels, "-l", "hen") == ["cat", "dog", "cow", "salt, pepper", "hen", "fox"]


def test_an_open_quote_is_an_error(run):
    assert refused(run, "--labels", '"salt, pepper') == (
        "error: labels '\"salt, pepper': unexpected end of data\n"
        "hint: quote like CSV: --labels '\"salt, pepper\",sugar'\n"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "cat,,dog",
            "error: label 2 of 3 is empty\nhint: look for two commas in a row in --labels\n",
        ),
        (
            "cat,dog,cat,cow,dog",
            "error: given twice: cat, dog\nhint: name each label once; other words for it are `aliases` in YAML\n",
        ),
        ("caf\udce9,dog", "error: label 'caf\\udce9' is not Unicode text\nhint: labels are read as UTF-8\n"),
    ],
    ids=["empty", "duplicate", "not-unicode"],
)
def test_a_label_that_cannot_be_chosen_is_named(run, text, said):
    assert refused(run, "--labels", text) == said


def test_no_labels_at_all_is_an_error(run, cat):
    result = run("classify", cat, "--model", "tiny")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: no labels given\nhint: name at least two: --labels cat,dog or --labels-file FILE\n"
    )


def test_one_label_is_an_error_because_its_softmax_is_always_1(run, cat):
    result = run("classify", cat, "--labels", "cat", "--model", "tiny")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: only one label given: cat\n"
        "hint: a softmax over one class is always 1: add what else it could be (--labels cat,other), "
        "ask whether it is one with --unknown, or for the raw similarity with --score cosine\n"
    )


def test_one_label_is_fine_where_its_score_means_something(run, cat):
    result = run("classify", cat, "--labels", "cat", "--model", "tiny", "--score", "cosine", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json.loads(result.stdout)
    assert record["label"] == "cat"
    assert -1 <= record["score"] < 0.999


def test_labels_that_the_model_reads_alike_are_named_in_a_warning(run, cat):
    result = run("classify", cat, "--labels", "Dog,cat,dog", "--model", "tiny", "--json")
    assert result.exit_code == 0
    assert result.stderr == "warning: the model reads these labels as the same text: Dog, dog; their score is split\n"
    scores = {one["label"]: one["score"] for one in json.loads(result.stdout)["scores"]}
    assert scores["Dog"] == scores["dog"]


def test_the_warning_comes_from_the_cache_too(run, cat):
    twice = [run("classify", cat, "--labels", "Dog,dog", "--model", "tiny").stderr for _ in range(2)]
    assert twice[0] == twice[1]
    assert "Dog, dog" in twice[1]


def test_an_over_long_prompt_is_reported_with_its_count(run, cat):
    long = " ".join(["word"] * 100)
    result = run("classify", cat, "--label", long, "--label", "cat", "--model", "tiny", "--template", "<>")
    assert result.exit_code == 0
    assert result.stderr == (
        f"warning: a prompt of label '{long}' has 102 tokens, tiny reads {context_of_tiny()}: the end was cut\n"
    )


def context_of_tiny() -> int:
    from clipzs.resolve import tiny

    return tiny().context_length


@pytest.mark.parametrize("label", ["{}", "{c}", "<>", "{0}", "a {b} c", "%s", "\\1", "a <> b"])
def test_braces_and_placeholders_in_a_label_are_only_text(run, label):
    result = run("prompts", "expand", "--label", label, "--template", "a <>.", "--template", "the {}")
    assert result.exit_code == 0, result.stderr
    shown = label.replace("\\", "\\\\")  # TSV doubles its escape character
    assert result.stdout == f"{shown}\ta {shown}.\n{shown}\tthe {shown}\n"


# Files that are understood


@pytest.mark.parametrize(
    "content",
    [
        "cat\nsalt, pepper\ndog\n",
        "# animals\ncat\n\n   \n  salt, pepper  \n  # more\ndog",
        "\ufeffcat\nsalt, pepper\ndog\n",
        "cat\r\nsalt, pepper\r\n\r\ndog\r\n",
        "cat\rsalt, pepper\rdog\r",
    ],
    ids=["plain", "comments-and-blanks", "bom", "crlf", "cr"],
)
def test_a_text_file_holds_one_label_a_line(run, tmp_path, content):
    path = written(tmp_path, "labels.txt", content)
    assert named(run, "--labels-file", path) == ["cat", "salt, pepper", "dog"]


def test_a_hash_inside_a_line_belongs_to_the_label(tmp_path):
    path = written(tmp_path, "labels.txt", "C# code\ncat\n")
    assert labelfiles.read(path) == [Label("C# code"), Label("cat")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('cat\n"salt, pepper"\n', [Label("cat"), Label("salt, pepper")]),
        ('cat, "salt, pepper",dog\n', [Label("cat"), Label("salt, pepper"), Label("dog")]),
        ("label\ncat\ndog\n", [Label("cat"), Label("dog")]),
        ("Name\ncat\ndog\n", [Label("cat"), Label("dog")]),
        ("label,group\ncat,animal\noak,\npine\n", [Label("cat", groups=("animal",)), Label("oak"), Label("pine")]),
        ("\ufeffgroup, label\r\nanimal, cat\r\n\r\n,oak\r\n", [Label("cat", groups=("animal",)), Label("oak")]),
        ('label\n"two\nlines"\nx\n', [Label("two\nlines"), Label("x")]),
    ],
    ids=["cells", "one-row", "header", "name", "group", "bom-crlf", "multi-line"],
)
def test_a_csv_file_holds_labels_with_or_without_a_header(tmp_path, content, expected):
    assert labelfiles.read(written(tmp_path, "labels.csv", content)) == expected


BOXER = Label("boxer", ("boxer dog", "German boxer"), ("a boxer, a type of dog",), ("dog",))
RICH = [Label("cat", ("kitten",)), BOXER, Label("oak")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "list.yaml",
            "- name: cat\n  aliases: kitten\n- name: boxer\n  aliases: [boxer dog, German boxer]\n"
            "  prompts: ['a boxer, a type of dog']\n  group: dog\n- oak\n",
        ),
        (
            "mapping.yml",
            "labels:\n  cat: {aliases: [kitten]}\n  boxer:\n    aliases:\n    - boxer dog\n    - German boxer\n"
            "    prompts: a boxer, a type of dog\n    group: dog\n  oak:\n",
        ),
        (
            "list.json",
            '\ufeff[{"name": "cat", "aliases": "kitten"}, {"name": "boxer", "group": "dog", "prompts":'
            ' ["a boxer, a type of dog"], "aliases": ["boxer dog", "German boxer"]}, "oak"]',
        ),
        (
            "mapping.JSON",
            '{"labels": {"cat": {"aliases": ["kitten"]}, "boxer": {"aliases": ["boxer dog", "German boxer"],'
            ' "prompts": "a boxer, a type of dog", "group": "dog"}, "oak": null}}',
        ),
    ],
)
def test_a_document_holds_labels_with_aliases_prompts_and_groups(tmp_path, name, content):
    assert labelfiles.read(written(tmp_path, name, content)) == RICH


def test_a_mapping_may_give_just_the_prompts_of_a_label(tmp_path):
    path = written(
        tmp_path, "labels.yaml", "labels:\n  crane: [construction crane, flying crane]\n  boxer: a boxer dog\n"
    )
    crane, boxer = labelfiles.read(path)
    assert (crane.prompts, boxer.prompts) == (("construction crane", "flying crane"), ("a boxer dog",))


def test_yaml_words_and_numbers_stay_text(tmp_path):
    path = written(tmp_path, "labels.yaml", "[no, yes, 1, 2.50, null, ~, 2024-01-01, 0x10, on]")
    names = [label.name for label in labelfiles.read(path)]
    assert names == ["no", "yes", "1", "2.50", "null", "~", "2024-01-01", "0x10", "on"]


def test_the_example_labels_are_valid(run):
    examples = Path(__file__).parent.parent / "examples"
    for name in ("labels.txt", "labels.yaml"):
        found = labels.checked(labelfiles.read(examples / name))
        assert "cat" in [label.name for label in found]


# Files that are refused


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.yaml", "- cat\n- nam: dog\n", "{}:2: unknown key 'nam'"),
        ("l.yaml", "labels:\n- cat\n- name: dog\n  aliass: [hound]\n", "{}:4: unknown key 'aliass'"),
        ("l.yaml", "labels:\n  dog:\n    group: pet\n    size: 3\n", "{}:4: unknown key 'size'"),
        ("l.yaml", "- aliases: [hound]\n", "{}:1: a label needs a `name`"),
        ("l.yaml", "- name: [dog]\n", "{}:1: a label needs a `name`"),
        ("l.yaml", "- cat\n- ''\n", "{}:2: a label is empty"),
        ("l.yaml", "- cat\n-\n- dog\n", "{}:2: a label must be text, not an empty item"),
        ("l.yaml", "- cat\n- [dog]\n", '{}:2: a label must be text, not ["dog"]'),
        ("l.yaml", "- name: dog\n  aliases:\n    x: y\n", "{}:2: `aliases` must be text or a list of texts"),
        ("l.yaml", "- name: dog\n  prompts: [a, '']\n", "{}:2: `prompts` must be text or a list of texts"),
        ("l.yaml", "just text\n", "{}:1: labels must be a list"),
        ("l.json", '["cat",\n 1]', "{}:2: a label must be text, not 1"),
        ("l.json", '["cat",\n true]', "{}:2: a label must be text, not true"),
        ("l.json", '["cat",\n null]', "{}:2: a label must be text, not an empty item"),
        ("l.json", '[\n\t{"name": "cat",\n\t"alias": []}]', "{}:3: unknown key 'alias'"),
        ("l.json", '["\\ud83d\\ude00",\n {"x": 1}]', "{}:2: unknown key 'x'"),
        ("l.json", "7", "{}:1: labels must be a list"),
    ],
)
def test_a_wrong_label_is_refused_with_its_line(run, tmp_path, name, content, said):
    path = written(tmp_path, name, content)
    assert refused(run, "--labels-file", path) == f"error: {said.format(path)}\n{A_LABEL_HAS}"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.yaml", "a: b\n", "{}:1: unknown key 'a'"),
        ("l.yaml", "labels: [cat]\nversion: 2\n", "{}:2: unknown key 'version'"),
        ("l.json", '{\n"labels": [],\n"cats": []}', "{}:3: unknown key 'cats'"),
    ],
)
def test_a_document_of_another_shape_is_refused(run, tmp_path, name, content, said):
    path = written(tmp_path, name, content)
    assert refused(run, "--labels-file", path) == f"error: {said.format(path)}\n{TWO_OF_THEM}"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.yaml", "labels:\n  cat: a\n  cat: b\n", "{}:3: the key 'cat' occurs twice"),
        ("l.yaml", "- cat\n- [dog\n", "{}:2: not valid YAML: did not find expected ',' or ']'"),
        ("l.yaml", "- cat\n- a: b: c\n", "{}:2: not valid YAML: mapping values are not allowed in this context"),
        ("l.yaml", "- cat\n- \x07\n", "{}:2: not valid YAML: a control character"),
        ("l.yaml", "- cat\n---\n- dog\n", "{}:3: more than one YAML document in the file"),
        ("l.yaml", "labels:\n  ? [a, b]\n  : c\n", "{}:2: a key must be plain text"),
        ("l.yaml", "- &x [lol]\n- *x\n", "{}:2: anchors and aliases (& and *) are not supported"),
        ("l.yaml", "- cat\n- " + "[" * 100_000, "{}:2: nested too deeply"),
        ("l.yaml", "- " * 100_000, "{}:1: nested too deeply"),
        ("l.json", '["cat",\n "dog"', "{}:2: not valid JSON: Expecting ',' delimiter"),
        ("l.json", "", "{}:1: not valid JSON: Expecting value"),
        ("l.json", '{"labels": {\n"a": "x",\n"a": "y"}}', "{}:3: not valid JSON: the key 'a' occurs twice"),
        ("l.csv", 'label\ncat\n"dog\n', "{}:3: not valid CSV: unexpected end of data"),
        ("l.csv", "label,group\n\ncat,\n,pet\n", "{}:4: no label in this row"),
        ("l.txt", b"cat\ncaf\xe9\n", "{}:2: not UTF-8 text"),
        ("l.yaml", b"\xff\xfe-\x00", "{}:1: not UTF-8 text"),
        ("l.txt", "", "{}: no labels in it"),
        ("l.txt", "# nothing\n\n", "{}: no labels in it"),
        ("l.csv", "\n \n", "{}: no labels in it"),
        ("l.csv", "label,group\n", "{}: no labels in it"),
        ("l.yaml", "", "{}: no labels in it"),
        ("l.yaml", "labels:\n", "{}: no labels in it"),
        ("l.json", "[]", "{}: no labels in it"),
        ("l.json", '{"labels": {}}', "{}: no labels in it"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_with_its_line(run, tmp_path, name, content, said):
    path = written(tmp_path, name, content)
    assert refused(run, "--labels-file", path).splitlines()[0] == f"error: {said.format(path)}"


def test_nesting_and_numbers_that_python_refuses_are_one_line(run, tmp_path):
    deep = written(tmp_path, "deep.json", "[" * 100_000)
    number = written(tmp_path, "number.json", f"[{'1' * 5000}]")
    for path in (deep, number):
        line, *others = refused(run, "--labels-file", path).splitlines()
        assert line.startswith(f"error: {path}")
        assert ": not valid JSON: " in line
        assert others == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "label,wheels\ncat,0\n",
            "{}:1: unknown column 'wheels'\nhint: columns are label and group; aliases need YAML",
        ),
        ("\nlabel,group,group\ncat,a,b\n", "{}:2: a column occurs twice\nhint: columns are label and group"),
        ("label\ncat\nsalt, pepper\n", "{}:3: more cells than the header has\nhint: quote labels that hold commas"),
    ],
)
def test_a_csv_file_with_other_columns_is_refused(run, tmp_path, content, said):
    path = written(tmp_path, "labels.csv", content)
    assert refused(run, "--labels-file", path) == f"error: {said.format(path)}\n"


def test_a_file_that_is_not_there_cannot_be_read(run, tmp_path):
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    for path, reason in ((tmp_path / "absent.yaml", "No such file or directory"), (folder, "Is a directory")):
        assert refused(run, "--labels-file", path) == f"error: {path}: cannot be read: {reason}\n"


def test_a_file_of_another_kind_is_refused(run, tmp_path):
    path = written(tmp_path, "labels.docx", "cat\ndog\n")
    assert refused(run, "--labels-file", path) == (
        f"error: {path}: a labels file ends in .txt, .csv, .json, .jsonl, .yaml, .yml\nhint: rename it to what it is\n"
    )


def test_aliases_of_yaml_that_would_unfold_to_billions_are_refused_at_once(run, tmp_path):
    lines = ["- &a0 [lol]"] + [f"- &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(9)]
    path = written(tmp_path, "bomb.yaml", "\n".join(lines))
    assert refused(run, "--labels-file", path) == (
        f"error: {path}:2: anchors and aliases (& and *) are not supported\n"
    )


def test_nothing_in_a_yaml_file_is_executed(tmp_path):
    path = written(tmp_path, "labels.yaml", "- !!python/object/apply:os.system ['exit 1']\n- !!int dog\n")
    with pytest.raises(LabelsError, match=":1: a label must be text, not"):
        labelfiles.read(path)


# For any text

names = st.text(min_size=1, max_size=30).map(str.strip).filter(bool)
one_line = names.filter(lambda name: not name.startswith("#") and not set(name) & {"\r", "\n"})
printable = names.filter(
    lambda name: not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\ufeff\ufffe\uffff" for c in name)
)


def several(strategy: "st.SearchStrategy[str]") -> "st.SearchStrategy[list[str]]":
    return st.lists(strategy, min_size=1, max_size=8, unique=True)


@SEVERAL
@given(several(one_line))
def test_any_labels_survive_a_text_file(tmp_path, texts):
    texts[0] = texts[0].removeprefix("\ufeff").strip() or "x"  # at the start of a file it is a byte order mark
    path = written(tmp_path, "any.txt", "\n".join(texts))
    assert [label.name for label in labelfiles.read(path)] == [text for text in texts if not text.startswith("#")]


@SEVERAL
@given(several(names))
def test_any_labels_survive_json(tmp_path, texts):
    for ascii_only in (True, False):
        path = written(tmp_path, "any.json", json.dumps(texts, ensure_ascii=ascii_only))
        assert [label.name for label in labelfiles.read(path)] == texts
    path = written(tmp_path, "any.json", json.dumps({"labels": dict.fromkeys(texts)}))
    assert [label.name for label in labelfiles.read(path)] == texts


@SEVERAL
@given(several(names))
def test_any_labels_survive_csv(tmp_path, texts):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["label"], *([name] for name in texts)])
    path = written(tmp_path, "any.csv", text.getvalue())
    assert [label.name for label in labelfiles.read(path)] == texts


@SEVERAL
@given(several(printable))
def test_any_labels_survive_yaml(tmp_path, texts):
    for document in (texts, {"labels": [{"name": text} for text in texts]}):
        path = written(tmp_path, "any.yaml", yaml.safe_dump(document, allow_unicode=True))
        assert [label.name for label in labelfiles.read(path)] == texts


@SEVERAL
@given(several(names))
def test_any_labels_survive_csv_quoting_on_the_command_line(texts):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="", quoting=csv.QUOTE_ALL).writerow(texts)
    assert labels.split_commas(text.getvalue()) == texts


def outcome(parse, text):
    """What a parser makes of a text: a value, or the one kind of error it may raise."""
    try:
        return parse(text)
    except (ClipzsError, yamlfile.YamlProblem) as error:
        return error


any_text = st.text(max_size=60) | st.text("[]{}:,-&*!?|>'\"#%@` \n\tab", max_size=60)


@SEVERAL
@given(any_text)
def test_no_text_breaks_the_yaml_parser(text):
    result = outcome(yamlfile.parse, text)
    assert isinstance(result, (yamlfile.Document, yamlfile.YamlProblem))
    if isinstance(result, yamlfile.YamlProblem):
        assert 1 <= result.line <= len(text) + 1
        assert "\n" not in str(result)


@SEVERAL
@given(any_text)
def test_no_text_breaks_the_splitting_at_commas(text):
    result = outcome(labels.split_commas, text)
    if isinstance(result, LabelsError):
        assert str(result).startswith(f"labels {text!r}: ")
    else:
        assert all(name == name.strip() for name in result)


@SEVERAL
@given(any_text.map(str.encode) | st.binary(max_size=60))
def test_no_content_breaks_a_labels_file(tmp_path, content):
    for suffix in (".txt", ".csv", ".json", ".yaml"):
        result = outcome(labelfiles.read, written(tmp_path, f"any{suffix}", content))
        if isinstance(result, LabelsError):
            assert str(result).startswith(str(tmp_path / f"any{suffix}:"))
            assert "\n" not in str(result)
        else:
            assert all(isinstance(label, Label) for label in result)
