"""`clipzs labels check`: doubts about labels, each kind as one line. What classify warns of is in test_warnings.py."""

import json

import numpy as np
import pytest

from clipzs import labelchecks
from clipzs.backend import BackendSettings, BackendTokenizer
from clipzs.labels import Label
from clipzs.store import LabelEmbedding


def checked(run, *labels: str, options: tuple[object, ...] = ("--model", "tiny")) -> dict[str, str]:
    """The message of each check that found something."""
    result = run("labels", "check", *(word for label in labels for word in ("--label", label)), *options)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert result.exit_code == (1 if lines else 0), result.stderr
    assert len({line[0] for line in lines}) == len(lines), "one line for each kind"
    return {check: message for check, _, message in lines}


def concerns(run, *labels: str) -> dict[str, list[list[str]]]:
    """The labels of each check that found something."""
    named = (word for label in labels for word in ("--label", label))
    result = run("labels", "check", *named, "--model", "tiny", "--json")
    found = json.loads(result.stdout)["findings"]
    return {one["check"]: [concern["labels"] for concern in one["concerns"]] for one in found}


def test_labels_without_fault_are_clean(run):
    result = run("labels", "check", "--labels", "cat,rocket,temple", "--model", "tiny")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "note: nothing found in 3 labels for tiny\n"


def test_one_label_can_be_checked(run):
    assert checked(run, "cat") == {}


def test_findings_are_one_line_each_however_many_labels_they_concern(run):
    found = checked(run, *(f"not thing {n}" for n in range(2000)))
    assert found["negation"] == (
        "labels that say what is not there: not thing 0, not thing 1, not thing 2 and 1,997 more; models of this kind "
        "do not understand negation: name what is there instead"
    )


@pytest.mark.parametrize(
    "text",
    ["not a cat", "no people", "a street without cars", "non-alcoholic beer", "it isn't red", "a dog that can’t swim",
     "Nothing", "a plate with neither fork nor knife"],
)  # fmt: skip
def test_negations_are_found(run, text):
    assert list(labelchecks._negations([Label(text)]))


@pytest.mark.parametrize(
    "text",
    ["forget-me-not", "No. 5 perfume", "no parking sign", "a knot", "Notre Dame", "piano", "canteen", "nonfiction"],
)
def test_what_only_looks_like_a_negation_is_none(text):
    assert not list(labelchecks._negations([Label(text)]))


def test_a_negation_in_an_alias_or_a_prompt_of_its_own_counts(run):
    labels = [
        Label("boxer", prompts=("a boxer, not a sportsman",)),
        Label("empty", aliases=("no people",)),
        Label("cat"),
    ]
    assert [one.labels for one in labelchecks._negations(labels)] == [("boxer",), ("empty",)]


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat", "cats"), ("box", "boxes"), ("pony", "ponies"), ("horse", "horses"), ("woman", "women"), ("leaf", "leaves"),
     ("T-shirt", "t shirts"), ("a cat", "the cats"), ("living room", "Living_Rooms")],
)  # fmt: skip
def test_forms_of_one_word_are_found(one, other):
    assert [concern.labels for concern in labelchecks._same_words([Label(one), Label("dog"), Label(other)], [])] == [
        (one, other)
    ]


@pytest.mark.parametrize(("one", "other"), [("cap", "cape"), ("bus", "bush"), ("glass", "grass"), ("len", "lens art")])
def test_other_words_are_no_forms_of_one(one, other):
    assert labelchecks._same_words([Label(one), Label(other)], []) == []


def test_an_alias_that_is_another_label_is_found():
    labels = [Label("couch", aliases=("sofa",)), Label("sofas"), Label("chair")]
    assert [concern.labels for concern in labelchecks._same_words(labels, [])] == [("couch", "sofas")]


def test_labels_that_are_the_same_text_are_told_once(run):
    assert set(concerns(run, "Cat", "cat", "dog")) == {"same-text"}


def test_groups_of_one_label_are_found_by_the_check_and_by_classifying_by_group(run, tmp_path, cat):
    labels = tmp_path / "labels.yaml"
    labels.write_text("labels:\n- {name: cat, group: animals}\n- {name: dog, group: animal}\n- rocket\n")
    line = "groups of one label: cat (animals), dog (animal); is it spelt alike?"
    options = ("--labels-file", labels, "--model", "tiny")
    assert checked(run, options=options) == {"group-of-one": line}
    assert run("classify", cat, *options).stderr == ""
    assert run("classify", cat, *options, "--by-group").stderr == f"warning: {line}\n"


def test_words_that_a_tokenizer_lacks_are_found_and_none_of_byte_pairs(run, folder):
    strange = ("🫠 cat", "qwxzzy")
    name = f"local-dir:{folder('transformers-tokenizer')}"
    found = checked(run, *strange, "cup of coffee", options=("--model", name, "--template", "a photo of <>"))
    assert found["unknown-words"] == (
        f"{name} has no tokens for words of 🫠 cat (🫠), qwxzzy (qwxzzy): to it they are all the same"
    )
    assert "unknown-words" not in checked(run, *strange, "cup of coffee")


def test_words_of_the_templates_are_not_blamed_on_the_labels(run, folder):
    name = f"local-dir:{folder('transformers-tokenizer')}"
    options = ("--model", name, "--template", "a magnificent <>")
    assert "unknown-words" not in checked(run, "cat", "dog", options=options)


def embedded(vectors: np.ndarray) -> list[LabelEmbedding]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return [LabelEmbedding(row.astype(np.float32), bytes([n % 256, n // 256]), 5) for n, row in enumerate(unit)]


def near(vectors: np.ndarray, everyday: np.ndarray, names: list[str] | None = None, known=()) -> list[tuple[str, ...]]:
    names = names or [str(number) for number in range(len(vectors))]
    everyday = everyday / np.linalg.norm(everyday, axis=1, keepdims=True)
    return [one.labels for one in labelchecks._near(names, embedded(vectors), lambda: everyday, known)]


def test_near_duplicates_are_found_among_thousands_nearest_first():
    numbers = np.random.default_rng(0)
    vectors = numbers.standard_normal((3000, 64))
    vectors[2999] = vectors[3] + 0.02 * numbers.standard_normal(64)
    vectors[1500] = vectors[1024] + 0.1 * numbers.standard_normal(64)
    assert near(vectors, vectors[:12]) == [("3", "2999"), ("1024", "1500")]


@pytest.mark.parametrize("spread", [1.0, 0.3, 0.1, 0.02], ids=lambda spread: f"spread {spread}")
def test_nearest_neighbours_are_those_of_the_whole_table_of_cosines(spread):
    """From labels that are all apart to labels that are nearly all near."""
    numbers = np.random.default_rng(1)
    common = numbers.standard_normal(64)
    vectors = np.stack([one.vector for one in embedded(common + spread * 3 * numbers.standard_normal((1200, 64)))])
    table = vectors.astype(np.float64) @ vectors.T
    np.fill_diagonal(table, -2)
    expected = np.where(table.max(axis=1) > labelchecks.NEAR, table.max(axis=1), -np.inf)
    nearest, cosines = labelchecks._nearest(vectors)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    near = np.isfinite(cosines)
    np.testing.assert_allclose(table[np.arange(len(table)), nearest][near], table.max(axis=1)[near], atol=1e-6)


def test_what_is_near_depends_on_how_near_everyday_words_are_to_the_model():
    numbers = np.random.default_rng(0)
    spread = numbers.standard_normal((12, 64))
    common = np.zeros(64)
    common[0] = 40.0  # of a model that reads all texts much alike
    pair = np.stack([spread[0], spread[0] + 0.25 * numbers.standard_normal(64), spread[1]])
    assert near(pair, spread) == [("0", "1")]
    apart = np.stack([common + spread[0], common + spread[2], common + spread[1]])
    assert {name for pair in near(apart, spread) for name in pair} == {"0", "1", "2"}  # over 0.95 all of them
    assert near(apart, common + spread) == []
    assert near(np.stack([apart[0], apart[0] + 0.2 * spread[3], apart[2]]), common + spread) == [("0", "1")]


def test_labels_known_to_be_alike_are_not_near_duplicates_as_well():
    vectors = np.eye(4)[[0, 0, 1, 1]] + 0.001 * np.random.default_rng(0).standard_normal((4, 4))
    assert near(vectors, np.eye(4), ["cat", "cats", "sofa", "couch"], [("cat", "cats")]) == [("sofa", "couch")]


def test_everyday_words_are_not_near_each_other_to_the_embedded_model(run):
    assert checked(run, *labelchecks.EVERYDAY) == {}


def test_near_duplicates_of_a_model_are_warned_of_each_time(run, cat):
    """What a label is made to be near is another that differs in one word of many."""
    long = "a very old wooden sailing boat in the harbour of a small town at dusk seen from a hill above the "
    labels = (f"{long}bay", f"{long}coast")
    message = checked(run, *labels, "rocket")["near-duplicates"]
    assert message.startswith(f"these labels are almost the same to tiny: {', '.join(labels)} (0.9")
    options = [word for label in (*labels, "rocket") for word in ("--label", label)]
    for _ in range(2):
        warned = run("classify", cat, *options, "--model", "tiny").stderr.splitlines()
        assert f"warning: {message}" in warned


def test_the_json_names_every_label_that_is_concerned(run):
    result = run("labels", "check", "--labels", "not a cat,Dog,dog,猫,no 1,none", "--model", "tiny", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["model"] == "tiny"
    found = {one["check"]: one for one in document["findings"]}
    assert found["unreadable"]["concerns"] == [{"labels": ["猫"], "what": "Han"}]
    assert found["same-text"]["concerns"] == [{"labels": ["Dog", "dog"], "what": ""}]
    assert [one["labels"] for one in found["negation"]["concerns"]] == [["not a cat"], ["none"]]


def test_wrong_labels_are_one_line(run):
    result = run("labels", "check", "--labels", "cat,cat", "--model", "tiny")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == "error: given twice: cat"


def word_pieces():
    from tokenizers import BertWordPieceTokenizer

    return BertWordPieceTokenizer({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "cat": 4, "##s": 5, "a": 6})


def sentence_pieces(*, byte_fallback: bool):
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = ["<pad>", "<unk>", "▁", "▁cat", "s", "▁a", *(f"<0x{byte:02X}>" for byte in range(256) if byte_fallback)]
    model = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1, byte_fallback=byte_fallback)
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


@pytest.mark.parametrize(
    ("made", "unknown"),
    [
        (word_pieces, ((), ("🫠", "dog"), ("catx",))),
        (lambda: sentence_pieces(byte_fallback=False), ((), ("🫠", "dog"), ("catx",))),
        (lambda: sentence_pieces(byte_fallback=True), ()),
    ],
    ids=["word pieces", "sentence pieces", "sentence pieces and bytes"],
)
def test_every_kind_of_tokenizer_tells_the_words_it_has_no_tokens_for(made, unknown):
    settings = BackendSettings(made().to_str(), 8, "lower", "right", "right", 0, False, None, None)
    tokens = BackendTokenizer(settings)(["cats a cat", "a 🫠 dog dog", "a catx"])
    assert tokens.unknown == unknown
    assert tokens[1:].unknown == unknown[1:]
