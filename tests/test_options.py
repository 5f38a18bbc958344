"""The options of the command: each has its environment variable, and each score its rules."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from clipzs.cli import app

EXAMPLES = Path(__file__).parent.parent / "examples"
LABELS = "cat,a cup of coffee,rocket,temple,flower,dog,astronaut"
GROUPS = "- {name: cat, group: animal}\n- {name: dog, group: animal}\n- {name: rocket, group: vehicle}\n- coffee\n"


def every_option() -> Iterator[tuple[str, Any]]:
    """Each option of each command, under the words that name it."""

    def walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield f"{words} {parameter.opts[0]}", parameter
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{words} {name}")

    yield from walk(typer.main.get_command(app), "clipzs")


OPTIONS = {words: option for words, option in every_option() if option.opts != ["--version"]}


def records(result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


# The environment


def test_the_walk_finds_the_options_of_all_commands():
    assert {"clipzs classify --labels", "clipzs prompts expand --context", "clipzs cache info --cache-dir"} <= set(
        OPTIONS
    )
    assert len(OPTIONS) > 40


@pytest.mark.parametrize("words", OPTIONS)
def test_every_option_has_its_environment_variable(words):
    option = OPTIONS[words]
    name = "CLIPZS_" + option.opts[0].removeprefix("--").upper().replace("-", "_")
    if option.multiple:
        assert option.help.endswith(f"Repeatable. \\[env var: {name}, one a line]")
    else:
        assert option.envvar == name
    assert option.help


@pytest.mark.parametrize("words", [words for words, option in OPTIONS.items() if option.multiple])
def test_a_repeatable_option_takes_one_value_a_line(words, monkeypatch):
    option = OPTIONS[words]
    name = "CLIPZS_" + option.opts[0].removeprefix("--").upper().replace("-", "_")
    assert option.default() == []
    monkeypatch.setenv(name, "one two\n\n three, four\n")
    assert option.default() == ["one two", " three, four"]


def test_help_names_the_environment_variables(run):
    result = run("classify", "--help", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name in ("CLIPZS_LABELS, one a line", "CLIPZS_MODEL", "CLIPZS_TOP_K", "CLIPZS_CACHE", "CLIPZS_BY_GROUP"):
        assert f"[env var: {name}]" in " ".join(result.stdout.split())


def test_a_whole_request_may_come_from_the_environment(run, cat):
    env = {
        "CLIPZS_LABELS": 'cat,rocket\n"salt, pepper"',
        "CLIPZS_LABEL": "a dog, barking",
        "CLIPZS_TEMPLATE": "a photo of a <>\nthe <>",
        "CLIPZS_CONTEXT": "indoors",
        "CLIPZS_MODEL": "tiny",
        "CLIPZS_FORMAT": "jsonl",
        "CLIPZS_TOP_K": "3",
        "CLIPZS_SCORE": "cosine",
        "CLIPZS_BATCH_SIZE": "1",
        "CLIPZS_CACHE": "0",
    }
    by_env = run("classify", cat, env=env)
    by_options = run(
        "classify", cat, "--labels", 'cat,rocket,"salt, pepper"', "--label", "a dog, barking", "--template",
        "a photo of a <>", "--template", "the <>", "--context", "indoors", "--model", "tiny", "--format", "jsonl",
        "--top-k", "3", "--score", "cosine", "--batch-size", "1", "--no-cache",
    )  # fmt: skip
    assert records(by_env) == records(by_options)
    (record,) = records(by_env)
    assert len(record["scores"]) == 3


def test_files_of_the_environment_are_read(run, cat, tmp_path):
    labels, images, out, log = (tmp_path / name for name in ("labels.txt", "images.txt", "out.csv", "log.json"))
    labels.write_text("cat\nrocket\n")
    images.write_text(f"{cat}\n")
    env = {"CLIPZS_LABELS_FILE": labels, "CLIPZS_FILES_FROM": images, "CLIPZS_OUTPUT": out, "CLIPZS_LOG": log}
    result = run("classify", env={name: str(path) for name, path in env.items()} | {"CLIPZS_MODEL": "tiny"})
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert out.read_text().startswith(f"path,label,score,error\n{cat},cat,")
    assert [one["label"] for one in json.loads(log.read_text())["labels"]] == ["cat", "rocket"]


def test_the_command_line_wins_over_the_environment(run, cat):
    env = {"CLIPZS_LABELS": "x,y", "CLIPZS_TOP_K": "1", "CLIPZS_FORMAT": "label", "CLIPZS_MODEL": "absent"}
    options = ["--labels", "cat,rocket", "-k", "2", "-f", "jsonl", "-m", "tiny"]
    (record,) = records(run("classify", cat, *options, env=env))
    assert {one["label"] for one in record["scores"]} == {"cat", "rocket"}


@pytest.mark.parametrize(("value", "is_on"), [("1", True), ("true", True), ("0", False), ("no", False)])
def test_switches_take_words_in_the_environment(run, cat, value, is_on):
    result = run("classify", cat, "--labels", LABELS, "-m", "tiny", env={"CLIPZS_JSON": value})
    assert result.exit_code == 0
    assert result.stdout.startswith("{") == is_on


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"CLIPZS_TOP_K": "many"}, "'--top-k'"),
        ({"CLIPZS_SCORE": "softmin"}, "'--score'"),
        ({"CLIPZS_BATCH_SIZE": "0"}, "'--batch-size'"),
        ({"CLIPZS_CACHE": "perhaps"}, "'--cache'"),
    ],
)
def test_a_wrong_value_in_the_environment_is_a_usage_error_that_names_its_option(run, cat, env, named):
    result = run("classify", cat, "--labels", LABELS, "-m", "tiny", env=env)
    assert (result.exit_code, result.stdout) == (2, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: Invalid value for ")
    assert named in error
    assert env.popitem()[0] in error
    assert hint.startswith("hint: see `")


# Scores


@pytest.mark.parametrize(
    ("format_", "expected"), [("tsv", 1), ("csv", 1), ("label", 1), ("jsonl", 7), ("json", 7), ("table", 5)]
)
def test_each_format_has_its_own_number_of_labels(run, cat, format_, expected):
    assert len(shown(run, cat, format_)) == expected


@pytest.mark.parametrize("format_", ["tsv", "csv", "jsonl", "json", "table"])
def test_top_k_sets_the_number_of_labels(run, cat, format_):
    assert len(shown(run, cat, format_, "--top-k", "3")) == 3
    assert len(shown(run, cat, format_, "-k", "99")) == 7


def shown(run, cat, format_, *more):
    """The labels that a format shows for one photo."""
    result = run("classify", cat, "--labels", LABELS, "-m", "tiny", "--format", format_, *more)
    assert result.exit_code == 0, result.stderr
    if format_ in ("json", "jsonl"):
        document = json.loads(result.stdout)
        return [one["label"] for one in (document["results"][0] if format_ == "json" else document)["scores"]]
    return [
        name for line in result.stdout.splitlines() for name in LABELS.split(",") if name in line.replace(str(cat), "")
    ]


def test_top_k_keeps_the_best_and_their_numbers(run, cat):
    (whole,) = records(run("classify", cat, "--labels", LABELS, "-m", "tiny", "--json"))
    (cut,) = records(run("classify", cat, "--labels", LABELS, "-m", "tiny", "--json", "-k", "2"))
    assert cut["scores"] == whole["scores"][:2]
    assert cut["config"] == whole["config"]


@pytest.mark.parametrize("k", ["0", "-1"])
def test_top_k_is_at_least_1(run, cat, k):
    result = run("classify", cat, "--labels", LABELS, "--top-k", k)
    assert (result.exit_code, result.stdout) == (2, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: Invalid value for '--top-k' / '-k' (env var: 'CLIPZS_TOP_K'): ")
    assert hint.endswith(" classify --help`")


def test_sigmoid_needs_a_model_with_a_bias(run, cat):
    result = run("classify", cat, "--labels", LABELS, "-m", "tiny", "--score", "sigmoid")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: tiny was not trained for sigmoid scores (it has no logit bias)\n"
        "hint: use --score softmax, or a SigLIP-type model such as --model multilingual\n"
    )


def test_sigmoid_scores_a_model_with_a_bias_label_by_label(run, cat, tmp_path):
    from math import exp

    from safetensors.numpy import load_file, save_file

    from clipzs.resolve import tiny

    spec = tiny()
    state = load_file(spec.weights)
    bias = -5.0
    save_file({**state, "logit_bias": np.array(bias, np.float32)}, tmp_path / "open_clip_model.safetensors")
    config = {"model_cfg": {**spec.config, "init_logit_bias": -10}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    args = ["classify", cat, "--label", "cat", "--label", "rocket", "-m", f"local-dir:{tmp_path}", "--json"]
    (alone,) = records(run(*args[:4], *args[6:], "--score", "sigmoid"))
    (both,) = records(run(*args, "--score", "sigmoid"))
    (cosine,) = records(run(*args, "--score", "cosine"))
    scale = exp(float(state["logit_scale"].reshape(())))
    expected = {one["label"]: 1 / (1 + exp(-(scale * one["score"] + bias))) for one in cosine["scores"]}
    assert {one["label"]: one["score"] for one in both["scores"]} == pytest.approx(expected, abs=1e-3)
    assert alone["score"] == pytest.approx(next(s["score"] for s in both["scores"] if s["label"] == "cat"), abs=1e-5)


def test_by_group_adds_up_probabilities(run, cat, tmp_path):
    labels = tmp_path / "labels.yaml"
    labels.write_text(GROUPS)
    args = ["classify", cat, "--labels-file", labels, "-m", "tiny", "--json"]
    (alone,) = records(run(*args))
    (grouped,) = records(run(*args, "--by-group"))
    of = {one["label"]: one["score"] for one in alone["scores"]}
    assert {one["label"]: one["score"] for one in grouped["scores"]} == pytest.approx(
        {"animal": of["cat"] + of["dog"], "vehicle": of["rocket"], "coffee": of["coffee"]}, abs=2e-6
    )
    assert grouped["config"] != alone["config"]


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        (
            "- cat\n- dog\n",
            [],
            "error: --by-group needs labels with a group\nhint: give them `group:` in a YAML labels file\n",
        ),
        (GROUPS, ["--score", "cosine"], "error: --by-group adds up probabilities\nhint: leave --score at softmax\n"),
        (
            "- {name: cat, group: pet}\n- {name: dog, group: pet}\n",
            [],
            "error: all labels are in one group: pet\nhint: its probability is always 1: leave --by-group out\n",
        ),
    ],
    ids=["no-group", "not-probabilities", "one-group"],
)
def test_by_group_without_sense_is_refused(run, cat, tmp_path, content, more, said):
    labels = tmp_path / "labels.yaml"
    labels.write_text(content)
    result = run("classify", cat, "--labels-file", labels, "-m", "tiny", "--by-group", *more)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)


def test_cosine_scores_lie_between_minus_1_and_1_and_do_not_sum_to_1(run, cat):
    (record,) = records(run("classify", cat, "--labels", LABELS, "-m", "tiny", "--score", "cosine", "--json"))
    values = [one["score"] for one in record["scores"]]
    assert all(-1 <= value <= 1 for value in values)
    assert abs(sum(values) - 1) > 0.01
    (softmax,) = records(run("classify", cat, "--labels", LABELS, "-m", "tiny", "--json"))
    assert [one["label"] for one in softmax["scores"]] == [one["label"] for one in record["scores"]]
