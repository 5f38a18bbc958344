"""Several labels of one image: each has a probability of its own, and is an answer or not by itself."""

import csv
import io
import json

import numpy as np
import pytest
from conftest import EXAMPLES
from hypothesis import given
from hypothesis import strategies as st

from clipzs import Classifier, Label, background, score
from clipzs.answers import Rules
from clipzs.background import Background, Contrast

PHOTOS = [EXAMPLES / f"{name}.jpg" for name in ("cat", "coffee", "rocket")]
WORDS = ("cat", "animal", "coffee", "vehicle", "drink")
TINY = ("--model", "tiny", "--multi")


def unit(*shape: int, seed: int) -> score.Array:
    """Random rows of length 1."""
    rows = np.random.default_rng(seed).normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def records(result) -> list[dict]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def scores_of(record: dict) -> dict[str, float]:
    return {one["label"]: one["score"] for one in record["scores"]}


# The arithmetic


@given(seed=st.integers(0, 50), kept=st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True))
def test_a_probability_is_the_same_whatever_the_other_labels_are(seed, kept):
    images, labels, words = unit(4, 8, seed=seed), unit(6, 8, seed=seed + 100), unit(30, 8, seed=seed + 200)
    names, behind = tuple("abcdef"), Background(words, words[:1])
    all_ = Contrast(names, labels, behind)(images)
    some = Contrast(tuple(names[n] for n in kept), labels[kept], behind)(images)
    np.testing.assert_allclose(some, all_[:, kept], rtol=1e-6)


@given(seed=st.integers(0, 50))
def test_probabilities_of_an_image_are_ordered_as_its_similarities(seed):
    images, labels, words = unit(4, 8, seed=seed), unit(6, 8, seed=seed + 100), unit(30, 8, seed=seed + 200)
    table = Contrast(tuple("abcdef"), labels, Background(words, words[:0]))(images)
    assert table.dtype == np.float32
    assert ((table > 0) & (table < 1)).all()
    assert (np.argsort(table, axis=1) == np.argsort(images @ labels.T, axis=1)).all()


def test_half_is_where_a_label_outweighs_the_background_as_its_odds_are():
    words = unit(40, 8, seed=3)
    behind = Background(words, words[:0])
    labels, images = unit(50, 8, seed=2), unit(20, 8, seed=1)
    evidence, against = behind.evidence(images, labels)
    table = Contrast(tuple(map(str, range(50))), labels, behind)(images)
    assert ((table > 0.5) == (np.exp(evidence) > background.ODDS * np.exp(against)[:, None])).all()
    np.testing.assert_allclose(table / (1 - table), np.exp(evidence - against[:, None]) / background.ODDS, rtol=1e-4)


def test_a_word_of_the_background_may_be_a_label():
    """Its own presence among the words does not keep it from being an answer."""
    words = unit(400, 64, seed=3)
    table = Contrast(("it",), words[:1], Background(words, words[:0]))(words[:1])
    assert table[0, 0] > 0.9


@given(
    row=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=5),
    least=st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=5, max_size=5),
)
def test_all_labels_that_reach_their_threshold_are_answers_best_first(row, least):
    names = tuple("abcde"[: len(row)])
    ((label, _, answers, _),) = Rules(names, least[: len(row)], "?", several=True)(np.array([row], np.float32))
    reached = [name for name, one, limit in zip(names, row, least, strict=False) if one >= limit]
    assert set(answers) == set(reached)
    assert [row[names.index(name)] for name in answers] == sorted(
        (row[names.index(name)] for name in answers), reverse=True
    )
    assert label == (answers[0] if reached else "?")


# The command


def test_an_image_may_be_several_things_or_none(run):
    found = records(run("classify", *PHOTOS, "--labels", "cat,animal,drink", *TINY, "--json"))
    assert {"cat", "animal"} <= set(found[0]["labels"])
    assert found[2]["labels"] == []
    assert (found[2]["label"], found[2]["score"]) == ("unknown", None)
    for record in found:
        scores = scores_of(record)
        assert set(scores) == {"cat", "animal", "drink"}
        assert [*scores.values()] == sorted(scores.values(), reverse=True)
        assert record["labels"] == [name for name, one in scores.items() if one >= 0.5]
    assert found[0]["label"] == found[0]["labels"][0]
    assert found[0]["score"] == max(scores_of(found[0]).values())


@pytest.mark.parametrize("model", ["tiny", "siglip"])
def test_the_other_labels_change_no_digit(run, folder, model):
    name = model if model == "tiny" else f"local-dir:{folder(model)}"
    more = ("--model", name, "--multi", "--json", "--decimals", 6, "--engine", "auto" if model == "tiny" else "torch")
    together = [scores_of(one) for one in records(run("classify", *PHOTOS, "--labels", ",".join(WORDS), *more))]
    for word in WORDS[:3:2]:
        alone = [scores_of(one) for one in records(run("classify", *PHOTOS, "--labels", word, *more))]
        assert alone == [{word: pytest.approx(each[word], rel=1e-5)} for each in together]


@pytest.mark.parametrize("model", ["vit", "siglip"])
def test_labels_are_ordered_as_their_cosines(run, folder, model):
    more = (
        "--labels",
        ",".join(WORDS),
        "--model",
        f"local-dir:{folder(model)}",
        "--json",
        "--decimals",
        9,
        "--engine",
        "torch",
    )
    cosines = records(run("classify", *PHOTOS, *more, "--score", "cosine"))
    several = records(run("classify", *PHOTOS, *more, "--multi"))
    assert [[*scores_of(one)] for one in several] == [[*scores_of(one)] for one in cosines]


def test_a_model_trained_with_a_sigmoid_has_its_own_probabilities_as_open_clip_computes_them(run, folder):
    import models
    import torch
    from PIL import Image

    name = f"local-dir:{folder('siglip')}"
    model, preprocess, tokenizer = models.reference(name)
    images = torch.stack([preprocess(Image.open(path)) for path in PHOTOS])
    with torch.no_grad():
        seen = model.encode_image(images, normalize=True)
        read = model.encode_text(tokenizer([f"a {word}" for word in WORDS]), normalize=True)
        theirs = torch.sigmoid(model.logit_scale.exp() * seen @ read.T + model.logit_bias).numpy()
    result = run("classify", *PHOTOS, "--labels", ",".join(WORDS), "--template", "a <>", "--model", name, "--multi",
                 "--exact-decode", "--json", "--decimals", 9, "--engine", "torch")  # fmt: skip
    ours = [[scores_of(record)[word] for word in WORDS] for record in records(result)]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    refused = run("classify", PHOTOS[0], "--labels", "cat", "--model", name, "--multi", "--negative", "dog")
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"error: --negative would change nothing: {name} was trained to give each label its own score\n"
        "hint: leave it out, or give it to --unknown\n"
    )


def test_a_model_without_a_sigmoid_is_compared_with_words_in_the_same_templates(folder):
    from clipzs import prompts
    from clipzs.embedder import Embedder
    from clipzs.options import Options, checked

    name = f"local-dir:{folder('vit')}"
    classifier = Classifier(WORDS, model=name, template=["a drawing of a <>"], multi=True, engine="torch")
    found = [{one.label: one.score for one in result.scores} for result in classifier.classify(PHOTOS)]
    embedder = Embedder(checked(Options(model=name, engine="torch")))
    images = np.concatenate([batch.vectors for batch in embedder.batches(PHOTOS)])

    def read(words):
        return embedder.texts([text for word in words for text in prompts.expand(Label(word), ["a drawing of a <>"])])

    everyday = read(background.words())
    theirs = Contrast(WORDS, read(WORDS), Background(everyday, everyday[:0]))(images)
    np.testing.assert_allclose([[each[word] for word in WORDS] for each in found], theirs, rtol=1e-4)


def test_the_threshold_moves_the_answers_and_no_score(run):
    more = ("--labels", ",".join(WORDS), *TINY, "--json")
    (middle,) = records(run("classify", PHOTOS[0], *more))
    (all_,) = records(run("classify", PHOTOS[0], *more, "--threshold", "0"))
    (none,) = records(run("classify", PHOTOS[0], *more, "--threshold", "1"))
    assert middle["scores"] == all_["scores"] == none["scores"]
    assert set(all_["labels"]) == set(WORDS)
    assert (none["labels"], none["label"]) == ([], "unknown")
    assert len({record["config"] for record in (middle, all_, none)}) == 3


def test_a_label_with_a_threshold_of_its_own_goes_by_it(run, tmp_path):
    file = tmp_path / "labels.yaml"
    file.write_text("- {name: cat, threshold: 1}\n- {name: rocket, threshold: 0}\n- animal\n")
    (record,) = records(run("classify", PHOTOS[0], "--labels-file", file, *TINY, "--json"))
    assert record["labels"] == ["animal", "rocket"]
    assert record["label"] == "animal"
    assert record["score"] == scores_of(record)["animal"]


def test_a_negative_lowers_the_labels_it_competes_with(run):
    more = ("--labels", "animal", *TINY, "--json")
    (before,) = records(run("classify", PHOTOS[0], *more))
    (after,) = records(run("classify", PHOTOS[0], *more, "--negative", "cat"))
    assert scores_of(after)["animal"] < scores_of(before)["animal"]


def test_every_format_has_all_answers(run, tmp_path):
    (tmp_path / "no.jpg").write_text("no picture")
    images = (PHOTOS[0], PHOTOS[2], tmp_path / "no.jpg")
    more = ("--labels", "cat,animal,drink", *TINY, "--decimals", 4)

    def told(*options):
        return run("classify", *images, *more, *options).stdout

    good, none, bad = (json.loads(line) for line in told("--json").splitlines())
    answers = good["labels"]
    assert len(answers) == 2
    assert [*good] == [*none] == [*bad] == ["path", "label", "score", "labels", "scores", "error", "model", "config"]
    assert (bad["labels"], bad["label"], bad["error"]) == ([], None, "a text file, not an image")
    numbers = [f"{scores_of(good)[name]:.4f}" for name in answers]
    rows = [line.split("\t") for line in told("-f", "tsv").splitlines()]
    assert rows == [
        *([str(images[0]), name, number] for name, number in zip(answers, numbers, strict=True)),
        [str(images[1]), "unknown", ""],
        [str(images[2]), "", ""],
    ]
    assert [line.split("\t")[1] for line in told("-f", "tsv", "-k", 1).splitlines()] == [answers[0], "unknown", ""]
    cells = [*csv.DictReader(io.StringIO(told("-f", "csv")))]
    assert [(row["label"], row["score"]) for row in cells] == [
        *zip(answers, numbers, strict=True), ("unknown", ""), ("", ""),
    ]  # fmt: skip
    assert told("-f", "label") == "\t".join(answers) + "\nunknown\n\n"
    document = json.loads(told("-f", "json"))
    assert document["results"] == [good, none, bad]
    assert document["run"]["score"] == "multi"
    table = told("-f", "table")
    blocks, _, summary = table.rpartition("\n\n")
    assert f"{images[1]}\n  unknown\n" in blocks
    assert [line.split()[:3] for line in summary.splitlines()[1:]] == [
        *([name, "1", "50.0%"] for name in answers), ["unknown", "1", "50.0%"], ["(not", "read)", "1"],
    ]  # fmt: skip


def test_a_run_goes_on_where_it_stopped_with_the_same_threshold_only(run, tmp_path):
    out = tmp_path / "out.jsonl"
    options = ("--labels", "cat,animal", *TINY, "-o", out, "--resume")
    assert run("classify", PHOTOS[0], *options).exit_code == 0
    assert run("classify", *PHOTOS, *options).exit_code == 0
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()] == [*map(str, PHOTOS)]
    assert run("classify", *PHOTOS, *options, "--threshold", "0.9").exit_code == 2
    softmax = run("classify", *PHOTOS, "--labels", "cat,animal", "--model", "tiny", "-o", out, "--resume")
    assert softmax.exit_code == 2
    result = run("classify", PHOTOS[0], "--labels", "cat,animal", "--model", "tiny", "-o", tmp_path / "one.jsonl")
    assert result.exit_code == 0
    result = run("classify", PHOTOS[0], *options[:-2], tmp_path / "one.jsonl", "--resume")
    assert "made with other settings: --multi was not set, now set; --threshold was not set, now 0.5" in result.stderr


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (("--by-group",), "--by-group adds up probabilities", "leave --multi out"),
        (("--min-score", "0.5"), "--min-score and --min-margin are about one best label", "--multi takes --threshold"),
        (("--score", "sigmoid"), "--multi makes probabilities its own way", "leave --score out"),
        (("--threshold", "-1"), "--threshold must be from 0 to 1", None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_do_not_go_together_are_refused(run, options, error, hint):
    result = run("classify", PHOTOS[0], "--labels", "cat,dog", *TINY, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {error}\n" + (f"hint: {hint}\n" if hint else "")


def test_results_in_python_have_all_answers():
    classifier = Classifier(["cat", "animal", "drink"], model="tiny", multi=True, top_k=1)
    several, none = classifier.classify([PHOTOS[0], PHOTOS[2]])
    assert set(several.labels) == {"cat", "animal"}  # also those whose scores are not kept
    assert (several.label, len(several.scores)) == (several.labels[0], 1)
    assert (none.labels, none.label, none.score) == ((), "unknown", None)
    assert next(classifier.classify(["absent.jpg"])).labels == ()
