"""Answers that no label is right: by thresholds, and by a background that the labels have to beat."""

import csv
import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import EXAMPLES
from hypothesis import given
from hypothesis import strategies as st

from clipzs import Classifier, Label, background, score
from clipzs.answers import Rules
from clipzs.background import Background, WithUnknown
from clipzs.errors import ClipzsError

LABELS = ("--labels", "cat,dog", "--model", "tiny")


def unit(*shape: int, seed: int) -> score.Array:
    """Random rows of length 1."""
    rows = np.random.default_rng(seed).normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


# The arithmetic


def test_the_words_are_many_and_none_occurs_twice():
    found = background.words()
    assert len(found) > 300
    assert len(set(found)) == len(found)
    assert all(word == word.strip() and word for word in found)


@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_evidence_is_that_of_the_formula_in_the_documentation(negatives):
    images, labels, words, unwanted = (unit(n, 16, seed=seed) for seed, n in enumerate((5, 3, 40, negatives or 1)))
    unwanted = unwanted[:negatives]
    evidence, against = Background(words, unwanted).evidence(images, labels)
    assert (evidence.shape, against.shape) == ((5, 3), (5,))
    for i, image in enumerate(images.astype(float)):
        near = [float(word @ image) for word in words.astype(float)]
        mean = sum(near) / len(near)
        spread = math.sqrt(sum((one - mean) ** 2 for one in near) / len(near))

        def nats(text, image=image, mean=mean, spread=spread):
            return background.SHARPNESS * (float(text.astype(float) @ image) - mean) / spread

        others = background.WEIGHT * sum(math.exp(nats(word)) for word in words) / len(words)
        others += sum(math.exp(nats(text)) for text in unwanted)
        assert against[i] == pytest.approx(math.log(others))
        assert evidence[i] == pytest.approx([nats(label) for label in labels])


@given(shrink=st.floats(0.05, 1.0), seed=st.integers(0, 9))
def test_models_whose_similarities_are_spread_otherwise_or_lie_higher_give_the_same(shrink, seed):
    images, labels, words = unit(4, 8, seed=seed), unit(3, 8, seed=seed + 100), unit(30, 8, seed=seed + 200)

    def narrower(rows):  # all cosines become shrink * cosine + (1 - shrink)
        aside = np.full((len(rows), 1), math.sqrt(1 - shrink))
        return np.hstack([rows * math.sqrt(shrink), aside])

    plain = Background(words, words[:0]).evidence(images, labels)
    other = Background(narrower(words), words[:0]).evidence(narrower(images), narrower(labels))
    for one, two in zip(plain, other, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)


def test_the_number_of_words_is_not_what_counts():
    images, labels, words = unit(4, 8, seed=1), unit(3, 8, seed=2), unit(30, 8, seed=3)
    once = Background(words, words[:0]).evidence(images, labels)[1]
    twice = Background(np.concatenate([words, words]), words[:0]).evidence(images, labels)[1]
    np.testing.assert_allclose(once, twice)


def test_what_the_labels_share_is_what_the_background_leaves():
    images, labels, words = unit(6, 8, seed=1), unit(3, 8, seed=2), unit(30, 8, seed=3)
    behind = Background(words, words[:0])
    found = WithUnknown(("a", "b", "c"), labels, behind, scale=20.0, unknown="?")
    table = found(images)
    assert found.names == ("a", "b", "c", "?")
    assert table.dtype == np.float32
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-6)
    plain = score.scores(images, labels, kind="softmax", scale=20.0, bias=None)
    np.testing.assert_allclose(table[:, :3] / table[:, :3].sum(axis=1, keepdims=True), plain, rtol=1e-4)
    evidence, against = behind.evidence(images, labels)
    np.testing.assert_allclose(table[:, 3], 1 / (1 + np.exp(evidence).sum(axis=1) / np.exp(against)), rtol=1e-5)


def test_no_score_hangs_on_the_images_beside_it():
    images, labels, words = unit(64, 32, seed=1), unit(5, 32, seed=2), unit(300, 32, seed=3)
    found = WithUnknown(tuple("abcde"), labels, Background(words, words[:2]), scale=100.0, unknown="?")
    together = found(images)
    for n in (0, 17, 63):
        np.testing.assert_allclose(found(images[n : n + 1])[0], together[n], rtol=1e-6)


def test_words_that_a_model_reads_all_alike_give_numbers_all_the_same():
    words = np.repeat(unit(1, 8, seed=3), 30, axis=0)
    behind = Background(words, words[:0])
    table = WithUnknown(("a", "b"), unit(2, 8, seed=2), behind, scale=100.0, unknown="?")(unit(5, 8, seed=1))
    assert np.isfinite(table).all()
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-6)


@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), min_size=3, max_size=3), min_size=1),
    least=st.lists(st.sampled_from([-math.inf, 0.1, 0.5, 0.75, math.inf]), min_size=3, max_size=3),
    margin=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_the_best_label_is_the_answer_where_its_score_and_its_lead_are_enough(rows, least, margin):
    rules = Rules(("a", "b", "c"), least, "?", margin=margin)
    for row, answer in zip(rows, rules(np.array(rows, np.float32)), strict=True):
        row = [float(np.float32(one)) for one in row]
        best = row.index(max(row))
        enough = row[best] >= least[best] and row[best] - sorted(row)[-2] >= margin
        assert (answer.label, answer.labels) == (None if enough else "?", None)


# The command


def test_a_cup_is_neither_cat_nor_dog_and_a_cat_is_one_of_them(run, cat, coffee):
    result = run("classify", cat, coffee, *LABELS, "--unknown", "--json")
    assert result.exit_code == 0
    known, unknown = map(json.loads, result.stdout.splitlines())
    assert known["label"] in ("cat", "dog")
    assert unknown["label"] == "unknown"
    for record in (known, unknown):
        scores = {one["label"]: one["score"] for one in record["scores"]}
        assert set(scores) == {"cat", "dog", "unknown"}
        assert sum(scores.values()) == pytest.approx(1, abs=2e-3)
        assert record["score"] == scores[record["label"]] == max(scores.values())


def test_without_the_options_nothing_is_another(cat, coffee):
    plain = Classifier(["cat", "dog"], model="tiny")
    asked = Classifier(["cat", "dog"], model="tiny", unknown=True)
    for one, two in zip(plain.classify([cat, coffee]), asked.classify([cat, coffee]), strict=True):
        assert one.label == one.scores[0].label
        assert one.labels is None
        assert "labels" not in one.as_json()
        shares = {s.label: s.score for s in two.scores if s.label != "unknown"}
        for s in one.scores:  # the labels share what the background leaves as they share all of it without
            assert shares[s.label] / sum(shares.values()) == pytest.approx(s.score, rel=1e-4)


def test_the_question_may_be_whether_it_is_that_at_all(run, cat, coffee):
    result = run("classify", cat, coffee, "--labels", "cat", "--model", "tiny", "--unknown", "-f", "label")
    assert result.stdout == "cat\nunknown\n"


def test_a_negative_takes_from_the_labels(run, coffee):
    def told(*more):
        (line,) = run(
            "classify", coffee, "--labels", "drink,dog", *LABELS[2:], "--unknown", *more, "--json"
        ).stdout.splitlines()
        return {one["label"]: one["score"] for one in json.loads(line)["scores"]}

    before, after = told(), told("--negative", "coffee", "--negative", "cup")
    assert after["unknown"] > before["unknown"]
    assert after["drink"] < before["drink"]
    assert set(after) == {"drink", "dog", "unknown"}


def test_a_second_run_needs_no_text_tower(cat):
    first = Classifier(["cat", "dog"], model="tiny", unknown=True, negative=["a drawing"])
    again = Classifier(["cat", "dog"], model="tiny", unknown=True, negative="a drawing")
    assert [*first.classify(cat)] == [*again.classify(cat)]
    assert first.prompts_encoded > len(background.words())
    assert again.prompts_encoded == 0


def test_abstention_needs_nothing_where_nobody_asks_for_it(cat):
    code = (
        "import sys; from clipzs.cli import app\n"
        f"try: app(['classify', {str(cat)!r}, '--labels', 'cat,dog', '--model', 'tiny'])\n"
        "except SystemExit: pass\n"
        "print('clipzs.background' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (("--min-score", "0"), True),
        (("--min-score", "1"), False),
        (("--min-margin", "0"), True),
        (("--min-margin", "1"), False),
        (("--score", "cosine", "--min-score", "-1"), True),
        (("--score", "cosine", "--min-score", "0.99"), False),
    ],
)
def test_a_best_label_below_the_limit_is_no_answer(run, coffee, options, answer):
    (record,) = map(json.loads, run("classify", coffee, *LABELS, *options, "--json").stdout.splitlines())
    best = record["scores"][0]
    assert {one["label"] for one in record["scores"]} == {"cat", "dog"}
    assert (record["label"], record["score"]) == ((best["label"], best["score"]) if answer else ("unknown", None))


def test_the_limits_are_inclusive_and_about_the_best_and_the_second(run, coffee):
    first, second = (
        one["score"] for one in json.loads(run("classify", coffee, *LABELS, "--json", "--decimals", 9).stdout)["scores"]
    )
    for option, value in (("--min-score", first), ("--min-margin", first - second)):
        for change, label in ((-1e-4, False), (1e-4, True)):
            result = run("classify", coffee, *LABELS, option, f"{value + change:.6f}", "-k", 1, "-f", "label")
            assert (result.stdout == "unknown\n") is label


def test_every_format_says_unknown(run, cat, coffee):
    def told(*more):
        return run("classify", coffee, *LABELS, "--min-score", "1", *more).stdout

    tsv = [line.split("\t") for line in told("-f", "tsv").splitlines()]
    assert tsv == [[str(coffee), "unknown", ""]]
    two = [line.split("\t") for line in told("-f", "tsv", "-k", 2).splitlines()]
    assert two[0][1:] == ["unknown", ""]
    assert two[1][1] in ("cat", "dog")
    assert float(two[1][2]) > 0.5
    assert len(two) == 2
    rows = [*csv.DictReader(io.StringIO(told("-f", "csv")))]
    assert rows == [{"path": str(coffee), "label": "unknown", "score": "", "error": ""}]
    assert told("-f", "label") == "unknown\n"
    assert told("-f", "label", "--unknown-label", "none of these") == "none of these\n"
    document = json.loads(told("-f", "json"))["results"][0]
    assert (document["label"], document["score"], len(document["scores"])) == ("unknown", None, 2)
    table = told(cat, "-f", "table")
    assert table.splitlines()[1] == "  unknown"
    summary = table.rpartition("\n\n")[2].splitlines()
    assert summary[1].split() == ["unknown", "2", "100.0%"]


def test_an_unknown_with_a_probability_stands_among_the_scores(run, coffee):
    lines = run("classify", coffee, *LABELS, "--unknown", "-f", "tsv", "-k", 3).stdout.splitlines()
    names, numbers = zip(*((line.split("\t")[1], float(line.split("\t")[2])) for line in lines), strict=True)
    assert names[0] == "unknown"
    assert set(names) == {"unknown", "cat", "dog"}
    assert list(numbers) == sorted(numbers, reverse=True)
    table = run("classify", coffee, *LABELS, "--unknown", "-f", "table").stdout
    assert table.splitlines()[1].split()[0] == "unknown"
    assert table.splitlines()[1].endswith("%")


def test_labels_have_thresholds_of_their_own_that_go_before_the_common_one(run, coffee, tmp_path):
    file = tmp_path / "labels.yaml"

    def told(of_cat, of_dog, *more):
        file.write_text(f"labels:\n- name: cat\n  threshold: {of_cat}\n- name: dog\n  threshold: {of_dog}\n")
        return run("classify", coffee, "--labels-file", file, *LABELS[2:], "-f", "label", *more).stdout.strip()

    best = run("classify", coffee, *LABELS, "-f", "label").stdout.strip()
    assert told(0, 0) == best
    assert told(1, 1) == "unknown"
    assert told(0, 0, "--min-score", 1) == best
    assert told(*((0, 1) if best == "cat" else (1, 0))) == best
    assert told(*((1, 0) if best == "cat" else (0, 1))) == "unknown"


@pytest.mark.parametrize("value", ["high", "2", "-1.5", "true", ".nan", "[0.5]"])
def test_a_threshold_that_is_no_number_is_an_error_with_its_line(run, cat, tmp_path, value):
    file = tmp_path / "labels.yaml"
    file.write_text(f"- name: cat\n  threshold: {value}\n- dog\n")
    result = run("classify", cat, "--labels-file", file, "--model", "tiny")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {file}:2: `threshold` must be a number from 0 to 1")


def test_groups_are_answered_or_unknown_as_labels_are(run, cat, coffee, tmp_path):
    file = tmp_path / "labels.yaml"
    file.write_text(
        "- {name: cat, group: pet}\n- {name: dog, group: pet, threshold: 1}\n- {name: rocket, group: thing}\n"
    )
    options = ("--labels-file", file, "--model", "tiny", "--by-group", "--json")
    known, unknown = (
        json.loads(line) for line in run("classify", cat, coffee, *options, "--unknown").stdout.splitlines()
    )
    assert (known["label"], unknown["label"]) == ("pet", "unknown")
    assert {one["label"] for one in known["scores"]} == {"pet", "thing", "unknown"}
    assert sum(one["score"] for one in known["scores"]) == pytest.approx(1, abs=2e-3)
    result = run("classify", cat, *options)
    assert json.loads(result.stdout)["label"] == "pet"
    assert result.stderr.splitlines()[0] == (
        "warning: thresholds of labels count for nothing with --by-group; --min-score is for groups"
    )


def test_one_group_is_enough_where_there_is_something_outside(run, cat, coffee, tmp_path):
    file = tmp_path / "labels.yaml"
    file.write_text("- {name: cat, group: pet}\n- {name: dog, group: pet}\n")
    options = ("--labels-file", file, "--model", "tiny", "--by-group", "-f", "label")
    assert run("classify", cat, coffee, *options, "--unknown").stdout == "pet\nunknown\n"
    assert run("classify", cat, coffee, *options).exit_code == 2


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (("--unknown", "--multi"), "--unknown shares one probability, --multi gives each label its own",
         "leave --unknown out: where no label reaches its threshold, --multi answers the unknown label too"),
        (("--unknown", "--score", "cosine"), "--unknown makes probabilities its own way", "leave --score out"),
        (("--threshold", "0.3"), "--threshold is for --multi", "--min-score is for the best label"),
        (("--negative", "a drawing"), "--negative says what is unknown", "add --unknown, or --multi"),
        (("--unknown", "--negative", " "), "--negative is empty", "say in words what is not wanted"),
        (("--unknown", "--unknown-label", "dog"), "'dog' is a label, and what is answered where no label is",
         "call one of them otherwise: --unknown-label TEXT"),
        (("--unknown", "--unknown-label", ""), "--unknown-label is empty",
         "leave it out: it is 'unknown' then"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(run, cat, options, error, hint):
    result = run("classify", cat, *LABELS, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {error}\nhint: {hint}\n"


@pytest.mark.parametrize(
    ("option", "value"), [("--min-score", "1.5"), ("--min-score", "nan"), ("--min-margin", "-0.1")]
)
def test_limits_that_no_score_can_have_are_refused(run, cat, option, value):
    result = run("classify", cat, *LABELS, option, value)
    assert (result.exit_code, result.stderr) == (2, f"error: {option} must be from 0 to 1\n")


def test_a_label_may_be_called_unknown_where_nothing_else_is(run, cat):
    result = run("classify", cat, "--labels", "cat,unknown", "--model", "tiny", "--json")
    assert {one["label"] for one in json.loads(result.stdout)["scores"]} == {"cat", "unknown"}


def test_a_run_goes_on_with_the_same_answers_only(run, cat, coffee, tmp_path):
    out = tmp_path / "out.jsonl"
    options = ("-o", out, "--resume", *LABELS)
    assert run("classify", cat, *options, "--unknown", "--min-score", "0.4").exit_code == 0
    assert run("classify", cat, coffee, *options, "--unknown", "--min-score", "0.4").exit_code == 0
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()] == [str(cat), str(coffee)]
    for more, why in (
        (("--unknown",), "prompts differ (templates, context, aliases, groups), or the order of the labels, "
                         "or the value of --unknown"),
        (("--unknown", "--min-score", "0.4", "--min-margin", "0.1"), "--min-margin was not set, now 0.1"),
        (("--unknown", "--min-score", "0.5"), "prompts differ (templates, context, aliases, groups), or the order "
                                              "of the labels, or the value of --unknown, or the value of --min-score"),
        ((), "labels differ: it has 'unknown', which is none of yours now"),
    ):  # fmt: skip
        result = run("classify", cat, coffee, *options, *more)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0] == f"error: {out}:1: made with other settings: {why}"


def test_what_makes_an_answer_is_part_of_what_results_are_known_by(cat):
    def config(labels=("cat", "dog"), **settings):
        return next(Classifier(labels, model="tiny", **settings).classify(cat)).config

    made = [
        config(), config(unknown=True), config(unknown=True, negative="mouse"), config(min_score=0.5),
        config(min_margin=0.5), config(min_score=0.5, unknown_label="?"), config([Label("cat", threshold=0.5), "dog"]),
    ]  # fmt: skip
    assert len(set(made)) == len(made)
    assert config(unknown_label="?") == config()  # never said


def test_results_in_python_say_whether_they_know(cat, coffee):
    classifier = Classifier(["cat", "dog"], model="tiny", unknown=True, unknown_label="none", top_k=1)
    known, unknown = classifier.classify([cat, coffee])
    assert (known.label, known.labels) == (known.scores[0].label, None)
    assert known.label in ("cat", "dog")
    assert (unknown.label, unknown.answers) == ("none", ("none",))
    assert unknown.score == unknown.scores[0].score
    missing = next(classifier.classify(["absent.jpg"]))
    assert (missing.label, missing.score, missing.answers) == (None, None, ())


def test_options_in_python_are_checked_as_on_the_command_line():
    with pytest.raises(ClipzsError, match="--threshold is for --multi"):
        Classifier(["cat", "dog"], threshold=0.2)


@pytest.mark.parametrize("kind", ["vit", "resnet", "siglip"])
def test_any_model_has_an_unknown(run, folder, kind):
    photos = [EXAMPLES / f"{name}.jpg" for name in ("cat", "rocket")]
    result = run("classify", *photos, "--labels", "cat,dog", "--model", f"local-dir:{folder(kind)}", "--unknown",
                 "--template", "a <>", "--json", "--engine", "torch")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    for line in result.stdout.splitlines():
        assert sum(one["score"] for one in json.loads(line)["scores"]) == pytest.approx(1, abs=2e-3)
