"""`clipzs caption`: the best of given sentences, which are read as they are."""

import json

import pytest

from clipzs import Classifier, Label

TINY = ("--model", "tiny")
SENTENCES = (
    "a cat, seen from the front",
    "a cup of coffee, seen from above",
    "a rocket on its way",
    "a sign that says <> and {}",
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sentences.txt"
    first, *others = SENTENCES
    path.write_text("\ufeff# what there may be\n\n  " + first + "  \r\n" + "\n".join(others) + "\n", encoding="utf-8")
    return path


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_sentences_are_scored_as_they_are(run, cat, coffee, file):
    result = run("caption", cat, coffee, "--candidates", file, *TINY, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = records(result.stdout)
    assert [record["label"] for record in found] == [*SENTENCES[:2]]
    assert all({one["label"] for one in record["scores"]} == set(SENTENCES) for record in found)
    assert sum(one["score"] for one in found[0]["scores"]) == pytest.approx(1, abs=1e-5)
    alone = run(
        "classify", cat, coffee, *(f"--label={text}" for text in SENTENCES), "--template", "<>", *TINY, "--json"
    )
    assert result.stdout == alone.stdout  # the same numbers, and the same to whoever goes on with them


def test_the_similarity_itself_can_be_asked_for_also_of_one_sentence(run, cat):
    result = run("caption", cat, "-c", SENTENCES[0], *TINY, "--score", "cosine", "--json")
    (record,) = records(result.stdout)
    classifier = Classifier([Label(SENTENCES[0], prompts=("<>",))], model="tiny", score="cosine")
    (expected,) = classifier.classify(cat)
    assert record["score"] == pytest.approx(expected.score, abs=1e-5)
    assert record["config"] == expected.config


def test_each_format_has_its_number_of_sentences(run, cat, file):
    def lines(*options) -> list[str]:
        return run("caption", cat, "--candidates", file, *TINY, *options).stdout.splitlines()

    assert len(lines("--format", "table")) == 1 + 3
    assert len(lines("--format", "table", "-k", 4)) == 1 + 4
    assert [line.split("\t")[:2] for line in lines()] == [[str(cat), SENTENCES[0]]]
    assert len(lines("--top-k", 2)) == 2
    assert lines("--format", "label") == [SENTENCES[0]]


def test_sentences_come_from_options_files_and_standard_input(run, cat, file):
    result = run(
        "caption", cat, "-c", "one", "--candidate", "two", "--candidates", file, "--candidates", "-", *TINY, "--json",
        input="# no sentence\nthree\n\n",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (record,) = records(result.stdout)
    assert {one["label"] for one in record["scores"]} == {"one", "two", "three", *SENTENCES}


def test_what_was_seen_before_comes_from_the_cache(run, cat, file, tmp_path):
    first = run("caption", cat, "--candidates", file, *TINY, "--json")
    log = tmp_path / "log.json"
    again = run("caption", cat, "--candidates", file, *TINY, "--json", "--log", log)
    assert again.stdout == first.stdout
    assert json.loads(log.read_text())["prompts_encoded"] == 0


def test_a_run_goes_on_with_the_same_sentences_only(run, cat, coffee, file, tmp_path):
    out = tmp_path / "out.jsonl"
    options = ("--candidates", file, *TINY, "-o", out, "--resume")
    assert run("caption", cat, *options).exit_code == 0
    assert run("caption", cat, coffee, *options).exit_code == 0
    assert [record["path"] for record in records(out.read_text())] == [str(cat), str(coffee)]
    assert run("caption", cat, *options).stderr == f"note: nothing left to do: {out} has a record of every image\n"
    result = run("caption", cat, *options, "-c", "more")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == f"error: {out}:1: made with other settings: labels differ: it has no 'more'"


def test_an_image_that_cannot_be_read_is_an_error_record(run, cat, file, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"no image")
    result = run("caption", cat, tmp_path / "no.jpg", "--candidates", file, *TINY, "--json")
    assert result.exit_code == 3
    assert [record["error"] is None for record in records(result.stdout)] == [True, False]


@pytest.mark.parametrize(
    ("content", "options", "error", "hint"),
    [
        (None, (), "no sentences given", "--candidates FILE has one a line; --candidate TEXT is one"),
        ("# none\n\n", ("--candidates", "{}"), "{}: no sentences in it", None),
        ("a cat\n", ("--candidates", "{}"), "only one sentence given: 'a cat'",
         "its share is always 1: give others too, or ask for the similarity itself with --score cosine"),
        ("a cat\na dog\n\na cat \n", ("--candidates", "{}"), "{}:4: given twice: 'a cat'",
         "a sentence can be a candidate once"),
        ("a cat\na dog\n", ("--candidates", "{}", "-c", " a dog"), "{}:2: given twice: 'a dog'",
         "a sentence can be a candidate once"),
        (None, ("-c", "a cat", "-c", " "), "--candidate is empty", "give it a sentence"),
        (b"a cat\n\xff\n", ("--candidates", "{}"), "{}:2: not UTF-8 text", "save it as UTF-8"),
        (None, ("--candidates", "absent.txt"), "absent.txt: cannot be read: No such file or directory", None),
        (None, ("--candidates", "labels.yaml"), "labels.yaml: cannot be read: No such file or directory", None),
    ],
    ids=["none", "empty-file", "one", "twice", "twice-in-two-places", "blank", "no-text", "absent", "absent-yaml"],
)  # fmt: skip
def test_candidates_that_are_none_are_refused_in_one_line(run, cat, tmp_path, content, options, error, hint):
    path = tmp_path / "s.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = run("caption", cat, *(option.format(path) for option in options), *TINY)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {error.format(path)}\n" + (f"hint: {hint}\n" if hint else "")


def test_a_labels_file_is_no_file_of_sentences(run, cat, tmp_path):
    path = tmp_path / "labels.yaml"
    path.write_text("- cat\n- dog\n")
    result = run("caption", cat, "--candidates", path, *TINY)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == f"error: {path}: sentences are lines of text"


def test_one_pipe_is_not_two_lists(run, file):
    result = run("caption", "-", "--candidates", "-", *TINY, input="x\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == "error: standard input is the list of images, and of sentences too"


def test_results_never_take_the_place_of_the_sentences(run, cat, file):
    before = file.read_bytes()
    result = run("caption", cat, "--candidates", file, *TINY, "-o", file)
    assert result.exit_code == 2
    assert file.read_bytes() == before
